"""Check and measure mdfpipe on a GPU: detect, train, embed, the CUDA tests, and several workers on one device.

Every step has a share of the time and its own process; a step that fails or takes too long is one line, and the next
one runs. Figures are ratios of one run on one machine: nothing is compared with another.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MEGABYTES = 64  # that a folder of wheels may have
NEEDED = {  # module -> what to install; torch, torchvision and numpy come with the machine
    "av": "av",
    "decord": "decord",
    "cv2": "opencv-python-headless",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "yaml": "PyYAML",
    "typer": "typer",
    "rich": "rich",
    "pytest": "pytest",
}


@dataclass(frozen=True)
class Step:
    """One command. share: of the whole time; what earlier steps leave is added to it."""

    name: str
    command: list[str]
    share: float


def main() -> int:
    """Run the steps; 1 where one failed."""
    options = arguments()
    if options.collect:
        return collect(options.collect, options.missing, options.python)
    with tempfile.TemporaryDirectory(prefix="mdfpipe-gpu-") as folder:
        return check(options, Path(folder))


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="scripts/gpu-check", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the script out (cuda)")
    parser.add_argument("--short", action="store_true", help="toy sizes, to try the script out")
    parser.add_argument("--minutes", type=float, default=8.0, help="the longest time of all steps together (8)")
    parser.add_argument("--wheels", type=Path, help="a folder made by --collect; what is missing is taken from it")
    parser.add_argument("--collect", type=Path, metavar="FOLDER", help="download wheels for --missing, and do no more")
    parser.add_argument("--missing", nargs="+", default=list(NEEDED.values()), help="packages of --collect")
    parser.add_argument("--python", default="3.11", help="Python version of the machine, for --collect (3.11)")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    return parser.parse_args(given)


def collect(folder: Path, packages: list[str], python: str) -> int:
    """Download wheels of packages, without what they need, for Linux on x86; 1 where they are too large."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-version", python, "--dest", str(folder), "-c", str(ROOT / "constraints.txt"), *packages]
    if subprocess.run(command, check=False).returncode:
        print(f"scripts/gpu-check: {folder}: pip could not download all of {', '.join(packages)}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in folder.glob("*.whl")) / 2**20
    print(f"{folder}: {len(list(folder.glob('*.whl')))} wheels, {size:.1f} MiB of {MEGABYTES}")
    if size > MEGABYTES:
        print("scripts/gpu-check: name fewer packages with --missing: only those that lack there", file=sys.stderr)
    return int(size > MEGABYTES)


def check(options: argparse.Namespace, folder: Path) -> int:
    """Run every step, and print what each found."""
    until = time.monotonic() + 60 * options.minutes
    found_in = os.pathsep.join([str(ROOT), str(ROOT / "scripts"), str(folder / "own")])
    device = "cpu" if options.device == "cpu" else "cuda:0"
    environment = os.environ | {"PYTHONPATH": found_in, "DEVICE_OF_TESTS": device}
    lacking = sorted(package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None)
    if lacking and not _installed(lacking, options.wheels, folder / "own"):
        print(
            f"scripts/gpu-check: this Python lacks {', '.join(lacking)}; carry wheels with --collect", file=sys.stderr
        )
        return 2
    if options.device == "cuda" and not _has_gpu(environment):
        print("scripts/gpu-check: torch sees no GPU; --device cpu --short tries the script out", file=sys.stderr)
        return 2
    found: dict[str, Any] = {}
    steps = steps_of(options, folder)
    for number, step in enumerate(steps):
        left = until - time.monotonic()
        limit = min(
            left,
            60 * options.minutes * step.share
            + max(0.0, left - 60 * options.minutes * sum(later.share for later in steps[number:])),
        )
        found[step.name] = _done(step, max(limit, 1.0), environment)
        print("\n".join(_lines(step.name, found[step.name])), flush=True)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(result["problem"] for result in found.values()))


def steps_of(options: argparse.Namespace, folder: Path) -> list[Step]:
    """What is run. Each bench asserts what it did before it prints a ratio."""
    gpu, bench = options.device == "cuda", [sys.executable, str(ROOT / "scripts" / "bench.py")]
    short = options.short
    detect = [
        "detect",
        "--json",
        "--device",
        options.device,
        "--rounds",
        "1" if short else "2",
        "--threads",
        "1" if short else "4",
    ]
    detect += (
        ["--frames", "3", "--size", "192", "128", "--image-size", "192", "--batch", "2"] if short else ["--batch", "16"]
    )
    learn = ["--json", "--device", options.device, "--rounds", "1", "--threads", "1" if short else "8"]
    small = ["--small", "--batches", "2", "--batch", "16"]
    learn += [*small, "--precision", "fp32"] if short else ["--precision", "fp32", "fp16", "bf16"]
    network = [] if gpu else ["--network", "striped"]
    tests = ["tests/video/test_detector_cuda.py", "-q", "-rs", "-p", "no:cacheprovider"]
    workers = [sys.executable, __file__.replace("gpu_check", "gpu_workers"), options.device, "2" if short else "24"]
    return [
        Step("detect", [*bench, *detect], 0.3),
        Step("train", [*bench, "train", *learn, *network], 0.2),
        Step("embed", [*bench, "embed", *learn, *network], 0.2),
        Step("CUDA tests", [sys.executable, "-m", "pytest", *tests, "--basetemp", str(folder / "tests")], 0.15),
        Step("workers a device", workers, 0.15),
    ]


def _done(step: Step, seconds: float, environment: dict[str, str]) -> dict[str, Any]:
    """What a step printed. problem: why there is nothing, or ""."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            step.command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return {"seconds": seconds, "problem": f"not done in its {seconds:.0f} s", "output": ""}
    last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no words"]
    none = step.name == "CUDA tests" and done.returncode == 5  # pytest: no test of that name
    problem = f"ended with {done.returncode}: {last[0][:200]}" if done.returncode and not none else ""
    return {"seconds": time.monotonic() - started, "problem": problem, "output": done.stdout}


def _lines(name: str, result: dict[str, Any]) -> list[str]:
    lines = [f"{name} ({result['seconds']:.0f} s){': FAILED, ' + result['problem'] if result['problem'] else ''}"]
    try:
        report = json.loads(result["output"])
    except ValueError:
        return lines + [f"  {line}" for line in result["output"].splitlines()[-12:]]
    rows = [(what, value, unit) for what, value, unit in report["rows"]]
    rows += [
        (what, value, f"target {target}: {'met' if met else 'missed'}")
        for what, value, target, met in report["targets"]
    ]
    return (
        lines
        + [f"  {what}: {value:.4g} {unit}".rstrip() for what, value, unit in rows]
        + [f"  {n}" for n in report["notes"]]
    )


def _has_gpu(environment: dict[str, str]) -> bool:
    asked = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", asked], env=environment, check=False).returncode == 0


def _installed(packages: list[str], wheels: Path | None, place: Path) -> bool:
    """Whether they could be unpacked into a folder of this call alone."""
    if wheels is None:
        return False
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(place)]
    return subprocess.run([*command, *map(str, wheels.glob("*.whl"))], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
