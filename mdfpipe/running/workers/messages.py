"""Units and events as JSON: a unit travels as names, and the worker takes the stage from the study of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mdfpipe.errors import ConfigError
from mdfpipe.running.execution import Event, Unit
from mdfpipe.stages import Inputs, Stage
from mdfpipe.stages.evaluate import Evaluate
from mdfpipe.stages.hashing import Hash
from mdfpipe.store.run import Failure, Receipt, Run
from mdfpipe.study.study import Study


def of_unit(unit: Unit) -> dict[str, Any]:
    """A unit as a worker elsewhere can make it again."""
    inputs, asked = unit.inputs, unit.stage.engine_asked
    return {
        "stage": unit.stage.name,
        "receipt": asdict(unit.receipt),
        "video": dict(inputs.video),
        "videos": list(inputs.videos),
        "missing": list(inputs.missing),
        "undone": sorted(map(list, inputs.undone)),
        "annotated": dict(inputs.annotated),
        "share": unit.share,
        "engine": asked.name if asked else None,  # what `auto` is for all units of the stage, whatever a machine has
        "then": [of_unit(later) for later in unit.then],
    }


def to_unit(message: dict[str, Any], study: Study, run: Run, data: Path) -> Unit:
    """The unit in a message, of this run folder. Raises ConfigError where the study asks for another one."""
    receipt = Receipt(**message["receipt"])
    stage = _stage(study, message["stage"], receipt)
    known = replace(receipt, version=stage.version, settings=stage.decisive())
    if known.fingerprint != receipt.fingerprint:
        raise ConfigError(
            f"{run.path}: {stage.name}: expected the settings of its leader, found others in pipeline.yaml; start the "
            "leader again"
        )
    stage = stage.under(message["engine"]) if message["engine"] else stage
    inputs = Inputs(
        run,
        video=message["video"],
        videos=tuple(message["videos"]),
        missing=tuple(message["missing"]),
        undone=frozenset((stage, key) for stage, key in message["undone"]),
        annotated=message["annotated"],
    )
    then = tuple(to_unit(later, study, run, data) for later in message["then"])
    share = tuple(message["share"]) if message["share"] else None
    return Unit(stage, replace(receipt, tells=tuple(receipt.tells)), inputs, data, share, then)


def _stage(study: Study, name: str, receipt: Receipt) -> Stage:
    stages: Sequence[Stage] = (*study.stages, Hash())
    if name == Evaluate.name:  # of the systems that the command names
        stages = study.evaluating(receipt.settings.get("systems", []))
    found = next((stage for stage in stages if stage.name == name), None)
    if found is None:
        raise ConfigError(f"{name}: expected a stage of the study in pipeline.yaml, found none of that name")
    return found


def of_event(event: Event) -> dict[str, Any]:
    """An event as JSON."""
    return asdict(event)


def to_event(message: dict[str, Any]) -> Event:
    """The event in a message. Raises TypeError where it is none."""
    fields = dict(message)
    failure, damaged = fields.pop("failure"), fields.pop("damaged")
    return Event(
        **fields,
        failure=Failure(**failure) if failure else None,
        damaged=(str(damaged[0]), str(damaged[1])) if damaged else None,
    )
