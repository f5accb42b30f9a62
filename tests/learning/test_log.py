"""Lines of a training in its file, and as TensorBoard's event files."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mdfpipe.cli.commands import app
from mdfpipe.errors import MissingDependency
from mdfpipe.learning.system import System
from mdfpipe.learning.train.log import Log, once
from mdfpipe.stages import Context, Inputs, Resources
from mdfpipe.stages.train import Train
from mdfpipe.store.run import Run
from mdfpipe.study.study import SHIPPED
from tests.learning.trained import study_in, tiny

LINES: list[dict[str, Any]] = [
    {"epoch": 0, "step": 6, "rate": 0.1, "loss/identity": 2.5, "mining": {"anchors": 12, "d_pos": 0.5, "positive": []}},
    {"epoch": 1, "step": 12, "rate": 0.05, "loss/identity": 1.25, "mining": {"anchors": 12, "d_pos": None}},
]


def figures(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Name -> (step, value) of all event files of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder)).Reload()
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_lines_in_a_file(tmp_path: Path) -> None:
    with Log(tmp_path / "state.jsonl") as log:
        for line in LINES:
            log(line)
    assert [json.loads(text) for text in (tmp_path / "state.jsonl").read_text().splitlines()] == LINES
    assert list(tmp_path.iterdir()) == [tmp_path / "state.jsonl"]


def test_a_line_that_was_cut_off_takes_no_other_with_it(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    with Log(path) as log:
        log(LINES[0])
        log(LINES[1])
    path.write_text(path.read_text()[:-20])  # killed
    with Log(path) as log:
        log(LINES[1])
        log({"epoch": 0, "step": 6, "again": 1})
    assert [json.loads(text) for text in once(path).splitlines()] == [{"epoch": 0, "step": 6, "again": 1}, LINES[1]]
    assert once(tmp_path / "none.jsonl") == ""


def test_a_line_that_damage_took_or_changed_is_the_one_that_the_state_keeps(tmp_path: Path) -> None:
    path, speeds = tmp_path / "state.jsonl", {"images_per_second": 12.5, "seconds": 3.0}
    path.write_text("".join(json.dumps(line | speeds, sort_keys=True) + "\n" for line in LINES))
    whole = once(path, LINES)
    assert whole == once(path)
    for damaged in (
        whole.replace('"step": ', '"step": 9', 1),
        whole[4:],
        "",
        "[" * 9999,
        whole.replace("12.5", "1e99"),
    ):
        path.write_text(damaged)
        lines = [json.loads(text) for text in once(path, LINES).splitlines()]
        assert [{name: line[name] for name in line if name not in speeds} for line in lines] == LINES
        assert len(once(path, LINES)) == len(whole)


def test_the_length_does_not_depend_on_the_speed(tmp_path: Path) -> None:
    """And nothing but spaces is added."""
    lengths, path = set(), tmp_path / "state.jsonl"
    for speed in ((0.5, 0.01), (98765.4, 123456.78), (12.0, 1e6)):
        given = [line | dict(zip(("images_per_second", "seconds"), speed, strict=True)) for line in LINES]
        path.unlink(missing_ok=True)
        with Log(path) as log:
            for line in given:
                log(line)
        assert [json.loads(text) for text in once(path).splitlines()] == given
        assert once(path).replace(" ", "") == path.read_text().replace(" ", "")
        lengths.add(len(once(path)))
    assert len(lengths) == 1


def test_event_files_hold_the_plain_figures(tmp_path: Path) -> None:
    board = tmp_path / "tensorboard"
    with Log(tmp_path / "a.jsonl", board) as log:
        log(LINES[0])
    with Log(tmp_path / "a.jsonl", board, anew=False) as log:  # goes on
        log(LINES[1])
    found = figures(board)
    assert found["loss/identity"] == [(6, 2.5), (12, 1.25)]
    assert found["epoch"] == [(6, 0.0), (12, 1.0)]
    assert found["mining/d_pos"] == [(6, 0.5)]
    assert set(found) == {"epoch", "rate", "loss/identity", "mining/anchors", "mining/d_pos"}
    (board / "mine.txt").write_text("kept")
    with Log(tmp_path / "a.jsonl", board, anew=True) as log:  # another training
        log(LINES[1])
    assert figures(board)["loss/identity"] == [(12, 1.25)]
    assert (board / "mine.txt").exists()


def test_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingDependency, match=r"--tensorboard needs .* tensorboard.*pip install 'mdfpipe\[tensorb"):
        Log(tmp_path / "a.jsonl", tmp_path / "tensorboard")
    Log(tmp_path / "a.jsonl")  # nobody else needs it
    stage = Train(system="it", settings=System(recipe=tiny("face")))
    context = Context(tmp_path, Resources(tensorboard=True), lambda name: tmp_path / name)
    with pytest.raises(MissingDependency):  # and not that there are no crops: it is said first
        stage.process("training", Inputs(Run(tmp_path)), context)


@pytest.mark.parametrize("asked", [True, False])
def test_a_training_writes_them_where_they_are_asked_for(asked: bool, tmp_path: Path) -> None:
    recipe = tiny("face")
    run = study_in(tmp_path, recipe, clips=1)
    stage = Train(system="it", settings=System(recipe=recipe))
    resources = Resources(threads=1, tensorboard=asked)
    made = stage.process("training", Inputs(run), Context(tmp_path, resources, lambda name: run.scratch("train", name)))
    board = tmp_path / "train" / "it" / "tensorboard"
    assert board.exists() is asked
    assert not any("tensorboard" in name for name in made.files)
    if asked:
        text = made.files["train/it/metrics.jsonl"].read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        found = figures(board)
        assert len(lines) == 2
        for name in ("loss/adaface", "rate", "norm_mean", "images_per_second"):
            assert found[name] == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines], name


@pytest.mark.parametrize("command", ["run", "train"])
@pytest.mark.parametrize("asked", [True, False])
def test_the_option_reaches_the_stages(
    command: str, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Resources] = []

    class Stop(Exception):  # noqa: N818
        pass

    def runner(pipeline: Any, run: Run, data: Path, resources: Resources, *_: Any, **more: Any) -> None:
        given.append(resources)
        raise Stop

    monkeypatch.setattr("mdfpipe.running.runner.Runner", runner)
    study = SHIPPED / "pipelines" / "synthetic" / "study.yaml"
    arguments = [command, str(study), "--data", str(tmp_path), "--run", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*arguments, *(["--tensorboard"] if asked else [])])
    assert isinstance(done.exception, Stop), done.output
    assert given[0].tensorboard is asked
