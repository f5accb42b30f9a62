"""embedding: crops to vectors against loader and network alone, and memory over twenty times as many crops"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Report, expect, in_turns, in_worker, profiled, ratio
from benchmarks.train_material import crops_of, pictures
from benchmarks.train_parts import NETWORKS, Embedding, keep_to, recipe_of, stored_size

from benchmarks import train_gpu

TINY = (32, 16)  # height and width of the crops that memory is measured with
TIMES = 20  # the longer row of crops against the shorter one


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", nargs="+", choices=NETWORKS, help="(striped mini face; cuda: base)")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16", "fp16"], help="(fp32 bf16; cuda: bf16)")
    parser.add_argument("--batch", type=int, nargs="+", help="crops of a batch (64; cuda: 64 256)")
    parser.add_argument("--batches", type=int, default=4, help="of a round (4)")
    parser.add_argument("--threads", type=int, nargs="+", help="of the worker (1 2; cuda: 8)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--crops", type=int, default=5_000, help=f"memory is taken of so many, and of {TIMES} times as many (5000)"
    )
    parser.add_argument("--device", default="cpu", help="cuda measures a GPU, with and without torch.compile")
    parser.add_argument("--small", action="store_true", help="crops and networks of a toy's size, to try it out")


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    if options.device != "cpu":
        train_gpu.measure_embedding(options, report, folder)
        return
    for network in options.network or ("striped", "mini", "face"):
        shard = folder / f"{network}.tar"
        places = pictures(shard, stored_size(network, options.small))
        for batch in options.batch or [64]:
            for precision in options.precision or ("fp32", "bf16"):
                for threads in options.threads or (1, 2):
                    given = (network, batch, precision, threads)
                    found = in_worker(_turns, shard, places, given, options, threads=threads)
                    _report(report, f"{network}, {precision}, {threads} thread{'s' * (threads > 1)}", found)
    _memory(options, report, folder)
    report.notes += [
        "a worker keeps to as many cores as it has threads; bound: 1 / (1 / loader + 1 / network)",
        "memory: crops of 32x16 pixels through a network that only averages: the number of crops is all that grows",
    ]


def _report(report: Report, tag: str, found: tuple[int, Any, list[str]]) -> None:
    count, times, profile = found
    for what, measured in times.items():
        report.add(f"{tag}: {what}", measured.rate(count), "images/s")
    loader, network = times["loader alone"].wall, times["network alone"].wall
    both = [a + b for a, b in zip(loader, network, strict=True)]
    report.aim(f"{tag}: embed / bound", ratio(both, times["embed"].wall), ">=", 0.9)
    report.profile += profile


def _turns(shard: Path, places: Any, given: tuple[Any, ...], options: argparse.Namespace) -> Any:
    network, batch, precision, threads = given
    keep_to(threads)
    recipe = recipe_of(network, batch, small=options.small)
    embedding = Embedding(recipe, shard, places, options.batches * batch, batch, threads, precision)
    tasks = {"loader alone": embedding.drain, "network alone": embedding.network_alone(), "embed": embedding.embed}
    expect("vectors", embedding.embed(), embedding.count)
    times = in_turns(options.rounds, **tasks)
    return embedding.count, times, profiled(embedding.embed) if options.profile else []


def _memory(options: argparse.Namespace, report: Report, folder: Path) -> None:
    """Peaks of fresh workers: with the table of the crops alone, and once they are embedded."""
    shard = folder / "memory.tar"
    places = pictures(shard, TINY, 24)
    above = {}
    for count in (options.crops, TIMES * options.crops):
        table, peak, seconds = in_worker(_peak, shard, places, count)
        above[count] = peak - table
        report.add(f"{count:,} crops: with their table alone", table, "MB")
        report.add(f"{count:,} crops: peak once they are embedded", peak, "MB")
        report.add(f"{count:,} crops: embedded", count / seconds, "crops/s")
    growth = above[TIMES * options.crops] - above[options.crops]
    report.aim(f"growth of embedding {TIMES} times as many, beside their table", growth, "<=", 100, "MB")


def _peak(shard: Path, places: Any, count: int) -> tuple[float, float, float]:
    from benchmarks.memory import peak_mb

    from mdfpipe.learning.data.loader import CropReader
    from mdfpipe.learning.embedding import embed

    recipe, model = recipe_of("striped", 64, small=True), _averaging()
    warm = crops_of(shard, places, 256, 100)  # libraries, threads and buffers are there before the count begins
    read = (*TINY, recipe.depth)
    list(embed(recipe, model, warm, CropReader(warm, *read), batch=64, threads=1))
    crops = crops_of(shard, places, count, 100)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten: making the table took more than it
    table, started, seen = peak_mb(), time.perf_counter(), 0
    for rows, _ in embed(recipe, model, crops, CropReader(crops, *read), batch=64, threads=1):
        seen += len(rows)
    expect("vectors", seen, count)
    return table, peak_mb(), time.perf_counter() - started


def _averaging() -> Any:
    """The mean of each channel, in the place of a body network."""
    import torch

    class Averaging(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"z": images.mean((2, 3)) * self.scale}

    return Averaging().eval()
