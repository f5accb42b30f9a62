"""embedding: crops to vectors under each engine against loader and network alone, and memory over 20 times as many"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Report, cpu_precisions, expect, in_turns, in_worker, profiled, ratio
from benchmarks.train_material import crops_of, pictures
from benchmarks.train_parts import NETWORKS, VITS, Embedding, keep_to, recipe_of, stored_size

from benchmarks import train_gpu
from mdfpipe.running.engines import ALIKE

TINY = (32, 16)  # height and width of the crops that memory is measured with
ENGINES = ("torch", "openvino", "onnxruntime")
BARE = "timm's bare ViT"  # of the same size, with as many tokens
TIMES = 20  # the longer row of crops against the shorter one


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", nargs="+", choices=NETWORKS, help="(striped mini face; cuda: base)")
    parser.add_argument(
        "--precision", nargs="+", choices=["fp32", "bf16", "fp16"], help="(those it computes in; cuda: bf16)"
    )
    parser.add_argument("--engine", nargs="+", choices=ENGINES, help="(those that are installed)")
    parser.add_argument("--batch", type=int, nargs="+", help="crops of a batch (64; cuda: 64 256)")
    parser.add_argument("--batches", type=int, help="of a round (striped: 4 of 64 crops; others: 1 of 24; cuda: 4)")
    parser.add_argument("--threads", type=int, nargs="+", help="of the worker (1 2; cuda: 8)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--crops", type=int, default=2_500, help=f"memory is taken of so many, and of {TIMES} times as many (2500)"
    )
    parser.add_argument("--device", default="cpu", help="cuda measures a GPU, with and without torch.compile")
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out")
    parser.add_argument("--small", action="store_true", help="crops and networks of a toy's size, to try it out")


def bench(options: argparse.Namespace, report: Report, folder: Path) -> None:
    if options.device != "cpu":
        options.batches = options.batches or 4
        train_gpu.measure_embedding(options, report, folder)
        return
    for network in options.network or ("striped", "mini", "face"):
        shard = folder / f"{network}.tar"
        places = pictures(shard, stored_size(network, options.small))
        for batch in options.batch or [64 if network == "striped" else 24]:
            count = batch * (options.batches or (4 if network == "striped" else 1))
            for precision in options.precision or cpu_precisions():
                for threads in options.threads or (1, 2):
                    given = (network, batch, precision, threads, count, _engines(options, precision))
                    found = in_worker(_turns, shard, places, given, options, threads=threads)
                    _report(report, f"{network}, {precision}, {threads} thread{'s' * (threads > 1)}", precision, found)
    _memory(options, report, folder)
    report.notes += [
        "a worker keeps to as many cores as it has threads; bound: 1 / (1 / loader + 1 / network)",
        "cosine, difference of lengths: of each crop's vector with that of torch, fp32; getting ready: trace, compile "
        "and one batch",
        "memory: crops of 32x16 pixels through a network that only averages: the number of crops is all that grows",
    ]


def _engines(options: argparse.Namespace, precision: str) -> list[str]:
    """torch, and the others that are asked for, or here, and compute in this precision."""
    from mdfpipe.machine.engines import is_present

    able = [name for name in ENGINES[1:] if precision == "fp32" or name != "onnxruntime"]
    return ["torch", *(name for name in able if name in (options.engine or filter(is_present, able)))]


def _report(report: Report, tag: str, precision: str, found: tuple[int, Any, Any, list[str]]) -> None:
    count, times, others, profile = found
    for what, measured in times.items():
        report.add(f"{tag}: {what}", measured.rate(count), "images/s")
    if BARE in times:
        bare, whole = times[BARE].cpu, times["embed, torch"].cpu
        report.aim(f"{tag}: embed, torch / {BARE}, processor time", ratio(bare, whole), ">=", 0.9)
    loader = times["loader alone"].wall
    least, most = ALIKE[precision]
    for engine in [name.removeprefix("embed, ") for name in times if name.startswith("embed, ")]:
        wall = times[f"embed, {engine}"].wall
        both = [a + b for a, b in zip(loader, times[f"network alone, {engine}"].wall, strict=True)]
        report.aim(f"{tag}: embed, {engine} / bound", ratio(both, wall), ">=", 0.9)
        if engine in others:
            seconds, cosine, length = others[engine]
            report.add(f"{tag}: {engine} / torch", ratio(times["embed, torch"].wall, wall), "times as fast")
            report.add(f"{tag}: {engine}, getting ready", seconds, "s")
            report.add(f"{tag}: {engine}, 1 - least cosine", 1 - cosine, "")
            report.add(f"{tag}: {engine}, greatest difference of lengths", length, "")
            expect(f"{tag}: {engine}: vectors that agree", (cosine >= least, length <= most), (True, True))
    report.profile += profile


def _turns(shard: Path, places: Any, given: tuple[Any, ...], options: argparse.Namespace) -> Any:
    import numpy as np

    from mdfpipe.learning.embedders import TorchEmbedder, agreement

    network, batch, precision, threads, count, engines = given
    keep_to(threads)
    recipe = recipe_of(network, batch, small=options.small)
    embedding = Embedding(recipe, shard, places, count, batch, threads, precision)
    tasks: dict[str, Callable[[], Any]] = {"loader alone": embedding.drain}
    others = {}
    exact = np.concatenate(list(embedding.vectors(TorchEmbedder(recipe, embedding.model))))
    for engine in engines:
        embedder, started = embedding.under(engine), time.perf_counter()
        embedding.held(embedder)()
        seconds = time.perf_counter() - started
        found = np.concatenate(list(embedding.vectors(embedder)))
        expect("vectors", len(found), embedding.count)
        if engine != "torch":
            others[engine] = (seconds, *agreement(found, exact))
        tasks[f"network alone, {engine}"] = embedding.held(embedder)
        tasks[f"embed, {engine}"] = partial(embedding.embed, embedder)
    if network in VITS:
        tasks[BARE] = embedding.bare()
    times = in_turns(options.rounds, **tasks)
    return embedding.count, times, others, profiled(embedding.embed) if options.profile else []


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
    from mdfpipe.learning.embedders import TorchEmbedder
    from mdfpipe.learning.embedding import embed

    recipe = recipe_of("striped", 64, small=True)
    embedder = TorchEmbedder(recipe, _averaging())
    warm = crops_of(shard, places, 256, 100)  # libraries, threads and buffers are there before the count begins
    read = (*TINY, recipe.depth)
    list(embed(embedder, warm, CropReader(warm, *read), batch=64, threads=1))
    crops = crops_of(shard, places, count, 100)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten: making the table took more than it
    table, started, seen = peak_mb(), time.perf_counter(), 0
    for rows, _ in embed(embedder, crops, CropReader(crops, *read), batch=64, threads=1):
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
