"""The crop stage: what is not cut out is counted, damaged boxes cost one row, and no frame too many is decoded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mdfpipe.store.run import Run
from mdfpipe.video.decoders import Decoder
from tests.drawn import draw
from tests.inline import runner


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw(folder, frames=12)
    return folder


def test_a_damaged_face_box_costs_its_own_row(drawn: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    with (data / "faces.csv").open("a") as file:
        file.write("s01,videos/VIS-500m_a.mp4,1,4,10,10,30000,30000\n")  # 3.9 GB if it were cut out
        file.write("s01,videos/VIS-500m_a.mp4,1,5,10,10,1e12,20\n")
        file.write("s01,videos/VIS-500m_a.mp4,1,6,-900,10,20,20\n")
        file.write(",videos/VIS-500m_a.mp4,1,7,10,10,20,20\n")
    make, _ = runner(data, tmp_path / "run")
    assert make.execute().complete
    run = Run(tmp_path / "run")
    facts = run.receipt("crop", "videos/VIS-500m_a").facts  # type: ignore[union-attr]
    assert facts["rows"]["face too_large"] == 2
    assert facts["rows"]["face empty"] == 1
    assert facts["faces_unnamed"] == 1
    rows = run.table("crop", "videos/VIS-500m_a").to_pylist()
    for row in rows:
        assert (row["status"] == "ok") == (row["offset"] is not None) == (row["sharpness"] is not None)
    in_manifest = {r["crop_id"] for r in run.table("manifest", "manifest").to_pylist()}
    assert in_manifest.isdisjoint(row["crop_id"] for row in rows if row["status"] != "ok")


def test_faces_between_strides_are_counted(drawn: Path, tmp_path: Path) -> None:
    make, _ = runner(drawn, tmp_path / "run", "detect.stride=3")
    assert make.execute().complete
    run = Run(tmp_path / "run")
    facts = run.receipt("crop", "videos/VIS-500m_a").facts  # type: ignore[union-attr]
    assert facts["rows"]["face ok"] + facts["faces_between_strides"] == 24
    assert {row["frame"] for row in run.table("crop", "videos/VIS-500m_a").to_pylist()} == {0, 3, 6, 9}


def test_bodies_or_faces_alone(drawn: Path, tmp_path: Path) -> None:
    for off, left in (("bodies", "face"), ("faces", "body")):
        make, _ = runner(drawn, tmp_path / off, f"crop.{off}=false")
        assert make.execute().complete
        run = Run(tmp_path / off)
        assert {row["modality"] for row in run.table("manifest", "manifest").to_pylist()} == {left}
        assert {p.suffixes[-2] for p in (run.path / "crop").glob("*.tar")} == {f".{left}"}


def test_nothing_is_decoded_after_the_last_wanted_frame(drawn: Path) -> None:
    delivered: list[int] = []
    stream = Decoder.variant("pyav")().frames(
        drawn / "videos" / "VIS-500m_a.mp4", wanted={1, 2}.__contains__, last=2, alive=delivered.append
    )
    assert [frames.index.tolist() for frames in stream] == [[1, 2]]
    assert delivered == [1, 2, 3]
