"""Faults: damages files, kills processes, lets system calls fail, feeds readers rubbish; and counts what came of it.

Each family is a file of `scripts/damage/`, named after itself. A case is drawn from (seed, family,
number), so that `--only FAMILY:NUMBER` does one again. The exit code is 1 where a case was silent, a dead end or a
traceback.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

from damage.shim import preload
from damage.small import BAD, Small, Verdict

SHARE = {"files": 0.45, "kills": 0.05, "calls": 0.08, "readers": 0.4, "hostile": 0.02}  # of all cases
MEMORY = Path("/dev/shm")  # noqa: S108 - a file system in memory: thousands of small files are written
FAMILIES = tuple(SHARE)
PRELOADED = ("calls", "kills")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}; all of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=10_000, help="in all, shared out among the families")
    parser.add_argument("--seconds", type=float, default=3600, help="stop after so long")
    parser.add_argument("--only", metavar="FAMILY:NUMBER", help="one case again, with all that it says")
    options = parser.parse_args(arguments)
    chosen = [options.only.partition(":")[0]] if options.only else options.families or list(FAMILIES)
    if set(chosen) & set(PRELOADED) and not preload():
        print("no C compiler (cc): only calls of Python itself fail, and no power is cut", file=sys.stderr)
    share = sum(SHARE[name] for name in chosen)
    until = time.monotonic() + options.seconds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and the folder is removed
    found: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="mdfpipe-faults-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        small = Small.make(Path(folder))
        for name in chosen:
            number = max(round(options.cases * SHARE[name] / share), 1)
            cases, told = import_module(f"damage.{name}").cases(small), time.monotonic()
            for n in range(number):
                if time.monotonic() - told > 30:
                    told = time.monotonic()
                    print(f"{name}: {n} of {number}", file=sys.stderr)
                if options.only and n != int(options.only.partition(":")[2]):
                    continue
                if time.monotonic() > until:
                    break
                case = cases(random.Random(f"{options.seed}/{name}/{n}"))  # noqa: S311 - to be drawn again
                verdict = case.run()
                kind = f"{name}: {case.kind}"
                found.setdefault(kind, Counter())[verdict.what] += 1
                if verdict.what in BAD or options.only:
                    print(f"{verdict.what}  {name}:{n}  {case.kind}  {case.where}: {verdict.said[:2000]}", flush=True)
    show(found)
    return int(any(counts[what] for counts in found.values() for what in BAD))


def show(found: dict[str, Counter[str]]) -> None:
    """A line a kind: tried, survived (the same bytes, or one clear line), silent, dead end, traceback."""
    columns = ("tried", *Verdict.KINDS)
    wide = max([len(kind) for kind in found] + [len("in all")])
    print(f"{'':{wide}}  " + "  ".join(f"{name:>10}" for name in columns))
    totals: Counter[str] = Counter()
    for kind, counts in sorted(found.items()):
        totals += counts
        print(f"{kind:{wide}}  " + "  ".join(f"{n:>10}" for n in (counts.total(), *(counts[k] for k in Verdict.KINDS))))
    print(f"{'in all':{wide}}  " + "  ".join(f"{n:>10}" for n in (totals.total(), *(totals[k] for k in Verdict.KINDS))))


if __name__ == "__main__":
    sys.exit(main())
