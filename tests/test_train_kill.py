"""A training that is killed, wherever, ends with the bits of one that nobody disturbed.

The stage itself, in processes of its own that get SIGKILL: in the midst of an epoch, at random times, and while they
write their state. Compared are the files: weights, best weights, figures, and the lines without their speeds.
"""

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mdfpipe.learning import system
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.system import System
from mdfpipe.learning.train import checkpoint
from mdfpipe.running.execution import Unit, run_unit
from mdfpipe.stages import Inputs, Resources
from mdfpipe.stages.train import Train
from mdfpipe.store.run import Receipt, Run
from tests.learning.trained import Child, die_in_write, saving_always, study_in, tiny

SYSTEMS: dict[str, dict[str, Any]] = {
    "body": {  # sgd, clipped, averaged, accumulated, stochastic depth, best weights
        "recipe": tiny(
            "body",
            drop_path=0.4,
            batches={"subjects": 2, "crops": 1},
            optimiser={"rate": 0.02, "ema": 0.9, "accumulate": 2, "clip_norm": 1.0},
        ),
        "validation": {"subjects": 2},
    },
    "face": {  # adamw; a backbone and a margin with running statistics; epochs cut off
        "recipe": tiny(
            "face", optimiser={"method": "adamw", "rate": 0.003}, schedule={"length": 2.5, "warm_up": 1}, batch=18
        ),
    },
}


def stage(name: str) -> Train:
    return Train(system="it", settings=System(**SYSTEMS[name]))


def train(
    say: Any,
    name: str,
    folder: Path,
    death: tuple[int, bool] | None = None,
    it: Train | None = None,
    every_step: bool = True,
) -> None:
    """The stage as the command runs it: locked, committed. death: in which state's write, half or whole.

    every_step: a state after each step, else only after those that it saves by itself.
    """
    system.commit = lambda: None  # a commit between two runs of it is no matter here
    run, it = Run(folder), it or stage(name)
    unit = Unit(it, Receipt(it.name, it.version, it.key, it.decisive(), {}), Inputs(run), folder)
    with run.lock(), saving_always(every_step):
        if death is not None:
            die_in_write(*death)
        resources = Resources(threads=1)
        event = run_unit(unit, resources, lambda event: say(event.done))
    say((event.kind, event.failure and event.failure.message))


def crops(folder: Path, recipe: Recipe) -> Path:
    study_in(folder, recipe, subjects=5)
    return folder


def state_of(folder: Path) -> Path:
    return folder / "train" / "it" / "state.pt"


def made(folder: Path) -> dict[str, Any]:
    """What the stage left: all of it but speeds and the times of its receipt."""
    place = folder / "train" / "it"
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"], line["images_per_second"]
    files = {path.name: path.read_bytes() for path in place.glob("*.pt")}
    return {"files": files, "lines": lines, "figures": pq.read_table(place / "training.parquet").to_pylist()}


