"""Seeds: a system that is trained once for each of several seeds. Its tables show their mean, their spread and each.

A study says `systems: {body: {recipe: ..., seeds: [0, 1, 2]}}`. The trainings are the systems `body-seed-0` to
`body-seed-2`, with folders of their own; `body` is the name of them all, in tables, fusions and `--system`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mdfpipe.learning.system import System

if TYPE_CHECKING:
    from mdfpipe.evaluation.table import Fusion, Table

Groups = Mapping[str, list[str]]
"""The trainings of each system with seeds, by its name, in the order of the seeds."""


def training_of(name: str, seed: int) -> str:
    """The name of one training of a system."""
    return f"{name}-seed-{seed}"


def groups_of(systems: Mapping[str, System]) -> dict[str, list[str]]:
    """The trainings of each system with seeds."""
    return {name: [training_of(name, seed) for seed in one.seeds] for name, one in systems.items() if one.seeds}


def trainings(systems: Mapping[str, System]) -> dict[str, System]:
    """The systems that are trained: one for each seed in place of a system with seeds.

    A system that starts from one with seeds has the same seeds: each of its trainings starts from that of its seed.
    Raises ValueError where the seeds differ, or a name is taken.
    """
    found: dict[str, System] = {}
    for name, system in systems.items():
        parent = systems.get(system.start_from or "")
        if parent is not None and parent.seeds and parent.seeds != system.seeds:
            start = system.start_from or ""
            raise ValueError(
                f"systems.{name}.start_from: {start} is trained with the seeds {parent.seeds}: give {name} the same "
                f"`seeds`, or name one training, such as {training_of(start, parent.seeds[0])}"
            )
        for seed in system.seeds or [system.seed]:
            own = training_of(name, seed) if system.seeds else name
            if own in found or (system.seeds and own in systems):
                raise ValueError(f"systems.{own}: seed {seed} of {name} would have this name, too; rename one")
            before = system.start_from
            if before is not None and parent is not None and parent.seeds:
                before = training_of(before, seed)
            found[own] = system.model_copy(update={"seed": seed, "seeds": None, "start_from": before})
    return found


def members(names: Iterable[str], groups: Groups) -> list[str]:
    """Names of systems, with the trainings in place of a system with seeds; each once.

    >>> members(["face", "body"], {"body": ["body-seed-0", "body-seed-1"]})
    ['face', 'body-seed-0', 'body-seed-1']
    """
    return list(dict.fromkeys(own for name in names for own in groups.get(name, [name])))


def spelled_out(table: Table, groups: Groups) -> tuple[Table, dict[str, list[str]]]:
    """The table with every training by its name; and the trainings of each system and fusion of it that has seeds.

    A fusion of systems with seeds is one fusion for each place in their lists. Raises ValueError where the lists differ
    in length.
    """
    fusions: dict[str, Fusion] = {}
    found = dict(groups)
    for name, fusion in table.fusions.items():
        lists = [groups[system] for system in fusion.systems if system in groups]
        if not lists:
            fusions[name] = fusion
            continue
        if len({len(one) for one in lists}) > 1:
            counts = ", ".join(f"{s} {len(groups[s])}" for s in fusion.systems if s in groups)
            raise ValueError(f"fusions.{name}: expected systems with as many seeds each, got {counts}")
        found[name] = [training_of(name, int(own.rpartition("-")[2])) for own in lists[0]]
        for n, own in enumerate(found[name]):
            parts = [groups[system][n] if system in groups else system for system in fusion.systems]
            fusions[own] = fusion.model_copy(update={"systems": parts})
    systems = members(table.systems, groups)
    return table.model_copy(update={"systems": systems, "fusions": fusions}), found
