"""What is due and why: a changed setting, video, annotation or protocol runs exactly what depends on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.pipeline import open_run
from mdfpipe.plan import explain
from mdfpipe.stages import Review, index
from mdfpipe.stages.label import Label
from mdfpipe.status import status
from mdfpipe.store.run import Failure, Receipt
from tests.drawn import draw
from tests.inline import runner

VIDEOS = ["videos/LWIR-30m_a", "videos/LWIR-30m_b", "videos/VIS-500m_a", "videos/VIS-500m_b"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw(folder, frames=16)
    return folder


@pytest.fixture(scope="module")
def finished(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    make, executor = runner(drawn, run)
    outcome = make.execute()
    assert outcome.complete, outcome.failures
    assert len(executor.ran) == 14
    return run


@pytest.fixture
def copy(finished: Path, drawn: Path, tmp_path: Path) -> tuple[Path, Path]:
    """(data, run), a finished run that the test may change; times are kept."""
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(drawn, data)
    shutil.copytree(finished, run)
    return data, run


def reran(data: Path, run: Path, *overrides: str) -> list[str]:
    make, executor = runner(data, run, *overrides)
    due = make.due(None, None)
    assert make.execute().complete
    assert bool(due) == bool(executor.ran)
    return executor.ran


def every(*stages: str) -> list[str]:
    return [f"{stage}/{video}" for stage in stages for video in VIDEOS]


def test_nothing_is_due_after_a_whole_run(copy: tuple[Path, Path]) -> None:
    assert reran(*copy) == []


@pytest.mark.parametrize(
    ("override", "runs"),
    [
        ("label.min_overlap=0.7", [*every("label", "crop"), "manifest/manifest"]),
        ("crop.face_margin=0.2", [*every("crop"), "manifest/manifest"]),
        ("detect.stride=2", [*every("detect", "label", "crop"), "manifest/manifest"]),
        ("manifest.protocol.version=2", ["manifest/manifest"]),
        ("dataset.camera={regex: '(.)$'}", ["index/videos", "manifest/manifest"]),
        ("name=other", []),
    ],
)
def test_a_changed_setting_runs_what_depends_on_it(copy: tuple[Path, Path], override: str, runs: list[str]) -> None:
    if override.startswith("manifest.protocol."):
        data, run = copy
        pipeline, _, _ = open_run(run)
        study = run.parent / "study.yaml"
        study.write_text(pipeline.to_yaml())
        make, executor = runner(data, run, override, study=study)
        make.execute()
        assert executor.ran == runs
        return
    assert reran(*copy, override) == runs


def test_a_dry_run_says_why_and_writes_nothing(copy: tuple[Path, Path]) -> None:
    data, run = copy
    before = sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*"))
    make, _ = runner(data, run, "label.min_overlap=0.7")
    assert make.due("label", "label") == [f"label/{v}: min_overlap 0.5 -> 0.7" for v in VIDEOS]
    assert make.due("crop", "crop") == [f"crop/{v}: label changed (after label)" for v in VIDEOS]
    assert sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*")) == before


def test_one_video_added_runs_alone(copy: tuple[Path, Path]) -> None:
    data, run = copy
    shutil.copyfile(data / "videos" / "VIS-500m_a.mp4", data / "videos" / "VIS-500m_c.mp4")
    new = [f"{stage}/videos/VIS-500m_c" for stage in ("detect", "label", "crop")]
    assert reran(data, run) == ["index/videos", *new, "manifest/manifest"]


def test_one_video_taken_away_runs_the_run_level_stages(copy: tuple[Path, Path]) -> None:
    data, run = copy
    (data / "videos" / "LWIR-30m_a.mkv").unlink()
    for name in ("faces.csv", "boxes.csv"):
        kept = [line for line in (data / name).read_text().splitlines() if "LWIR-30m_a" not in line]
        (data / name).write_text("\n".join(kept) + "\n")
    assert reran(data, run) == ["index/videos", "manifest/manifest"]
    assert not (run / "index" / "faces" / "videos__LWIR-30m_a.parquet").exists()


def test_faces_of_one_video_changed(copy: tuple[Path, Path]) -> None:
    data, run = copy
    lines = (data / "faces.csv").read_text().splitlines()
    (data / "faces.csv").write_text(
        "\n".join(line for line in lines if ",videos/VIS-500m_a.mp4,1,3," not in line) + "\n"
    )
    assert reran(data, run) == [
        "index/videos",
        "label/videos/VIS-500m_a",
        "crop/videos/VIS-500m_a",
        "manifest/manifest",
    ]


def test_boxes_of_one_video_changed(copy: tuple[Path, Path]) -> None:
    data, run = copy
    text = (data / "boxes.csv").read_text().replace("videos/VIS-500m_b,3,", "videos/VIS-500m_b,4,")
    (data / "boxes.csv").write_text(text)
    one = [f"{stage}/videos/VIS-500m_b" for stage in ("detect", "label", "crop")]
    assert reran(data, run) == [*one, "manifest/manifest"]


def test_a_renamed_file_of_boxes_changes_nothing(copy: tuple[Path, Path]) -> None:
    data, run = copy
    (data / "boxes.csv").rename(data / "detections.csv")
    assert reran(data, run, "detect.detector.boxes=detections.csv") == []


def test_a_video_replaced_by_another(copy: tuple[Path, Path]) -> None:
    data, run = copy
    shutil.copyfile(data / "videos" / "VIS-500m_b.mp4", data / "videos" / "VIS-500m_a.mp4")
    one = [f"{stage}/videos/VIS-500m_a" for stage in ("detect", "label", "crop")]
    assert reran(data, run) == ["index/videos", *one, "manifest/manifest"]


def test_from_and_until(drawn: Path, tmp_path: Path) -> None:
    make, executor = runner(drawn, tmp_path / "run")
    make.execute(None, "detect")
    assert executor.ran == ["index/videos", *every("detect")]
    executor.ran.clear()
    outcome = make.execute("crop", "manifest")
    assert executor.ran == []
    assert outcome.tallies["crop"].blocked == 4
    assert outcome.refused[0].startswith("manifest: not made, because 4 of 4 videos are not done")
    with pytest.raises(ConfigError, match="--from nowhere: expected one of index, detect"):
        make.execute("nowhere", None)
    with pytest.raises(ConfigError, match="--from crop comes after --until label"):
        make.execute("crop", "label")


def test_a_stage_without_an_index_says_what_to_run(drawn: Path, tmp_path: Path) -> None:
    make, _ = runner(drawn, tmp_path / "run")
    with pytest.raises(DataError, match="index: never made; run `mdfpipe detect`"):
        make.execute("label", "manifest")


def test_only_one_video(drawn: Path, tmp_path: Path) -> None:
    make, executor = runner(drawn, tmp_path / "run")
    outcome = make.execute(only=["videos/VIS-500m_b"])
    assert executor.ran == ["index/videos", *(f"{s}/videos/VIS-500m_b" for s in ("detect", "label", "crop"))]
    assert outcome.tallies["manifest"].note == "not made, because of --only"
    with pytest.raises(ConfigError, match="--only V9: no such video in the index; close to it: videos/"):
        make.execute(only=["V9"])


def test_a_run_level_stage_waits_for_every_video_unless_told(copy: tuple[Path, Path]) -> None:
    data, run = copy
    (data / "videos" / "LWIR-30m_a.mkv").write_bytes(b"not a video")
    make, executor = runner(data, run)
    outcome = make.execute()
    assert [f.key for f in outcome.failures] == ["videos/LWIR-30m_a"]
    assert outcome.refused == [
        "manifest: not made, because 1 of 4 videos are not done (videos/LWIR-30m_a); mend them and give the same "
        "command again, or leave them out with --allow-missing"
    ]
    assert not outcome.complete
    executor.ran.clear()
    make.execute(allow_missing=True)
    assert executor.ran == ["index/videos", "detect/videos/LWIR-30m_a", "manifest/manifest"]  # it looks again
    assert make.run.receipt("manifest", "manifest").facts["missing"] == ["videos/LWIR-30m_a"]  # type: ignore[union-attr]


def test_what_could_not_be_read_is_looked_at_again(copy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing about the file need change: a mount, a permission or a library may have been mended."""
    data, run = copy
    shutil.copyfile(data / "videos" / "VIS-500m_b.mp4", data / "videos" / "VIS-500m_c.mp4")

    def broken(data: Path, name: str, stage: index.Index) -> dict[str, str]:
        return {"problem": f"{Path(name).name}: Permission denied"}

    make, executor = runner(data, run)
    with monkeypatch.context() as patch:
        patch.setattr(index, "_measure", broken)
        for _ in range(2):
            executor.ran.clear()
            assert [f.message for f in make.execute().failures] == ["VIS-500m_c.mp4: Permission denied"]
            assert executor.ran == ["index/videos", "detect/videos/VIS-500m_c"]
    assert make.execute().complete
    assert make.due(None, None) == []


