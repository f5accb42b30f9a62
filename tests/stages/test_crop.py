"""The crop stage: what is not cut out is counted, damaged boxes cost one row, and no frame too many is decoded."""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdfpipe.cli.display import show_status
from mdfpipe.errors import ConfigError
from mdfpipe.inspecting.inspection import inspect
from mdfpipe.running.status import status
from mdfpipe.running.survey import survey
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.thinning import highest, spread_in_time
from tests.drawn import draw
from tests.inline import DEMO, runner


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


def _kept(frames: list[int], most: int) -> list[int]:
    return np.array(frames)[spread_in_time(np.array(frames, np.int64), most)].tolist()


@pytest.mark.parametrize(
    ("frames", "most", "kept"),
    [
        ([*range(90)], 3, [14, 44, 74]),  # next to the middle of each third, the earlier of two
        ([*range(90)], 1, [44]),
        ([*range(5)], 5, [0, 1, 2, 3, 4]),
        ([*range(5)], 9, [0, 1, 2, 3, 4]),
        ([*range(30), *range(60, 900, 30)], 3, [150, 420, 720]),  # by time, not by how many there are
        ([0, 1, 2, 3, 1000, 1001, 1002, 1003], 4, [1, 3, 1000, 1002]),  # as much of each side of a gap
        ([7, 7, 7, 7], 2, [7, 7]),
        ([], 2, []),
    ],
)
def test_rows_are_evenly_spread_in_time(frames: list[int], most: int, kept: list[int]) -> None:
    assert _kept(frames, most) == kept


