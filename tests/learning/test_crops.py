"""Crops: canonical rows, filters that explain themselves, prefixes, nested subsets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdfpipe.errors import DataError
from mdfpipe.learning.data.crops import Crops, from_crops, from_folder, from_manifest, hold_out, images_of, join, subset
from mdfpipe.store.tables import CROPS, MANIFEST

FOLDER = Path("/nowhere/run")
ROWS = [  # crop_id, subject, domain, video, codec, split, modality
    ("v2/000001/00", "200", "SWIR-30m", "v2", "png", "train", "body"),
    ("v1/000001/00", "100", "VIS-500m", "v1", "jpeg", "train", "body"),
    ("v1/000002/00", "100", "VIS-500m", "v1", "jpeg", "train", "body"),
    ("v3/000001/00", "100", "SWIR-30m", "v3", "png", "train", "body"),
    ("v4/000001/00", "300", "VIS-500m", "v4", "jpeg", "test", "body"),
    ("v1/000001/f00", "100", "VIS-500m", "v1", "jpeg", "train", "face"),
]


def table(rows: list[tuple[str, ...]] = ROWS, schema: pa.Schema = MANIFEST, **more: Any) -> pa.Table:
    """Rows with every column of the schema, the shard named after the video, the offset after the place in ROWS."""
    filled = []
    for n, (crop_id, subject, domain, video, codec, split, modality) in enumerate(rows):
        row: dict[str, Any] = {"crop_id": crop_id, "subject_id": subject, "domain": domain, "band": domain[:4]}
        row |= {"video_id": video, "codec": codec, "split": split, "modality": modality, "role": "none", "frame": n}
        row |= {"shard": f"crop/{video}.body.tar", "offset": 512 + n, "size": 10 + n, "box_height_px": 9.0}
        row |= {"x1": 0.0, "y1": 0.0, "x2": 1.0, "y2": 1.0, "status": "ok", "width": 128, "height": 384} | more
        filled.append({name: row.get(name) for name in schema.names})
    return pa.Table.from_pylist(filled, schema=schema)


def body(rows: pa.Table | None = None, **options: Any) -> Crops:
    return from_manifest(table() if rows is None else rows, FOLDER, modality="body", **options)


def test_rows_are_sorted_and_point_into_their_names() -> None:
    crops = body(windows={"v2": (300, 5000)})
    assert crops.crop_id.to_pylist() == ["v1/000001/00", "v1/000002/00", "v2/000001/00", "v3/000001/00"]
    assert crops.subjects == ("100", "200")
    assert crops.domains == ("SWIR-30m", "VIS-500m")
    assert [crops.subjects[s] for s in crops.subject] == ["100", "100", "200", "100"]
    assert [crops.domains[d] for d in crops.domain] == ["VIS-500m", "VIS-500m", "SWIR-30m", "SWIR-30m"]
    assert [crops.videos[v] for v in crops.video] == ["v1", "v1", "v2", "v3"]
    assert [crops.shards[s] for s in crops.shard] == [FOLDER / f"crop/v{n}.body.tar" for n in (1, 1, 2, 3)]
    assert crops.offset.tolist() == [513, 514, 512, 515]
    assert crops.size.tolist() == [11, 12, 10, 13]
    assert crops.window.tolist() == [[0, 255], [0, 255], [300, 5000], [0, 65535]]
    assert crops.source.tolist() == [0, 0, 0, 0]
    assert repr(crops) == "Crops(4 rows; 2 subjects, 2 domains, 3 videos, 3 shards; sources [0])"
    assert crops.rows().to_pylist()[2] == {
        "crop_id": "v2/000001/00",
        "subject_id": "200",
        "domain": "SWIR-30m",
        "video_id": "v2",
    }


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.integers(1, 3))
def test_the_order_of_the_table_does_not_matter(order: list[int], cut: int) -> None:
    rows = table().filter(pa.array([r[6] == "body" and r[5] == "train" for r in ROWS]))
    mixed = rows.take(pa.array(order))
    chunked = pa.concat_tables([mixed.slice(0, cut), mixed.slice(cut)])
    assert body(chunked).crop_id.equals(body(rows).crop_id)
    assert body(chunked).fingerprint() == body(rows).fingerprint()


@pytest.mark.parametrize("column", ["crop_id", "subject_id", "domain", "video_id", "offset", "size", "shard"])
def test_every_column_enters_the_fingerprint(column: str) -> None:
    changed = {"offset": 7, "size": 7, "shard": "crop/other.tar", "domain": "LWIR-30m"}.get(column, "v1/other")
    rows = table().to_pylist()
    rows[1][column] = changed
    other = body(pa.Table.from_pylist(rows, schema=MANIFEST))
    assert other.fingerprint() != body().fingerprint()


def test_the_fingerprint_knows_windows_but_no_folders() -> None:
    moved = from_manifest(table(), Path("/else/where"), modality="body")
    assert moved.fingerprint() == body().fingerprint()
    assert body(windows={"v2": (0, 9)}).fingerprint() != body().fingerprint()
    unused = body().take(np.array([0, 1]))
    assert unused.fingerprint() == unused.compact().fingerprint()


def test_domains_keep_the_order_that_is_asked_for() -> None:
    crops = body(domains=["VIS-500m", "SWIR-30m"])
    assert crops.domains == ("VIS-500m", "SWIR-30m")
    assert crops.domain.tolist() == [0, 0, 1, 1]
    assert len(body(splits=None)) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modality": "gait"}, r"modality gait, found none among 6 rows, which have body 5, face 1"),
        ({"splits": ["unused"]}, r"split unused, found none among 5 rows of modality body, which have test 1, train 4"),
        (
            {"domains": ["VIS-500m", "LWIR"]},
            r"domain LWIR, found none among 4 rows of modality body and split train, which have SWIR-30m 2, VIS-500m 2",
        ),
    ],
)
def test_the_filter_that_leaves_nothing_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_manifest(table(), FOLDER, **{"modality": "body"} | options)


@pytest.mark.parametrize("shard", ["/etc/passwd", "../other/a.tar", "crop/../../a.tar", "C:/a.tar", ""])
def test_a_shard_does_not_lead_out_of_the_folder(shard: str) -> None:
    with pytest.raises(DataError, match="shard: expected a path relative to the run folder"):
        body(table(shard=shard))


def test_tables_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(DataError, match="v1/000001/00 is listed twice"):
        body(table([ROWS[1], ROWS[1]]))
    with pytest.raises(DataError, match="rows without offset"):
        body(table(offset=None))
    with pytest.raises(DataError, match=r"offset: expected 0\.\.n, got -5\.\.-5"):
        body(table(offset=-5))


def test_crops_are_validated_at_birth() -> None:
    fields = vars(body())
    with pytest.raises(DataError, match=r"subject: expected 0\.\.2, got 0\.\.9"):
        Crops(**fields | {"subject": np.array([0, 1, 9, 0])})
    with pytest.raises(DataError, match=r"size: expected \(4,\) int64, got \(4,\) float64"):
        Crops(**fields | {"size": np.zeros(4)})
    with pytest.raises(DataError, match="subjects sorted"):
        Crops(**fields | {"subjects": ("200", "100")})
    with pytest.raises(DataError, match=r"window: expected \(4, 2\)"):
        Crops(**fields | {"window": np.zeros((4, 3), np.float32)})


def test_take_keeps_names_and_compact_drops_them() -> None:
    few = body().take(np.array([2]))
    assert (few.subjects, few.subject.tolist()) == (("100", "200"), [1])
    assert few.compact().subjects == ("200",)
    assert few.compact().subject.tolist() == [0]
    assert few.compact().domains == ("SWIR-30m",)
    assert few.compact().shards == (FOLDER / "crop/v2.body.tar",)
    assert few.compact().rows().equals(few.rows())
    assert body().take(np.array([False, False, True, False])).rows().equals(few.rows())


def test_join_keeps_manifests_apart() -> None:
    own = body()
    further = body(table([("a/0", "100", "VIS-500m", "a", "jpeg", "train", "body"), *ROWS[4:5]]), source=1, prefix="c/")
    lwir = body(table([("b/0", "100", "LWIR-30m", "b", "jpeg", "train", "body")]), source=2, prefix="b/")
    both = join([own, further, lwir])
    assert both.subjects == ("100", "200", "b/100", "c/100")
    assert both.domains == ("SWIR-30m", "VIS-500m", "LWIR-30m")
    assert both.source.tolist() == [0, 0, 0, 0, 1, 2]
    named = pa.concat_tables([own.rows(), further.rows(), lwir.rows()])
    assert both.rows().combine_chunks().equals(named.combine_chunks())
    assert [both.shards[s] for s in both.shard] == [p.shards[s] for p in (own, further, lwir) for s in p.shard]
    with pytest.raises(DataError):
        join([])


def many(subjects: int, source: int = 0, prefix: str = "") -> Crops:
    rows = [(f"{s}/{n}", f"{s:03d}", "VIS", f"{s}", "jpeg", "train", "body") for s in range(subjects) for n in (0, 1)]
    return body(table(rows), source=source, prefix=prefix)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(1, 20), st.integers(0, 20))
def test_subsets_are_nested(seed: int, few: int, more: int) -> None:
    crops = join([many(24), many(3, 1, "x/")])
    small, large = subset(crops, few, seed), subset(crops, few + more, seed)
    own = [set(c.compact().subjects) - {"x/000", "x/001", "x/002"} for c in (small, large)]
    assert own[0] <= own[1]
    assert [len(o) for o in own] == [few, min(few + more, 24)]
    assert (small.source == 1).sum() == 6
    assert small.rows().equals(subset(crops, few, seed).rows())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.integers(1, 24))
def test_subsets_may_begin_with_subjects_of_every_domain(seed: int, few: int) -> None:
    """Still nested, and the others follow where there are too few."""
    rows = [
        (f"{s}/{domain}", f"{s:03d}", domain, f"{s}", "jpeg", "train", "body")
        for s in range(24)
        for domain in (["VIS", "LWIR"] if s % 3 else ["LWIR"])
    ]
    crops = body(table(rows))
    small = subset(crops, few, seed, complete_first=True)
    whole = [name for name in small.subjects if int(name) % 3]
    assert (len(small.subjects), len(whole)) == (few, min(few, 16))
    assert {*small.subjects} <= {*subset(crops, min(few + 3, 24), seed, complete_first=True).subjects}


def test_subsets_depend_on_the_seed() -> None:
    assert len({subset(many(24), 8, seed).subjects for seed in range(5)}) == 5


def test_held_out_subjects_are_the_studys_own_and_nobodys_else() -> None:
    crops = join([many(10), many(3, 1, "x/")])
    rest, held = hold_out(crops, 4, 0)
    assert len(held.subjects) == 4
    assert not set(rest.subjects) & set(held.subjects)
    assert sorted(rest.subjects + held.subjects) == list(crops.subjects)
    assert set(held.source.tolist()) == {0}
    assert len(rest) + len(held) == len(crops)
    assert len(hold_out(many(3, 1), 1, 0)[1].subjects) == 1
    with pytest.raises(DataError, match="fewer than the 10 training subjects, got 10"):
        hold_out(crops, 10, 0)


def test_crops_of_one_video() -> None:
    crops = from_crops(table(ROWS[:4], CROPS), FOLDER, "SWIR-30m", windows={"v2": (1, 2)})
    assert crops.domains == ("SWIR-30m",)
    assert crops.window.tolist() == [[0, 255], [0, 255], [1, 2], [0, 65535]]
    assert crops.crop_id.to_pylist() == sorted(r[0] for r in ROWS[:4])


def test_a_folder_of_images(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a/1.png", "a/.hidden.jpg", "a/notes.txt", ".git/x.png", "loose.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    assert [p.relative_to(tmp_path).as_posix() for p in images_of(tmp_path)] == ["a/1.png", "b/2.jpg"]
    crops = from_folder(tmp_path, source=2, prefix="further/")
    assert crops.subjects == ("further/a", "further/b")
    assert crops.domains == ("VIS",)
    assert crops.shards == (tmp_path / "a/1.png", tmp_path / "b/2.jpg")
    assert (crops.offset.tolist(), crops.size.tolist(), crops.source.tolist()) == ([0, 0], [5, 5], [2, 2])
    with pytest.raises(DataError, match="SUBJECT/IMAGE files, found neither"):
        from_folder(tmp_path / "a", source=1)
