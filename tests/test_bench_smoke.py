"""scripts/bench: every benchmark is found and parses, and the cheapest one runs. Nothing is timed here."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.learning.gpus import fastest_precision

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench.py"
NAMES = {
    "crop",
    "detect",
    "embed",
    "eval",
    "help",
    "label",
    "learn",
    "memory",
    "noop",
    "pipeline",
    "plan",
    "scale",
    "step",
    "track",
    "train",
    "verify",
}


def bench(*arguments: str) -> Any:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What the script prints that ends well, called in this process: for what measures nothing."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    main = importlib.import_module("bench").main

    def call(*arguments: str) -> str:
        with contextlib.suppress(SystemExit):
            main(list(arguments))
        said = capsys.readouterr()
        assert not said.err
        return said.out

    return call


def test_the_folder_is_the_list(printed: Callable[..., str]):
    folder = SCRIPT.parent / "benchmarks"
    assert {path.stem for path in folder.glob("*.py") if "\ndef bench(" in path.read_text()} == NAMES
    listed = printed("--help")
    assert all(f"\n    {name} " in listed for name in NAMES)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_one_explains_itself(name: str, printed: Callable[..., str]):
    shown = printed(name, "--help")
    assert "--json" in shown
    assert "--profile" in shown


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


@pytest.mark.slow
def test_detect_measures_yolo_against_ultralytics():
    tiny = ["--frames", "3", "--size", "192", "128", "--image-size", "192", "--batch", "2"]
    done = bench("detect", *tiny, "--rounds", "1", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    targets = {what: (value, met) for what, value, _, met in report["targets"]}
    assert len(targets) in (3, 6, 12)  # without bf16 or OpenVINO, without one of them, or with both
    same = next(value for what, value in targets.items() if "of ultralytics'" in what)
    assert same == (1, True)
    rows = {what: value for what, value, _ in report["rows"]}
    assert rows["1 thread: boxes a frame"] >= 1
    assert all(value > 0 for value in rows.values())


@pytest.mark.slow
def test_step_measures_a_recipe():
    done = bench("step", "--small", "--rounds", "1", "--threads", "1", "--recipe", "lccrf", "--json")
    assert done.returncode == 0, done.stderr
    rows = {what: value for what, value, _ in json.loads(done.stdout)["rows"]}
    # tiny: 2 tuples, an anchor, a positive and a negative of each of two domains
    assert "lccrf, 64x32: a step of 12 images" in rows
    assert all(value > 0 for value in rows.values())


SMALL_CLIP = ["--frames", "6", "--size", "192", "128", "--image-size", "192", "--batch", "2"]


@pytest.mark.parametrize(
    ("arguments", "counted"),
    [
        (("plan", "--videos", "20"), "20 made-up videos, from index to crop"),
        (("crop", "--frames", "4", "--threads", "1"), "4 frames, 24 crops"),
        (("label", "--bodies", "3000"), "3000 bodies"),
        (("pipeline", *SMALL_CLIP, "--threads", "1", "--no-network"), "boxes, 24 labels, 48 crops"),
    ],
)
def test_what_is_timed_is_work(arguments: tuple[str, ...], counted: str):
    """Each ends itself, with a line, unless every crop is whole and every body is labelled as by the kernel."""
    done = bench(*arguments, "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert any(counted in note for note in report["notes"])
    assert all(value > 0 for _, value, _ in report["rows"])


@pytest.mark.slow
def test_networks_with_side_information_can_be_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The crops of the benchmarks name cameras."""
    from mdfpipe.config import validate
    from mdfpipe.learning.recipes.body import Body

    monkeypatch.syspath_prepend(SCRIPT.parent)
    parts: Any = importlib.import_module("benchmarks.train_parts")
    places = importlib.import_module("benchmarks.train_material").pictures(tmp_path / "a.tar", (64, 32), 4)
    recipe = validate(Body, {**Body.tiny, "side_information": "both"}, "body")
    training = parts.Training(recipe, tmp_path / "a.tar", places, 1, 1, "fp32")
    training.network_alone(training.read(training.loader(0)))()
    assert parts.Embedding(recipe, tmp_path / "a.tar", places, 4, 4, 1, "fp32").embed() == 4


