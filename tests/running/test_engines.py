"""Engines: one network gives the same boxes under each; a stage keeps the one that it has, and says which it was."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdfpipe.domains import Domain
from mdfpipe.errors import ConfigError, MissingDependency
from mdfpipe.learning.embedders import agreement
from mdfpipe.learning.system import System
from mdfpipe.machine import engines
from mdfpipe.running import engines as choice
from mdfpipe.stages import Resources
from mdfpipe.stages.detect import Detect
from mdfpipe.stages.embed import Embed
from mdfpipe.store.run import Run
from mdfpipe.synth.people import draw_subject
from mdfpipe.synth.scene import Clip
from mdfpipe.video.detectors import Detector
from mdfpipe.video.detectors.onnx import Onnx
from mdfpipe.video.detectors.yolo import DEMO, Yolo
from mdfpipe.video.frames import Boxes, Frames
from tests import runs, systems
from tests.video.networks import says

HERE = Resources(threads=1)
NEEDS_OPENVINO = pytest.mark.skipif(
    not engines.is_present("openvino"), reason="NOT TESTED: OpenVINO needs the extra openvino"
)
NEEDS_DEMO = pytest.mark.skipif(not DEMO.is_file(), reason="NOT TESTED: the demo's weights are not installed")


@pytest.fixture(scope="module")
def street() -> Frames:
    """Five pictures 1280x720 of three people."""
    people = [draw_subject(11, name) for name in ("1", "2", "3")]
    clip = Clip(people, Domain.parse("VIS-500m"), 5, fps=2.0, size=(720, 1280), seed=[11])
    return Frames(np.stack([clip.frame(number)[0] for number in range(5)]), np.arange(5), np.arange(5) / 2.0)


def boxes(detector: Detector, frames: Frames, *, batch: int = 8, threads: int = 1) -> list[Boxes]:
    run = detector.open(Path(), "v", device="cpu", threads=threads)
    starts = range(0, len(frames), batch)
    parts = (slice(at, at + batch) for at in starts)
    return [b for p in parts for b in run(Frames(frames.pixels[p], frames.index[p], frames.pts_seconds[p]))]


@NEEDS_DEMO
@pytest.mark.parametrize(
    ("engine", "precision", "pixels", "score"),
    [
        ("onnxruntime", "fp32", 0.01, 1e-4),
        pytest.param("openvino", "fp32", 0.01, 1e-4, marks=NEEDS_OPENVINO),
        pytest.param("openvino", "bf16", 8.0, 0.1, marks=[NEEDS_OPENVINO, pytest.mark.slow]),
    ],
)
def test_boxes_of_each_engine_are_those_of_torch_whatever_batch_and_threads(
    engine: str, precision: str, pixels: float, score: float, street: Frames
) -> None:
    if engine == "openvino" and precision == "bf16":
        able = engines.openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "BF16" not in able:
            pytest.skip("NOT TESTED: this processor does not compute in bf16")
    detector = Yolo(weights="demo", engine=engine, precision=precision, min_score=0.4, image_size=320)
    expected = boxes(Yolo(weights="demo", engine="torch", min_score=0.4, image_size=320), street)
    found = boxes(detector, street)
    assert sum(map(len, expected)) >= 8
    assert choice._apart(expected, boxes(detector.model_copy(update={"min_score": 0.2}), street)) <= (pixels, score)
    for batch, threads in ((3, 1), (1, 2)):
        for one, other in zip(found, boxes(detector, street, batch=batch, threads=threads), strict=True):
            assert one.xyxy.tobytes() + one.score.tobytes() == other.xyxy.tobytes() + other.score.tobytes()
    made = detector.remarks(Path(), device="cpu", threads=1).engine
    assert made == {"name": engine, "version": engines.made_by(engine, "")["version"], "precision": precision}
    assert made["version"][0].isdecimal()


@NEEDS_OPENVINO
def test_an_onnx_network_runs_under_openvino_too(tmp_path: Path, street: Frames) -> None:
    rows = [[10, 20, 30, 60, 0.9, 0], [100, 20, 130, 60, 0.5, 0]]
    says(tmp_path / "a.onnx", rows)  # type: ignore[no-untyped-call]
    where = str(tmp_path / "a.onnx")
    for batch in (1, 3, 8):
        found = boxes(Onnx(weights=where, engine="openvino"), street, batch=batch)
        for one, other in zip(found, boxes(Onnx(weights=where), street, batch=batch), strict=True):
            np.testing.assert_allclose(one.xyxy, other.xyxy, atol=1e-3)
    assert (
        Onnx(weights=where, engine="openvino").remarks(tmp_path, device="cpu", threads=1).engine["name"] == "openvino"
    )
    with pytest.raises(ConfigError, match=r"precision bf16: onnxruntime runs an ONNX network as its file has it"):
        Onnx(weights=where, precision="bf16").open(tmp_path, "v", device="cpu", threads=1)


@pytest.mark.parametrize(
    ("engine", "extra"),
    [("openvino", r"mdfpipe\[openvino\]"), ("onnxruntime", r"mdfpipe\[onnx\]"), ("tensorrt", "tensorrt")],
)
def test_an_engine_that_is_missing_names_its_extra(
    engine: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, engine, None)
    detector = Yolo(weights="demo", engine=engine)
    with pytest.raises(MissingDependency, match=rf"detect.detector.engine {engine} needs .*pip install '?{extra}"):
        choice.with_engine(Detect(detector=detector), [], Run(tmp_path), tmp_path, HERE)
    with pytest.raises(MissingDependency, match=rf"detector.engine {engine} needs .*pip install '?{extra}"):
        detector.open(tmp_path, "v", device="cpu", threads=1)


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (Yolo(engine="openvino"), r"detector.engine openvino: runs on the CPU here, got --device cuda"),
        (Yolo(engine="onnxruntime", precision="bf16"), r"precision bf16: engine onnxruntime runs this network in fp32"),
    ],
)
def test_what_an_engine_cannot_do(detector: Yolo, message: str) -> None:
    device = "cuda" if detector.engine == "openvino" else "cpu"
    if not engines.is_present(detector.engine) or not DEMO.is_file():
        pytest.skip("NOT TESTED: the engine or the demo's weights are not installed")
    with pytest.raises(ConfigError, match=message):
        detector.model_copy(update={"weights": "demo"}).open(Path(), "v", device=device, threads=1)


# --- which engine `auto` is ---


def facts(engine: str | None) -> dict[str, Any]:
    plain = {"declared": 1, "delivered": 1, "boxes_beyond_the_end": 0, "left_out": {}, "duplicates": 0}
    return plain | ({} if engine is None else {"engine": {"name": engine, "version": "1", "precision": "fp32"}})


@pytest.mark.parametrize(
    ("made", "here", "device", "taken", "said"),
    [
        ([None], True, "cpu", "torch", ""),  # of an earlier version
        (["torch"], True, "cpu", "torch", ""),
        (["openvino"], True, "cpu", "openvino", ""),
        (["openvino", "torch", "openvino"], True, "cpu", "openvino", ""),
        (
            ["openvino"],
            False,
            "cpu",
            "torch",
            "openvino made 1 part and is not installed here: torch makes the others",
        ),
        (["openvino"], True, "cuda", "torch", "openvino made 1 part and does not run on a GPU here"),
        ([], False, "cpu", "torch", ""),
        ([], True, "cuda:0,cuda:1", "torch", ""),
    ],
)
def test_a_stage_goes_on_with_the_engine_of_its_parts(
    made: list[str | None], here: bool, device: str, taken: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "is_present", lambda name: here)
    stage = Detect(detector=Yolo(weights="demo"))
    made_facts = [facts(name) for name in made]
    settled, notes = choice.with_engine(stage, made_facts, Run(Path()), Path(), Resources(device=device))
    assert settled.detector.engine == taken  # type: ignore[attr-defined]
    assert len(notes) == bool(said)
    assert said in "".join(notes)


def test_parts_of_several_engines_are_said_at_every_call() -> None:
    stage = Detect(detector=Yolo(weights="demo"))
    found = {"a": facts("torch"), "b": facts("openvino"), "c": facts("torch"), "d": facts(None)}
    (line,) = stage.review(found).lasting
    assert "several engines made the boxes" in line
    assert "openvino 1 fp32: 1 (b); torch 1 fp32: 2 (a, c)" in line
    assert stage.review({"a": facts("torch"), "d": facts(None)}).lasting == []


def test_an_engine_that_is_asked_for_makes_parts_of_others_due() -> None:
    for engine, due in (("auto", set()), ("torch", {"openvino"}), ("openvino", {None, "torch"})):
        stage = Detect(detector=Yolo(weights="demo", engine=engine))
        wrong = {name for name in (None, "torch", "openvino") if not stage.without_effect(facts(name))[-1:]}
        names = {n for n in (None, "torch", "openvino") if "detector.engine" not in stage.without_effect(facts(n))}
        assert (wrong or names) == names == due


@NEEDS_DEMO
@pytest.mark.parametrize("apart", [0.0, 100.0])
def test_auto_takes_openvino_where_its_boxes_agree(apart: float, monkeypatch: pytest.MonkeyPatch) -> None:
    real = choice._boxes

    def found(detector: Any, data: Path, threads: int) -> list[Boxes]:
        told = detector.model_copy(update={"engine": "torch"})
        shift = apart if detector.engine == "openvino" else 0.0
        return [Boxes(b.xyxy + np.float32(shift), b.score) for b in real(told, data, threads)]

    monkeypatch.setattr(choice, "_boxes", found)
    monkeypatch.setattr(Yolo, "engine_on", lambda self, device: "torch")
    detector = Yolo(weights="demo", image_size=320)
    openvino, native = (detector.model_copy(update={"engine": name}) for name in ("openvino", "torch"))
    agrees, line = choice.compare_boxes(openvino, native, Path(), HERE)
    assert agrees == (apart == 0)
    assert ("is not taken, torch runs the network" in line) == (apart > 0)
    assert "100 best boxes on a test picture differ from those of torch" in line


@NEEDS_OPENVINO
@NEEDS_DEMO
def test_a_run_takes_openvino_by_itself_and_a_stage_goes_on_as_it_began(tmp_path: Path, clip: Path) -> None:
    data = runs.DataSet(tmp_path / "data").copies(clip, "a.mp4", "b.mp4")
    study = data.write(detect={"detector": {"use": "yolo", "weights": "demo", "image_size": 96}})

    def detect(run: str, *more: str) -> tuple[str, list[str]]:
        done = runs.call_here("detect", study, "--data", data.root, "--run", tmp_path / run, "--threads", "1", *more)
        assert done.code == 0, done.err
        keys = ("videos/a", "videos/b") if "--only" not in more else ("videos/a",)
        return done.out + done.err, [runs.facts(tmp_path / run, "detect", key)["engine"]["name"] for key in keys]

    said, names = detect("new")
    assert names == ["openvino"] * 2
    assert "fp32 runs the network: the" in said
    said, names = detect("new", "--set", "detect.detector.engine=torch")  # another one is asked for
    assert names == ["torch"] * 2
    detect("begun", "--only", "videos/a", "--set", "detect.detector.engine=torch")
    said, names = detect("begun")
    assert names == ["torch"] * 2
    assert "several engines" not in said


# --- telemetry ---


@NEEDS_OPENVINO
def test_openvino_comes_without_its_telemetry() -> None:
    script = """
