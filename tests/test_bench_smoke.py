"""scripts/bench: every benchmark is found and parses, and the cheapest one runs. Nothing is timed here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench.py"
NAMES = {"crop", "detect", "help", "label", "memory", "noop"}


def bench(*arguments: str) -> Any:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_the_folder_is_the_list():
    folder = SCRIPT.parent / "benchmarks"
    assert {path.stem for path in folder.glob("*.py") if "\ndef bench(" in path.read_text()} == NAMES
    listed = bench("--help")
    assert listed.returncode == 0, listed.stderr
    assert all(f"\n    {name} " in listed.stdout for name in NAMES)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_one_explains_itself(name: str):
    shown = bench(name, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "--json" in shown.stdout
    assert "--profile" in shown.stdout


def test_help_measures_and_prints_json():
    done = bench("help", "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    loaded = next(target for target in report["targets"] if "loaded" in target[0])
    assert loaded[1:] == [0, "<= 0", True]
    assert report["rows"]
    assert report["machine"]["cores"] >= 1


def test_help_prints_a_table():
    done = bench("help", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert "mdfpipe --help, median" in done.stdout
    assert "target <= 0.5 s" in done.stdout


def test_detect_measures_yolo_against_ultralytics():
    tiny = ["--frames", "3", "--size", "192", "128", "--image-size", "192", "--batch", "2"]
    done = bench("detect", *tiny, "--rounds", "1", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    targets = {what: (value, met) for what, value, _, met in report["targets"]}
    assert len(targets) == 5
    same = next(value for what, value in targets.items() if "of ultralytics'" in what)
    assert same == (1, True)
    rows = {what: value for what, value, _ in report["rows"]}
    assert rows["1 thread: boxes a frame"] >= 1
    assert all(value > 0 for value in rows.values())


def test_detect_without_a_gpu_says_so():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, and would be measured")
    done = bench("detect", "--device", "cuda")
    assert done.returncode == 0, done.stderr
    assert "cuda: not measured" in done.stdout
