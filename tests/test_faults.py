"""Short forms of `scripts/faults`: damage, failing calls and hostile files over a small run of the drawn data set."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
STUDY = """
extends: {base}
name: faults
systems:
  body:
    recipe:
      {{use: body, backbone: striped, width: 8, image_height_px: 80, image_width_px: 32,
       batches: {{subjects: 2, crops: 2}}, schedule: {{length: 2, unit: steps, warm_up: 0}}}}
evaluate: {{tables: {{recognition: {{unmated: exclude}}}}}}
"""
BAD = ("silent", "dead end", "traceback")


@pytest.fixture(scope="module")
def small(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The scripts' small run, of the drawn data set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        patch.setattr("mdfpipe.store.lock.LEASE", 60.0)  # set by the scripts, and put back here
        patch.setattr("mdfpipe.store.lock.LOOK", 1.0)
        folder = tmp_path_factory.mktemp("small")
        study = folder / "study.yaml"
        study.write_text(STUDY.format(base=ROOT / "tests" / "drawn" / "study.yaml"))
        yield import_module("damage.small").Small.of(folder, study, labelled / "data")
        for name in [name for name in sys.modules if name.partition(".")[0] == "damage"]:
            del sys.modules[name]


OF_ITS_OWN = """
import json, pickle, random, sys
from importlib import import_module
for name in ("cv2", "torch", "mdfpipe.cli.commands", "mdfpipe.reporting.report", "mdfpipe.learning.train.loop"):
    import_module(name)  # once, and not in each fork
from mdfpipe.store import lock
lock.LEASE, lock.LOOK = 0.2, 0.02  # as `Small.of` sets them
small, family, number, seed = pickle.load(sys.stdin.buffer)
module = import_module(f"damage.{family}")
if family in ("calls", "kills"):
    module.STAGES = ("crop", "embed")  # each is tried once beforehand
    import_module("damage.kills").REAL = 0
cases = module.cases(small)
tried = [(n, cases(random.Random(f"{seed}/{family}/{n}"))) for n in range(number)]
verdicts = [(n, case, case.run()) for n, case in tried]
bad = [one for one in verdicts if one[2].what in BAD]
print(json.dumps([f"{family}:{n} {case.kind} {case.where}: {got.what} {got.said}" for n, case, got in bad]))
"""


def found(family: str, small: Any, number: int, seed: int = 0) -> list[str]:
    """What is bad of these cases. In a process of its own: forks wait for ever for threads that other tests began."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"}
    done = subprocess.run(
        [sys.executable, "-c", f"BAD = {BAD}\n{OF_ITS_OWN}"],
        input=pickle.dumps((small, family, number, seed)),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    bad: list[str] = json.loads(done.stdout.splitlines()[-1])
    return bad


@pytest.mark.parametrize(("family", "number"), [("files", 6), ("calls", 3), ("hostile", 4), ("kills", 3)])
def test_no_case_is_silent_a_dead_end_or_a_traceback(small: Any, family: str, number: int) -> None:
    assert not found(family, small, number)


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["command", "worker", "group"])
@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM"])
def test_a_command_that_is_killed_goes_on_with_the_same_bytes(small: Any, whom: str, signal: str) -> None:
    """Six real commands, at a moment that the name of the case decides."""
    kills = import_module("damage.kills")
    chance = random.Random(f"{whom}/{signal}")
    verdict = kills.real(small, chance.choice(kills.STAGES), whom, signal, 2, chance.uniform(0, 3))
    assert verdict.what == "survived", verdict


@pytest.mark.slow
def test_the_script_prints_its_table(tmp_path: Path) -> None:
    """With the library that lets calls of Arrow and torch fail, where there is a compiler."""
    argv = [sys.executable, "scripts/faults.py", "calls", "kills", "--cases", "12", "--seed", "1"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}", "TMPDIR": str(tmp_path)}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0].split() == ["tried", "survived", "refused", "silent", "dead", "end", "traceback"]