def test_a_stop_holds_for_whoever_starts_after_it(copy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Label, "review", lambda self, facts: Review(stop="the faces are a frame off"))
    make, executor = runner(*copy, "crop.face_margin=0.3")
    for first in (None, "label", "crop", "manifest"):
        with pytest.raises(DataError, match="label: the faces are a frame off"):
            make.execute(first)
    assert executor.ran == []


def test_faces_in_a_video_left_out_decide_whose_mates_are_known(copy: tuple[Path, Path]) -> None:
    data, run = copy
    (data / "videos" / "VIS-500m_a.mp4").write_bytes(b"damaged")
    make, executor = runner(data, run)
    make.execute(allow_missing=True)
    executor.ran.clear()
    with (data / "faces.csv").open("a") as file:
        file.write("s03,videos/VIS-500m_a.mp4,1,2,10,10,20,20\n")
    make, executor = runner(data, run)
    make.execute(allow_missing=True)
    assert "manifest/manifest" in executor.ran


def test_status_of_a_finished_run(finished: Path) -> None:
    found = status(finished)
    assert [(s.stage, s.total, s.done, s.due, s.failed) for s in found.stages] == [
        ("index", 1, 1, 0, 0),
        ("detect", 4, 4, 0, 0),
        ("label", 4, 4, 0, 0),
        ("crop", 4, 4, 0, 0),
        ("manifest", 1, 1, 0, 0),
    ]
    assert found.failures == []
    assert sum(found.stages[2].rows.values()) == found.stages[1].rows["bodies"]