@pytest.fixture(scope="module", params=SYSTEMS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def undisturbed(name: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = crops(tmp_path_factory.mktemp(name) / "run", stage(name).settings.recipe)
    child = Child(train, name, folder)
    assert child.end() == 0
    assert child.heard[-1] == ("finished", None)
    found = made(folder)
    assert set(found["files"]) == {"body": {"last.pt", "best.pt"}, "face": {"last.pt"}}[name]
    assert len(found["lines"]) >= 2
    return found


FACE_FIRST = pytest.mark.parametrize("name", ["face", pytest.param("body", marks=pytest.mark.slow)], indirect=True)


def wait_for_states(child: Child, folder: Path, count: int) -> bool:
    """Until it has written so many states, one a step; False where it ended before."""
    seen = set()
    before = written(folder)
    while child.process.is_alive():
        seen |= {written(folder)} - {before, None}
        if len(seen) >= count:
            return True
        time.sleep(0.001)
    return False


def written(folder: Path) -> tuple[int, int] | None:
    try:
        found = state_of(folder).stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino


def finish(name: str, folder: Path, it: Train | None = None) -> dict[str, Any]:
    child = Child(train, name, folder, None, it)
    assert child.end() == 0
    assert child.heard[-1] == ("finished", None)
    assert sorted(path.name for path in (folder / "train" / "it").iterdir()) == sorted(
        [*made(folder)["files"], "metrics.jsonl", "training.parquet"]
    )  # nothing is left of the kills
    return made(folder)


def test_killed_again_and_again_in_mid_epoch(name: str, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    folder, chance = crops(tmp_path / "run", stage(name).settings.recipe), random.Random(3)
    reached = []
    for count in (1, 2):
        child = Child(train, name, folder)
        assert wait_for_states(child, folder, count)
        assert child.kill() == -signal.SIGKILL
        reached.append(checkpoint.load(state_of(folder))["step"])
        assert not (folder / "train" / "it" / "training.parquet").exists()
    assert reached[0] < reached[1]
    child = Child(train, name, folder)
    wait_for_states(child, folder, 1)
    time.sleep(chance.uniform(0, 0.1))  # wherever it is then, which may be behind its end
    child.kill()
    assert finish(name, folder) == undisturbed


@FACE_FIRST
def test_sigterm_saves_the_state_where_the_training_is(name: str, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    folder = crops(tmp_path / "run", stage(name).settings.recipe)
    child = Child(train, name, folder, None, None, False)
    next(step for step in child.hear() if step in (1, 2))
    child.process.terminate()
    assert child.end() == -signal.SIGTERM
    assert checkpoint.load(state_of(folder))["step"] >= 1
    assert not list(folder.rglob(".part-*"))
    assert finish(name, folder) == undisturbed


@FACE_FIRST
def test_killed_while_it_writes_its_state(name: str, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Half of it, and all of it before it is in its place."""
    folder = crops(tmp_path / "run", stage(name).settings.recipe)
    for write, half, step in ((3, True, 2), (2, False, 3)):
        child = Child(train, name, folder, (write, half))
        assert child.end() == -signal.SIGKILL
        left = list((folder / "train" / "it").glob(".part-*-state.pt"))
        assert len(left) == 1
        former = checkpoint.load(state_of(folder))  # whole: the state before
        assert former["step"] == step
        assert (left[0].stat().st_size > state_of(folder).stat().st_size / 3) or half
    assert finish(name, folder) == undisturbed


@pytest.mark.parametrize("name", ["face"], indirect=True)
def test_a_state_of_other_settings_is_no_part_of_it(name: str, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    folder = crops(tmp_path / "run", stage("face").settings.recipe)
    child = Child(train, name, folder)
    assert wait_for_states(child, folder, 1)
    child.kill()
    found = checkpoint.load(state_of(folder))
    poisoned = {name: value + 1 for name, value in found["model"].items()}
    checkpoint.save(state_of(folder), found | {"fingerprint": "another", "model": poisoned})
    (folder / "train" / "it" / "state.jsonl").write_text('{"epoch": 99}\n')
    assert finish(name, folder) == undisturbed


def test_a_state_that_began_from_other_weights_is_no_part_of_it(tmp_path: Path) -> None:
    """The system that it starts from was trained anew in between, under the same name."""
    drawn, short = (tiny("face", schedule={"length": length, "warm_up": 0}) for length in (0, 1))
    parents = [Train(system="parent", settings=System(recipe=drawn, seed=seed)) for seed in (1, 2)]
    child = Train(system="it", settings=System(start_from="parent", recipe=short))
    folder, anew = (crops(tmp_path / name, drawn) for name in ("run", "anew"))
    assert Child(train, "face", folder, None, parents[0]).end() == 0
    assert Child(train, "face", folder, (2, True), child).end() == -signal.SIGKILL
    assert checkpoint.load(state_of(folder))["step"] == 1
    for place in (folder, anew):
        assert Child(train, "face", place, None, parents[1]).end() == 0
    assert finish("face", folder, child) == finish("face", anew, child)
