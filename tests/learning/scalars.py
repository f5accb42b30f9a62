"""Formulas in plain Python, number by number, for losses to be compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(found: Tensor, wanted: float) -> None:
    assert found.ndim == 0
    assert float(found.detach()) == pytest.approx(wanted, abs=1e-5, rel=1e-5)


def unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def between(a: Sequence[float], b: Sequence[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def softmax(values: Sequence[float]) -> list[float]:
    top = sum(math.exp(v) for v in values)
    return [math.exp(v) / top for v in values]


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)


def slow_reducing(
    reduced: Tensor,
    instance: Tensor,
    subject: list[int],
    group: list[int],
    pairs: Sequence[tuple[int, int]],
    *,
    by: str,
) -> float:
    """by unit: as METHODS reads eq. 11; released: not normalised, relu."""
    rows = [[unit(v) if by == "unit" else v for v in x.tolist()] for x in (reduced, instance)]
    means = []
    for a, b in pairs:
        values = []
        for s in sorted(set(subject)):
            mine, other = ([n for n in range(len(subject)) if (subject[n], group[n]) == (s, g)] for g in (a, b))
            if mine and other:
                far = []
                for x in rows:
                    c_a, c_b = (np.mean([x[n] for n in at], axis=0).tolist() for at in (mine, other))
                    far.append(between(c_a, c_b))
                excess = far[0] - far[1]
                values.append(math.log(1 + math.exp(excess)) if by == "unit" else max(excess, 0.0))
        if values:
            means.append(sum(values) / len(values))
    return sum(means) / len(means)
