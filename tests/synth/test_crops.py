"""Crops to pre-train on: a run folder like any other, of people who stand in no gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdfpipe.store.run import Run
from mdfpipe.store.shards import read_crop
from mdfpipe.store.tables import MANIFEST
from mdfpipe.synth.crops import CLIPS, FRAMES, write_crops
from mdfpipe.synthesis import cut_out
from mdfpipe.video.cropping import decode


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
        image = decode(read_crop(run.path / row["shard"], row["offset"], row["size"]), row["crop_id"])
        assert image.shape == (384, 128, 3)
        assert image.dtype == np.uint8
        assert image.std() > 5


def test_the_same_crops_with_more_workers_and_after_a_loss(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        write_crops(tmp_path / name, 2, cut=cut_out, seed=2, workers=workers)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*") if p.name != ".lock")
    assert [(tmp_path / "one" / f).read_bytes() for f in files] == [(tmp_path / "two" / f).read_bytes() for f in files]
    shard = next((tmp_path / "one" / "crop").glob("*.tar"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-512])
    write_crops(tmp_path / "one", 2, cut=cut_out, seed=2)
    assert shard.read_bytes() == whole
