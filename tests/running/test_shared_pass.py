"""Detect, label and crop of a video in one pass: the files of the stages one by one, and one decoding less."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mdfpipe.errors import DataError
from mdfpipe.running import execution
from mdfpipe.running.execution import Event, run_unit
from mdfpipe.running.runner import Outcome, Runner
from mdfpipe.running.workers import messages
from mdfpipe.stages import Resources
from mdfpipe.stages.cutter import Cutter
from mdfpipe.stages.shared_pass import BEFORE, SharedPass
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.frames import Frames
from tests.drawn import draw
from tests.inline import DEMO, Inline

VIDEO = "videos/VIS-500m_a"
STAGES = ("index", "detect", "label", "crop", "manifest")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of 8 bits and two of 16, with a face that is no face and one beyond the end."""
    folder = tmp_path_factory.mktemp("drawn")
    draw(folder, frames=12)
    with (folder / "faces.csv").open("a") as file:
        file.write("s01,videos/VIS-500m_a.mp4,1,4,10,10,30000,30000\n")
        file.write("s01,videos/VIS-500m_a.mp4,1,6,-900,10,20,20\n")
        file.write(",videos/VIS-500m_a.mp4,1,7,10,10,20,20\n")
    return folder


def made(data: Path, run: Path, *settings: str, separate: bool = False, batch: int = 5) -> tuple[Outcome, list[str]]:
    """The outcome of a study up to its manifest, and the units that ran."""
    resources = Resources(separate=separate, batch=batch)
    executor = Inline(resources)
    runner = Runner(Study.load(DEMO, list(settings)), Run(run), data, resources, executor)
    return runner.execute(None, "manifest"), executor.ran


