"""Sweep: one system with one or two settings at several values. Each point is a system, named after its values.

`sweeps: {gamma: {system: di2l, values: {recipe.gamma: [0, 1, 2, 3]}}}`. The points are made whenever settings become a
study, from the system as it is then, so a change of the system changes its points.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, field_validator

from mdfpipe.config import NAME, Config, put, validate
from mdfpipe.errors import ConfigError
from mdfpipe.learning.system import System

_FLOAT: Final = r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"


def _number(value: Any) -> Any:
    """1e-3 as a number, which YAML 1.1 reads as text."""
    return float(value) if isinstance(value, str) and re.fullmatch(_FLOAT, value) else value


Value = bool | int | float | str | None
Values = Annotated[list[Annotated[Value, BeforeValidator(_number)]], Field(min_length=1)]


class Sweep(Config):
    """A system of the study, trained and embedded once for each value of a setting. A value that the system already
    has is that system, and is not trained twice. In a table's `systems` the name of a sweep means all its points.
    """

    system: str = Field(description="the system that is varied, by name")
    values: dict[str, Values] = Field(
        min_length=1,
        max_length=2,
        description="values by setting of the system, such as `recipe.schedule.length`; of two, each with each",
    )
    title: str = Field("", description="title above its drawings")

    @field_validator("values")
    @classmethod
    def _are_settings(cls, values: dict[str, list[Value]]) -> dict[str, list[Value]]:
        for dotted, own in values.items():
            if not all(dotted.split(".")):
                raise ValueError(f"expected a setting such as recipe.schedule.length, got {dotted!r:.80}")
            if dotted.endswith(".use"):
                raise ValueError(f"{dotted}: another recipe has other settings: name a system for each")
            words = [word(value) for value in own]
            twice = next((one for one in words if words.count(one) > 1), None)
            if twice is not None:
                raise ValueError(f"{dotted}: names {twice} twice")
        return values


@dataclass(frozen=True)
class Point:
    """One combination of values. name: what its system is called where none is like it; system: what it is called."""

    name: str
    system: str
    values: tuple[Value, ...]
    settings: System

    @property
    def is_made(self) -> bool:
        """Whether its system is there for the sweep alone."""
        return self.name == self.system


def word(value: Value) -> str:
    """A value as a part of a name.

    >>> [word(value) for value in (0.5, 2.0, 1e-5, True, None, "per subject", -1)]
    ['0.5', '2', '1e-05', 'true', 'none', 'per_subject', '-1']
    """
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and math.fabs(value) < 1e15:
        return str(int(value))
    return re.sub(r"[^A-Za-z0-9._-]", "_", str(value))


def points(name: str, sweep: Sweep, systems: Mapping[str, System]) -> list[Point]:
    """The points of the sweep `name`, the last setting fastest. systems: those of the study, and of sweeps before it.

    A point whose settings are those of a system there is that system. Raises ValueError: a name or a setting cannot be.
    """
    where = f"sweeps.{name}"
    if sweep.system not in systems:
        raise ValueError(f"{where}.system: no system {sweep.system!r:.80}; there are {', '.join(systems) or 'none'}")
    if name in systems:
        raise ValueError(f"{where}: a system has this name, too, and a table could mean either; rename one")
    found: list[Point] = []
    for values in itertools.product(*sweep.values.values()):
        own = "-".join((name, *map(word, values)))
        made = _made(systems[sweep.system], dict(zip(sweep.values, values, strict=True)), f"{where}: {own}")
        system = next((other for other in (sweep.system, *systems) if systems[other] == made), own)
        if system == own and own in systems and systems[own] != made:
            raise ValueError(f"{where}: there is a system {own} with other settings already; rename one")
        if any(point.name == own for point in found):
            raise ValueError(f"{where}: two points would be called {own}")
        found.append(Point(own, system, values, made))
    return found


def _made(base: System, values: Mapping[str, Value], where: str) -> System:
    settings = base.model_dump(mode="json")
    for dotted, value in values.items():
        try:
            put(settings, dotted.split("."), value)
        except ValueError as error:
            raise ValueError(f"{where}: {dotted}: {error}") from None
    try:
        return validate(System, settings, where)
    except ConfigError as error:
        raise ValueError(str(error)) from None


_SWEEPS: TypeAdapter[dict[str, Sweep]] = TypeAdapter(dict[Annotated[str, Field(pattern=NAME)], Sweep])


def with_points(settings: Any) -> Any:
    """The settings of a study with the points of its sweeps among its systems. Raises ValueError.

    Wrong settings of sweeps or systems are returned unchanged: the validation of the study reports them.
    """
    if not isinstance(settings, dict) or not settings.get("sweeps"):
        return settings
    try:
        sweeps = _SWEEPS.validate_python(settings["sweeps"])
        systems = {name: System.model_validate(one) for name, one in dict(settings.get("systems") or {}).items()}
    except (ValidationError, TypeError, ValueError):
        return settings
    made: dict[str, System] = {}
    for name, sweep in sweeps.items():
        made |= {point.name: point.settings for point in points(name, sweep, systems | made) if point.is_made}
    clashing = next((name for name in sweeps if name in made), None)
    if clashing is not None:
        raise ValueError(f"sweeps.{clashing}: a point of another sweep has this name; rename one")
    return {**settings, "systems": {**settings["systems"], **made}}


def made_for(swept: Mapping[str, Sequence[Point]], sweeps: Mapping[str, Sweep]) -> set[str]:
    """The systems that are there for the sweeps alone: what a study need not state."""
    varied = {sweep.system for sweep in sweeps.values()}
    return {point.system for found in swept.values() for point in found if point.is_made} - varied


def spelled_out(names: Iterable[str], swept: Mapping[str, Sequence[Point]]) -> list[str]:
    """Names of systems, with the points of a sweep in the place of its name; each once."""
    found = ([point.system for point in swept[name]] if name in swept else [name] for name in names)
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))
