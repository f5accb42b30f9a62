"""mdfpipe --help: wall time and what it loads"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import median

from benchmarks.measure import Report, mdfpipe

HEAVY = ("torch", "cv2", "pandas", "pyarrow", "scipy", "matplotlib")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=10)


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    seconds = [mdfpipe("--help")[0] for _ in range(options.rounds)]
    asks = (
        "import sys; from mdfpipe.cli.commands import app; app(['--help'], standalone_mode=False); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, cwd=folder, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    report.add("mdfpipe --help, longest", max(seconds), "s")
    report.add("modules loaded", len(done.stdout.splitlines()[-1].split()), "")
    report.aim("mdfpipe --help, median", median(seconds), "<=", 0.5, "s")
    report.aim(f"of {', '.join(HEAVY)} loaded", len(loaded & set(HEAVY)), "<=", 0)
    report.notes.append(f"{options.rounds} calls; loaded of the heavy ones: {sorted(loaded & set(HEAVY)) or 'none'}")