import sys
from mdfpipe.learning.embedders import agreement
from mdfpipe.learning.system import System
from mdfpipe.machine import engines
ov = engines.openvino()
import openvino.tools.ovc.telemetry_utils as utils
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")], sys.modules.keys()
assert utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub", utils.tm
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- TensorRT, whose library is nowhere here: its calls ---


class Recorder:
    """Answers each call with another of its kind, and notes it."""

    def __init__(self, calls: list[str], name: str = "trt") -> None:
        self._calls, self._name = calls, name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Recorder(self._calls, f"{self._name}.{name}")

    def __call__(self, *given: Any) -> Any:
        shown = [v if isinstance(v, (int, str, tuple)) else getattr(v, "_name", type(v).__name__) for v in given]
        self._calls.append(f"{self._name}({', '.join(map(str, shown))})")
        return Recorder(self._calls, self._name.rpartition(".")[2])


def test_tensorrt_is_called_as_its_api_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module, calls = importlib.import_module("mdfpipe.tracing.tensorrt"), list[str]()
    monkeypatch.setitem(sys.modules, "tensorrt", Recorder(calls))
    module.TensorRT(b"onnx", ["boxes"], "fp16", 0, "a.pt", "detect.detector.engine")._built((4, 384, 640, 3))
    shape = "(4, 384, 640, 3)"
    assert calls == [
        "trt.Logger(trt.Logger.ERROR)",
        "trt.Builder(Logger)",
        "Builder.create_network(0)",
        "trt.OnnxParser(create_network, Logger)",
        "OnnxParser.parse(bytes)",
        "Builder.create_builder_config()",
        f"create_builder_config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, {1 << 30})",
        "create_builder_config.clear_flag(trt.BuilderFlag.TF32)",
        "create_builder_config.set_flag(trt.BuilderFlag.FP16)",
        "Builder.create_optimization_profile()",
        f"create_optimization_profile.set_shape(images, {shape}, {shape}, {shape})",
        "create_builder_config.add_optimization_profile(create_optimization_profile)",
        "Builder.build_serialized_network(create_network, create_builder_config)",
        "trt.Runtime(Logger)",
        "Runtime.deserialize_cuda_engine(build_serialized_network)",
    ]
    with pytest.raises(ConfigError, match="tensorrt: runs on a GPU"):
        module.TensorRT(b"onnx", ["boxes"], "fp16", None, "a.pt", "detect.detector.engine")