def digests(run: Path) -> dict[str, str]:
    """Every file of the stages, by content."""
    files = [path for stage in STAGES for path in (run / stage).rglob("*") if path.is_file()]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each video is opened to be decoded."""
    count: Counter[str] = Counter()
    original = Decoder.frames

    def frames(self: Decoder, path: Path, **how: object) -> object:
        count[path.stem] += 1
        return original(self, path, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "frames", frames)
    return count


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("label.assignment=mutual_best", "detect.stride=3"),
        ("label.assignment=hungarian", "crop.faces=false", "crop.body_height_px=64"),
        ("crop.bodies=false", "crop.face_margin=0.4", "detect.normalise.policy=frame_percentile"),
        ("crop.min_height_px=115", "crop.min_face_height_px=14", "label.min_overlap=0.9"),
    ],
    ids=" ".join,
)
def test_it_gives_the_files_of_the_stages_one_by_one(
    drawn: Path, tmp_path: Path, decoded: Counter[str], settings: tuple[str, ...]
) -> None:
    separate, ran = made(drawn, tmp_path / "separate", *settings, separate=True)
    assert ran.count(f"crop/{VIDEO}") == 1
    before = decoded.copy()
    decoded.clear()
    shared, ran = made(drawn, tmp_path / "shared", *settings, batch=3)
    assert [unit for unit in ran if "VIS-500m_a" in unit] == [f"detect+label+crop/{VIDEO}"]
    assert {name: count - decoded[name] for name, count in before.items()} == dict.fromkeys(decoded, 1)
    assert shared.complete, shared.refused
    assert shared.tallies == separate.tallies
    assert digests(tmp_path / "shared") == digests(tmp_path / "separate")
    assert made(drawn, tmp_path / "shared", *settings)[1] == []


@pytest.mark.parametrize("settings", [("crop.every=2",), ("crop.per_subject=3",)], ids=" ".join)
def test_crops_that_are_chosen_among_all_frames_are_cut_in_a_pass_of_their_own(
    drawn: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    outcome, ran = made(drawn, tmp_path / "shared", *settings)
    assert f"crop/{VIDEO}" in ran
    said = "crop decodes each video again: crop.every and crop.per_subject choose among all its frames"
    assert outcome.notes.count(said) == 1
    apart, _ = made(drawn, tmp_path / "separate", *settings, separate=True)
    assert said not in apart.notes
    assert digests(tmp_path / "shared") == digests(tmp_path / "separate")


def test_what_is_due_says_which_stages_share_a_pass(drawn: Path, tmp_path: Path) -> None:
    def due(separate: bool, *settings: str) -> list[str]:
        resources = Resources(separate=separate)
        runner = Runner(Study.load(DEMO, list(settings)), Run(tmp_path / "run"), drawn, resources, Inline(resources))
        if not (tmp_path / "run").exists():
            runner.execute(None, "index")
        return [line for line in runner.due(None, "crop") if VIDEO in line]

    never, reason = f"{VIDEO}: never made", f"{VIDEO}: never made"
    assert due(False) == [f"detect/{never}", f"label/{reason} (with detect)", f"crop/{reason} (with detect)"]
    assert due(True) == [f"detect/{never}", f"label/{reason} (after detect)", f"crop/{reason} (after detect)"]
    again = "decodes the video again: crop.every and crop.per_subject choose among all its frames"
    alone = [f"detect/{never}", f"label/{reason} (after detect)", f"crop/{reason} (after detect; {again})"]
    assert due(False, "crop.every=2") == alone


@pytest.mark.parametrize("last", ["detect", "label"])
def test_a_kill_between_two_commits_goes_on_with_the_next(
    drawn: Path, tmp_path: Path, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = execution._run_one

    def run_one(unit: execution.Unit, *more: object, **how: object) -> Event:
        event = original(unit, *more, **how)  # type: ignore[arg-type]
        if unit.stage.name == last and unit.key == VIDEO:
            raise KeyboardInterrupt
        return event

    with monkeypatch.context() as patch:
        patch.setattr(execution, "_run_one", run_one)
        with pytest.raises(KeyboardInterrupt):
            made(drawn, tmp_path / "run")
    _, ran = made(drawn, tmp_path / "run")
    assert f"crop/{VIDEO}" in ran
    assert (f"label/{VIDEO}" in ran) == (last == "detect")
    made(drawn, tmp_path / "separate", separate=True)
    assert digests(tmp_path / "run") == digests(tmp_path / "separate")
    assert not list((tmp_path / "run").rglob(".part-*"))


@pytest.mark.parametrize("place", ["take", "finish"])
def test_trouble_with_cutting_ahead_costs_a_second_pass_and_nothing_else(
    drawn: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, decoded: Counter[str]
) -> None:
    original, calls = getattr(Cutter, place), Counter[str]()

    def once(self: Cutter, *more: object) -> object:
        calls["all"] += 1
        if calls["all"] == 1:
            raise MemoryError("no room")
        return original(self, *more)

    monkeypatch.setattr(Cutter, place, once)
    outcome, _ = made(drawn, tmp_path / "run")
    assert outcome.complete
    said = [line for line in outcome.warnings if line.startswith("crop decoded ")]
    assert len(said) == 1
    assert said[0].endswith(" again: cutting while detect ran failed: MemoryError: no room")
    events = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in events if "no room" in line] == ["crop"]
    assert sorted(decoded.values()) == [1, 1, 2, 3]  # videos of 16 bits are read for their window, too
    monkeypatch.undo()
    made(drawn, tmp_path / "separate", separate=True)
    assert digests(tmp_path / "run") == digests(tmp_path / "separate")
    assert not list((tmp_path / "run").rglob(".part-*"))


def test_crops_of_other_boxes_or_frames_are_not_taken(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that the pass did not hand over, and a decoder that is not the recorded one."""
    original, begin = SharedPass.take, SharedPass.begin

    def take(self: SharedPass, frames: Frames, boxes: list[object]) -> None:
        if int(frames.index[0]):
            original(self, frames, boxes)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(SharedPass, "take", take)
        outcome, _ = made(drawn, tmp_path / "frames")
    assert any("what was cut while detect ran is not what crop wants" in line for line in outcome.warnings)
    with monkeypatch.context() as patch:
        other = Decoder.variant("pyav")(stream=0)
        patch.setattr(SharedPass, "begin", lambda self, decoder, *more: begin(self, other, *more))
        made(drawn, tmp_path / "decoder")
    made(drawn, tmp_path / "separate", separate=True)
    assert digests(tmp_path / "frames") == digests(tmp_path / "decoder") == digests(tmp_path / "separate")


