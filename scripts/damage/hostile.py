"""Files that want harm: names that lead out of the folder, code, claims of size, text that a terminal would obey.

A case must be refused in one line, or do no harm: nothing outside its folder is made, changed or removed; memory and
time stay small; nothing that is printed or written gives orders to a terminal or a browser.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from damage import hostile_claims, hostile_names, hostile_runs
from damage.readers import reading
from damage.small import Case, Small, Verdict, forked

from mdfpipe.errors import is_obeyed

MEMORY = 3 << 30  # bytes that a hostile file may make us ask for: what mdfpipe allows a file, and half as much
SECONDS = 30
VICTIM = "somebody else's"

Kind = Callable[[Small, Path, str], object]


def cases(small: Small) -> Callable[[random.Random], Case]:
    """One file with one of these in it."""
    kinds: dict[str, Kind] = {**hostile_names.KINDS, **hostile_claims.KINDS, **hostile_runs.KINDS}
    for load in (hostile_names.load, hostile_claims.load):  # once, and not in each case
        load()

    def draw(chance: random.Random) -> Case:
        kind, name = chance.choice(sorted(kinds)), chance.choice(hostile_names.NAMES)
        return Case(kind, repr(name)[:60], lambda: _tried(kinds[kind], small, name))

    return draw


def _tried(kind: Kind, small: Small, name: str) -> Verdict:
    home = small.folder / "hostile"
    shutil.rmtree(home, ignore_errors=True)
    folder = home / "a" / "b"
    folder.mkdir(parents=True)
    victims = [home / "P", home / "a" / "P", folder.parent / "P.parquet", folder.parent / "theirs" / "P"]
    for victim in victims:
        victim.parent.mkdir(exist_ok=True)
        victim.write_text(VICTIM)
    before = _outside(home, folder)
    verdict, ended = forked(lambda: reading(lambda: kind(small, folder, name)), SECONDS, MEMORY)
    if not isinstance(verdict, Verdict):
        return Verdict("traceback", f"the process ended: {ended}")
    if verdict.said == "out of memory":
        return Verdict("silent", f"it took more than {MEMORY / 1e9:.1f} GB")
    if before != (after := _outside(home, folder)):
        return Verdict(
            "silent", f"outside its folder: {', '.join(sorted({n for n, _ in {*before.items()} ^ {*after.items()}}))}"
        )
    obeyed = [path.name for path in folder.rglob("*") if _is_text_of_ours(path) and _gives_orders(path)]
    return Verdict("silent", f"orders in {', '.join(obeyed)}") if obeyed else verdict


def _outside(home: Path, folder: Path) -> dict[str, str]:
    """Every file but those in the case's folder, and its content."""
    found = (path for path in home.rglob("*") if not path.is_relative_to(folder) and not path.is_dir())
    return {path.relative_to(home).as_posix(): path.read_text(errors="replace") for path in found}


def _is_text_of_ours(path: Path) -> bool:
    return path.is_file() and path.suffix in (".html", ".tex", ".md", ".csv", ".svg") and "made" not in path.parts


def _gives_orders(path: Path) -> bool:
    """Whether a page or table that was written holds what was smuggled in."""
    text = path.read_text(errors="surrogateescape")
    return is_obeyed(text) or "<script>alert" in text or (path.suffix == ".tex" and "\\input{/etc" in text)
