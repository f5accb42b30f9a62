"""Crops to pre-train on: a run folder like any other, of people who stand in no gallery."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdfpipe.errors import ConfigError, DataError, MdfError
from mdfpipe.running.crew import each
from mdfpipe.running.synthesis import cut_out, synthesise
from mdfpipe.store.images import decode
from mdfpipe.store.lock import is_of_lock
from mdfpipe.store.run import Run
from mdfpipe.store.shards import read_crop
from mdfpipe.store.tables import MANIFEST
from mdfpipe.synth import crops
from mdfpipe.synth.crops import CLIPS, FRAMES, write_crops


def test_crops_are_a_manifest_that_any_reader_of_manifests_takes(tmp_path: Path) -> None:
    count = write_crops(tmp_path / "crops", 3, cut=cut_out, seed=2)
    run = Run(tmp_path / "crops")
    table = run.table("manifest", "manifest")
    assert table.schema.equals(MANIFEST)
    assert 0.7 * 3 * CLIPS * FRAMES <= count == table.num_rows <= 3 * CLIPS * FRAMES
    rows = table.to_pylist()
    assert {r["subject_id"] for r in rows} == {"300000", "300001", "300002"}
    assert {(r["domain"], r["modality"], r["split"], r["role"]) for r in rows} == {
        ("VIS-500m", "body", "train", "none")
    }
    assert len({r["crop_id"] for r in rows}) == count
    for row in rows:
        image = decode(read_crop(run.path / row["shard"], row["offset"], row["size"], row["crc32"]), row["crop_id"])
        assert image.shape == (384, 128, 3)
        assert image.dtype == np.uint8
        assert image.std() > 5


def test_the_same_crops_with_more_workers_and_after_a_loss(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        write_crops(tmp_path / name, 2, cut=cut_out, seed=2, share=partial(each, workers=workers))
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*") if not is_of_lock(p.name))
    assert [(tmp_path / "one" / f).read_bytes() for f in files] == [(tmp_path / "two" / f).read_bytes() for f in files]
    shard = next((tmp_path / "one" / "crop").glob("*.tar"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-512])
    write_crops(tmp_path / "one", 2, cut=cut_out, seed=2)
    assert shard.read_bytes() == whole
    for part in ("crop/block-0000", "manifest/manifest"):
        table = tmp_path / "one" / f"{part}.parquet"
        sound = table.read_bytes()
        table.write_bytes(sound[:900] + bytes([sound[900] ^ 1]) + sound[901:])
        write_crops(tmp_path / "one", 2, cut=cut_out, seed=2)
        assert table.read_bytes() == sound


def test_progress_counts_subjects_and_says_nothing_of_those_that_are_there(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    for _ in range(2):
        write_crops(tmp_path, 2, cut=cut_out, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2), (0, 0)]


def test_a_subject_that_is_never_seen_has_no_crop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = crops._crops_of
    monkeypatch.setattr(crops, "_crops_of", lambda subject, *rest: [] if subject == "300000" else made(subject, *rest))
    assert write_crops(tmp_path, 2, cut=cut_out) > 0
    assert set(Run(tmp_path).table("manifest", "manifest")["subject_id"].to_pylist()) == {"300001"}


def test_what_goes_wrong_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--crops 1: expected at least 2"):
        write_crops(tmp_path, 1, cut=cut_out)
    with pytest.raises(ConfigError, match="--crops 1: expected 0, or at least 2"):
        synthesise(tmp_path / "out", "tiny", crops=1)
    assert not (tmp_path / "out").exists()

    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(crops, "_crops_of", broken)
    with pytest.raises(MdfError, match="block-0000: cannot be drawn: unexpected error: ZeroDivisionError: by zero"):
        write_crops(tmp_path / "out", 2, cut=cut_out)
    assert not list(tmp_path.rglob(".part-*"))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"subjects": "3"}, "--subjects: expected a whole number of 2 or more, got '3'"),
        ({"subjects": 2.5}, "--subjects: expected a whole number of 2 or more, got 2.5"),
        ({"crops": "4"}, "--crops: expected a whole number of 0 or more, got '4'"),
        ({"crops": -2}, "--crops: expected a whole number of 0 or more, got -2"),
        ({"faces": None}, "--faces: expected a whole number of 0 or more, got None"),
        ({"seed": "a"}, "--seed: expected a whole number of 0 or more, got 'a'"),
        ({"seed": 1.5}, "--seed: expected a whole number of 0 or more, got 1.5"),
        ({"workers": "a"}, "--workers: expected a whole number of 1 or more, got 'a'"),
        ({"preset": ["tiny"]}, r"--preset: expected a text, got \['tiny'\]"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is(asked: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        synthesise(tmp_path / "out", **{"preset": "tiny", **asked})
    assert not (tmp_path / "out").exists()


def test_a_detector_with_habits_always_touches_what_it_found() -> None:
    """Boxes at the frame's edges and of one pixel: the crop that is cut out always holds a pixel of the frame."""
    generator = np.random.default_rng(0)
    frame = np.zeros((*crops.SCENE, 3), np.uint8)
    height, width = crops.SCENE
    for left, top in ((0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)):
        for _ in range(200):
            box = np.float32([left, top, left + 1, top + 1])
            data, _, _ = cut_out(frame, crops._as_detected(box, crops._habit(generator), generator))
            assert decode(data, "crop").shape == (384, 128, 3)
    with pytest.raises(DataError, match="expected one that touches the frame of 260x360"):
        cut_out(frame, np.float32([-9, 0, -1, 5]))
