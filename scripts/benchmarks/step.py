"""a training step of each recipe at its paper's settings: seconds, images a batch, memory"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Report, in_turns, in_worker
from benchmarks.memory import peak_mb
from benchmarks.train_material import pictures
from benchmarks.train_parts import Training, modality, stored_size

PUBLISHED_ON = {"body": ("VIS-500m", "SWIR-30m", "MWIR-30m", "LWIR-30m"), "face": ("VIS-500m", "SWIR-30m")}
PAIR = ("VIS", "NIR")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", nargs="+", help="(all)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="steps that are timed, after one that is not (2)")
    parser.add_argument("--small", action="store_true", help="networks of a toy's size, to try it out")


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    from mdfpipe.learning.recipes import Recipe

    for name in options.recipe or Recipe.methods():
        shard = folder / f"{modality(name)}.tar"
        places = pictures(shard, stored_size(name, options.small))
        given = (name, shard, places, options.precision, options.threads, options.rounds, options.small)
        wall, images, peak, size = in_worker(_step, *given, threads=options.threads)
        report.add(f"{name}, {size}: a step of {images} images", median(wall), "s")
        report.add(f"{name}, {size}: rate", images / median(wall), "images/s")
        report.add(f"{name}, {size}: peak memory of the worker", peak, "MB")
    report.notes.append(
        f"forward, losses, backward and optimiser, batch in memory; {options.precision}, {options.threads} threads; "
        "batches are those of the recipe's defaults"
    )


def _step(
    name: str, shard: Path, places: Any, precision: str, threads: int, rounds: int, small: bool
) -> tuple[list[float], int, float, str]:
    """(seconds of each step, images a batch, peak memory in MB, the size of an image)."""
    from mdfpipe.config import validate
    from mdfpipe.learning.recipes import Recipe

    kind = Recipe.variant(name)
    recipe = validate(kind, kind.tiny if small else {}, name)
    training = Training(recipe, shard, places, 1, threads, precision, PUBLISHED_ON.get(name, PAIR))
    task = training.network_alone(training.read(training.loader(0)))
    times = in_turns(rounds, step=task)["step"]
    return times.wall, training.images, peak_mb(), f"{recipe.image_height_px}x{recipe.image_width_px}"
