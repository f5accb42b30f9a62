"""YOLOv10 in the detect stage: against ultralytics' own predict, against its bare network, from 16 bits, on a GPU.

A part of the benchmark `detect`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.material import KEY, as_h264, do_unit, drawn_pictures, drawn_video, make_unit, remuxed
from benchmarks.measure import Report, Times, in_turns, in_worker, profiled, ratio

PEER = "ultralytics predict, fp32"
PRECISIONS = ("fp32", "bf16")
GPU_SIZES = ((1280, 720), (1920, 1080))
Found = list[tuple[Any, Any]]  # of each frame: xyxy (n, 4), score (n,)


def measure(options: argparse.Namespace, report: Report, folder: Path) -> None:
    if options.device != "cpu":
        _on_a_gpu(options, report, folder)
        return
    video = _video(options, folder)
    deep, shallow = _two_depths(options, folder)
    for threads in options.threads:
        tag = f"{threads} thread{'s' * (threads > 1)}"
        seen = in_worker(_against_ultralytics, video, folder, options, threads, threads=threads)
        _tell(report, tag, seen)
        report.notes += [f"{tag}: {note}" for note in seen["notes"]]
        frames, times = in_worker(_depths, deep, shallow, folder, options, threads, threads=threads)
        for name, measured in times.items():
            report.add(f"{tag}: {name}", measured.rate(frames), "frames/s")
        for what in ("decode alone", "detect stage, fp32"):
            one, other = (times[f"{what}, {kind}"].wall for kind in (DEEP, SHALLOW))
            report.add(f"{tag}: {what}: {DEEP} / {SHALLOW}", ratio(other, one), "")
    width, height = (side // 2 for side in options.size)
    report.notes += [
        f"{video.name}: {_facts(video, seen['frames'])}, batch {options.batch}, image_size {options.image_size}, {options.decoder}",
        f"thermal: {width}x{height}, the same pictures as {_facts(deep, frames)} and {_facts(shallow, frames)}; "
        "the stage reads 16 bits twice, first for what becomes black and white",
        "one spawned worker, everything loaded before; the stage probes, counts packets, decodes, commits",
        "detector alone: letterbox, network and boxes of the same frames in memory; network alone: of its inputs",
        "ultralytics: predict(video, stream=True, nms=False, classes=[person], rect=True), same score and batch; on a "
        "CPU its first call sets torch to one thread less than there are cores, and we set it back to ours",
        "boxes that agree: the smaller share of the two sides that have a partner, ours clipped as ultralytics clips",
    ]


def _tell(report: Report, tag: str, seen: dict[str, Any]) -> None:
    times, shares, frames = seen["times"], seen["shares"], seen["frames"]
    for name, measured in times.items():
        report.add(f"{tag}: {name}", measured.rate(frames), "frames/s")
    wall = {name: measured.wall for name, measured in times.items()}
    for what in ("detector alone", "network alone"):
        report.add(f"{tag}: {what}, fp32 / ultralytics", ratio(wall[PEER], wall[f"{what}, fp32"]), "")
    report.add(f"{tag}: detect stage, bf16 / network alone, bf16", *_over(wall, "network alone", "bf16"))
    report.add(f"{tag}: boxes a frame", seen["boxes"] / frames, "")
    report.add(f"{tag}: boxes that agree with ultralytics on the same frames in memory", shares["memory"], "")
    stage, low = wall["detect stage, fp32"], wall["detect stage, bf16"]
    report.aim(f"{tag}: detect stage, fp32 / ultralytics", ratio(wall[PEER], stage), ">=", 1.0)
    report.aim(f"{tag}: boxes of IoU >= 0.99 and score within 1e-3 of ultralytics'", shares["video"], ">=", 0.99)
    report.aim(f"{tag}: detect stage, bf16 / ultralytics", ratio(wall[PEER], low), ">=", 1.8)
    report.aim(f"{tag}: boxes of bf16 of IoU >= 0.9 with those of fp32", shares["bf16"], ">=", 0.95)
    report.aim(f"{tag}: detect stage, fp32 / network alone, fp32", _over(wall, "network alone", "fp32")[0], ">=", 0.9)
    for below in (PEER, "network alone, fp32"):
        rounds = sorted(b / s for b, s in zip(wall[below], stage, strict=True))
        report.notes.append(f"{tag}: stage / {below} by round: {', '.join(f'{r:.2f}' for r in rounds)}")
    report.profile += seen["profile"]


def _over(wall: dict[str, list[float]], what: str, precision: str) -> tuple[float, str]:
    """How fast the stage is in terms of a part of it."""
    return ratio(wall[f"{what}, {precision}"], wall[f"detect stage, {precision}"]), ""


# --- the material ----------------------------------------------------------------------------------------------------

DEEP, SHALLOW = "16-bit FFV1", "8-bit H.264"


def _video(options: argparse.Namespace, folder: Path) -> Path:
    if options.video:
        return remuxed(options.video, folder / f"clip{options.video.suffix}", seconds=options.seconds)
    return drawn_video(folder / "clip.mp4", options.frames, *options.size)


def _two_depths(options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """The same thermal pictures as 16-bit FFV1 and as 8-bit H.264; half of the size, as thermal cameras have it."""
    from mdfpipe.synth.write import encode, quantised

    width, height = options.size
    pictures, optics = drawn_pictures(options.frames, width // 2, height // 2, "MWIR-30m")
    held = list(pictures)
    encode(folder / "thermal.mkv", quantised(held, optics, True), 10)
    return folder / "thermal.mkv", as_h264(folder / "thermal.mp4", quantised(held, optics, False))


def _facts(video: Path, frames: int) -> str:
    from mdfpipe.video.probe import probe

    info = probe(video)
    return f"{info.codec} {info.width}x{info.height}, {frames} frames of {video.stat().st_size / frames / 1000:.0f} kB"


def _random_weights(path: Path, variant: str) -> str:
    """A network that nobody trained: its speed is that of a trained one."""
    import torch

    from mdfpipe.video.detectors import _ultralytics

    torch.manual_seed(0)
    network = _ultralytics._library().DetectionModel(f"yolov10{variant}.yaml", nc=80, verbose=False)
    torch.save(network.state_dict(), path)
    return str(path)


def _weights(options: argparse.Namespace, folder: Path) -> str:
    from mdfpipe.video.detectors import yolo

    if options.weights or yolo.DEMO.is_file():
        return options.weights or "demo"
    return _random_weights(folder / "random.pt", "n")


def _detector(options: argparse.Namespace, weights: str, precision: str, least: float) -> Any:
    from mdfpipe.video.detectors import Detector

    return Detector.variant("yolo")(
        weights=weights, precision=precision, min_score=least, image_size=options.image_size
    )


def _unit(options: argparse.Namespace, detector: Any, run: Path, video: Path) -> Any:
    from mdfpipe.stages.detect import Detect
    from mdfpipe.video.decoders import Decoder

    return make_unit(Detect(detector=detector, decoder=Decoder.variant(options.decoder)()), run, video)


def _parts(
    options: argparse.Namespace, weights: str, precision: str, least: float, folder: Path, video: Path, threads: int
) -> tuple[dict[str, Callable[[], Any]], list[Any], Any]:
    """What the stage does, whole and by parts, by name; the frames in memory; and the detector as a function."""
    import torch

    device, batch = options.device, options.batch
    detector = _detector(options, weights, precision, least)
    unit = _unit(options, detector, folder / f"run-{precision}-{video.stem}-{threads}", video)
    decoder = unit.stage.decoder.candidates(video)[0]
    run = detector.open(folder, KEY, device=device, threads=threads)
    held = list(decoder.frames(video, batch=batch, threads=threads))
    prepared = []
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


# --- on a CPU --------------------------------------------------------------------------------------------------------


def _against_ultralytics(video: Path, folder: Path, options: argparse.Namespace, threads: int) -> dict[str, Any]:
    import torch

    weights, least = _weights(options, folder), options.min_score
    if not (options.weights or weights == "demo"):
        least = _some_boxes(options, weights, folder, video)
    tasks, found, notes = {}, {}, [f"weights {Path(weights).name}, score >= {least:.3g}, torch {torch.__version__}"]
    for precision in PRECISIONS:
        own, held, answers = _parts(options, weights, precision, least, folder, video, threads)
        tasks |= own
        found[precision] = [(b.xyxy, b.score) for boxes in answers for b in boxes]
    predict = _ultralytics_predict(options, weights, least, folder)
    predict([held[0].pixels[0]])  # the first call sets the number of threads
    torch.set_num_threads(threads)
    theirs = predict(video)
    shown = [np.ascontiguousarray(image[:, :, ::-1]) for frames in held for image in frames.pixels]
    height, width = shown[0].shape[:2]
    edges = np.array([width, height, width, height], np.float32)
    ours = [(xyxy.clip(0, edges), score) for xyxy, score in found["fp32"]]
    shares = {
        "video": _agreement(ours, theirs, 0.99, 1e-3),
        "memory": _agreement(ours, predict(shown), 0.99, 1e-3),
        "bf16": _agreement(found["bf16"], found["fp32"], 0.9, 1.0),
    }
    times = in_turns(options.rounds, **{PEER: lambda: predict(video)}, **tasks)
    if torch.get_num_threads() != threads:
        notes.append(f"torch ended with {torch.get_num_threads()} threads: the ratios are not fair")
    return {
        "times": times,
        "shares": shares,
        "frames": len(shown),
        "boxes": sum(len(score) for _, score in theirs),
        "notes": notes,
        "profile": profiled(tasks["detect stage, fp32"]) if options.profile else [],
    }


def _some_boxes(options: argparse.Namespace, weights: str, folder: Path, video: Path) -> float:
    """A score that about three boxes a frame reach: those of a network drawn at random are all alike."""
    run = _detector(options, weights, "fp32", 0.0).open(folder, KEY, device="cpu", threads=1)
    from mdfpipe.video.decoders import Decoder

    first = next(iter(Decoder.variant("auto")().frames(video, batch=options.batch)))
    scores = np.sort(np.concatenate([boxes.score for boxes in run(first)]))[::-1]
    return float(scores[min(3 * len(first), len(scores) - 1)])


def _ultralytics_predict(
    options: argparse.Namespace, weights: str, least: float, folder: Path
) -> Callable[[Any], Found]:
    """ultralytics as its users call it, on the same weights in a checkpoint of its own form."""
    import torch

    from mdfpipe.video.detectors import _ultralytics

    place = folder / "ultralytics.pt"
    network = _ultralytics.load(_detector(options, weights, "fp32", least).find(folder))
    torch.save({"epoch": -1, "model": network, "ema": None, "train_args": {}}, place)
    model = _ultralytics._library("ultralytics").YOLO(str(place), task="detect")
    asked = {"conf": least, "classes": [0], "imgsz": options.image_size, "batch": options.batch, "device": "cpu"}
    quiet = {"save": False, "verbose": False, "project": str(folder)}

    def predict(source: Any) -> Found:
        given = str(source) if isinstance(source, Path) else source
        results = model.predict(given, stream=True, nms=False, rect=True, **asked, **quiet)
        return [(result.boxes.xyxy.numpy(), result.boxes.conf.numpy()) for result in results]

    return predict


def _agreement(a: Found, b: Found, least_iou: float, score: float) -> float:
    """The share of the boxes of `a` that have a partner in `b`, or of `b` in `a` where that is less."""
    from mdfpipe.video.geometry import iou

    total, met = np.zeros(2), np.zeros(2)
    for (a_xyxy, a_score), (b_xyxy, b_score) in zip(a, b, strict=True):
        same = (iou(a_xyxy[:, None], b_xyxy[None]) >= least_iou) & (np.abs(a_score[:, None] - b_score) <= score)
        total += len(a_score), len(b_score)
        met += same.any(axis=1).sum(), same.any(axis=0).sum()
    return float((met / np.maximum(total, 1)).min())


def _depths(
    deep: Path, shallow: Path, folder: Path, options: argparse.Namespace, threads: int
) -> tuple[int, dict[str, Times]]:
    weights, tasks = _weights(options, folder), {}
    for name, video in ((DEEP, deep), (SHALLOW, shallow)):
        unit = _unit(options, _detector(options, weights, "fp32", options.min_score), folder / video.suffix, video)
        decoder = unit.stage.decoder.candidates(video)[0]

        def decode(decoder: Any = decoder, video: Path = video) -> int:
            return sum(len(batch) for batch in decoder.frames(video, batch=options.batch, threads=threads))

        tasks[f"decode alone, {name}"] = decode
        tasks[f"detect stage, fp32, {name}"] = lambda unit=unit: do_unit(unit, batch=options.batch, threads=threads)
        frames = decode()
    return frames, in_turns(options.rounds, **tasks)


# --- on a GPU --------------------------------------------------------------------------------------------------------


def _on_a_gpu(options: argparse.Namespace, report: Report, folder: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        report.notes.append(f"{options.device}: not measured, since torch {torch.__version__} sees no GPU here")
        return
    for width, height in GPU_SIZES:
        video = drawn_video(folder / f"clip{height}.mp4", options.frames, width, height)
        for threads in options.threads:
            tag = f"{height}p, {threads} thread{'s' * (threads > 1)}"
            frames, times = in_worker(_large, video, folder, options, threads, threads=threads)
            wall = {name: measured.wall for name, measured in times.items()}
            for name, measured in times.items():
                report.add(f"{tag}: {name}", measured.rate(frames), "frames/s")
            for precision in PRECISIONS:
                report.add(f"{tag}: stage / network alone, {precision}", *_over(wall, "network alone", precision))
            decode = ratio(wall["decode alone"], wall["detect stage, bf16"])
            report.add(f"{tag}: stage / decode alone, bf16", decode, "")
        report.notes.append(f"{height}p: {_facts(video, frames)}")
    report.notes += [
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {options.batch}, image_size "
        f"{options.image_size}; fp32 without TF32",
        "yolov10x with random weights: speed only; network alone: of its inputs, on the device",
    ]


def _large(
    video: Path, folder: Path, options: argparse.Namespace, threads: int, variant: str = "x"
) -> tuple[int, dict[str, Times]]:
    weights, tasks = _random_weights(folder / f"{variant}.pt", variant), {}
    for precision in PRECISIONS:
        own, held, _ = _parts(options, weights, precision, options.min_score, folder, video, threads)
        tasks |= own
    return sum(map(len, held)), in_turns(options.rounds, **tasks)
