"""dfw: its losses against scalar transcriptions of the equations, by hand, and their slopes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mdfpipe.learning.losses.dfw import centres, hard_centre, hetero_centre_triplet, overlap, soft_centre
from mdfpipe.learning.streams import DomainPairs
from tests.learning.made_dfw import FOUR, slow_centre, slow_hetero_centre
from tests.learning.scalars import normal

TWO = DomainPairs.of(["NIR", "VIS"], "all")


# -- overlap penalty


@pytest.mark.parametrize("t", [0.05, 0.5])
def test_overlap_against_scalars(t: float) -> None:
    first, second = normal(4, 6, 3).abs(), normal(4, 6, 3, seed=1).abs()
    cell, s = (16.0, 12.0), 60.0
    a, b = soft_centre(first, cell, t), soft_centre(second, cell, t)
    terms = []
    for n in range(4):
        (y1, x1), (y2, x2) = slow_centre(first[n], cell, t), slow_centre(second[n], cell, t)
        assert a[n].tolist() == pytest.approx([y1, x1], abs=1e-9)
        terms.append(max(0.0, s - math.sqrt((y1 - y2) ** 2 + (x1 - x2) ** 2 + 1e-6)))
    assert float(overlap(a, b, s)) == pytest.approx(sum(terms) / 4, abs=1e-9)
    assert 0 < sum(terms) < 4 * s


def test_overlap_by_hand() -> None:
    """METHODS 8: coincident centres S; centres 30 and 40 px apart S - 50; farther than S nothing."""
    here = torch.tensor([[100.0, 60.0]])
    there = here + torch.tensor([[30.0, -40.0]])
    assert float(overlap(here, here, 100.0)) == pytest.approx(100, abs=2e-3)
    assert float(overlap(here, there, 100.0)) == pytest.approx(50, abs=1e-4)
    assert float(overlap(here, there, 40.0)) == 0
    assert float(overlap(here.repeat(2, 1), torch.cat([here, there]), 100.0)) == pytest.approx(75, abs=2e-3)


def test_places_are_pixels_of_the_input() -> None:
    """A map of 18x9 for 288x144: a peak in row 2, column 7 is at 40, 120 px."""
    response = torch.zeros(1, 18, 9)
    response[0, 2, 7] = 3.0
    assert hard_centre(response, (16, 16)).tolist() == [[40.0, 120.0]]
    assert soft_centre(response, (16, 16), 0.02)[0].tolist() == pytest.approx([40, 120], abs=1e-3)
    assert hard_centre(torch.ones(1, 2, 2), (10, 10)).tolist() == [[5, 5]]  # of ties the first


def test_gradient_of_the_overlap() -> None:
    def loss(a: Tensor, b: Tensor) -> Tensor:
        return overlap(soft_centre(a, (16, 16), 0.3), soft_centre(b, (16, 16), 0.3), 100.0)

    assert torch.autograd.gradcheck(loss, (normal(2, 4, 3).requires_grad_(), normal(2, 4, 3, seed=1).requires_grad_()))


def test_flat_and_equal_responses_have_finite_gradients() -> None:
    flat, same = torch.ones(2, 4, 3, requires_grad=True), torch.rand(2, 4, 3, requires_grad=True)
    for first, second in [(flat, flat), (flat, same), (same, same)]:
        found = overlap(soft_centre(first, (16, 16), 0.05), soft_centre(second, (16, 16), 0.05), 100.0)
        (slope,) = torch.autograd.grad(found, first)
        assert torch.isfinite(slope).all()
    assert soft_centre(flat, (16, 16), 0.05)[0].tolist() == pytest.approx([32, 24])


# -- hetero-centre triplets


def test_hetero_centres_by_hand() -> None:
    """METHODS 8: visible 0 and 4, infrared 1 and 6: no hinge is open; with 9 for 6: 2.3 of four."""
    subject, domain = torch.tensor([0, 1, 0, 1]), torch.tensor([1, 1, 0, 0])
    for last, wanted in [(6.0, 0.0), (9.0, 2.3 / 4)]:
        x = torch.tensor([[0.0], [4.0], [1.0], [last]])
        assert float(hetero_centre_triplet(x, subject, domain, TWO, 0.3)) == pytest.approx(wanted, abs=1e-6)


def test_centres_are_means_of_what_there_is() -> None:
    x = torch.tensor([[1.0, 0.0], [5.0, 5.0], [3.0, 2.0], [0.0, 9.0]])
    means, whose, where = centres(x, torch.tensor([2, 0, 2, 2]), torch.tensor([1, 0, 1, 0]))
    assert means.tolist() == [[5, 5], [0, 9], [2, 1]]
    assert (whose.tolist(), where.tolist()) == ([0, 2, 2], [0, 0, 1])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_hetero_centres_are_their_definition(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 14))
    subject = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    domain = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    kind = data.draw(st.sampled_from(["all", "vis_ir", "grouped"]))
    pairs = DomainPairs.of(FOUR, kind)
    x = normal(size, 3, seed=data.draw(st.integers(0, 99))).requires_grad_()
    found = hetero_centre_triplet(x, torch.tensor(subject), torch.tensor(domain), pairs, 0.3)
    wanted = slow_hetero_centre(x.detach(), subject, [pairs.group[d] for d in domain], set(pairs.pairs), 0.3)
    assert found.item() == pytest.approx(wanted, abs=1e-9)
    found.backward()  # also where no centre counts
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("kind", ["all", "vis_ir", "grouped"])
def test_gradient_of_hetero_centres(kind: Any) -> None:
    pairs, subject = DomainPairs.of(FOUR, kind), torch.arange(3).repeat(5)
    domain = torch.tensor([0, 1, 2, 3, 3]).repeat_interleave(3)
    x = normal(15, 4).requires_grad_()
    assert hetero_centre_triplet(x, subject, domain, pairs, 0.3) > 0
    assert torch.autograd.gradcheck(lambda v: hetero_centre_triplet(v, subject, domain, pairs, 0.3), x)


def test_one_domain_has_no_positive_centre() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    found = hetero_centre_triplet(x, torch.tensor([0, 0, 1, 1]), torch.zeros(4, dtype=torch.int64), TWO, 0.3)
    found.backward()
    assert found.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_hetero_centres_in_half_precision_are_those_of_float32() -> None:
    x, subject, domain = normal(12, 64).float(), torch.arange(3).repeat(4), torch.arange(2).repeat_interleave(6)
    outside = hetero_centre_triplet(x, subject, domain, TWO, 5.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert hetero_centre_triplet(x, subject, domain, TWO, 5.0) == outside
        response = x[:4].reshape(4, 8, 8)
        assert soft_centre(response, (16, 16), 0.05).dtype == torch.float32
