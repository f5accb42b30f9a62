"""Part aggregation: against its equation, number by number; its gradient, its limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mdfpipe.errors import ConfigError
from mdfpipe.learning.models.di2l import PartAggregation


def aggregation(channels: int = 8, parts: int = 3, **more: Any) -> PartAggregation:
    torch.manual_seed(0)
    made = PartAggregation(channels, parts, **more).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def transcribed(module: PartAggregation, x: Tensor, scaled: bool) -> list[list[float]]:
    """METHODS 3.1, number by number: averages of stripes, a_ij, sums over j, gates, GeM."""
    weights = {n: p.detach().squeeze().tolist() for n, p in module.named_parameters()}
    _, channels, height, width = x.shape
    p, rows = module.parts, height // module.parts
    gates = [math.exp(g) / sum(math.exp(h) for h in weights["gate"]) for g in weights["gate"]]

    def through(matrix: list[list[float]], vector: list[float]) -> list[float]:
        return [sum(m * v for m, v in zip(row, vector, strict=True)) for row in matrix]

    found = []
    for image in x.tolist():
        stripes = [
            [
                sum(sum(row) for row in plane[i * rows : (i + 1) * rows]) / (rows * width)  # of one channel
                for plane in image
            ]
            for i in range(p)
        ]
        u, v, z = ([through(weights[f"{name}.weight"], stripe) for stripe in stripes] for name in "uvz")
        pooled = [
            (sum(max(value, 1e-6) ** 3 for row in plane for value in row) / (height * width)) ** (1 / 3)
            for plane in image
        ]
        for i in range(p):
            products = [sum(a * b for a, b in zip(u[i], v[j], strict=True)) for j in range(p)]
            if scaled:
                products = [value / math.sqrt(len(u[i])) for value in products]
            share = [math.exp(value) / sum(math.exp(other) for other in products) for value in products]
            for c in range(channels):
                pooled[c] += gates[i] * sum(share[j] * z[j][c] for j in range(p))
        found.append(pooled)
    return found


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(("parts", "height"), [(3, 6), (2, 4), (6, 6)])
def test_part_aggregation_is_its_definition(scaled: bool, parts: int, height: int) -> None:
    module = aggregation(parts=parts, scaled=scaled)
    x = torch.randn(2, 8, height, 3, dtype=torch.float64)
    expected = torch.tensor(transcribed(module, x, scaled), dtype=torch.float64)
    torch.testing.assert_close(module(x), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(module.float()(x.float()), expected.float(), rtol=1e-5, atol=1e-5)


def test_part_aggregation_gradient() -> None:
    module, x = aggregation(), torch.rand(2, 8, 3, 2, dtype=torch.float64).requires_grad_()
    names = dict(module.named_parameters())

    def run(x: Tensor, *values: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))
        return out

    assert torch.autograd.gradcheck(run, (x, *names.values()))


def test_stripes_that_are_alike_see_one_another_alike() -> None:
    """A map that is constant over space: every a_ij is 1/p, and z of it is added, whatever the gates are."""
    module = aggregation()
    x = torch.rand(1, 8, 1, 1, dtype=torch.float64) + 0.1
    wide = x.expand(1, 8, 6, 4)
    stripes = x.expand(1, 8, 3, 1)
    torch.testing.assert_close(module.attention(stripes), torch.full((1, 3, 3), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(module(wide), (x + module.z(x)).flatten(1))


def test_part_aggregation_starts_with_equal_gates_and_refuses_rows_that_do_not_divide() -> None:
    module = PartAggregation(16, 3)
    assert module.gate.softmax(0).tolist() == pytest.approx([1 / 3] * 3)
    with pytest.raises(ConfigError, match="rows divide into 3 parts, got 4"):
        module(torch.zeros(1, 16, 4, 2))


def test_part_aggregation_under_autocast_gives_float32() -> None:
    module, x = PartAggregation(64, 3), torch.rand(2, 64, 6, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(x.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, module(x), rtol=2e-2, atol=2e-2)