def test_a_unit_given_again_goes_on_behind_the_boxes_that_were_committed(
    drawn: Path, tmp_path: Path, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is lost in label, after the leader has heard that detect is done; another gets the unit."""
    original = Inline.run

    def run(self: Inline, units: Iterable[execution.Unit]) -> Iterator[Event]:
        for unit in units:
            if unit.then and unit.key == VIDEO:
                told: list[Event] = []
                run_unit(replace(unit, then=unit.then[:1]), self.resources, told.append)
                Run(tmp_path / "run").discard("label", VIDEO)
                yield from (event for event in told if event.kind != "progress")
            yield from original(self, [unit])

    with monkeypatch.context() as patch:
        patch.setattr(Inline, "run", run)
        outcome, _ = made(drawn, tmp_path / "run")
    assert outcome.complete
    assert decoded["VIS-500m_a"] == 2
    assert f"crop decoded {VIDEO} again: {BEFORE}" in outcome.notes
    separate, _ = made(drawn, tmp_path / "separate", separate=True)
    assert outcome.tallies == separate.tallies
    assert digests(tmp_path / "run") == digests(tmp_path / "separate")


def test_parts_that_turn_out_to_be_current_are_left_alone(drawn: Path, tmp_path: Path) -> None:
    """Detect that is made again, and gives the same boxes."""
    run = Run(tmp_path / "run")
    made(drawn, run.path)
    before = digests(run.path)
    stamp = run.part("crop", VIDEO).stat().st_mtime_ns
    run.part("detect", VIDEO).unlink()
    outcome, ran = made(drawn, run.path)
    assert ran == [f"detect+label+crop/{VIDEO}"]
    assert (outcome.tallies["detect"].ran, outcome.tallies["label"].ran, outcome.tallies["crop"].ran) == (1, 0, 0)
    assert run.part("crop", VIDEO).stat().st_mtime_ns == stamp
    assert digests(run.path) == before


def test_a_damaged_video_and_a_short_one_fail_as_they_do_in_separate_stages(drawn: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in drawn.rglob("*"):
        target = data / path.relative_to(drawn)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(path.read_bytes())
    damaged = data / "videos" / "VIS-500m_b.mp4"
    raw = bytearray(damaged.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 4000] = bytes(4000)
    damaged.write_bytes(raw)
    with (data / "faces.csv").open("a") as file:
        file.write("s01,videos/VIS-500m_a.mp4,1,40,10,10,20,20\n")  # beyond the end: label fails
    for settings, failed in (((), 2), (("detect.incomplete=keep", "label.short=keep"), 0)):
        shared, _ = made(data, tmp_path / "shared", *settings)
        separate, _ = made(data, tmp_path / "separate", *settings, separate=True)
        assert len(shared.failures) == len(separate.failures)
        assert sorted(map(str, shared.failures)) == sorted(map(str, separate.failures))
        assert len(shared.failures) == failed
        assert digests(tmp_path / "shared") == digests(tmp_path / "separate")
        assert shared.tallies == separate.tallies


def test_a_review_that_refuses_a_label_takes_its_crops_back(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mdfpipe.stages import Review
    from mdfpipe.stages.label import Label

    def review(self: Label, facts: dict[str, object]) -> Review:
        return Review({VIDEO: "a frame off"} if VIDEO in facts else {})

    monkeypatch.setattr(Label, "review", review)
    outcomes = [made(drawn, tmp_path / str(separate), separate=separate)[0] for separate in (False, True)]
    assert outcomes[0].tallies == outcomes[1].tallies
    assert outcomes[0].tallies["crop"].ran == 3
    assert not Run(tmp_path / "False").part("crop", VIDEO).exists()
    assert digests(tmp_path / "False") == digests(tmp_path / "True")
    monkeypatch.setattr(Label, "review", lambda self, facts: Review(stop="most are a frame off"))
    for separate in (False, True):
        with pytest.raises(DataError, match="most are a frame off"):
            made(drawn, tmp_path / f"stopped-{separate}", separate=separate)
    assert digests(tmp_path / "stopped-False") == digests(tmp_path / "stopped-True")


def test_the_stages_of_a_pass_are_told_one_by_one(drawn: Path, tmp_path: Path) -> None:
    """A display and `status` know which stage a video is at, and a worker that is lost is lost in that one."""
    executor = Inline()
    kept: list[execution.Unit] = []
    executor.run = lambda units: iter(kept.extend(units) or ())  # type: ignore[method-assign,func-returns-value]
    Runner(Study.load(DEMO), Run(tmp_path / "run"), drawn, Resources(), Inline()).execute(None, "index")
    Runner(Study.load(DEMO), Run(tmp_path / "run"), drawn, Resources(), executor).execute(None, "crop")
    told: list[Event] = []
    unit = next(unit for unit in kept if unit.key == VIDEO)
    message = json.loads(json.dumps(messages.of_unit(unit)))  # as a worker on another machine gets it
    unit = messages.to_unit(message, Study.load(DEMO), Run(tmp_path / "run"), drawn)
    last = run_unit(unit, Resources(), told.append)
    assert [(event.kind, event.stage) for event in [*told, last] if event.kind != "progress"] == [
        ("finished", "detect"),
        ("started", "label"),
        ("finished", "label"),
        ("started", "crop"),
        ("finished", "crop"),
    ]
    planned = next(unit for unit in kept if unit.key == VIDEO).then[-1]
    found = Run(tmp_path / "run").receipt("crop", VIDEO)
    assert found is not None
    assert planned.stage.same(found, planned.expected())  # what a leader looks for that has given it away
