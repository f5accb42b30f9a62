"""Ranking losses: worked by hand, against scalar transcriptions, against pytorch-metric-learning, their gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mdfpipe.errors import ConfigError
from mdfpipe.learning.losses.ranking import Mined, distances, mine, supervised_contrastive, triplet, weighted_triplet

ALONE = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])  # subject 2 has no positive


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# -- distances


def near_pairs(offset: float) -> tuple[Tensor, Tensor]:
    """Long features far from the origin, some of which lie a hundredth of their spread apart."""
    a = normal(24, 1536, dtype=torch.float32) + offset
    b = torch.cat([a[:12] + 1e-2 * normal(12, 1536, seed=1, dtype=torch.float32), normal(12, 1536, seed=2).float()])
    return a, b


@pytest.mark.parametrize("offset", [0.0, 10.0, 100.0])
def test_distances_of_long_vectors(offset: float) -> None:
    a, b = near_pairs(offset)
    exact = (a.double()[:, None] - b.double()[None]).square().sum(-1).sqrt()
    found = distances(a, b)
    assert (found.shape, found.dtype) == ((24, 24), torch.float32)
    assert ((found - exact).abs() / exact).max() < 1e-5
    # what is to be avoided would fail here
    expanded = torch.cdist(a, b, compute_mode="use_mm_for_euclid_dist")
    assert ((expanded - exact).abs() / exact).max() > 1e-4


def test_distances_by_hand_and_at_zero() -> None:
    a = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    found = distances(a, a)
    assert found.tolist() == [[pytest.approx(1e-6), 5.0], [5.0, pytest.approx(1e-6)]]
    found.sum().backward()
    assert a.grad is not None
    assert a.grad.tolist() == [[pytest.approx(-1.2), pytest.approx(-1.6)], [pytest.approx(1.2), pytest.approx(1.6)]]


def test_distances_gradient() -> None:
    assert torch.autograd.gradcheck(distances, (normal(3, 4).requires_grad_(), normal(5, 4, seed=1).requires_grad_()))


# -- mining


def slow_mine(features: Tensor, subject: list[int]) -> list[tuple[int, int, float, float]]:
    """Anchor by anchor, pair by pair: the first of the farthest and of the nearest, -1 and 0 where there is none."""
    rows, found = features.tolist(), []
    for i, a in enumerate(rows):
        positive, negative, d_p, d_n = -1, -1, 0.0, 0.0
        for j, b in enumerate(rows):
            d = max(math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True))), 1e-6)
            if subject[j] == subject[i] and j != i and (positive < 0 or d > d_p):
                positive, d_p = j, d
            if subject[j] != subject[i] and (negative < 0 or d < d_n):
                negative, d_n = j, d
        found.append((positive, negative, d_p, d_n))
    return found


def test_mine_by_hand() -> None:
    """On a line: a 0, a 1, a 5, b 3, b 9, c 20."""
    mined = mine(torch.tensor([[0.0], [1.0], [5.0], [3.0], [9.0], [20.0]]), torch.tensor([7, 7, 7, 8, 8, 9]))
    assert mined.positive.tolist() == [2, 2, 0, 4, 3, -1]
    assert mined.negative.tolist() == [3, 3, 3, 1, 2, 4]  # of b 3, a 1 and a 5 are as near: the lower place
    assert mined.d_positive.tolist() == [5, 4, 5, 6, 6, 0]
    assert mined.d_negative.tolist() == [3, 2, 2, 2, 4, 11]
    assert mined.valid.tolist() == [True] * 5 + [False]
    assert mined.positive.dtype == mined.negative.dtype == torch.int64
    assert mined.distance[0].tolist() == [pytest.approx(1e-6), 1, 5, 3, 9, 20]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mine_is_its_definition(data: st.DataObject) -> None:
    """Whole numbers, so that ties and equal features are many and distances are exact."""
    size = data.draw(st.integers(1, 9))
    subject = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    point = st.lists(st.integers(-2, 2), min_size=2, max_size=2)
    features = torch.tensor(data.draw(st.lists(point, min_size=size, max_size=size)), dtype=torch.float64)
    mined = mine(features, torch.tensor(subject))
    expected = slow_mine(features, subject)
    assert list(zip(mined.positive.tolist(), mined.negative.tolist(), strict=True)) == [row[:2] for row in expected]
    assert mined.d_positive.tolist() == [pytest.approx(row[2], rel=1e-12) for row in expected]
    assert mined.d_negative.tolist() == [pytest.approx(row[3], rel=1e-12) for row in expected]
    assert mined.valid.tolist() == [row[0] >= 0 and row[1] >= 0 for row in expected]
    for margin in (0.0, 0.7, "soft"):
        kept = [d_p - d_n for p, n, d_p, d_n in expected if p >= 0 and n >= 0]
        terms = [math.log(1 + math.exp(x)) if margin == "soft" else max(0.0, float(margin) + x) for x in kept]
        found = triplet(mined, margin)
        assert found.item() == pytest.approx(sum(terms) / max(len(terms), 1), abs=1e-12)


def test_an_anchor_is_not_its_own_positive() -> None:
    """Of two equal images the other one is the positive, at the shortest distance there is."""
    mined = mine(torch.tensor([[1.0], [1.0], [2.0]]), torch.tensor([0, 0, 1]))
    assert mined.positive.tolist() == [1, 0, -1]
    assert mined.d_positive.tolist() == [pytest.approx(1e-6), pytest.approx(1e-6), 0]


# -- triplet


def worked() -> Mined:
    """d_p 5 4 5 6 6, d_n 3 2 2 2 4, as above: differences 2 2 3 4 2."""
    features = torch.tensor([[0.0], [1.0], [5.0], [3.0], [9.0], [20.0]], requires_grad=True)
    return mine(features, torch.tensor([7, 7, 7, 8, 8, 9]))


def test_triplet_by_hand() -> None:
    assert triplet(worked()).item() == pytest.approx(13 / 5)
    assert triplet(worked(), 0.3).item() == pytest.approx(13 / 5 + 0.3)
    assert triplet(worked(), -2.5).item() == pytest.approx((0.5 + 1.5) / 5)
    # softplus(4) = 4.018150 (METHODS 8), softplus(3) = 3.048587, softplus(2) = 2.126928
    assert triplet(worked(), "soft").item() == pytest.approx((4.018150 + 3.048587 + 3 * 2.126928) / 5, abs=1e-6)
    with pytest.raises(ConfigError, match="expected a number or 'soft' as margin, got 'hard'"):
        triplet(worked(), "hard")  # type: ignore[arg-type]


def test_soft_triplet_is_stable_where_exp_is_not() -> None:
    """Two subjects a thousand apart, mixed up and sorted."""
    far = torch.tensor([[0.0], [1000.0], [0.0], [1000.0]])
    mixed = mine(far.clone().requires_grad_(), torch.tensor([0, 0, 1, 1]))
    assert triplet(mixed, "soft").item() == pytest.approx(1000.0)
    triplet(mixed, "soft").backward()
    assert triplet(mine(far, torch.tensor([0, 1, 0, 1])), "soft").item() == 0.0


@pytest.mark.parametrize("margin", [0.0, 0.5, 3.0, "soft"])
def test_triplet_gradient(margin: Any) -> None:
    features = normal(8, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: triplet(mine(x, ALONE), margin), features)


@pytest.mark.parametrize("subject", [[0, 0, 0], [0, 1, 2]], ids=["no negatives", "no positives"])
@pytest.mark.parametrize("margin", [0.5, "soft"])
def test_without_an_anchor_the_loss_is_a_zero_with_a_graph(subject: list[int], margin: Any) -> None:
    features = normal(3, 4).requires_grad_()
    mined = mine(features, torch.tensor(subject))
    assert not mined.valid.any()
    loss = triplet(mined, margin)
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert features.grad.abs().max() == 0


def test_equal_features_have_finite_gradients() -> None:
    for loss in (lambda x, y: triplet(mine(x, y), 0.5), lambda x, y: triplet(mine(x, y), "soft")):
        features = torch.ones(8, 3, requires_grad=True)
        value = loss(features, ALONE)
        value.backward()
        assert features.grad is not None
        assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [0.0, 0.3, "soft"])
def test_triplet_agrees_with_pytorch_metric_learning(seed: int, margin: Any) -> None:
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import BatchHardMiner
    from pytorch_metric_learning.reducers import MeanReducer

    features, subject = normal(24, 16, seed=seed, dtype=torch.float32), torch.arange(8).repeat(3)
    raw = LpDistance(normalize_embeddings=False)
    anchors, positives, negatives = BatchHardMiner(distance=raw)(features, subject)
    mined = mine(features, subject)
    order = anchors.argsort()
    assert torch.equal(mined.positive, positives[order])
    assert torch.equal(mined.negative, negatives[order])
    if margin == "soft":  # theirs is softplus of d_p - d_n + margin
        theirs = TripletMarginLoss(margin=0.0, smooth_loss=True, distance=raw, reducer=MeanReducer())
    else:
        theirs = TripletMarginLoss(margin=margin, distance=raw, reducer=MeanReducer())
    expected = theirs(features, subject, (anchors, positives, negatives))
    torch.testing.assert_close(triplet(mined, margin), expected, rtol=1e-5, atol=1e-5)


# -- weighted triplet


def slow_weighted(features: Tensor, subject: list[int], square: bool, itself: bool) -> float:
    """DI2L eq. 6, anchor by anchor, with exponentials as they stand."""
    rows, terms = features.tolist(), []
    for i, a in enumerate(rows):
        d = [max(math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True))), 1e-6) for b in rows]
        positives = [j for j in range(len(rows)) if subject[j] == subject[i] and (j != i or itself)]
        negatives = [k for k in range(len(rows)) if subject[k] != subject[i]]
        if positives and negatives:
            x = sum(math.exp(d[j]) * d[j] for j in positives) / sum(math.exp(d[j]) for j in positives)
            x -= sum(math.exp(-d[k]) * d[k] for k in negatives) / sum(math.exp(-d[k]) for k in negatives)
            terms.append(math.log(1 + math.exp(math.copysign(x * x, x) if square else x)))
    return sum(terms) / max(len(terms), 1)


@pytest.mark.parametrize(("positive", "negative", "expected"), [(3.0, 1.0, 4.018150), (1.0, 3.0, 0.018150)])
def test_weighted_triplet_by_hand(positive: float, negative: float, expected: float) -> None:
    """METHODS 8: an anchor with one positive and one negative. What is asymmetric leaves one anchor with both."""
    distance = torch.tensor([[0.0, positive, negative]] * 3)
    one = weighted_triplet(distance, torch.tensor([0, 0, 1]))  # the second anchor's row: positive is at place 0
    second = math.log(1 + math.exp(math.copysign(negative**2, -1)))
    assert one.item() == pytest.approx((expected + second) / 2, abs=1e-6)


@pytest.mark.parametrize("phi", ["square", "identity"])
@pytest.mark.parametrize("itself", [False, True])
def test_weighted_triplet_is_its_definition(phi: Any, itself: bool) -> None:
    for seed, dtype in ((5, torch.float64), (6, torch.float32)):
        features = 1.5 * normal(8, 4, seed=seed, dtype=dtype)
        expected = slow_weighted(features, ALONE.tolist(), phi == "square", itself)
        found = weighted_triplet(distances(features, features), ALONE, phi, itself=itself)
        assert found.item() == pytest.approx(expected, rel=1e-5)


def test_weighted_triplet_with_the_lineages_epsilon() -> None:
    """AGW's weights, as its code computes them: at large distances those of negatives vanish, and the loss jumps."""
    for spread in (1.5, 9.0):
        features = spread * normal(8, 4, seed=5)
        d, terms = distances(features, features).tolist(), []
        for i, own in enumerate(ALONE.tolist()):
            sums = []
            for sign, chosen in (
                (1, lambda s, i=i, own=own: s[0] != i and s[1] == own),
                (-1, lambda s, own=own: s[1] != own),
            ):
                taken = [(d[i][j], chosen((j, other))) for j, other in enumerate(ALONE.tolist())]
                top = max(sign * x * there for x, there in taken)
                e = [math.exp(sign * x - top) * there for x, there in taken]
                sums.append(sum(x * w for (x, _), w in zip(taken, e, strict=True)) / (sum(e) + 1e-6))
            if sum(other == own for other in ALONE.tolist()) > 1:
                x = sums[0] - sums[1]
                terms.append(math.log1p(math.exp(math.copysign(x * x, x))))
        found = weighted_triplet(distances(features, features), ALONE, epsilon=1e-6).item()
        assert found == pytest.approx(sum(terms) / len(terms), rel=1e-6)
        plain = weighted_triplet(distances(features, features), ALONE).item()
        assert (found == pytest.approx(plain, rel=1e-3)) == (spread == 1.5)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_weighted_triplet_of_any_subjects(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 7))
    subject = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    point = st.lists(st.integers(-2, 2), min_size=2, max_size=2)
    features = torch.tensor(data.draw(st.lists(point, min_size=size, max_size=size)), dtype=torch.float64)
    square, itself = data.draw(st.booleans()), data.draw(st.booleans())
    found = weighted_triplet(
        distances(features, features), torch.tensor(subject), "square" if square else "identity", itself=itself
    )
    assert found.item() == pytest.approx(slow_weighted(features, subject, square, itself), abs=1e-9)


