"""Fuzz of every reader: sound files of each kind, changed, must be read or refused in one line; never a traceback."""

from __future__ import annotations

import os
import pickle
import random
import resource
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

from damage.changes import changed
from damage.small import Case, Small, Verdict
from damage.sound import Reader, of_inputs, of_runs

from mdfpipe.errors import MdfError

SECONDS = 30  # of one case
MEMORY = 6 << 30  # bytes of address space beyond what is taken already


def cases(small: Small) -> Callable[[random.Random], Case]:
    """One reader, one changed file; in a process of its own, as a parser may take that with it."""
    import torch

    torch.set_num_threads(1)  # a forked process has none of the others, and would wait for them
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
    file, content = reader.draw(chance)
    content = (reader.change or changed)(content, chance)

    def run() -> Verdict:
        shutil.rmtree(folder, ignore_errors=True)
        path = folder / Path(file).name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        if judge is not None:
            return Verdict(*judge(lambda: reader.read(path, file)))
        return in_child(lambda: reader.read(path, file))

    return Case(name, file, run)


def in_child(read: Callable[[], object]) -> Verdict:
    """What a forked process says of it."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        os.write(theirs, pickle.dumps(_read(read))[:60_000])
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    if said:
        return Verdict(*pickle.loads(said))  # noqa: S301 - our own bytes
    number = os.WTERMSIG(status)
    what = (
        f"no answer in {SECONDS} s"
        if number == signal.SIGALRM
        else f"the process ended by {signal.Signals(number).name}"
    )
    return Verdict("traceback", what)


def _read(read: Callable[[], object]) -> tuple[str, str]:
    signal.alarm(SECONDS)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    return judged(read)


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
