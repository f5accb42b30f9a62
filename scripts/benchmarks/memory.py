"""peak memory of a detect worker, a video against one ten times as long"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.material import KEY, do_unit, drawn_video, make_unit, remuxed
from benchmarks.measure import Report, in_worker

SLOW = 40  # frames a second


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=int, default=10, help="length of the shorter video (10)")
    parser.add_argument("--decoder", nargs="+", default=["decord", "pyav"])
    parser.add_argument("--detector", nargs="+", default=["onnx", "precomputed"], choices=["onnx", "precomputed"])


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    minute = drawn_video(folder / "minute.mp4", 600, 320, 180)
    lengths = (options.minutes, 10 * options.minutes)
    videos = {n: remuxed(minute, folder / f"clip{n}.mp4", copies=n) for n in lengths}
    three_boxes_onnx(folder / "three.onnx")
    for detector in options.detector:
        for decoder in options.decoder:
            peaks = {}
            for minutes, video in videos.items():
                rows, before, peak, wall = in_worker(_peak, video, folder, detector, decoder, 600 * minutes)
                peaks[minutes] = peak
                tag = f"{detector}, {decoder}, {minutes} minutes"
                report.add(f"{tag}: peak of the worker", peak, "MB")
                report.notes.append(f"{tag}: {rows} rows, {before:.0f} MB with libraries loaded, {wall:.1f} s")
            growth = peaks[lengths[1]] - peaks[lengths[0]]
            report.aim(f"{detector}, {decoder}: growth", growth, "<=", 100, "MB")
    large = drawn_video(folder / "large.mp4", 100, 1280, 720)
    remuxed(large, folder / "slow.mp4", copies=6)
    for decoder in options.decoder:
        before, peak = in_worker(_behind_a_slow_detector, folder / "slow.mp4", decoder)
        report.add(f"{decoder}, 600 frames of 1280x720 at {SLOW} frames/s: peak above the start", peak - before, "MB")
    report.notes.append("320x180 at 10 frames/s, 3 boxes a frame; peak: VmHWM of a fresh worker, commit included")


def _peak(video: Path, folder: Path, detector: str, decoder: str, frames: int) -> tuple[int, float, float, float]:
    from mdfpipe.stages.detect import Detect
    from mdfpipe.video.decoders import Decoder
    from mdfpipe.video.detectors import Detector

    if detector == "onnx":
        made = Detector.variant("onnx").model_validate({"weights": str(folder / "three.onnx")})
    else:
        boxes = folder / f"{KEY}{frames}.csv"
        if not boxes.exists():
            line = "{0},20.5,30.5,80.5,170.5,0.91\n{0},120.5,30.5,180.5,170.5,0.92\n{0},220.5,30.5,280.5,170.5,0.93\n"
            boxes.write_text("frame,x1,y1,x2,y2,score\n" + "".join(line.format(n) for n in range(frames)))
        made = Detector.variant("precomputed").model_validate({"boxes": str(folder / f"{{video_id}}{frames}.csv")})
    stage = Detect(detector=made, decoder=Decoder.variant(decoder)())
    unit = make_unit(stage, folder / "run", video)
    import decord  # noqa: F401

    before, started = peak_mb(), time.perf_counter()
    event = do_unit(unit)
    if (event.rows, event.facts["delivered"]) != (3 * frames, frames):
        raise SystemExit(f"scripts/bench: expected {frames} frames with 3 boxes each, got {event}")
    return event.rows, before, peak_mb(), time.perf_counter() - started


def _behind_a_slow_detector(video: Path, decoder: str) -> tuple[float, float]:
    """Peak before and after a whole pass that takes its time with each frame, as a large detector does."""
    from mdfpipe.video.ahead import ahead
    from mdfpipe.video.decoders import Decoder

    frames = ahead(Decoder.variant(decoder)().frames(video, batch=8))
    next(frames)
    before = peak_mb()
    for batch in frames:
        time.sleep(len(batch) / SLOW)
    return before, peak_mb()


def peak_mb() -> float:
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def three_boxes_onnx(path: Path) -> None:
    """A network of YOLOv10's shape that sees the same three people in every picture."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    boxes = np.array([[[20 + 50 * n, 10, 50 + 50 * n, 85, 0.9, 0] for n in range(3)]], np.float32)
    constants = {"boxes": boxes, "start": np.array([0]), "end": np.array([1]), "shape": np.array([3, 6])}
    nodes = [
        helper.make_node("Shape", ["images"], ["size"]),
        helper.make_node("Slice", ["size", "start", "end"], ["batch"]),
        helper.make_node("Concat", ["batch", "shape"], ["wanted"], axis=0),
        helper.make_node("Expand", ["boxes", "wanted"], ["output"]),
    ]
    ends: list[tuple[str, list[str | int | None]]] = [("images", ["B", 3, 96, 160]), ("output", ["B", 3, 6])]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in ends]
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "three", values[:1], values[1:], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
