"""Tiny systems on the drawn data set: what the tests of `train`, `embed` and recognition run."""

from __future__ import annotations

import copy
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from mdfpipe.config import validate
from mdfpipe.learning.train.checkpoint import Checkpoint
from mdfpipe.running.runner import Outcome, Runner
from mdfpipe.stages import Resources
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study

from .inline import DEMO, Inline

STRIPED: dict[str, Any] = {
    "use": "body",
    "backbone": "striped",
    "width": 8,
    "image_height_px": 80,
    "image_width_px": 32,
    "batches": {"subjects": 2, "crops": 2},
    "schedule": {"length": 3, "unit": "steps", "warm_up": 0},
}
VIT: dict[str, Any] = {**STRIPED, "backbone": "mini", "image_height_px": 64}
del VIT["width"]
FACE: dict[str, Any] = {
    "use": "face",
    "layers": 18,
    "width": 8,
    "image_height_px": 32,
    "image_width_px": 32,
    "batch": 8,
    "schedule": {"length": 2, "unit": "steps", "warm_up": 0},
}
ONE_THREAD = Resources(threads=1)
VIDEOS = ["videos/LWIR-30m_a", "videos/LWIR-30m_b", "videos/VIS-500m_a", "videos/VIS-500m_b"]
"""Of the drawn data set: `_a` shows training subjects, `_b` test subjects."""


def body(base: dict[str, Any] = STRIPED, **changes: Any) -> dict[str, Any]:
    """A recipe with other settings; of a section only those that are named."""
    made = copy.deepcopy(base)
    for name, value in changes.items():
        made[name] = {**made.get(name, {}), **value} if isinstance(value, dict) else value
    return made


def loaded(base: dict[str, Any] = STRIPED, **changes: Any) -> dict[str, Any]:
    """A recipe that is not trained."""
    return body(base, schedule={"length": 0}, **changes)


def study(systems: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """The settings of the drawn study with these systems."""
    found: dict[str, Any] = yaml.safe_load(DEMO.read_text())
    return {**found, **sections, "systems": copy.deepcopy(systems)}


def write_study(path: Path, systems: dict[str, Any], **sections: Any) -> Path:
    """The same as a file."""
    path.write_text(yaml.safe_dump(study(systems, **sections)))
    return path


def runner(
    home: Path, systems: dict[str, Any], only: list[str] | None = None, **sections: Any
) -> tuple[Runner, Inline]:
    """A runner over HOME/data and HOME/run, in this process, and the executor that remembers what ran."""
    pipeline = validate(Study, study(systems, **sections), "study")
    executor = Inline(ONE_THREAD)
    return Runner(pipeline, Run(home / "run"), home / "data", ONE_THREAD, executor, only), executor


def train(home: Path, systems: dict[str, Any], **sections: Any) -> tuple[Outcome, list[str]]:
    """Train and embed; the outcome, and the units that ran."""
    make, executor = runner(home, systems, **sections)
    return make.execute("train", "embed"), executor.ran


def due(home: Path, systems: dict[str, Any], first: str | None = None, **sections: Any) -> list[str]:
    """What would run up to the vectors, and why."""
    return runner(home, systems, **sections)[0].due(first, "embed")


def copied(home: Path, to: Path, *, data: bool = False) -> Path:
    """A home whose run folder may be changed; the data too, where that is asked for. Times are kept."""
    to.mkdir(exist_ok=True)
    shutil.copytree(home / "run", to / "run")
    if data:
        shutil.copytree(home / "data", to / "data")
    else:
        (to / "data").symlink_to((home / "data").resolve(), target_is_directory=True)
    return to


def checkpoint(home: Path, system: str, which: str = "last") -> Checkpoint:
    """The weights of a system."""
    return Checkpoint.load(home / "run" / "train" / system / f"{which}.pt")


def facts(home: Path, system: str) -> dict[str, Any]:
    """What its training observed."""
    receipt = Run(home / "run").receipt(f"train/{system}", "training")
    assert receipt is not None
    return receipt.facts


def vectors(home: Path, system: str, video: str) -> tuple[list[str], NDArray[np.float32]]:
    """crop_id and vector of the crops of a video that have one."""
    rows = Run(home / "run").table(f"embed/{system}", video)
    rows = rows.filter(rows["vector"].is_valid())
    return rows["crop_id"].to_pylist(), np.array(rows["vector"].to_pylist(), np.float32)


def digests(folder: Path, *stages: str) -> dict[str, str]:
    """Every file below these folders of a run, by content; of what a training tells of its speed the size."""
    files = [p for stage in stages for p in sorted((folder / stage).rglob("*")) if p.is_file()]
    found = {}
    for path in files:
        content = bytes(path.stat().st_size) if path.name == "metrics.jsonl" else path.read_bytes()
        found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found
