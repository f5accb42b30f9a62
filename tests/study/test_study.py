"""What is due and why: a changed setting, video, annotation or protocol runs exactly what depends on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.running.plan import explain
from mdfpipe.running.status import status
from mdfpipe.running.survey import survey
from mdfpipe.stages import Inputs, Review, index
from mdfpipe.stages.label import Label
from mdfpipe.store.run import Failure, Receipt, Run, read_table
from mdfpipe.study.study import open_run
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
        ("label.min_height_px=130", [*every("label", "crop"), "manifest/manifest"]),
        ("label.min_overlap=0.7", every("label")),  # gives the same labels
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
    assert make.due("crop", "crop") == [f"crop/{v}: label is made again (after label)" for v in VIDEOS]
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
    one = [f"{stage}/videos/VIS-500m_a" for stage in ("detect", "crop")]  # its boxes are made elsewhere, and the same
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
    with pytest.raises(ConfigError, match="--only V9: no such video in the index; it has videos/"):
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

    def broken(path: Path, *_: object) -> None:
        raise DataError(f"{path.name}: Permission denied")

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


# -- parts are known by their content


def altered(run: Path, stage: str, video: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Commit a part again with other rows under the same receipt: as another batch, or another machine, might."""
    own = Run(run)
    receipt = own.receipt(stage, video)
    assert receipt is not None
    own.commit(receipt, change(own.table(stage, video)), {})


def last_bits(bodies: pa.Table) -> pa.Table:
    at = bodies.schema.get_field_index("x1")
    moved = np.nextafter(bodies["x1"].to_numpy(), np.float32(np.inf))
    return bodies.set_column(at, bodies.schema.field(at), pa.array(moved))


def other_order(bodies: pa.Table) -> pa.Table:
    """The first two bodies of each frame change places, and ids: body 00 is then who was 01."""
    number = pc.utf8_slice_codeunits(bodies["body_id"], -2).to_pylist()
    pairs = {"00": 1, "01": -1}
    frames = bodies["frame"].value_counts().to_pylist()
    of_two = {row["values"] for row in frames if row["counts"] > 1}
    moves = [pairs.get(n, 0) if f in of_two else 0 for n, f in zip(number, bodies["frame"].to_pylist(), strict=True)]
    return bodies.take(pa.array(np.arange(len(moves)) + moves)).set_column(
        0, bodies.schema.field(0), bodies["body_id"].combine_chunks()
    )


def whose_crops(run: Path, video: str) -> dict[tuple[float, ...], str]:
    """Box of each body crop -> whose it is said to be."""
    rows = Run(run).table("crop", video).to_pylist()
    return {(r["frame"], r["x1"], r["y1"]): r["subject_id"] for r in rows if r["modality"] == "body"}


@pytest.mark.parametrize("change", [last_bits, other_order])
def test_a_part_made_again_with_other_rows_makes_the_later_ones_due(
    copy: tuple[Path, Path], change: Callable[[pa.Table], pa.Table]
) -> None:
    data, run = copy
    video = "videos/VIS-500m_a"
    before = whose_crops(run, video)
    altered(run, "detect", video, change)
    assert runner(data, run)[0].due(None, None) == [
        f"label/{video}: detect changed",
        f"crop/{video}: detect changed, label is made again (after label)",
        f"manifest/manifest: crop/{video} is made again (after crop)",
    ]
    assert reran(data, run) == [f"label/{video}", f"crop/{video}", "manifest/manifest"]
    after = whose_crops(run, video)
    assert len(set(before.values())) == 2
    assert list(after.values()) == list(before.values()) or change is other_order
    assert change is last_bits or after == before
    assert reran(data, run) == []


def test_the_same_bytes_again_make_nothing_else_due(copy: tuple[Path, Path]) -> None:
    data, run = copy
    for part in (run / "detect").glob("*.parquet"):
        part.unlink()
    lines = runner(data, run)[0].due(None, None)
    assert lines[0] == f"detect/{VIDEOS[0]}: never made"
    assert lines[4] == f"label/{VIDEOS[0]}: detect is made again (after detect)"  # what it will hold, nobody knows yet
    assert reran(data, run) == every("detect")


def test_a_shard_counts_by_its_content(copy: tuple[Path, Path]) -> None:
    """Crops of the same rows with other pixels: whatever is made from them is due."""
    data, run = copy
    own, video = Run(run), "videos/VIS-500m_a"
    receipt = own.receipt("crop", video)
    assert receipt is not None
    name = next(name for name in receipt.files if ".body." in name)
    files = {other: own.path / other for other in receipt.files}
    pixels = bytearray(files[name].read_bytes())
    pixels[600] ^= 1
    files[name].write_bytes(pixels)
    assert own.commit(receipt, own.table("crop", video), files).content != receipt.content
    assert reran(data, run) == ["manifest/manifest"]


def test_labels_of_other_bodies_are_refused_by_name(copy: tuple[Path, Path]) -> None:
    data, run = copy
    video = "videos/VIS-500m_b"
    altered(run, "label", video, lambda rows: rows.slice(1))
    outcome = runner(data, run)[0].execute()
    (failure,) = outcome.failures
    assert (failure.stage, failure.key, failure.kind) == ("crop", video, "DataError")
    assert "label/videos__VIS-500m_b.parquet: expected a row for each of the " in failure.message
    assert "ids of detect, got none for 1 of them (videos/VIS-500m_b/000000/00); " in failure.message
    assert "the two were not made of each other: remove videos__VIS-500m_b.parquet" in failure.message
    (run / "label" / "videos__VIS-500m_b.parquet").unlink()
    assert reran(data, run) == [f"label/{video}"]  # the crops that lie there are of these labels