@pytest.mark.slow
def test_pipeline_makes_the_crops_of_the_script():
    done = bench("pipeline", *SMALL_CLIP, "--rounds", "1", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    has_bf16 = fastest_precision("cpu") == "bf16"
    assert len(report["targets"]) == (7 if has_bf16 else 4)
    shared = [value for what, value, *_ in report["targets"] if "the script has, too" in what]
    assert shared == [1, *([pytest.approx(1, abs=0.1)] if has_bf16 else [])]
    assert any("bf16 is not measured" in note for note in report["notes"]) != has_bf16
    assert all(value > 0 for _, value, _ in report["rows"])


TOY = ["--small", "--batches", "2", "--batch", "16", "--rounds", "1", "--threads", "1", "--precision", "fp32", "--json"]


@pytest.mark.slow
def test_train_holds_the_loop_against_loader_and_network():
    done = bench("train", "--network", "striped", *TOY)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = {what: value for what, value, _ in report["rows"]}
    assert len(rows) == 6
    assert all(value > 0 for value in rows.values())
    shares = {what: (value, met) for what, value, _, met in report["targets"]}
    assert set(shares) == {f"striped, fp32, 1 thread: training / bound, {how}" for how in ("decoding", "from memory")}
    for what, (value, met) in shares.items():
        parts = [rows[what.replace("training / bound", name)] for name in ("training", "loader alone")]
        bound = 1 / (1 / parts[1] + 1 / rows["striped, fp32, 1 thread: network alone"])
        assert value == pytest.approx(parts[0] / bound)
        assert met == (value >= 0.9)


@pytest.mark.slow
def test_embed_counts_vectors_and_memory():
    done = bench("embed", "--network", "face", "--crops", "20", *TOY)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = {what: value for what, value, _ in report["rows"]}
    assert {"20 crops: embedded", "400 crops: embedded", "face, fp32, 1 thread: embed, torch"} < rows.keys()
    assert all(value >= 0 for value in rows.values())
    assert rows["face, fp32, 1 thread: onnxruntime, 1 - least cosine"] < 1e-5
    assert any("growth of embedding 20 times as many" in what for what, *_ in report["targets"])


@pytest.mark.slow
def test_eval_requires_equal_results():
    small = [
        "--given",
        "60",
        "--size",
        "240",
        "--width",
        "16",
        "--crops",
        "5000",
        "--features",
        "24",
        "--queries",
        "96",
    ]
    done = bench("eval", *small, "--subjects", "12", "--samples", "50", "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [what for what, *_ in report["targets"]] == [
        "scores 60 x 60: search / loop of research codes",
        "vectors 240 x 240 x 16: whole",
        "vectors 240 x 240 x 16: peak",
        "sysu, 96 queries x 301 x 2048: ten trials, product included",
        "pooling 5,000 vectors of 24 into 48 templates: peak",
        "50 samples of 12 subjects: all of these",
    ]
    assert all(value > 0 for _, value, _ in report["rows"])


def test_eval_ends_where_results_differ():
    script = "from benchmarks.eval import _same; _same('ranks', [1, 2], [1, 3])"
    wrong = subprocess.run(
        [sys.executable, "-c", script], cwd=SCRIPT.parent, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 1
    assert "ranks: expected equal results, they differ by up to 1" in wrong.stderr


@pytest.mark.slow
def test_what_is_for_a_gpu_runs_without_its_compiler_on_a_cpu(tmp_path: Path):
    """All but the synchronisation with the card, which no machine of these tests has."""
    script = f"""
import argparse, torch
from pathlib import Path
from benchmarks import train_gpu
from benchmarks.train_material import pictures
from benchmarks.train_parts import stored_size

torch.compile = lambda model: model
assert [train_gpu.peak_of(n) for n in ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA L4")] == [989, 756, 121]
assert train_gpu.peak_of("Tesla P4") is None
options = argparse.Namespace(device="cpu", small=True, batches=2, rounds=1, eager=False)
places = pictures(Path({str(tmp_path)!r}) / "mini.tar", stored_size("mini", True), 4)
given = (Path({str(tmp_path)!r}) / "mini.tar", places, ("mini", 16, "fp32", 1), options)
images, times, rates, flops, peak = train_gpu._training(*given)
assert images == 32 and len(rates) == 1 and rates[0] > 0 and set(times) >= {{"network alone, compiled"}}
tokens, width, depth = 96 // 16 * 32 // 16 + 4, 192, 6
products = depth * tokens * (12 * width**2 + 2 * tokens * width) + 12 * 3 * 16**2 * width
assert 0.95 < flops / (3 * 2 * products) < 1.1, flops / (3 * 2 * products)
count, times = train_gpu._embedding(*given)
assert count == 32 and times["embed"].rate(count) > 0
"""
    folders = f"{SCRIPT.parent}{os.pathsep}{SCRIPT.parents[1]}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": folders},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["detect", "train", "embed"])
