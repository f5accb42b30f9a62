"""YOLOv10 in the detect stage, whole and by its parts: what the benchmark `detect` takes turns with."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.material import KEY, do_unit, make_unit
from benchmarks.measure import cpu_precisions, ratio

PRECISIONS = cpu_precisions()
OPENVINO = tuple(f"openvino {precision}" for precision in PRECISIONS)
FPS = 25  # of what is drawn: at 720p about 4 Mbit/s, as a network camera sends


def over(wall: dict[str, list[float]], what: str, precision: str) -> tuple[float, str]:
    """How fast the stage is in terms of a part of it."""
    return ratio(wall[f"{what}, {precision}"], wall[f"detect stage, {precision}"]), ""


def facts(video: Path, frames: int) -> str:
    from mdfpipe.video.probe import probe

    info = probe(video)
    return f"{info.codec} {info.width}x{info.height}, {frames} frames of {video.stat().st_size / frames / 1000:.1f} kB"


def random_weights(path: Path, variant: str, classes: int = 80) -> str:
    """A network that nobody trained: its speed is that of a trained one."""
    import torch

    from mdfpipe.video import ultralytics as _ultralytics

    torch.manual_seed(0)
    network = _ultralytics._library().DetectionModel(f"yolov10{variant}.yaml", nc=classes, verbose=False)
    torch.save(network.state_dict(), path)
    return str(path)


def weights_of(options: argparse.Namespace, folder: Path) -> str:
    """The weights that are asked for, else the demo's; where neither is there, random ones."""
    from mdfpipe.video.detectors.yolo import DEMO

    if options.weights or DEMO.is_file():
        return options.weights or "demo"
    return random_weights(folder / "random.pt", "n", 1)  # of 80 classes alike, persons would rarely come first


def yolo(options: argparse.Namespace, weights: str, how: str, least: float) -> Any:
    """The detector. how: a precision, of torch, or an engine and a precision."""
    from mdfpipe.video.detectors import Detector

    *engine, precision = how.split()
    return Detector.variant("yolo").model_validate(
        {"weights": weights, "precision": precision, "min_score": least, "image_size": options.image_size}
        | {"engine": engine[0] if engine else "torch"}
    )


def unit_of(options: argparse.Namespace, detector: Any, run: Path, video: Path) -> Any:
    from mdfpipe.stages.detect import Detect
    from mdfpipe.video.decoders import Decoder

    return make_unit(Detect(detector=detector, decoder=Decoder.variant(options.decoder)()), run, video)


def results_of_ultralytics(
    options: argparse.Namespace, weights: str, least: float, folder: Path
) -> Callable[[Any], Iterable[Any]]:
    """ultralytics as its users call it, on the same weights in a checkpoint of its own form: results as they come."""
    import torch

    from mdfpipe.video import ultralytics as _ultralytics

    place = folder / "ultralytics.pt"
    network = _ultralytics.load(yolo(options, weights, "fp32", least).find(folder)).network
    torch.save({"epoch": -1, "model": network, "ema": None, "train_args": {}}, place)
    model = _ultralytics._library("ultralytics").YOLO(str(place), task="detect")
    asked = {"conf": least, "classes": [0], "imgsz": options.image_size, "batch": options.batch, "device": "cpu"}
    quiet = {"save": False, "verbose": False, "project": str(folder)}

    def results(source: Any) -> Iterable[Any]:
        given = str(source) if isinstance(source, Path) else source
        found: Iterable[Any] = model.predict(given, stream=True, nms=False, rect=True, **asked, **quiet)
        return found

    return results


def parts(
    options: argparse.Namespace, weights: str, precision: str, least: float, folder: Path, video: Path, threads: int
) -> tuple[dict[str, Callable[[], Any]], list[Any], Any]:
    """What the stage does, whole and by parts, by name; the frames in memory; and their boxes, batch by batch."""
    import torch

    device, batch = options.device, options.batch
    detector = yolo(options, weights, precision, least)
    unit = unit_of(options, detector, folder / f"run-{precision}-{video.stem}-{threads}", video)
    decoder = unit.stage.decoder.candidates(video)[0]
    run = detector.open(folder, KEY, device=device, threads=threads)
    held = list(decoder.frames(video, batch=batch, threads=threads))
    prepared: list[Any] = []
    if run.network.engine != "torch":
        return _under_engine(run, precision, held, unit, batch, threads)
    run.network.module.register_forward_pre_hook(lambda module, given: prepared.append(given[0].clone()))
    answers = [run(frames) for frames in held]
    run.network.module._forward_pre_hooks.clear()

    def network() -> None:
        with torch.inference_mode():
            for images in prepared:
                run.network.module(images)
        if device != "cpu":
            torch.cuda.synchronize()

    tasks = {
        f"detect stage, {precision}": lambda: do_unit(unit, batch=batch, threads=threads, device=device),
        f"detector alone, {precision}": lambda: [run(frames) for frames in held],
        f"network alone, {precision}": network,
        "decode alone": lambda: [len(b) for b in decoder.frames(video, batch=batch, threads=threads)],
    }
    return tasks, held, answers


def _under_engine(
    run: Any, how: str, held: list[Any], unit: Any, batch: int, threads: int
) -> tuple[dict[str, Callable[[], Any]], list[Any], Any]:
    """The same under another engine; what its network is given is kept by the way."""
    prepared: list[Any] = []
    network = run.network

    def keep(images: Any) -> Any:
        prepared.append(images.copy())
        return network.run(images)

    run.network = replace(network, run=keep)
    answers = [run(frames) for frames in held]
    run.network = network
    tasks = {
        f"detect stage, {how}": lambda: do_unit(unit, batch=batch, threads=threads, device="cpu"),
        f"detector alone, {how}": lambda: [run(frames) for frames in held],
        f"network alone, {how}": lambda: [network.run(images) for images in prepared],
    }
    return tasks, held, answers
