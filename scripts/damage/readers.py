"""Fuzz of every reader: sound files of each kind, changed, must be read or refused in one line; never a traceback."""

from __future__ import annotations

import os
import random
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

from damage.changes import changed
from damage.small import Case, Small, Verdict, in_child
from damage.sound import Reader, of_inputs, of_runs

from mdfpipe.errors import MdfError


def cases(small: Small) -> Callable[[random.Random], Case]:
    """One reader, one changed file; in a process of its own, as a parser may take that with it."""
    readers = of_inputs(small.folder / "made") | of_runs(small)
    for name in sorted(readers):  # loads what they import; and proves that the sound files are read
        readers[name].sound(small.folder / "sound")

    def draw(chance: random.Random) -> Case:
        name = chance.choice(sorted(readers))
        return case(name, readers[name], small.folder / "fuzz", chance)

    return draw


def case(
    name: str, reader: Reader, folder: Path, chance: random.Random, judge: Callable[..., tuple[str, str]] | None = None
) -> Case:
    """One case of one reader; judge: of a case in this process."""
    file, sound = reader.draw(chance)
    change = reader.change or changed

    def run() -> Verdict:
        content = change(sound, chance)
        shutil.rmtree(folder, ignore_errors=True)
        path = folder / Path(file).name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        if judge is not None:
            return Verdict(*judge(lambda: reader.read(path, file)))
        return in_child(lambda: reading(lambda: reader.read(path, file)))

    return Case(name, file, run)


def reading(read: Callable[[], object]) -> Verdict:
    """What came of it, in a process that prints nothing."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    return Verdict(*judged(read))


def judged(read: Callable[[], object]) -> tuple[str, str]:
    """What came of reading: survived, refused in one line, or a traceback."""
    try:
        read()
    except MdfError as error:
        line = str(error)
        return ("refused", line[:300]) if line.isprintable() else ("traceback", f"not printable: {line!r:.300}")
    except MemoryError:
        return "refused", "out of memory"
    except Exception:
        return "traceback", traceback.format_exc(limit=-4)[-1500:]
    return "survived", ""
