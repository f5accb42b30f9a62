"""Batches of noise for dfw, and the scalar transcriptions that several of its tests compare with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mdfpipe.learning.data.batches import CropBatch
from mdfpipe.learning.recipes import Progress, Recipe

FOUR = ["LWIR", "MWIR", "SWIR", "VIS"]
WHERE = Progress(0, 2, 0, 1)


def made_batch(recipe: Recipe, domains: list[str], subjects: int = 3, each: int = 2) -> CropBatch:
    """Subjects x domains x each noise images."""
    cells = [(y, d) for y in range(subjects) for d in range(len(domains)) for _ in range(each)]
    subject, domain = (torch.tensor([cell[i] for cell in cells]) for i in range(2))
    none = torch.zeros(len(cells), dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(cells), 3, recipe.image_height_px, recipe.image_width_px, generator=generator)
    return CropBatch(images, subject, domain, none, none, none, none)


def slow_centre(response: Tensor, cell: tuple[float, float], t: float) -> tuple[float, float]:
    rows = response.tolist()
    flat = [v for row in rows for v in row]
    low, high = min(flat), max(flat)
    y = x = total = 0.0
    for i, row in enumerate(rows):
        for j, v in enumerate(row):
            weight = math.exp((v - low) / (high - low) / t)
            y += weight * (i + 0.5) * cell[0]
            x += weight * (j + 0.5) * cell[1]
            total += weight
    return y / total, x / total


def slow_hetero_centre(
    features: Tensor, subject: list[int], group: list[int], pairs: set[tuple[int, int]], margin: float
) -> float:
    """Eq. 6 with its hinges and a mean, centre by centre."""
    rows = features.tolist()
    middle: dict[tuple[int, int], list[float]] = {}
    for key in sorted(set(zip(subject, group, strict=True))):
        own = [row for row, *of in zip(rows, subject, group, strict=True) if tuple(of) == key]
        middle[key] = [sum(column) / len(own) for column in zip(*own, strict=True)]
    terms = []
    for (y, d), c in middle.items():
        positive = [math.dist(c, o) for (z, g), o in middle.items() if z == y and (min(d, g), max(d, g)) in pairs]
        negative = [math.dist(c, o) for (z, _), o in middle.items() if z != y]
        if positive and negative:
            terms.append(max(0.0, margin + max(positive) - min(negative)))
    return sum(terms) / max(len(terms), 1)