# --- the embedder's ---


def embedding(**settings: Any) -> Embed:
    recipe = {"use": "face", "layers": 18, "width": 8, "image_height_px": 32, "image_width_px": 32}
    return Embed(system="a", settings=System(recipe=recipe | {"schedule": {"length": 0}}, **settings))


def of_embed(engine: str | None, rows: int = 1) -> dict[str, Any]:
    made = {} if engine is None else {"engine": {"name": engine, "version": "1", "precision": "fp32"}}
    return {"rows": {"ok": rows} if rows else {}} | made


def test_a_precision_that_an_engine_lacks_is_refused_before_the_training() -> None:
    with pytest.raises(ValueError, match="engine onnxruntime embeds in fp32, got precision bf16; take engine torch or"):
        embedding(engine="onnxruntime", precision="bf16")


def test_parts_of_embed_are_due_and_said_as_those_of_detect() -> None:
    for engine, due in (("auto", set()), ("torch", {"openvino"}), ("openvino", {None, "torch"})):
        stage = embedding(engine=engine)
        found = {name for name in (None, "torch", "openvino") if not stage.without_effect(of_embed(name))}
        assert found == due
        assert stage.without_effect(of_embed(None, rows=0)) == ("engine",)
        assert "engine" not in stage.settings.weight_settings()
    (line,) = embedding().review({"a": of_embed("torch"), "b": of_embed("openvino"), "c": of_embed(None, 0)}).lasting
    assert line.startswith("embed/a: several engines made the vectors, which differ between them by rounding: openvino")
    assert "name one in systems.a.engine" in line


