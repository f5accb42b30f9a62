"""training: loader alone, network alone, both together against what shared cores allow"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Report, cpu_precisions, in_turns, in_worker, profiled
from benchmarks.train_material import pictures
from benchmarks.train_parts import BATCH, CACHE, LOADER, NETWORKS, Training, keep_to, recipe_of, stored_size

from benchmarks import train_gpu


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", nargs="+", choices=NETWORKS, help="(striped mini face; cuda: base)")
    parser.add_argument(
        "--precision", nargs="+", choices=["fp32", "bf16", "fp16"], help="(those it computes in; cuda: bf16)"
    )
    parser.add_argument("--batch", type=int, nargs="+", help="crops of a batch (by network; cuda: 64 256)")
    parser.add_argument("--batches", type=int, default=8, help="of a round (8)")
    parser.add_argument("--threads", type=int, nargs="+", help="of the worker (1 2; cuda: 8)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="cuda measures a GPU, with and without torch.compile")
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out")
    parser.add_argument("--small", action="store_true", help="crops and networks of a toy's size, to try it out")


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    if options.device != "cpu":
        train_gpu.measure(options, report, folder)
        return
    for network in options.network or ("striped", "mini", "face"):
        shard = folder / f"{network}.tar"
        places = pictures(shard, stored_size(network, options.small))
        for batch in options.batch or [BATCH[network]]:
            for precision in options.precision or cpu_precisions():
                for threads in options.threads or (1, 2):
                    given = (network, batch, precision, threads, options.batches, options.small)
                    tag = f"{network}, {precision}, {threads} thread{'s' * (threads > 1)}"
                    _report(report, tag, in_worker(_turns, shard, places, given, options, threads=threads))
                    peak = in_worker(_peak, shard, places, given, threads=threads)
                    report.add(f"{tag}: peak memory of the worker", peak, "MB")
            recipe = recipe_of(network, batch, small=options.small)
            size = f"{recipe.image_height_px}x{recipe.image_width_px}"
            stored = "x".join(map(str, stored_size(network, options.small)))
            report.notes.append(f"{network}: batches of {batch} crops at {size}, stored as JPEG at {stored}")
    report.notes += [
        "a worker keeps to as many cores as it has threads: loader and network share them, and nothing hides the other",
        "training: the loop of `mdfpipe train` without its beginning and its state file; network alone: forward, "
        "losses, backward, step",
        "bound: 1 / (1 / loader + 1 / network)",
    ]


def _report(report: Report, tag: str, found: tuple[int, Any, dict[str, list[float]], list[str]]) -> None:
    images, times, rates, profile = found
    network = times["network alone"]
    report.add(f"{tag}: network alone", network.rate(images), "images/s")
    for source in LOADER:
        loader = times[f"loader alone, {source}"]
        bound = [images / (a + b) for a, b in zip(loader.wall, network.wall, strict=True)]
        report.add(f"{tag}: loader alone, {source}", loader.rate(images), "images/s")
        report.add(f"{tag}: training, {source}", median(rates[source]), "images/s")
        share = median(r / b for r, b in zip(rates[source], bound, strict=True))
        report.aim(f"{tag}: training / bound, {source}", share, ">=", 0.9)
    report.profile += profile


def _turns(shard: Path, places: Any, given: tuple[Any, ...], options: argparse.Namespace) -> Any:
    network, batch, precision, threads, steps, small = given
    keep_to(threads)
    training = Training(recipe_of(network, batch, steps, small=small), shard, places, steps, threads, precision)
    loaders = {source: training.loader(cache) for source, cache in LOADER.items()}
    tasks: dict[str, Any] = {"network alone": training.network_alone(training.read(loaders["decoding"]))}
    rates: dict[str, list[float]] = {source: [] for source in LOADER}
    for source, loader in loaders.items():
        tasks[f"loader alone, {source}"] = lambda loader=loader: training.drain(loader)
        tasks[f"training, {source}"] = lambda source=source, loader=loader: rates[source].append(training.fit(loader))
    times = in_turns(options.rounds, **tasks)
    counted = {source: found[1:] for source, found in rates.items()}  # the first round does not count
    profile = profiled(lambda: training.fit(loaders["decoding"])) if options.profile else []
    return training.images, times, counted, profile


def _peak(shard: Path, places: Any, given: tuple[Any, ...]) -> float:
    """Of a fresh worker that does nothing else."""
    from benchmarks.memory import peak_mb

    network, batch, precision, threads, steps, small = given
    training = Training(recipe_of(network, batch, steps, small=small), shard, places, steps, threads, precision)
    training.fit(training.loader(CACHE))
    return peak_mb()