@pytest.mark.parametrize("phi", ["square", "identity"])
def test_weighted_triplet_gradient(phi: Any) -> None:
    """Also through the weights."""
    assert torch.autograd.gradcheck(
        lambda x: weighted_triplet(distances(x, x), ALONE, phi), normal(8, 4, seed=7).requires_grad_()
    )


@pytest.mark.parametrize("subject", [[0, 0, 0], [0, 1, 2]])
@pytest.mark.parametrize("itself", [False, True])
def test_weighted_triplet_without_an_anchor_is_a_zero_to_differentiate(subject: list[int], itself: bool) -> None:
    features = normal(3, 4).requires_grad_()
    loss = weighted_triplet(distances(features, features), torch.tensor(subject), itself=itself)
    loss.backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert (loss.item() == 0) == (not itself or len(set(subject)) == 1)


def test_weighted_triplet_of_far_features_is_finite() -> None:
    """Gaps of hundreds: exp of their square is beyond any float."""
    features = (300 * normal(8, 16, seed=8, dtype=torch.float32)).requires_grad_()
    loss = weighted_triplet(distances(features, features), ALONE)
    loss.backward()
    assert features.grad is not None
    assert torch.isfinite(loss)
    assert loss > 1e3
    assert torch.isfinite(features.grad).all()


