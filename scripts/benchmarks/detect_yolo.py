"""YOLOv10 in the detect stage: against ultralytics' own predict, against its bare network, from 16 bits.

A part of the benchmark `detect`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from benchmarks.detect_parts import (
    FPS,
    OPENVINO,
    PRECISIONS,
    facts,
    parts,
    results_of_ultralytics,
    unit_of,
    weights_of,
    yolo,
)
from benchmarks.material import KEY, as_h264, do_unit, drawn_pictures, drawn_video, remuxed
from benchmarks.measure import NO_BF16, Report, Times, cores, expect, in_turns, in_worker, profiled, ratio

PEER = "ultralytics predict, fp32"
DEEP, SHALLOW = "16-bit FFV1", "8-bit H.264"
Found = list[tuple[Any, Any]]  # of each frame: xyxy (n, 4), score (n,)


def measure(options: argparse.Namespace, report: Report, folder: Path) -> None:
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
        f"{video.name}: {facts(video, seen['frames'])}, batch {options.batch}, "
        f"image_size {options.image_size}, {options.decoder}",
        f"thermal: {width}x{height}, the same pictures as {facts(deep, frames)} and {facts(shallow, frames)}; "
        "the stage reads 16 bits twice, first for what becomes black and white",
        "one spawned worker, everything loaded before; the stage probes, counts packets, decodes, commits",
        "detector alone: letterbox, network and boxes of the same frames in memory; network alone: of its inputs",
        "ultralytics: predict(video, stream=True, nms=False, classes=[person], rect=True), same score and batch; on a "
        "CPU its first call sets torch to one thread less than there are cores, and we set it back to ours",
        "boxes that agree: the smaller share of the two sides that have a partner, ours clipped as ultralytics clips",
    ]


def _tell(report: Report, tag: str, seen: dict[str, Any]) -> None:
    times, shares, frames = seen["times"], seen["shares"], seen["frames"]
    whole = {name: measured for name, measured in times.items() if not name.startswith("first ")}
    for name, measured in whole.items():
        report.add(f"{tag}: {name}", measured.rate(frames), "frames/s")
    for name, measured in whole.items():
        report.add(f"{tag}: {name}, all threads", 1000 * median(measured.cpu) / frames, "CPU ms a frame")
    wall = {name: measured.wall for name, measured in times.items()}
    for what in ("detector alone", "network alone"):
        report.add(f"{tag}: {what}, fp32 / ultralytics", ratio(wall[PEER], wall[f"{what}, fp32"]), "")
    cpu = times["detect stage, fp32"].cpu
    report.add(f"{tag}: detect stage, fp32 / ultralytics, in CPU time", ratio(times[PEER].cpu, cpu), "")
    least = ratio(times["network alone, fp32"].cpu, cpu)  # all that can be reached where the threads fill the cores
    report.add(f"{tag}: detect stage, fp32 / network alone, fp32, in CPU time", least, "")
    for precision in PRECISIONS:  # below 1: decoding ahead takes more from the detector's threads than it saves
        alone = [sum(both) for both in zip(wall[f"detector alone, {precision}"], wall["decode alone"], strict=True)]
        gain = ratio(alone, wall[f"detect stage, {precision}"])
        report.add(f"{tag}: detect stage, {precision} / decode, then detector, without overlap", gain, "")
    report.add(f"{tag}: boxes a frame", seen["boxes"] / frames, "")
    report.add(f"{tag}: boxes that agree with ultralytics on the same frames in memory", shares["memory"], "")
    stage = wall["detect stage, fp32"]
    report.aim(f"{tag}: detect stage, fp32 / ultralytics", ratio(wall[PEER], stage), ">=", 1.0)
    report.aim(f"{tag}: boxes of IoU >= 0.99 and score within 1e-3 of ultralytics'", shares["video"], ">=", 0.99)
    if "bf16" in shares:
        low = wall["detect stage, bf16"]
        report.aim(f"{tag}: detect stage, bf16 / ultralytics", ratio(wall[PEER], low), ">=", 1.8)
        report.aim(f"{tag}: boxes of bf16 of IoU >= 0.9 with those of fp32", shares["bf16"], ">=", 0.95)
    for how in (how for how in (*PRECISIONS, *OPENVINO) if f"detect stage, {how}" in times):
        _against_network(report, tag, how, seen)
    for how, least in zip(OPENVINO, (1.4, 3.3), strict=False):  # the second is of bf16
        if how in shares:
            fast = wall[f"detect stage, {how}"]
            report.aim(f"{tag}: detect stage, {how} / ultralytics, fp32", ratio(wall[PEER], fast), ">=", least)
            work = times[f"detect stage, {how}"].cpu  # says more than the clock where others use the cores
            report.add(f"{tag}: detect stage, {how} / ultralytics, in CPU time", ratio(times[PEER].cpu, work), "")
            same = "0.99" if "fp32" in how else "0.9"
            report.aim(f"{tag}: boxes of {how} of IoU >= {same} with those of torch, fp32", shares[how], ">=", 0.95)
    for below in (PEER, "network alone, fp32"):
        rounds = sorted(b / s for b, s in zip(wall[below], stage, strict=True))
        report.notes.append(f"{tag}: stage / {below} by round: {', '.join(f'{r:.2f}' for r in rounds)}")
    report.profile += seen["profile"]


def _against_network(report: Report, tag: str, how: str, seen: dict[str, Any]) -> None:
    """The stage in terms of its bare network; where decoding takes cores from the network, of what these allow."""
    times, frames, threads = seen["times"], seen["frames"], seen["threads"]
    network, stage = times[f"network alone, {how}"], times[f"detect stage, {how}"]
    share = ratio(network.wall, stage.wall)
    alone = [n + d for n, d in zip(network.cpu, times["decode alone"].cpu, strict=True)]
    bound = ratio(network.cpu, alone) if cores() < threads + 1 else 1.0
    if bound < 1:
        report.add(f"{tag}: detect stage, {how} / network alone", share, "")
        report.add(f"{tag}: what the cores allow of it: network / network and decode, {how}, in CPU time", bound, "")
    short = times[f"first {seen['first']} frames, {how}"]
    behind = [(a - b) / (frames - seen["first"]) for a, b in zip(stage.wall, short.wall, strict=True)]
    each = [seconds / frames for seconds in network.wall]
    if min(behind) > 0:  # a difference, which on a busy machine or over a few frames says nothing
        report.add(f"{tag}: the same behind the first {seen['first']} frames, {how}", ratio(each, behind), "")
    of = "network alone" if bound == 1 else "what the cores allow of the network"
    report.aim(f"{tag}: detect stage, {how} / {of}", share / bound, ">=", 0.9)


# --- the material ----------------------------------------------------------------------------------------------------


def _video(options: argparse.Namespace, folder: Path) -> Path:
    if options.video:
        return remuxed(options.video, folder / f"clip{options.video.suffix}", seconds=options.seconds)
    return drawn_video(folder / "clip.mp4", options.frames, options.size[0], options.size[1], FPS)


def _two_depths(options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """The same thermal pictures as 16-bit FFV1 and as 8-bit H.264; half of the size, as thermal cameras have it."""
    from mdfpipe.synth.write import encode, quantised

    width, height = options.size
    pictures, optics = drawn_pictures(options.frames, width // 2, height // 2, FPS, "MWIR-30m")
    held = list(pictures)
    encode(folder / "thermal.mkv", quantised(held, optics, True), FPS)
    return folder / "thermal.mkv", as_h264(folder / "thermal.mp4", quantised(held, optics, False), FPS)


# --- on a CPU --------------------------------------------------------------------------------------------------------


def _against_ultralytics(video: Path, folder: Path, options: argparse.Namespace, threads: int) -> dict[str, Any]:
    import torch

    weights, least = weights_of(options, folder), options.min_score
    if not (options.weights or weights == "demo"):
        least = _some_boxes(options, weights, folder, video)
    tasks, found = dict[str, Callable[[], Any]](), dict[str, Found]()
    notes = [f"weights {Path(weights).name}, score >= {least:.3g}, torch {torch.__version__}"]
    from mdfpipe.machine.engines import is_present
    from mdfpipe.video.decoders import Decoder

    engines = OPENVINO if is_present("openvino") else ()
    if "bf16" not in PRECISIONS:
        notes.append(NO_BF16)
    if not engines:
        notes.append("OpenVINO is not installed: not measured")
    begin = remuxed(video, folder / f"begin-{threads}{video.suffix}", seconds=options.batch / FPS)
    begun = list(Decoder.variant(options.decoder)().candidates(begin)[0].frames(begin))
    for precision in (*PRECISIONS, *engines):
        own, held, answers = parts(options, weights, precision, least, folder, video, threads)
        tasks |= own
        unit = unit_of(
            options, yolo(options, weights, precision, least), folder / f"begin-{precision}-{threads}", begin
        )
        first = partial(do_unit, unit, batch=options.batch, threads=threads)
        tasks[f"first {sum(map(len, begun))} frames, {precision}"] = first
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
        **{
            how: _agreement(found[how], found["fp32"], 0.99 if "fp32" in how else 0.9, 1.0)
            for how in (*PRECISIONS[1:], *engines)
        },
    }
    for how, boxes in found.items():
        expect(f"frames with an answer, {how}", len(boxes), len(shown))
        expect(f"boxes in all, {how}: some", sum(len(score) for _, score in boxes) > 0, True)
    times = in_turns(options.rounds, **{PEER: lambda: predict(video)}, **tasks)
    if torch.get_num_threads() != threads:
        notes.append(f"torch ended with {torch.get_num_threads()} threads: the ratios are not fair")
    return {
        "times": times,
        "shares": shares,
        "frames": len(shown),
        "first": sum(map(len, begun)),
        "threads": threads,
        "boxes": sum(len(score) for _, score in theirs),
        "notes": notes,
        "profile": profiled(tasks["detect stage, fp32"]) if options.profile else [],
    }


def _some_boxes(options: argparse.Namespace, weights: str, folder: Path, video: Path) -> float:
    """A score that about three boxes a frame reach: those of a network drawn at random are all alike."""
    run = yolo(options, weights, "fp32", 0.0).open(folder, KEY, device="cpu", threads=1)
    from mdfpipe.video.decoders import Decoder

    first = next(iter(Decoder.variant("auto")().frames(video, batch=options.batch)))
    scores = np.sort(np.concatenate([boxes.score for boxes in run(first)]))[::-1]
    return float(scores[min(3 * len(first), len(scores) - 1)])


def _ultralytics_predict(
    options: argparse.Namespace, weights: str, least: float, folder: Path
) -> Callable[[Any], Found]:
    results = results_of_ultralytics(options, weights, least, folder)
    return lambda source: [(result.boxes.xyxy.numpy(), result.boxes.conf.numpy()) for result in results(source)]


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
    weights, tasks = weights_of(options, folder), dict[str, Callable[[], Any]]()
    for name, video in ((DEEP, deep), (SHALLOW, shallow)):
        unit = unit_of(options, yolo(options, weights, "fp32", options.min_score), folder / video.suffix, video)
        decoder = unit.stage.decoder.candidates(video)[0]

        def decode(decoder: Any = decoder, video: Path = video) -> int:
            return sum(len(batch) for batch in decoder.frames(video, batch=options.batch, threads=threads))

        tasks[f"decode alone, {name}"] = decode
        tasks[f"detect stage, fp32, {name}"] = partial(do_unit, unit, batch=options.batch, threads=threads)
        frames = decode()
    return frames, in_turns(options.rounds, **tasks)
