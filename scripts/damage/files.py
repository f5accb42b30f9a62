"""Damage at rest of every kind of file that a run leaves: a flipped bit; half, zeros or nothing after a power cut.

Then one of: `mdfpipe verify`; the stages that read it; what other commands make of it, such as numbers and pages. At
last the same command, after which every file is what it was.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from damage.small import Case, Small, Verdict, flipped, in_child, run

from mdfpipe.audit.integrity import verify
from mdfpipe.errors import MdfError
from mdfpipe.store.owner import TEMPORARY

KINDS = (*("flip",) * 7, "half", "zeros", "empty", "gone")
WAYS = (*("verify",) * 6, *("read",) * 3, "shown")
SCORES = "evaluate/scores/recognition.body.parquet"
_ONE_OF_MANY = re.compile(r"(?<=/)videos__[^./]*|(?<=\.lock-)\d+|(?<=/tables/).*(?=\.csv)")


def cases(small: Small) -> Callable[[random.Random], Case]:
    """One file of the run, one damage; then one of the ways; then the same command."""
    from mdfpipe.reporting.report import report

    report(small.done)
    kinds: dict[str, list[tuple[Path, str]]] = {}
    for home in (small.done, small.cut):
        for path in sorted(home.rglob("*")):
            name = path.relative_to(home).as_posix()
            if path.name.startswith(TEMPORARY):  # whoever comes next removes it
                continue
            if path.is_file() and (home == small.done or not (small.done / name).is_file() or name == "events.jsonl"):
                kinds.setdefault(_ONE_OF_MANY.sub("*", name), []).append((home, name))
    shown, _ = _shown(small.copy())

    def draw(chance: random.Random) -> Case:
        file = chance.choice(sorted(kinds))
        home, name = chance.choice(kinds[file])
        kind, seed, way = chance.choice(KINDS), chance.random(), chance.choice(WAYS)
        if home == small.cut and way == "verify":  # what is not made yet is no damage
            way = "read"

        def damaged() -> Verdict:
            place = small.copy(home)
            damage(place / name, kind, random.Random(seed))  # noqa: S311 - to be drawn again
            return in_child(lambda: _judged(small, place, way, shown))

        return Case(f"{'flip' if kind == 'flip' else 'cut '} {file}", f"{kind} of {name}, {way}", damaged)

    return draw


def damage(path: Path, kind: str, chance: random.Random) -> None:
    """Do it to a file, which may be a link."""
    content = path.read_bytes()
    path.unlink()
    if kind == "flip":
        path.write_bytes(flipped(content, chance))
    elif kind != "gone":
        path.write_bytes({"half": content[: len(content) // 2], "zeros": bytes(len(content)), "empty": b""}[kind])
    if path.name.startswith(".lock") and kind != "gone":  # nobody is at work: it gave no sign of life for an hour
        os.utime(path, (time.time() - 3600,) * 2)


def _judged(small: Small, place: Path, way: str, shown: dict[str, str]) -> Verdict:
    if way == "verify":
        said = _verified(small, place)
    elif way == "read":
        said = _read(small, place)
    else:
        said = _same_shown(place, shown)
    return said or small.judge(place)


def _note(place: Path) -> None:
    """Let verify note what nobody has read."""
    with contextlib.suppress(MdfError):
        verify(place)


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
        shutil.rmtree(place / folder, ignore_errors=True)
    line = run(small.study, small.data, place)
    again = run(small.study, small.data, place) if line is not None else None
    if again is not None:
        return Verdict("dead end", again)
    wrong = [name for name in small.others(place) if name.startswith(("embed/", "evaluate/"))]
    if wrong:
        return Verdict("silent", f"made of it: {', '.join(wrong)}")
    _note(place)
    return None


def _same_shown(place: Path, shown: dict[str, str]) -> Verdict | None:
    """What other commands print or write of the run must be as of the sound one, or refused in a line."""
    found, refused = _shown(place)
    if "!! " in found.get("numbers", ""):  # it says why they may be other ones
        _note(place)
        return None
    odd = [name for name, text in found.items() if text != shown[name]]
    if odd:
        return Verdict("silent", f"other than of the sound run: {', '.join(odd)}")
    _note(place)
    obeyed = [line for line in refused if not line.isprintable()]
    return Verdict("traceback", repr(obeyed)) if obeyed else None


def _shown(place: Path) -> tuple[dict[str, str], list[str]]:
    """The numbers of a run as each command gives them, and the lines of those that refuse."""
    from mdfpipe.reporting.comparison import side_by_side
    from mdfpipe.reporting.numbers import number_lines
    from mdfpipe.reporting.report import report
    from mdfpipe.reporting.scores import to_bob

    def of_report() -> str:
        out = place.with_name("report")
        shutil.rmtree(out, ignore_errors=True)
        report(place, out=out)
        return "".join(path.read_text() for path in sorted(out.rglob("*.*")) if path.suffix in (".csv", ".md", ".tex"))

    def of_scores() -> str:
        to_bob(place / SCORES, place.with_name("scores.txt"))
        return place.with_name("scores.txt").read_text()

    ways: dict[str, Callable[[], object]] = {
        "numbers": lambda: number_lines(side_by_side(place)),
        "report": of_report,
        "scores": of_scores,
    }
    found, refused = dict[str, str](), list[str]()
    for name, make in ways.items():
        try:
            found[name] = str(make())
        except MdfError as error:
            refused.append(str(error))
    return found, refused
