"""Check and measure mdfpipe on a GPU: detect, train, embed, the CUDA tests, and several workers on one device.

Every step has a share of the time and its own process; a step that fails or takes too long is one line, and the next
one runs. Figures are ratios of one run on one machine: nothing is compared with another.
"""

from __future__ import annotations

import argparse
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
NEEDED = (
    *("PIL", "annotated_doc", "annotated_types", "anyio", "av", "cv2", "dateutil", "filelock", "fsspec", "h11"),
    *("httpcore2", "httpx2", "huggingface_hub", "idna", "iniconfig", "lightning_fabric", "lightning_utilities"),
    *("markdown_it", "mdurl", "packaging", "pandas", "pluggy", "pyarrow", "pydantic", "pydantic_core"),
    *("pygments", "pytest", "rich", "safetensors", "scipy", "shellingham", "threadpoolctl", "timm", "tqdm"),
    *("truststore", "typer", "typing_extensions", "typing_inspection", "ultralytics", "yaml"),
)
"""Modules that the steps import; torch, torchvision and numpy come with the machine."""
PACKAGES = {"PIL": "pillow", "cv2": "opencv-python-headless<5", "dateutil": "python-dateutil", "yaml": "PyYAML"} | {
    "markdown_it": "markdown-it-py"
}
"""The packages of modules, where they have other names."""


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
    parser.add_argument(
        "--missing", nargs="+", default=list(NEEDED), help="modules whose wheels --collect fetches (all)"
    )
    parser.add_argument("--python", default="3.11", help="Python version of the machine, for --collect (3.11)")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    return parser.parse_args(given)


def collect(folder: Path, modules: list[str], python: str) -> int:
    """Download the wheels of modules, without what they need, for Linux on x86; 1 where they are too large."""
    packages = [PACKAGES.get(module, module) for module in modules]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--python-version", python, "--dest", str(folder), "-c", str(ROOT / "constraints.txt"), *packages]
    if subprocess.run(command, check=False).returncode:
        print(f"scripts/gpu-check: {folder}: pip could not download all of {', '.join(packages)}", file=sys.stderr)
        return 1
    sizes = {file.name.partition("-")[0]: file.stat().st_size / 2**20 for file in folder.glob("*.whl")}
    print(f"{folder}: {len(sizes)} wheels, {sum(sizes.values()):.1f} MiB of {MEGABYTES}")
    if sum(sizes.values()) <= MEGABYTES:
        return 0
    largest = ", ".join(f"{name} {sizes[name]:.1f}" for name in sorted(sizes, key=lambda name: -sizes[name])[:5])
    print(
        f"scripts/gpu-check: too large to carry at once ({largest}): name in --missing only what lacks there, which a "
        "call without --wheels prints, or carry the folder in parts",
        file=sys.stderr,
    )
    return 1


def lacking(environment: dict[str, str]) -> list[str]:
    """The modules of NEEDED that a process in this environment does not find."""
    asked = "import importlib.util as u, sys; print(*(m for m in sys.argv[1:] if u.find_spec(m) is None))"
    command = [sys.executable, "-c", asked, *NEEDED]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.split()


def check(options: argparse.Namespace, folder: Path) -> int:
    """Run every step, and print what each found."""
    until = time.monotonic() + 60 * options.minutes
    found_in = os.pathsep.join([str(ROOT), str(ROOT / "scripts"), str(folder / "own")])
    device = "cpu" if options.device == "cpu" else "cuda:0"
    environment = os.environ | {"PYTHONPATH": found_in, "DEVICE_OF_TESTS": device}
    missing = lacking(environment)
    if missing and options.wheels is not None and _installed(options.wheels, folder / "own"):
        missing = lacking(environment)
    if missing:
        version, names = ".".join(map(str, sys.version_info[:2])), " ".join(missing)
        print(
            f"scripts/gpu-check: this Python lacks {names}; where there is a network, `scripts/gpu-check --collect "
            f"wheels --python {version} --missing {names}` fetches them: carry the folder, and give --wheels wheels",
            file=sys.stderr,
        )
        return 2
    if options.device == "cuda" and not _has_gpu(environment):
        print("scripts/gpu-check: torch sees no GPU; --device cpu --short tries the script out", file=sys.stderr)
        return 2
    found: dict[str, Any] = {}
    print(_machine(environment), flush=True)
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
    learn += [*small, "--precision", "fp32"] if short else ["--batch", "64", "--precision", "fp32", "fp16", "bf16"]
    learn += ["--eager"] if gpu else []  # to compile three precisions takes longer than the step may
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


def _machine(environment: dict[str, str]) -> str:
    """The versions and the GPU on which the figures depend."""
    asked = (
        "import platform, torch\n"
        "gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'\n"
        "print(f'Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}, {gpu}')"
    )
    return subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, env=environment, check=False
    ).stdout.strip()


def _installed(wheels: Path, place: Path) -> bool:
    """Whether the wheels could be unpacked into a folder of this call alone."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(place)]
    return subprocess.run([*command, *map(str, wheels.glob("*.whl"))], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
