"""the detect stage: YOLOv10 against ultralytics and its bare network, or another detector against itself"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.material import KEY, do_unit, make_unit, remuxed
from benchmarks.measure import ASSETS, Report, in_turns, in_worker, profiled, ratio

from benchmarks import detect_gpu, detect_yolo


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detector", choices=["yolo", "onnx"], default="yolo")
    parser.add_argument("--video", type=Path, help="yolo: instead of the drawn clip; onnx: instead of a real one")
    parser.add_argument("--weights", help="yolo: demo, or a .pt file (demo); onnx: a .onnx file (YOLOX-nano)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of a real clip (30)")
    parser.add_argument("--frames", type=int, default=48, help="of a drawn clip (48)")
    parser.add_argument("--size", type=int, nargs=2, default=[1280, 720], metavar=("W", "H"), help="of a drawn clip")
    parser.add_argument("--image-size", type=int, default=640, help="yolo: the network's input (640)")
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.25,
        help="yolo: least detector confidence; boxes below it are dropped (0.25)",
    )
    parser.add_argument("--device", default="cpu", help="yolo: cuda measures YOLOv10-X, drawn at random, on a GPU")
    parser.add_argument("--decoder", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the worker (1 2)")
    parser.add_argument("--rounds", type=int, default=3)


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    if options.detector == "onnx":
        _onnx(options, report, folder)
    elif options.device == "cpu":
        detect_yolo.measure(options, report, folder)
    else:
        detect_gpu.measure(options, report, folder)


def _onnx(options: argparse.Namespace, report: Report, folder: Path) -> None:
    source = options.video or ASSETS / "real-walk" / "videos" / "one-by-one-person-detection.mp4"
    weights = Path(options.weights or ASSETS / "weights" / "yolox_nano_416.onnx")
    if not (source.is_file() and weights.is_file()):
        raise SystemExit(f"scripts/bench: {source} or {weights} is missing; name others, or fetch them")
    video = remuxed(source, folder / f"clip{source.suffix}", seconds=options.seconds)
    for threads in options.threads:
        frames, times, profile = in_worker(_detect, video, weights, folder, options, threads, threads=threads)
        tag = f"{threads} thread{'s' * (threads > 1)}"
        for name, measured in times.items():
            report.add(f"{tag}: {name}", measured.rate(frames), "frames/s")
        for name, measured in times.items():
            report.add(f"{tag}: {name}, all threads", 1000 * median(measured.cpu) / frames, "CPU ms a frame")
        bare, stage, decode = (times[name] for name in ("bare detector", "detect stage", "decode alone"))
        alone = [b + d for b, d in zip(bare.wall, decode.wall, strict=True)]
        report.add(f"{tag}: bound without overlap, 1/(1/decode + 1/bare)", ratio(bare.wall, alone), "of bare")
        report.add(f"{tag}: bare / stage in CPU time", ratio(bare.cpu, stage.cpu), "")
        rounds = sorted(b / s for b, s in zip(bare.wall, stage.wall, strict=True))
        report.notes.append(f"{tag}: stage / bare by round: {', '.join(f'{r:.2f}' for r in rounds)}")
        report.aim(f"{tag}: stage / bare", ratio(bare.wall, stage.wall), ">=", 0.9)
        report.profile += profile
    report.notes += [
        f"{source.name}, {frames} frames, {options.decoder}, batch {options.batch}, {weights.name}",
        "one spawned worker, model loaded before on both sides; the stage probes, counts packets, decodes, commits",
        "bare detector: letterbox, network and boxes of the same frames, held in memory",
    ]


def _detect(
    video: Path, weights: Path, folder: Path, options: argparse.Namespace, threads: int
) -> tuple[int, Any, list[str]]:
    from mdfpipe.stages.detect import Detect
    from mdfpipe.video.decoders import Decoder
    from mdfpipe.video.detectors import Detector

    detector = Detector.variant("onnx").model_validate({"weights": str(weights.absolute())})
    unit = make_unit(Detect(detector=detector, decoder=Decoder.variant(options.decoder)()), folder / "run", video)
    decoder = unit.stage.decoder.candidates(video)[0]
    run = detector.open(folder, KEY, device="cpu", threads=threads)
    held = list(decoder.frames(video, batch=options.batch, threads=threads))
    run(held[0])

    def stage() -> None:
        do_unit(unit, batch=options.batch, threads=threads)

    seconds = in_turns(
        options.rounds,
        **{
            "bare detector": lambda: [run(batch) for batch in held],
            "detect stage": stage,
            "decode alone": lambda: [len(b) for b in decoder.frames(video, batch=options.batch, threads=threads)],
        },
    )
    return sum(map(len, held)), seconds, profiled(stage) if options.profile else []
