"""YOLOv10-X in the detect stage on a GPU. A part of the benchmark `detect`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.detect_parts import FPS, facts, over, parts, random_weights
from benchmarks.material import drawn_video
from benchmarks.measure import Report, Times, in_turns, in_worker, ratio

SIZES = ((1280, 720), (1920, 1080))
PRECISIONS = ("fp32", "fp16", "bf16")


def measure(options: argparse.Namespace, report: Report, folder: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        report.notes.append(f"{options.device}: not measured, since torch {torch.__version__} sees no GPU here")
        return
    for width, height in SIZES:
        video = drawn_video(folder / f"clip{height}.mp4", options.frames, width, height, FPS)
        for threads in options.threads:
            tag = f"{height}p, {threads} thread{'s' * (threads > 1)}"
            frames, times = in_worker(_large, video, folder, options, threads, threads=threads)
            wall = {name: measured.wall for name, measured in times.items()}
            for name, measured in times.items():
                report.add(f"{tag}: {name}", measured.rate(frames), "frames/s")
            for precision in PRECISIONS:
                report.add(f"{tag}: stage / network alone, {precision}", *over(wall, "network alone", precision))
            decode = ratio(wall["decode alone"], wall["detect stage, bf16"])
            report.add(f"{tag}: stage / decode alone, bf16", decode, "")
        report.notes.append(f"{height}p: {facts(video, frames)}")
    report.notes += [
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {options.batch}, image_size "
        f"{options.image_size}; fp32 without TF32",
        "yolov10x with random weights: speed only; network alone: of its inputs, on the device",
    ]


def _large(
    video: Path, folder: Path, options: argparse.Namespace, threads: int, variant: str = "x"
) -> tuple[int, dict[str, Times]]:
    weights, tasks = random_weights(folder / f"{variant}.pt", variant), dict[str, Callable[[], Any]]()
    for precision in PRECISIONS:
        own, held, _ = parts(options, weights, precision, options.min_score, folder, video, threads)
        tasks |= own
    return sum(map(len, held)), in_turns(options.rounds, **tasks)
