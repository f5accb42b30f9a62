"""Damage at rest of every file that a run leaves: a flipped bit; half, zeros or nothing after a power cut; gone."""

from __future__ import annotations

import random
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

from damage.small import Case, Small, Verdict, flipped, run

from mdfpipe.audit.integrity import verify
from mdfpipe.errors import MdfError

KINDS = ("flip", "flip", "flip", "flip", "half", "zeros", "empty", "gone")
WAYS = ("verify", "verify", "read")


def cases(small: Small) -> Callable[[random.Random], Case]:
    """One file of the run, one damage; then `mdfpipe verify`, or a stage that reads it; then the same command."""
    names = sorted(
        path.relative_to(small.done).as_posix()
        for path in small.done.rglob("*")
        if path.is_file() and path.name[0] != "."
    )

    def draw(chance: random.Random) -> Case:
        name, kind, seed, way = chance.choice(names), chance.choice(KINDS), chance.random(), chance.choice(WAYS)

        def damaged() -> Verdict:
            place = small.copy()
            damage(place / name, kind, random.Random(seed))  # noqa: S311 - to be drawn again
            try:
                said = _verified(small, place) if way == "verify" else _read(small, place)
            except Exception:
                return Verdict("traceback", traceback.format_exc(limit=-3))
            return said or small.judge(place)

        return Case(f"{kind}, {way}", name, damaged)

    return draw


def damage(path: Path, kind: str, chance: random.Random) -> None:
    """Do it to a file, which may be a link."""
    content = path.read_bytes()
    path.unlink()
    if kind == "flip":
        path.write_bytes(flipped(content, chance))
    elif kind != "gone":
        path.write_bytes({"half": content[: len(content) // 2], "zeros": bytes(len(content)), "empty": b""}[kind])


def _verified(small: Small, place: Path) -> Verdict | None:
    """verify must name each file that is not what was made, and no other."""
    wrong = set(small.others(place))
    try:
        found = verify(place)
    except MdfError as error:
        return None if wrong and str(error).isprintable() else Verdict("dead end", str(error))
    named = {one.path for one in (*found.damaged, *found.missing)}
    unnamed = {name for name in wrong - named if (place / name).exists() or name != "evaluate/metrics.parquet"}
    if unnamed:  # whether the last part was ever made, no other tells
        return Verdict("silent", f"verify does not name {', '.join(sorted(unnamed))}")
    beyond = named - wrong - {"environment.json"}
    return Verdict("dead end", f"verify names {', '.join(sorted(beyond))}, which are sound") if beyond else None


def _read(small: Small, place: Path) -> Verdict | None:
    """What is made of it once more must be what was made before; what then still differs, nobody has read."""
    for folder in ("embed", "evaluate"):
        shutil.rmtree(place / folder)
    line = run(small.study, small.data, place)
    again = run(small.study, small.data, place) if line is not None else None
    if again is not None:
        return Verdict("dead end", again)
    wrong = [name for name in small.others(place) if name.startswith(("embed/", "evaluate/"))]
    if wrong:
        return Verdict("silent", f"made of it: {', '.join(wrong)}")
    if small.others(place):
        verify(place)
    return None
