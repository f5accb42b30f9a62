"""Templates: hand-worked pooling, a scalar transcription in exact arithmetic, the same bytes in any order."""

from __future__ import annotations

import tracemalloc
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mdfpipe.errors import DataError
from mdfpipe.evaluation import pooling as module
from mdfpipe.evaluation.pooling import Pooling, Rule, pool
from mdfpipe.store.run import write_table
from mdfpipe.store.tables import MANIFEST
from mdfpipe.store.templates import Templates, read_templates, table_of, unit

POOLINGS: tuple[Pooling, ...] = ("mean", "media_mean", "norm_weighted", "quality_weighted")
MEAN = Rule()
F32 = NDArray[np.float32]


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows with the manifest's types; a test names what matters."""
    usual = {"subject_id": "s1", "domain": "VIS-500m", "modality": "body", "video_id": "v1", "split": "test"}
    usual |= {"role": "gallery", "box_height_px": 1.0}
    names = [*usual, "session_id", "template_id", "sharpness", "track"]
    columns = []
    for name in names:
        field = MANIFEST.field(name)
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        values = pa.array([(usual | row).get(name) for row in rows], plain)
        columns.append(values.dictionary_encode().cast(field.type) if plain != field.type else values)
    return pa.table(columns, schema=pa.schema([MANIFEST.field(name) for name in names]))


def blocks(vectors: F32, size: int) -> Iterator[F32]:
    for start in range(0, len(vectors), size):
        yield vectors[start : start + size]


def pooled(rows: list[dict[str, Any]], vectors: list[Any], rule: Rule = MEAN, **more: Any) -> Templates:
    return pool(table(rows), [np.array(vectors, np.float32)], rule, **more)


# -- by hand


def test_mean_and_media_mean_by_hand() -> None:
    rows = [{"video_id": "v1"}, {"video_id": "v1"}, {"video_id": "v1"}, {"video_id": "v2"}]
    vectors = [[1, 0], [2, 0], [3, 0], [0, 4]]
    found = pooled(rows, vectors)
    assert found.vectors.tolist() == [[1.5, 1.0]]
    assert (found.crops.tolist(), found.media.tolist(), found.unusable.tolist()) == ([4], [2], [0])
    assert pooled(rows, vectors, Rule(pooling="media_mean")).vectors.tolist() == [[1.0, 2.0]]
    assert pooled(rows, vectors, Rule(normalise_first=True)).vectors.tolist() == [[0.75, 0.25]]
    assert pooled(rows, vectors, Rule(pooling="media_mean", normalise_first=True)).vectors.tolist() == [[0.5, 0.5]]


def test_norm_weighted_by_hand() -> None:
    """AdaFace: sum of feature (unit) times norm; here over the sum of norms, 5 + 2 + 1."""
    vectors, norms = [[3, 4], [0, 2], [-1, 0]], np.array([5, 2, 1], np.float32)
    rule = Rule(pooling="norm_weighted")
    found = pooled([{}] * 3, vectors, rule)
    assert found.vectors.tolist() == [[2 / 8, 6 / 8]]
    stored = unit(np.array(vectors, np.float32))
    np.testing.assert_allclose(pooled([{}] * 3, stored.tolist(), rule, norms=norms).vectors, found.vectors, rtol=1e-6)
    np.testing.assert_array_equal(
        unit(found.vectors), unit(pooled([{}] * 3, vectors).vectors)
    )  # of raw vectors: as mean


def test_quality_weighted_by_hand() -> None:
    rows = [{"sharpness": 10.0}, {"sharpness": 30.0}, {"sharpness": 0.0}]
    rule = Rule(pooling="quality_weighted", quality="sharpness")
    assert pooled(rows, [[4, 0], [0, 4], [9, 9]], rule).vectors.tolist() == [[1.0, 3.0]]
    dull = [{"sharpness": 0.0}, {"sharpness": 0.0}]
    assert pooled(dull, [[4, 0], [0, 4]], rule).vectors.tolist() == [[2.0, 2.0]]  # nothing to prefer
    other = [{"sharpness": 1e-6, "subject_id": "weak"}, {"sharpness": 3e-6, "subject_id": "weak"}, {"sharpness": 1e6}]
    assert pooled(other, [[4, 0], [0, 4], [1, 1]], rule).where(subject="weak").vectors[0] == pytest.approx([1, 3])