def test_any_number_of_rows_gives_as_many_as_asked_one_in_each_part_of_the_time() -> None:
    for count in range(1, 40):
        for most in range(1, count + 1):
            kept = _kept([*range(count)], most)
            assert len(set(kept)) == most
            assert [frame * most // count for frame in kept] == [*range(most)]


@pytest.fixture(scope="module")
def whole(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run without any of the settings, up to the manifest."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    make, _ = runner(drawn, folder)
    assert make.execute().complete
    return Run(folder)


def _left(rows: list[dict[str, Any]], every: int, most: int, least: dict[str, float]) -> Counter[tuple[str, str]]:
    """How many of the rows of a run without the settings have which fate under them, by subject and modality."""
    found: Counter[tuple[str, str]] = Counter()
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in rows:
        if row["y2"] - row["y1"] < least[row["modality"]]:
            found[row["modality"], "too_small"] += 1
        else:
            groups[row["subject_id"], row["modality"]].append(row["frame"])
    for (_, modality), frames in groups.items():
        assert len(set(frames)) == len(frames)
        nth = sorted(frames)[::every]
        found[modality, "skipped_frame"] += len(frames) - len(nth)
        found[modality, "over_limit"] += max(len(nth) - most, 0)
        found[modality, "ok"] += min(len(nth), most)
    return +found


@pytest.mark.parametrize(
    ("settings", "every", "most", "least"),
    [
        (["every=5"], 5, 99, (0, 0)),
        (["per_subject=4"], 1, 4, (0, 0)),
        (["min_height_px=115"], 1, 99, (115, 0)),
        (["min_face_height_px=14"], 1, 99, (0, 14)),
        (["every=2", "per_subject=3", "min_height_px=115", "min_face_height_px=14"], 2, 3, (115, 14)),
    ],
)
def test_what_settings_leave_out_keeps_its_row_and_is_counted(
    settings: list[str],
    every: int,
    most: int,
    least: tuple[float, float],
    drawn: Path,
    whole: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make, _ = runner(drawn, tmp_path / "run", *(f"crop.{one}" for one in settings))
    outcome = make.execute()
    assert outcome.complete
    run, counted, rows = Run(tmp_path / "run"), Counter[str](), 0
    for key in (row["video_id"] for row in run.table("index", "videos").to_pylist()):
        before, after = (one.table("crop", key).to_pylist() for one in (whole, run))
        expected = _left(before, every, most, dict(zip(("body", "face"), least, strict=True)))
        assert Counter((row["modality"], row["status"]) for row in after) == expected
        receipt = run.receipt("crop", key)
        assert receipt is not None
        assert receipt.facts["rows"] == {" ".join(pair): count for pair, count in sorted(expected.items())}
        assert [row["crop_id"] for row in after] == [row["crop_id"] for row in before]
        for was, now in zip(before, after, strict=True):
            if now["status"] == "ok":  # the bytes are those of the run without the settings
                assert was["crc32"] == now["crc32"]
            else:
                assert (now["shard"], now["offset"], now["sharpness"]) == (None, None, None)
        for modality in ("body", "face"):
            with tarfile.open(run.path / "crop" / f"{key.replace('/', '__')}.{modality}.tar") as tar:
                held = {name.rpartition(".")[0] for name in tar.getnames()}
            assert held == {
                r["crop_id"].replace("/", "__") for r in after if (r["modality"], r["status"]) == (modality, "ok")
            }
        rows += len(after)
        counted.update(status for (_, status), n in expected.items() for _ in range(n) if status != "ok")
    line = f"crop: {counted.total()} of {rows} crops left out by settings: "
    assert any(note.startswith(line) for note in outcome.notes)
    assert [x.startswith(line) for x in (status(run.path).left_out[0], survey(run.path).notes[0])] == [True, True]
    assert sum(row.get("crops left out", 0) for row in inspect(run.path).funnel) == counted.total()
    show_status(status(run.path))
    shown = " ".join(capsys.readouterr().out.split())
    assert line.strip() in shown
    manifest = run.receipt("manifest", "manifest")
    assert manifest is not None
    assert manifest.facts["failed"] == []  # nothing failed
    assert len(run.table("manifest", "manifest")) == rows - counted.total()


@pytest.mark.parametrize("prefer", ["height", "score"])
def test_the_best_crops_are_kept_where_these_are_preferred(
    prefer: str, drawn: Path, whole: Run, tmp_path: Path
) -> None:
    make, _ = runner(drawn, tmp_path / "run", "crop.per_subject=3", f"crop.prefer={prefer}")
    assert make.execute().complete
    run, key = Run(tmp_path / "run"), "videos/VIS-500m_a"
    score = {row["body_id"]: row["score"] for row in whole.table("detect", key).to_pylist()}
    groups: dict[tuple[str, str], list[tuple[float, int, str]]] = defaultdict(list)
    for row in whole.table("crop", key).to_pylist():
        value = score.get(row["crop_id"]) if prefer == "score" else None
        value = np.float32(row["y2"]) - np.float32(row["y1"]) if value is None else value
        groups[row["subject_id"], row["modality"]].append((-value, row["frame"], row["crop_id"]))
    expected = {crop_id for group in groups.values() for *_, crop_id in sorted(group)[:3]}
    assert {row["crop_id"] for row in run.table("crop", key).to_pylist() if row["status"] == "ok"} == expected


def test_of_equal_values_the_first_are_kept_and_those_without_a_value_last() -> None:
    value = np.array([1, 3, np.nan, 3, 2, 3], np.float32)
    for most, kept in ((1, [1]), (2, [1, 3]), (4, [1, 3, 4, 5]), (5, [0, 1, 3, 4, 5]), (9, [0, 1, 2, 3, 4, 5])):
        assert np.flatnonzero(highest(value, most)).tolist() == kept


def test_a_subject_of_whom_nothing_is_high_enough_is_named_at_every_call(drawn: Path, tmp_path: Path) -> None:
    for _ in range(2):
        make, executor = runner(drawn, tmp_path / "run", "crop.min_height_px=115")
        warnings = make.execute().warnings
        assert [w for w in warnings if "s04 in videos/VIS-500m_b" in w and "every body" in w]
    assert executor.ran == []


def test_a_damaged_face_takes_nobodys_place(drawn: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    with (data / "faces.csv").open("a") as file:
        file.writelines(f"s01,videos/VIS-500m_a.mp4,1,{frame},-900,10,20,20\n" for frame in (5, 6, 7))
    make, _ = runner(data, tmp_path / "run", "crop.per_subject=1")
    assert make.execute().complete
    rows = Run(tmp_path / "run").table("crop", "videos/VIS-500m_a").to_pylist()
    faces = Counter(r["status"] for r in rows if (r["modality"], r["subject_id"]) == ("face", "s01"))
    assert faces == {"ok": 1, "empty": 3, "over_limit": 11}


def test_without_them_a_run_is_as_it_was(drawn: Path, whole: Run, tmp_path: Path) -> None:
    """Values that leave nothing out are those of no setting; other ones make crops due, and back again."""
    receipt = whole.receipt("crop", "videos/VIS-500m_a")
    assert receipt is not None
    assert not receipt.settings.keys() & {"every", "per_subject", "prefer", "min_height_px", "min_face_height_px"}
    shutil.copytree(whole.path, tmp_path / "run")
    ran = []
    for settings in (["every=1", "min_height_px=0", "min_face_height_px=0", "prefer=spread"], ["every=2"], []):
        make, executor = runner(drawn, tmp_path / "run", *(f"crop.{one}" for one in settings))
        assert make.execute(None, "crop").complete
        ran.append(len(executor.ran))
    assert ran == [0, 4, 4]
    again = Run(tmp_path / "run").receipt("crop", "videos/VIS-500m_a")
    assert again is not None
    assert again.content == receipt.content


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("every=0", "crop.every: input should be greater than or equal to 1, got 0"),
        ("every=true", "crop: every: expected a number, got true"),
        ("every=1.5", "crop.every: input should be a valid integer, got a number with a fractional part, got 1.5"),
        ("per_subject=0", "crop.per_subject: input should be greater than or equal to 1, got 0"),
        ("min_height_px=-1", "crop.min_height_px: input should be greater than or equal to 0, got -1"),
        ("min_face_height_px=tall", "crop.min_face_height_px: input should be a valid number"),
        ("min_face_height_px=.inf", "crop.min_face_height_px: input should be a finite number"),
        ("prefer=height", "crop: prefer: height chooses what per_subject keeps; set per_subject, too"),
        ("prefer=best", "crop.prefer: input should be 'spread', 'height' or 'score', got 'best'"),
        ("evry=2", "crop.evry: unknown setting (did you mean every?)"),
    ],
)
def test_a_bad_value_is_one_line(setting: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        Study.load(DEMO, [f"crop.{setting}"])
    assert says in str(error.value)
    assert "\n" not in str(error.value)
