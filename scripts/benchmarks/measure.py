"""How everything here is measured: fresh processes, turns, medians; and the report that comes of it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]
ASSETS = Path(os.environ.get("MDFPIPE_TEST_ASSETS", ROOT.parent / "shared" / "assets"))
PACKAGES = ("numpy", "pyarrow", "av", "decord", "opencv-python", "onnxruntime")


@dataclass
class Report:
    """rows: (what, value, unit). targets: (what, value, the target in words, whether it is met)."""

    title: str
    rows: list[tuple[str, float, str]] = field(default_factory=list)
    targets: list[tuple[str, float, str, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    profile: list[str] = field(default_factory=list)

    def add(self, what: str, value: float, unit: str) -> None:
        self.rows.append((what, value, unit))

    def aim(self, what: str, value: float, sign: str, limit: float, unit: str = "") -> None:
        met = value >= limit if sign == ">=" else value <= limit
        self.targets.append((what, value, f"{sign} {limit:g} {unit}".rstrip(), met))


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_precisions() -> tuple[str, ...]:
    """fp32, and bf16 where the processor has instructions for it: without them it takes some ten times as long."""
    from mdfpipe.machine.devices import processor_has_bf16

    return ("fp32", "bf16") if processor_has_bf16() else ("fp32",)


NO_BF16 = "bf16 is not measured: this processor has no instructions for it"


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "cores": cores(),
        "cpu": model,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def in_worker(task: Callable[..., Any], *arguments: Any, threads: int = 1) -> Any:
    """Call `task` in a fresh spawned process, with the thread counts that the runner gives its workers."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from mdfpipe.running.workers.spawned import worker_environment

    os.environ.update(worker_environment(threads))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


@dataclass
class Times:
    """Seconds of one task, round by round: on the wall, and of all its threads together on the processor."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def rate(self, count: int) -> float:
        """So many a second, of `count` done in each round."""
        return count / median(self.wall)


def in_turns(rounds: int, **tasks: Callable[[], Any]) -> dict[str, Times]:
    """Times of each task in each round, after one round that does not count."""
    times = {name: Times() for name in tasks}
    for number in range(rounds + 1):
        for name, task in list(tasks.items())[:: -1 if number % 2 else 1]:  # a drift favours neither
            wall, cpu = time.perf_counter(), time.process_time()
            task()
            if number:
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - cpu)
    return times


def expect(what: str, got: Any, wanted: Any) -> None:
    """End here, before anything is printed, unless the work that was timed is the work that was meant."""
    if got != wanted:
        raise SystemExit(f"scripts/bench: {what}: expected {wanted}, got {got}: nothing of it is a measurement")


def ratio(above: list[float], below: list[float]) -> float:
    return median(a / b for a, b in zip(above, below, strict=True))


def profiled(task: Callable[[], Any], lines: int = 14) -> list[str]:
    """Where the time goes: the functions that take most of it themselves."""
    import cProfile

    profiler = cProfile.Profile()
    profiler.runcall(task)
    return top_of(profiler, lines)


def by_thread(task: Callable[[], Any]) -> list[str]:
    """The processor's time of a task by thread, as Linux counts it; threads of libraries are one."""
    import threading

    used, before = dict[int, float](), _thread_seconds()
    names, over = dict[int, str](), threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            used.update(_thread_seconds())
            names.update({one.native_id: one.name for one in threading.enumerate() if one.native_id})

    watch = threading.Thread(target=look, name="look")
    watch.start()
    task()
    over.set()
    watch.join()
    spent = dict[str, float]()
    for thread, seconds in used.items():
        name = names.get(thread, "libraries")
        spent[name] = spent.get(name, 0.0) + seconds - before.get(thread, 0.0)
    spent.pop("look", None)
    rows = sorted(spent.items(), key=lambda row: -row[1])
    return [f"  CPU seconds of {name}: {seconds:.3f}" for name, seconds in rows if seconds >= 0.001]


def _thread_seconds() -> dict[int, float]:
    found = dict[int, float]()
    for place in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # a thread ends
            found[int(place.parent.name)] = int(place.read_text().split()[0]) / 1e9
    return found


def top_of(source: Any, lines: int = 14) -> list[str]:
    import io
    import pstats

    text = io.StringIO()
    stats = pstats.Stats(source, stream=text).strip_dirs()
    stats.sort_stats("tottime").print_stats(lines)
    stats.sort_stats("cumtime").print_stats("mdfpipe|pipeline|plan|run.py|label|crop|detect|index", lines)
    return [line for line in text.getvalue().splitlines() if line.strip()]


def mdfpipe(*arguments: str | Path, profile: Path | None = None) -> tuple[float, str]:
    """Wall seconds and standard output of one call of the command line."""
    program = [sys.executable, "-m", "cProfile", "-o", profile, "-m", "mdfpipe"] if profile else [_command()]
    started = time.perf_counter()
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, cwd=ROOT, env=_plain(), check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"scripts/bench: mdfpipe {arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return seconds, done.stdout


def _plain() -> dict[str, str]:
    """The environment of an ordinary user, who lets Python keep its bytecode."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _command() -> Path:
    return Path(sys.executable).parent / "mdfpipe"