# -- supervised contrast


def slow_contrast(features: Tensor, subject: list[int], temperature: float) -> float:
    """Khosla et al. 2020 eq. 2, sum by sum."""
    unit = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in features.tolist()]
    dot = [[sum(x * y for x, y in zip(a, b, strict=True)) / temperature for b in unit] for a in unit]
    losses = []
    for i in range(len(unit)):
        positives = [p for p in range(len(unit)) if p != i and subject[p] == subject[i]]
        if positives:
            others = sum(math.exp(dot[i][a]) for a in range(len(unit)) if a != i)
            losses.append(-sum(math.log(math.exp(dot[i][p]) / others) for p in positives) / len(positives))
    return sum(losses) / max(len(losses), 1)


def test_contrast_by_hand() -> None:
    """Two pairs at right angles, temperature 1: each anchor ln(e + 2) - 1. All alike: ln 3."""
    square = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 9.0]])
    subject = torch.tensor([0, 0, 1, 1])
    expected = math.log(math.e + 2) - 1
    assert supervised_contrastive(square, subject, 1.0).item() == pytest.approx(expected)
    assert supervised_contrastive(torch.ones(4, 2), subject).item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_contrast_is_its_definition(temperature: float) -> None:
    features = normal(8, 6)
    expected = slow_contrast(features, ALONE.tolist(), temperature)
    assert supervised_contrastive(features, ALONE, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_contrast_gradient() -> None:
    features = normal(8, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: supervised_contrastive(x, ALONE, 0.3), features)


@pytest.mark.parametrize("subject", [[0, 1, 2], [0]])
def test_contrast_without_positives_is_a_zero_with_a_graph(subject: list[int]) -> None:
    features = normal(len(subject), 4).requires_grad_()
    loss = supervised_contrastive(features, torch.tensor(subject))
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert features.grad.abs().max() == 0


@pytest.mark.parametrize("subject", [torch.arange(8).repeat(3), torch.cat([ALONE, ALONE + 4, ALONE + 10])])
def test_contrast_agrees_with_pytorch_metric_learning(subject: Tensor) -> None:
    from pytorch_metric_learning.losses import SupConLoss

    for seed in range(5):
        features = normal(24, 16, seed=seed, dtype=torch.float32)
        expected = SupConLoss(temperature=0.1)(features, subject)
        torch.testing.assert_close(supervised_contrastive(features, subject), expected, rtol=1e-5, atol=1e-5)


# -- all


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(8)), st.integers(0, 1000))
def test_the_order_of_a_batch_does_not_matter(order: list[int], seed: int) -> None:
    features, shuffled = normal(8, 5, seed=seed), torch.tensor(order)
    for loss in (lambda x, y: triplet(mine(x, y), 0.5), lambda x, y: triplet(mine(x, y), "soft")):
        torch.testing.assert_close(loss(features[shuffled], ALONE[shuffled]), loss(features, ALONE))
    again = supervised_contrastive(features[shuffled], ALONE[shuffled])
    torch.testing.assert_close(again, supervised_contrastive(features, ALONE))


def test_under_autocast_all_is_computed_in_float32() -> None:
    features = normal(8, 96, dtype=torch.float32).bfloat16()

    def losses(x: Tensor) -> list[Tensor]:
        mined = mine(x, ALONE)
        return [triplet(mined, 0.5), triplet(mined, "soft"), supervised_contrastive(x, ALONE), mined.distance.sum()]

    outside = losses(features.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = losses(features)
    assert [loss.dtype for loss in inside] == [torch.float32] * 4
    assert inside == outside


def test_twice_the_same_bits() -> None:
    runs = []
    for _ in range(2):
        features = normal(64, 128, dtype=torch.float32).requires_grad_()
        subject = torch.arange(8).repeat(8)
        (triplet(mine(features, subject), 0.3) + supervised_contrastive(features, subject)).backward()
        runs.append(features.grad)
    assert runs[0] is not None
    assert runs[1] is not None
    assert torch.equal(runs[0], runs[1])
