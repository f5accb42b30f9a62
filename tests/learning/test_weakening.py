"""The weakening of dfw against a scalar transcription of its equations, by hand, and its slopes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mdfpipe.learning.models.dfw import Weakening, response
from tests.learning.scalars import normal

FORMS = ["mask", "gate", "elementwise", "literal"]
RULES = [("mean", 0.5), ("mean", 0.2), (0.5, "proportion"), (0.2, 0.8), ("mean", "proportion")]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_weakening(image: Tensor, threshold: Any, factor: Any, form: str) -> list[list[list[float]]]:
    """One image (C, H, W), place by place (DFW eq. 1-3, METHODS 6.2)."""
    channels, height, width = image.shape
    value = image.tolist()
    places = [(i, j) for i in range(height) for j in range(width)]
    f = {}
    for i, j in places:
        column = [value[c][i][j] for c in range(channels)]
        f[i, j] = sum(column) / channels + max(column)
    if threshold == "mean":
        compared, least = f, sum(f.values()) / len(places)
    else:
        low, high = min(f.values()), max(f.values())
        compared, least = {at: (v - low) / (high - low) for at, v in f.items()}, threshold
    strong = {at: v >= least for at, v in compared.items()}
    e = sum(strong.values()) / len(places)
    m = {at: (e if factor == "proportion" else factor) if strong[at] else 1.0 for at in places}
    made = {
        "mask": lambda c, at: value[c][at[0]][at[1]] * m[at],
        "gate": lambda c, at: value[c][at[0]][at[1]] * sigmoid(f[at] * m[at]),
        "elementwise": lambda c, at: sigmoid(value[c][at[0]][at[1]] * m[at]),
        "literal": lambda c, at: sigmoid(f[at] * m[at]),
    }[form]
    return [[[made(c, (i, j)) for j in range(width)] for i in range(height)] for c in range(channels)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("threshold", "factor"), RULES)
def test_weakening_against_scalars(threshold: Any, factor: Any, form: Any) -> None:
    x = normal(3, 5, 4, 3).relu()
    found = Weakening(threshold, factor, form)(x)
    wanted = [slow_weakening(image, threshold, factor, form) for image in x]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-9)


def ranks_kept(x: Tensor, form: Any) -> float:
    """Rank correlation of the response before and after, mean over images."""
    before, after = (response(y).flatten(1).argsort(1).argsort(1).double() for y in (x, Weakening(form=form)(x)))
    return float(
        torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(before, after, strict=True)]).mean()
    )


def test_the_mask_turns_the_order_of_even_maps_round_and_the_gate_keeps_it() -> None:
    """One channel, so that f = 2F; spread over mean 0.2, as behind stages 2 and 3 of a small network."""
    even = 1 + 0.2 * normal(8, 1, 18, 9).clamp(-2.5, 2.5)
    assert ranks_kept(even, "mask") < -0.3
    assert ranks_kept(even, "gate") > 0.85
    uneven = normal(8, 1, 18, 9).exp()
    assert ranks_kept(uneven, "mask") > 0.4
    facts = Weakening().facts(even)
    torch.testing.assert_close(facts[:, 0], even.flatten(1).std(1, correction=0) / even.flatten(1).mean(1))
    torch.testing.assert_close(facts[:, 1], (even >= even.mean((2, 3), keepdim=True)).double().mean((1, 2, 3)))
    assert float(Weakening(0.8, "proportion").facts(even)[:, 1].max()) < 0.2


def test_weakening_by_hand() -> None:
    """One channel, so f = 2F: 0, 2, 4, 10, mean 4. Of the third, 4 >= 4: two of four places are strong."""
    x = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]]])
    assert Weakening("mean", 0.5)(x).flatten().tolist() == [0, 1, 1, 2.5]  # M_D1
    assert Weakening("mean", "proportion")(x).flatten().tolist() == [0, 1, 1, 2.5]  # M_D3: e = 1/2
    assert Weakening(0.2, "proportion")(x).flatten().tolist() == [0, 0.75, 1.5, 3.75]  # M_D2: f' = 0, .2, .4, 1
    assert Weakening(0.9, "proportion")(x).flatten().tolist() == [0, 1, 2, 1.25]


@pytest.mark.parametrize("value", [0.1, 1.0, 1e-3, 7.7, 3e4])
@pytest.mark.parametrize("size", [(5, 3), (18, 9), (36, 18)])
def test_a_constant_map(value: float, size: tuple[int, int]) -> None:
    """METHODS 8: every place is at the mean, whatever round-off says: e = 1, M_D3 the identity, M_D1 alpha."""
    x = torch.full((2, 7, *size), value)
    assert torch.equal(Weakening("mean", "proportion")(x), x)
    assert torch.equal(Weakening("mean", 0.5)(x), x * 0.5)
    assert torch.equal(Weakening(0.5, "proportion")(x), x)  # no range: nothing reaches beta


def test_the_matrix_has_no_gradient_and_the_map_has() -> None:
    x = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]]], requires_grad=True)
    Weakening("mean", "proportion")(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1, 1, 0.5, 0.5]
    for form in ("gate", "elementwise", "literal"):
        smooth = normal(2, 3, 3, 2, seed=3).abs().requires_grad_()
        assert torch.autograd.gradcheck(Weakening("mean", 0.5, form), smooth)  # type: ignore[arg-type]


def test_weakening_at_test_and_in_half_precision() -> None:
    x = normal(2, 8, 4, 3).relu().float()
    always, trained = Weakening(), Weakening(training_only=True)
    assert torch.equal(always.eval()(x), always.train()(x))
    assert torch.equal(trained.eval()(x), x)
    assert torch.equal(trained.train()(x), always(x))
    for form in FORMS:
        assert Weakening(form=form)(x.bfloat16()).dtype == torch.bfloat16  # type: ignore[arg-type]
    assert not list(always.parameters())