def test_a_template_is_a_person_in_a_domain_a_modality_a_split_and_a_role() -> None:
    rows = [
        {"subject_id": "s2"},
        {"subject_id": "s1", "domain": "SWIR-30m", "role": "probe"},
        {"subject_id": "s1", "modality": "face"},
        {"subject_id": "s1", "video_id": "v9"},
        {"subject_id": "s1"},
        {"subject_id": "s1", "role": "probe"},
        {"subject_id": "s0", "split": "train", "role": "none"},
    ]
    found = pooled(rows, [[n + 1, 1] for n in range(7)])
    assert found.name == [
        "s1/SWIR-30m/test/probe/body",
        "s1/VIS-500m/test/gallery/body",
        "s2/VIS-500m/test/gallery/body",
        "s0/VIS-500m/train/none/body",
        "s1/VIS-500m/test/probe/body",
        "s1/VIS-500m/test/gallery/face",
    ]
    assert found.vectors[:, 0].tolist() == [2, 4.5, 1, 7, 6, 3]
    assert found.where(role="gallery", modality="body").subject.tolist() == ["s1", "s2"]
    assert found.vectors.dtype == np.float32
    assert repr(found) == "Templates(6 x 2, 7 crops, 0 failed)"


def test_by_sighting_and_by_template_id() -> None:
    rows = [
        {"video_id": "v1", "session_id": "a", "template_id": "7"},
        {"video_id": "v2", "session_id": "a", "template_id": "7"},
        {"video_id": "v3", "session_id": "b", "template_id": "10"},
        {"video_id": "v3", "session_id": "b", "template_id": "9", "subject_id": "s2"},
    ]
    vectors = [[2, 0], [4, 0], [6, 1], [8, 1]]
    by_video = pooled(rows, vectors, Rule(by="sighting"))
    assert [*zip(by_video.subject, by_video.item, strict=True)] == [
        ("s1", "v1"),
        ("s1", "v2"),
        ("s1", "v3"),
        ("s2", "v3"),
    ]
    by_session = pooled(rows, vectors, Rule(by="sighting", sighting="session_id"))
    assert by_session.item.tolist() == ["a", "b", "b"]
    assert by_session.media.tolist() == [2, 1, 1]
    by_template = pooled(rows, vectors, Rule(by="template_id"))
    assert by_template.item.tolist() == ["10", "7", "9"]
    assert by_template.vectors[:, 0].tolist() == [6, 3, 8]
    assert by_template.name[0] == "s1/VIS-500m/10/test/gallery/body"


@pytest.mark.parametrize("pooling", POOLINGS)
def test_by_track_as_a_plain_loop_has_it(pooling: Pooling) -> None:
    """A template for each subject and track of a video; all of no track is one. Videos may have # in their names."""
    random = np.random.default_rng(4)
    rows = [
        {
            "subject_id": f"s{random.integers(2)}",
            "video_id": ("v", "v#1", "v#")[random.integers(3)],
            "track": (None, 0, 1, 10)[random.integers(4)],
            "box_height_px": float(random.integers(1, 9)),
        }
        for _ in range(90)
    ]
    vectors = random.normal(size=(90, 3)).astype(np.float32)
    rule = Rule(by="sighting", sighting="track", pooling=pooling)
    found = pooled(rows, vectors.tolist(), rule)
    own = defaultdict(list)
    for row, vector in zip(rows, vectors.astype(float), strict=True):
        weight = row["box_height_px"] if pooling == "quality_weighted" else 1.0
        own[row["subject_id"], row["video_id"], row["track"]].append((weight, vector))
    wanted = {
        (subject, f"{video}#{'' if track is None else track}"): (
            len(one),
            sum(w * v for w, v in one)
            / (sum(np.linalg.norm(v) for _, v in one) if pooling == "norm_weighted" else sum(w for w, _ in one)),
        )
        for (subject, video, track), one in own.items()
    }
    assert len(wanted) == len(own) == len(found) == len(set(found.name))
    for subject, item, crops, vector in zip(found.subject, found.item, found.crops, found.vectors, strict=True):
        count, mean = wanted[subject, item]
        assert crops == count
        np.testing.assert_allclose(vector, mean, rtol=1e-5, atol=1e-6)
    order = random.permutation(90)
    again = pooled([rows[n] for n in order], vectors[order].tolist(), rule)
    assert (again.name, again.vectors.tobytes()) == (found.name, found.vectors.tobytes())