def test_without_a_gpu_it_says_so(name: str, printed: Callable[..., str]):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, and would be measured")
    assert "cuda: not measured" in printed(name, "--device", "cuda")


@pytest.mark.slow
def test_scale_measures_the_crew_and_simulates_clusters():
    done = bench("scale", "--units", "20", "--videos", "4", "--draws", "3", "--workers", "1", "64", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = {what: value for what, value, _ in report["rows"]}
    assert rows["157 videos, 1 workers, in order: efficiency"] > 0.9
    assert rows["157 videos, 64 workers, in order: efficiency"] < rows["157 videos, 1 workers, in order: efficiency"]
    assert rows["10,000 hours: GPU hours"] == pytest.approx(1000)
    assert rows["10,000 hours: read to hash new videos, once"] == pytest.approx(22_500)
    assert rows["10,000 hours: 9,752 videos, a call with nothing due: stat calls"] > 9752


def test_simulated_workers_end_when_the_last_one_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    scale = importlib.import_module("benchmarks.scale")
    assert scale._makespan([4, 3, 2, 1], 2, 0.0) == 5
    assert scale._makespan([1, 2, 3, 4], 2, 0.5) == 7
    assert scale._shares([2700, 60_000], 30.0) == [45.0] * 2 + [60_000 / 34 / 30.0] * 34
    assert scale._efficiencies(157, 161.0, 64, 3, 0.0, 300.0)["spans"] > 0.95


def test_gpu_check_has_a_step_for_each_thing_it_promises(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    script = importlib.import_module("gpu_check")
    options = script.arguments(["--device", "cpu", "--short"])
    steps = script.steps_of(options, Path("folder"))
    assert [step.name for step in steps] == ["detect", "train", "embed", "CUDA tests", "workers a device"]
    assert sum(step.share for step in steps) == pytest.approx(1)
    found = script._done(script.Step("sleep", [sys.executable, "-c", "import time; time.sleep(9)"], 1.0), 0.2, {})
    assert found["problem"] == "not done in its 0 s"
    on_gpu = script.steps_of(script.arguments([]), Path("folder"))
    assert all("--eager" in step.command for step in on_gpu if step.name in ("train", "embed"))


def test_gpu_check_names_what_lacks_and_how_to_carry_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    script = importlib.import_module("gpu_check")
    assert script.lacking(dict(os.environ)) == []
    monkeypatch.setattr(script, "NEEDED", (*script.NEEDED, "nowhere_to_be_found"))
    assert script.check(script.arguments(["--device", "cpu", "--short"]), tmp_path) == 2
    assert (
        "lacks nowhere_to_be_found; where there is a network, `scripts/gpu-check --collect" in capsys.readouterr().err
    )
    for name, size in (("large", 65), ("small", 1)):
        with (tmp_path / f"{name}-1.0-py3-none-any.whl").open("wb") as file:
            file.truncate(size << 20)
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: argparse.Namespace(returncode=0))
    assert script.collect(tmp_path, ["large", "small"], "3.11") == 1
    said = capsys.readouterr()
    assert "2 wheels, 66.0 MiB of 64" in said.out
    assert "too large to carry at once (large 65.0, small 1.0)" in said.err
