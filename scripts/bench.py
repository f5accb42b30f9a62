"""Benchmarks: figures and ratios of one run. Nothing here fails because a machine is slow; a target is only printed.

Each file of `scripts/benchmarks/` that has a `bench` is one, named after itself; `ls` is the list.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.measure import Report, machine

FOLDER = Path(__file__).parent / "benchmarks"


def benches() -> dict[str, Any]:
    """The modules that measure something, by name."""
    modules = {path.stem: import_module(f"benchmarks.{path.stem}") for path in sorted(FOLDER.glob("*.py"))}
    return {name: module for name, module in modules.items() if hasattr(module, "bench")}


def parser(known: dict[str, Any]) -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.partition("\n")[0] if __doc__ else None)
    commands = top.add_subparsers(dest="bench", required=True, metavar="BENCH")
    for name, module in known.items():
        command = commands.add_parser(name, help=module.__doc__, description=module.__doc__)
        command.add_argument("--json", action="store_true", help="one JSON document")
        command.add_argument("--profile", action="store_true", help="also show where the time goes")
        command.add_argument("--keep", type=Path, help="work in this new folder and leave it there")
        module.options(command)
    return top


def show(report: Report) -> list[str]:
    """The report as lines for people."""
    width = max(
        (len(what) for what in [*(row[0] for row in report.rows), *(aim[0] for aim in report.targets)]), default=0
    )
    lines = [report.title]
    lines += [f"  {what:<{width}}  {_figure(value):>11} {unit}".rstrip() for what, value, unit in report.rows]
    for what, value, target, met in report.targets:
        lines.append(f"  {what:<{width}}  {_figure(value):>11} target {target}: {'met' if met else 'MISSED'}")
    lines += [f"  {note}" for note in report.notes]
    lines.append("  " + ", ".join(f"{name} {value}" for name, value in machine().items()))
    return lines + report.profile


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def main(arguments: list[str] | None = None) -> None:
    known = benches()
    options = parser(known).parse_args(arguments)
    report = Report(f"{options.bench}: {known[options.bench].__doc__}")
    if options.keep:
        options.keep.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="mdfpipe-bench-") as folder:
        known[options.bench].bench(options, report, (options.keep or Path(folder)).absolute())
    print(json.dumps(asdict(report) | {"machine": machine()}, indent=1) if options.json else "\n".join(show(report)))


if __name__ == "__main__":
    main()
