"""Training and embedding on a GPU: bf16, channels_last, torch.compile. A part of the benchmarks `train` and `embed`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Report, in_turns, in_worker
from benchmarks.train_material import pictures
from benchmarks.train_parts import CACHE, Embedding, Training, casting, recipe_of, stored_size

PEAK = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "RTX 4090": 165}
"""TFLOP/s of dense bf16 matrices by the makers' data sheets, by a part of the card's name; the first that fits."""
NETWORKS, BATCHES, THREADS, PRECISIONS = ("base",), (64, 256), (8,), ("bf16",)


def unavailable(options: argparse.Namespace, report: Report) -> bool:
    """Whether there is no GPU; says so."""
    import torch

    if torch.cuda.is_available():
        return False
    report.notes.append(f"{options.device}: not measured, since torch {torch.__version__} sees no GPU here")
    return True


def measure(options: argparse.Namespace, report: Report, folder: Path) -> None:
    """Training."""
    if unavailable(options, report):
        return
    name = card(options.device)
    for network, batch, precision, threads in _each(options):
        shard = folder / f"{network}.tar"
        places = pictures(shard, stored_size(network, options.small))
        given = (network, batch, precision, threads)
        images, times, rates, flops, peak = in_worker(_training, shard, places, given, options, threads=threads)
        tag = f"{network}, {precision}, batch {batch}, {threads} threads"
        for what, measured in times.items():
            report.add(f"{tag}: {what}", measured.rate(images), "images/s")
            if what.startswith("network") and (most := peak_of(name)) is not None:
                share = flops * measured.rate(images) / (1e12 * most)
                report.add(f"{tag}: {what}, of the card's {most} TFLOP/s", 100 * share, "%")
        loader, bare = times["loader alone, from memory"], times["network alone"]
        bound = [images / max(a, b) for a, b in zip(loader.wall, bare.wall, strict=True)]
        report.add(f"{tag}: training", median(rates), "images/s")
        share = median(r / b for r, b in zip(rates, bound, strict=True))
        report.aim(f"{tag}: training / min(loader, network)", share, ">=", 0.9)
        report.add(f"{tag}: peak memory of the card", peak, "MB")
    report.notes.append(f"{name}; channels_last; TF32 as torch has it by default; crops from memory")


def measure_embedding(options: argparse.Namespace, report: Report, folder: Path) -> None:
    """Embedding."""
    if unavailable(options, report):
        return
    for network, batch, precision, threads in _each(options):
        shard = folder / f"{network}.tar"
        places = pictures(shard, stored_size(network, options.small))
        given = (network, batch, precision, threads)
        images, times = in_worker(_embedding, shard, places, given, options, threads=threads)
        tag = f"{network}, {precision}, batch {batch}, {threads} threads"
        for what, measured in times.items():
            report.add(f"{tag}: {what}", measured.rate(images), "images/s")
        slower = [max(a, b) for a, b in zip(times["loader alone"].wall, times["network alone"].wall, strict=True)]
        share = median(s / e for s, e in zip(slower, times["embed"].wall, strict=True))
        report.aim(f"{tag}: embed / min(loader, network)", share, ">=", 0.9)
    report.notes.append(f"{card(options.device)}; channels_last; crops are decoded from their JPEGs")


def _each(options: argparse.Namespace) -> list[tuple[str, int, str, int]]:
    return [
        (network, batch, precision, threads)
        for network in options.network or NETWORKS
        for batch in options.batch or BATCHES
        for precision in options.precision or PRECISIONS
        for threads in options.threads or THREADS
    ]


def _recipe(options: argparse.Namespace, network: str, batch: int, steps: int) -> Any:
    return recipe_of(network, batch, steps, small=options.small, full_face=not options.small)


def _training(shard: Path, places: Any, given: tuple[Any, ...], options: argparse.Namespace) -> Any:
    network, batch, precision, threads = given
    recipe = _recipe(options, network, batch, options.batches)
    training = Training(recipe, shard, places, options.batches, threads, precision)
    loader, device = training.loader(CACHE), options.device
    held, rates = training.read(loader), []
    tasks = {
        "loader alone, from memory": lambda: training.drain(loader),
        "network alone": training.network_alone(held, device),
        "training": lambda: rates.append(training.fit(loader, device)),
    }
    if not options.eager:
        tasks["network alone, compiled"] = training.network_alone(held, device, compiled=True)
    times = in_turns(options.rounds, **tasks)
    del times["training"]  # with its beginning and its state file; what counts are its own figures
    return training.images, times, rates[1:], flops_of_a_step(training, held[0], device), _card_peak()


def _embedding(shard: Path, places: Any, given: tuple[Any, ...], options: argparse.Namespace) -> Any:
    network, batch, precision, threads = given
    recipe = _recipe(options, network, batch, 1)
    embedding = Embedding(recipe, shard, places, options.batches * batch, batch, threads, precision, options.device)
    tasks: dict[str, Callable[[], Any]] = {
        "loader alone": embedding.drain,
        "network alone": embedding.network_alone(),
        "embed": embedding.embed,
    }
    if not options.eager:
        tasks["network alone, compiled"] = embedding.network_alone(compiled=True)
    return embedding.count, in_turns(options.rounds, **tasks)


def flops_of_a_step(training: Training, batch: Any, device: str) -> float:
    """Floating-point operations of forward, losses and backward for one image: two for each product that is summed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mdfpipe.learning.recipes import Progress

    recipe, model = training.recipe, training.model.to(device).train()
    given = batch.to(torch.device(device))
    with FlopCounterMode(display=False) as counter:
        with casting(device, training.precision):
            losses = recipe.losses(model, recipe.forward(model, given), given, Progress(0, 1, 0, 1))
        torch.autograd.backward(torch.stack(list(losses.terms.values())).sum())
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()) / len(given)


def card(device: str) -> str:
    import torch

    return str(torch.cuda.get_device_name(torch.device(device)))


def peak_of(name: str) -> int | None:
    """TFLOP/s of a card, where they are known.

    >>> peak_of("NVIDIA H100 80GB HBM3"), peak_of("NVIDIA L4"), peak_of("Tesla P4")
    (989, 121, None)
    """
    return next((most for part, most in PEAK.items() if part in name), None)


def _card_peak() -> float:
    import torch

    return float(torch.cuda.max_memory_allocated()) / 2**20