def test_status_names_what_failed(copy: tuple[Path, Path]) -> None:
    data, run = copy
    make, _ = runner(data, run)
    make.run.record_failure(Failure("detect", "videos/VIS-500m_a", "DecodeError", "short: 3 frames"))
    make.run.discard("detect", "videos/VIS-500m_a")
    found = status(run)
    assert found.failures == [
        {"stage": "detect", "key": "videos/VIS-500m_a", "kind": "DecodeError", "reason": "short: 3 frames"}
    ]
    assert found.stages[1].failed == 1


def test_the_data_folder_is_no_run_folder(drawn: Path) -> None:
    with pytest.raises(ConfigError, match="expected a folder of its own, got the data folder"):
        runner(drawn, drawn)


def test_what_is_no_run_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a run folder"):
        status(tmp_path)


def test_explain_counts_what_it_leaves_out() -> None:
    old = Receipt("s", 1, "k", {"a": 1, "b": {"c": 2, "d": 3}}, {"u": "1", "v": "1"})
    new = Receipt("s", 2, "k", {"a": 2, "b": {"c": 3, "e": 3}}, {"u": "2", "w": "1"})
    assert explain(old, new, 4) == "version 1 -> 2, a 1 -> 2, b.c 2 -> 3, b.d 3 -> unset, and 4 more"
    assert explain(old, new, 9).endswith("u changed, v removed, w added")