# -- failure to enrol


def test_failures_are_counted_and_kept_until_a_policy_says() -> None:
    rows = [{"subject_id": "s1"}, {"subject_id": "s1"}, {"subject_id": "s2"}]
    expected = table([{"subject_id": name, "role": "gallery"} for name in ("s1", "s2", "s3")])
    vectors = [[1, 0], [np.nan, 0], [0, 0]]
    found = pooled(rows, vectors, usable=np.array([True, False, False]), expected=expected)
    assert found.subject.tolist() == ["s1", "s2", "s3"]
    assert found.vectors.tolist() == [[1, 0], [0, 0], [0, 0]]
    assert found.enrolled.tolist() == [True, False, False]
    assert (found.crops.tolist(), found.unusable.tolist()) == ([1, 0, 0], [1, 1, 0])
    assert found.take(found.enrolled).subject.tolist() == ["s1"]


def test_templates_on_disk_are_those_in_memory(tmp_path: Path) -> None:
    rows = [{"subject_id": name, "session_id": f"s-{name}"} for name in "abc"]
    rule = Rule(by="sighting", sighting="session_id")
    made = pooled(rows, [[1, 2], [3, 4], [0, 0]], rule, usable=np.array([True, True, False]))
    for part in (made, made.where(subject="nobody")):
        write_table(tmp_path / "t.parquet", table_of(part))
        found = read_templates(tmp_path / "t.parquet")
        assert found.name == part.name
        for field in fields(part):
            kept, read = getattr(part, field.name), getattr(found, field.name)
            assert kept.tolist() == read.tolist()
            assert kept.dtype.kind == read.dtype.kind


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_unusable_row_is_as_if_it_were_not_there(pooling: Pooling) -> None:
    random = np.random.default_rng(0)
    rows = [{"video_id": f"v{n % 2}", "box_height_px": float(n + 1)} for n in range(5)]
    vectors = random.normal(size=(5, 3)).astype(np.float32)
    rule = Rule(pooling=pooling, normalise_first=True)
    whole = pool(table(rows[:4]), [vectors[:4]], rule)
    with_one = pool(table(rows), [vectors], rule, usable=np.arange(5) < 4)
    np.testing.assert_array_equal(with_one.vectors, whole.vectors)
    assert with_one.crops == whole.crops == [4]


# -- an independent transcription, and the invariances


def transcribed(rows: list[dict[str, Any]], vectors: F32, rule: Rule) -> dict[str, list[float]]:
    """Subject -> template, one crop at a time, sums in whole fractions."""
    media: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, row in enumerate(rows):
        media[row["subject_id"]][row["video_id"]].append(number)
    found = {}
    for subject, videos in media.items():
        total, below = [Fraction(0)] * vectors.shape[1], Fraction(0)
        for numbers in videos.values():
            for number in numbers:
                values = [Fraction(float(value)) for value in vectors[number]]
                length = Fraction(float(np.sqrt(float(sum(value * value for value in values)))))
                weight = {
                    "mean": Fraction(1),
                    "media_mean": Fraction(1, len(numbers)),
                    "norm_weighted": length,
                    "quality_weighted": Fraction(rows[number]["box_height_px"]),
                }[rule.pooling]
                if rule.normalise_first or rule.pooling == "norm_weighted":
                    values = [value / length for value in values]
                total = [t + weight * value for t, value in zip(total, values, strict=True)]
                below += weight
        found[subject] = [float(t / below) for t in total]
    return found


def study(seed: int, crops: int = 23) -> tuple[list[dict[str, Any]], F32]:
    random = np.random.default_rng(seed)
    rows = [
        {
            "subject_id": f"s{random.integers(4)}",
            "video_id": f"v{random.integers(3)}",
            "box_height_px": float(random.integers(1, 400)),
        }
        for _ in range(crops)
    ]
    spread = np.exp(random.normal(0, 2, (crops, 1))).clip(0.01, 1000)  # lengths that differ by orders of magnitude
    return rows, (random.normal(size=(crops, 5)) * spread).clip(-3000, 3000).astype(np.float32)