@pytest.mark.parametrize(
    ("made", "crops", "agree", "taken"),
    [
        ([], 5000, True, "openvino"),
        ([], 5000, False, "torch"),
        ([], 999, True, "torch"),
        ([("torch", 1)], 5000, True, "torch"),
        ([(None, 1)], 5000, True, "torch"),  # of an earlier version
        ([("openvino", 1), (None, 0)], 5, True, "openvino"),  # a video without crops was made by none
    ],
)
def test_auto_of_embed(
    made: list[tuple[str | None, int]], crops: int, agree: bool, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "is_present", lambda name: True)
    monkeypatch.setattr(Embed, "count", lambda self, run: crops)
    monkeypatch.setattr(choice, "_compared", lambda *given: (agree, "so it is"))
    found = [of_embed(*one) for one in made]
    settled, notes = choice.with_engine(embedding(), found, Run(Path()), Path(), HERE)
    assert settled.settings.engine == taken  # type: ignore[attr-defined]
    assert notes == (["embed/a: so it is"] if not made and crops == 5000 else [])


@pytest.mark.parametrize(
    ("change", "agrees", "said"),
    [
        (0.0, True, r"^openvino .* fp32 embeds: 8 vectors of drawn .* at least 1\.0000000 with those of torch, fp32"),
        (0.5, False, r"^openvino .* fp32 is not taken, torch embeds: .*; expected 0\.99999 and 0\.001$"),
        (None, False, r"^openvino is not taken, torch embeds: the network is odd$"),
    ],
)
def test_vectors_are_compared(
    change: float | None, agrees: bool, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)

    def vectors(self: Embed, run: Run, resources: Resources) -> Any:
        if self.settings.engine == "torch":
            assert self.settings.precision == "fp32"
            return drawn
        if change is None:
            raise ConfigError("the network is odd")
        return drawn + np.float32(change)

    monkeypatch.setattr(Embed, "vectors_of_drawn", vectors)
    asked, native = embedding().under("openvino"), embedding().under("torch")
    found, line = choice.compare_vectors(asked, native, Run(tmp_path), HERE)
    assert found == agrees
    assert re.search(said, line)


@NEEDS_OPENVINO
def test_a_run_embeds_under_openvino_by_itself(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on with it; torch makes those parts due, and nothing else."""
    monkeypatch.setattr(choice, "WORTH", 1)
    home, auto = systems.copied(labelled, tmp_path / "home"), {"a": {"recipe": systems.loaded()}}
    torch = {"a": {"recipe": systems.loaded(), "engine": "torch"}}
    outcome, ran = systems.train(home, auto)
    assert outcome.complete
    assert [
        line for line in outcome.notes if line.startswith("embed/a: openvino ") and "fp32 embeds: 8 vectors" in line
    ]
    one = np.concatenate([systems.vectors(home, "a", video)[1] for video in systems.VIDEOS])
    assert made_by(home) == {"openvino"}
    assert systems.train(home, auto)[1] == []
    outcome, ran = systems.train(home, torch)
    assert ran == [f"embed/a/{video}" for video in systems.VIDEOS]
    assert made_by(home) == {"torch"}
    other = np.concatenate([systems.vectors(home, "a", video)[1] for video in systems.VIDEOS])
    assert agreement(one, other) >= (0.999999, 0.0)
    assert one.tobytes() != other.tobytes()
    assert systems.train(home, auto)[1] == []  # what is there is kept


def made_by(home: Path) -> set[str]:
    return {runs.facts(home / "run", "embed/a", video)["engine"]["name"] for video in systems.VIDEOS}