def test_labels_in_another_order_name_the_same_bodies(copy: tuple[Path, Path]) -> None:
    data, run = copy
    video = "videos/VIS-500m_b"
    before = whose_crops(run, video)
    altered(run, "label", video, lambda rows: rows.take(list(range(rows.num_rows))[::-1]))
    assert reran(data, run) == [f"crop/{video}"]  # which gives the same again
    assert whose_crops(run, video) == before
    assert set(before.values()) == {"s03", "s04"}


def test_parts_of_an_earlier_version_are_made_again_and_say_why(copy: tuple[Path, Path]) -> None:
    data, run = copy
    for part in [
        p for stage in ("index", "detect", "label", "crop", "manifest") for p in (run / stage).glob("*.parquet")
    ]:
        table = read_table(part)
        fields = json.loads((table.schema.metadata or {}).get(b"mdfpipe", b"{}"))
        if fields:
            for name in ("content", "tells"):
                del fields[name]
            with_it = {**table.schema.metadata, b"mdfpipe": json.dumps(fields).encode()}
            pq.write_table(table.replace_schema_metadata(with_it), part)
    said = "an earlier version of mdfpipe made it, which did not note its content"
    make, executor = runner(data, run)
    assert make.due(None, None)[0] == f"index/videos: {said}"
    assert (
        make.due("detect", "detect")[0] == "detect: every video that the index changes or adds (known once it is made)"
    )
    assert status(run).stages[0].due == 1
    assert survey(run).notes
    assert make.execute(None, "index").complete
    assert make.due("detect", "detect") == [f"detect/{video}: {said}" for video in VIDEOS]
    executor.ran.clear()
    assert make.execute(None, "label").complete
    assert executor.ran == every("detect", "label")
    assert make.due("crop", None)[0] == f"crop/{VIDEOS[0]}: {said}"


# -- settings that had no effect


@pytest.mark.parametrize(
    ("override", "runs"),
    [
        ("detect.incomplete=keep", []),
        ("label.short=keep", []),
        ("label.check_alignment=false", []),
        ("detect.normalise={policy: native8}", [v for v in VIDEOS if "LWIR" in v]),
        ("detect.normalise={clahe: true}", VIDEOS),
    ],
)
def test_a_setting_that_had_no_effect_makes_nothing_due(
    copy: tuple[Path, Path], override: str, runs: list[str]
) -> None:
    lines = runner(*copy, override)[0].due(None, None)
    assert [line.partition(":")[0] for line in lines if line.startswith("detect")] == [f"detect/{v}" for v in runs]
    assert bool(lines) == bool(runs)


def test_a_check_that_was_left_out_is_made_up_for(copy: tuple[Path, Path]) -> None:
    data, run = copy
    make, _ = runner(data, run, "label.check_alignment=false", "label.min_overlap=0.6")
    assert make.execute().complete
    make, executor = runner(data, run, "label.min_overlap=0.6")
    assert make.due("label", "label") == [f"label/{video}: check_alignment false -> true" for video in VIDEOS]
    assert make.execute().complete
    assert executor.ran == every("label")


def test_one_damaged_video_is_mended_alone(copy: tuple[Path, Path]) -> None:
    """By the advice of its error; and it is due again, alone, where the advice is taken back."""
    data, run = copy
    damaged = data / "videos" / "LWIR-30m_a.mkv"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size * 2 // 3])
    (failure,) = runner(data, run)[0].execute().failures
    assert failure.message.endswith("; keep the frames before it with detect.incomplete=keep")

    make, executor = runner(data, run, "detect.incomplete=keep")
    outcome = make.execute()
    assert executor.ran == ["detect/videos/LWIR-30m_a", "label/videos/LWIR-30m_a"]
    (failure,) = outcome.failures
    assert failure.message.endswith("or keep what there is with label.short=keep")

    both = ("detect.incomplete=keep", "label.short=keep")
    one = [f"{stage}/videos/LWIR-30m_a" for stage in ("detect", "label", "crop")]
    assert reran(data, run, *both) == [*one[1:], "manifest/manifest"]
    assert reran(data, run, *both) == []
    assert runner(data, run, "detect.incomplete=keep")[0].due("label", "label") == [f"{one[1]}: short keep -> fail"]
    assert runner(data, run)[0].due("detect", "detect") == [f"{one[0]}: incomplete keep -> fail"]


def test_a_receipt_keeps_what_was_decisive(finished: Path) -> None:
    receipt = Run(finished).receipt("detect", "videos/VIS-500m_a")
    assert receipt is not None
    assert receipt.settings["normalise"] == {"clahe": False}
    assert "incomplete" not in receipt.settings
    deep = Run(finished).receipt("detect", "videos/LWIR-30m_a")
    assert deep is not None
    assert deep.settings["normalise"]["policy"] == "video_percentile"
    assert survey(finished).settings()["detect"]["normalise"]["policy"] == "video_percentile"


def test_a_stage_reads_only_the_facts_that_it_is_told(finished: Path) -> None:
    told = Inputs(Run(finished)).facts("detect", "videos/VIS-500m_a")
    assert told["delivered"] == 16
    with pytest.raises(LookupError, match="the stage detect does not tell 'duplicates'"):
        told.get("duplicates")