@pytest.mark.parametrize("pooling", POOLINGS)
@given(seed=st.integers(0, 1000), normalise_first=st.booleans())
@settings(max_examples=15, deadline=None)
def test_every_pooling_as_transcribed(pooling: Pooling, seed: int, normalise_first: bool) -> None:
    rows, vectors = study(seed)
    rule = Rule(pooling=pooling, normalise_first=normalise_first)
    found = pool(table(rows), [vectors], rule)
    for subject, expected in transcribed(rows, vectors, rule).items():
        size = np.abs(expected).max()
        np.testing.assert_allclose(
            found.where(subject=subject).vectors[0], expected, rtol=3e-7, atol=1e-11 + size * 1e-9
        )


@pytest.mark.parametrize("pooling", POOLINGS)
@given(
    seed=st.integers(0, 1000),
    order=st.permutations(range(23)),
    size=st.integers(1, 30),
    chunk=st.integers(1, 400),
    normalise_first=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_neither_rows_nor_blocks_change_a_byte(
    pooling: Pooling, seed: int, order: list[int], size: int, chunk: int, normalise_first: bool
) -> None:
    rows, vectors = study(seed)
    rule = Rule(pooling=pooling, normalise_first=normalise_first)
    once = pool(table(rows), [vectors], rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", chunk)
        again = pool(table([rows[n] for n in order]), blocks(vectors[order], size), rule)
    assert again.name == once.name
    assert again.vectors.tobytes() == once.vectors.tobytes()
    assert (again.crops.tolist(), again.media.tolist()) == (once.crops.tolist(), once.media.tolist())


def test_order_changes_nothing_where_float64_sums_would_differ() -> None:
    """The sums themselves are exact: cancelling values of unlike size, which plain float64 adds to different bits."""
    random = np.random.default_rng(1)
    values = (random.normal(size=4000) * np.exp(random.normal(0, 3, 4000))).clip(-8000, 8000)
    vectors = np.stack([values, -values[::-1]], axis=1).astype(np.float32)
    plain = {float(np.cumsum(vectors[random.permutation(4000), 0].astype(np.float64) / 3)[-1]) for _ in range(5)}
    assert len(plain) > 1
    group, usable = np.zeros(4000, np.int64), np.ones(4000, bool)
    sums = set()
    for size in (1, 7, 64, 4000):
        order = random.permutation(4000)
        found, _ = module._summed(blocks(vectors[order], size), group, usable, np.full(4000, 1 / 3), MEAN, False, 1)
        sums.add(found.tobytes())
    assert len(sums) == 1


def test_weights_are_added_in_an_order_of_their_own() -> None:
    random = np.random.default_rng(4)
    group, weight = random.integers(0, 3, 500), np.exp(random.normal(0, 5, 500))
    sums = set()
    for _ in range(10):
        order = random.permutation(500)
        sums.add(module._in_order(group[order], weight[order], 3).tobytes())
    assert len(sums) == 1
    assert len({np.bincount(group[o], weight[o]).tobytes() for o in (random.permutation(500) for _ in range(10))}) > 1


def test_the_split_into_coarse_and_fine_loses_what_it_says() -> None:
    random = np.random.default_rng(2)
    terms = (random.normal(size=(1000, 4)) * np.exp(random.normal(0, 3, (1000, 4)))).clip(-8192, 8192)
    coarse, fine = np.zeros((1000, 4)), np.zeros((1000, 4))
    module._add(terms.copy(), np.ones(1000), np.arange(1000), coarse, fine)
    assert (coarse % 2**-14 == 0).all()
    assert (fine % 2**-44 == 0).all()
    assert np.abs(fine).max() <= 2**-15
    assert np.abs((terms - coarse) - fine).max() <= 2**-45


def test_memory_is_that_of_templates_not_of_vectors() -> None:
    """40,000 x 256 float32 are 41 MB; 40 templates need 0.2 MB. The bytes of a chunk come on top."""
    count = 40_000
    rows = table([{"subject_id": f"s{n % 40}", "video_id": f"v{n % 400}"} for n in range(count)])
    random = np.random.default_rng(3)

    def stream() -> Iterator[F32]:
        for _ in range(count // 1000):
            yield random.standard_normal((1000, 256), np.float32)

    tracemalloc.start()
    found = pool(rows, stream(), Rule(pooling="media_mean", normalise_first=True))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.crops.tolist() == [1000] * 40
    assert peak < 15e6


def test_rows_of_a_manifest_in_several_chunks() -> None:
    rows, vectors = study(5)
    whole = table(rows)
    parts = pa.concat_tables([whole.slice(12), whole.slice(0, 12)])
    found = pool(parts, [np.concatenate([vectors[12:], vectors[:12]])])
    assert found.vectors.tobytes() == pool(whole, [vectors]).vectors.tobytes()


def test_no_rows_but_expected_ones() -> None:
    found = pool(table([]), [], expected=table([{"subject_id": "s1"}]))
    assert (found.failed, found.vectors.shape) == (1, (1, 0))
    assert len(pool(table([]), [])) == 0


# -- errors


def wrong(what: str) -> None:
    two: list[dict[str, Any]] = [{}, {}]
    match what:
        case "nan":
            pooled(two, [[1, 0], [np.nan, 0]])
        case "infinite":
            pooled(two, [[1, 0], [np.inf, 0]])
        case "zero":
            pooled(two, [[0, 0], [1, 0]])
        case "short":
            pooled(two, [[1e-6, 0], [1, 0]])
        case "large":
            pooled(two, [[9000, 0], [1, 0]])
        case "cancel":
            pooled(two, [[1, 2], [-1, -2]])
        case "too many":
            pooled([{}], [[1, 0], [1, 0]])
        case "too few":
            pooled(two, [[1, 0]])
        case "width":
            pool(table(two), [np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)])
        case "column":
            pool(table(two).drop_columns(["role"]), [np.ones((2, 2), np.float32)])
        case "session":
            pooled(two, [[1, 0], [1, 0]], Rule(by="sighting", sighting="session_id"))
        case "quality":
            pooled(two, [[1, 0], [1, 0]], Rule(pooling="quality_weighted", quality="sharpness"))
        case "negative":
            rule = Rule(pooling="quality_weighted")
            pooled([{"box_height_px": -1.0}, {}], [[1, 0], [1, 0]], rule)
        case "unit":
            pooled(two, [[1, 0], [0.6, 0.8]], Rule(pooling="norm_weighted"))
        case "norms":
            pooled(two, [[1, 0], [1, 0]], Rule(pooling="norm_weighted"), norms=np.ones(3, np.float32))
        case "usable":
            pooled(two, [[1, 0], [1, 0]], usable=np.ones(1, bool))
        case "template":
            mixed = [{"template_id": "7"}, {"template_id": "7", "subject_id": "s2"}]
            pooled(mixed, [[1, 0], [1, 0]], Rule(by="template_id"))
        case "expected":
            pooled(two, [[1, 0], [1, 0]], expected=table(two).drop_columns(["subject_id"]))
        case "arrays":
            replace(pooled(two, [[1, 0], [1, 0]]), crops=np.zeros(3, np.int64))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nan", "the vector of row 1 has length nan"),
        ("infinite", "the vector of row 1 has length inf"),
        ("zero", "the vector of row 0 has length 0"),
        ("short", "the vector of row 0 has length 1e-06"),
        ("large", "values up to 9000"),
        ("cancel", "template s1/VIS-500m/test/gallery/body: its vectors add up to zero"),
        ("too many", "expected blocks (b, D), 1 vectors of one size in all, got (2, 2) after 0"),
        ("too few", "expected 2 vectors, one a row, got 1"),
        ("width", "got (1, 3) after 1 vectors of 2"),
        ("column", "expected a column role, got subject_id, domain"),
        ("session", "session_id is empty in 2 of 2 rows"),
        ("quality", "sharpness is empty in 2 of 2 rows"),
        ("negative", "quality column box_height_px: expected weights, finite and 0 or more, got -1.0 (1 rows)"),
        ("unit", "norm_weighted needs the lengths of the vectors, and all are 1"),
        ("norms", "norms: expected one value for each of 2 rows, got (3,)"),
        ("usable", "usable: expected one value for each of 2 rows, got (1,)"),
        ("template", "template_id 7: expected one subject, domain, split and role, got s1/VIS-500m/7"),
        ("expected", "expected a column subject_id"),
        ("arrays", "expected vectors (T, D) and arrays (T,), got vectors (1, 2)"),
    ],
)
def test_errors_are_one_line(what: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        wrong(what)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
