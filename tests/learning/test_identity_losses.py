"""Identity losses: worked by hand, against scalar transcriptions, their gradients, AdaFace's limits and its state."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mdfpipe.learning.losses.identity import AdaFace, cross_entropy, focal, focal_weight

EPS = 1e-3


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def of_length(raw: Tensor, length: Any) -> Tensor:
    return raw / raw.norm(dim=1, keepdim=True) * torch.as_tensor(length, dtype=raw.dtype).reshape(-1, 1)


def head(mean: float = 20.0, spread: float = 100.0, features: int = 5, classes: int = 4, **more: Any) -> AdaFace:
    torch.manual_seed(1)
    made = AdaFace(features, classes, **more).double()
    made.mean.fill_(mean)
    made.spread.fill_(spread)
    return made


# -- cross-entropy


def test_cross_entropy_by_hand() -> None:
    """Softmax of (ln 1, ln 3) is 1/4, 3/4."""
    logits = torch.tensor([[0.0, math.log(3)]] * 2)
    assert cross_entropy(logits, torch.tensor([0, 1])).item() == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)
    # smoothing 0.2 over two classes: labels of 0.9 and 0.1
    smooth = 0.9 * math.log(4) + 0.1 * math.log(4 / 3)
    assert cross_entropy(logits[:1], torch.tensor([0]), smoothing=0.2).item() == pytest.approx(smooth)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_definition(smoothing: float) -> None:
    logits, subject = normal(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    total = 0.0
    for row, own in zip(logits.tolist(), subject.tolist(), strict=True):
        sum_exp = sum(math.exp(value) for value in row)
        for c, value in enumerate(row):
            total -= ((1 - smoothing) * (c == own) + smoothing / 5) * math.log(math.exp(value) / sum_exp)
    assert cross_entropy(logits, subject, smoothing).item() == pytest.approx(total / 6, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_gradient(smoothing: float) -> None:
    subject = torch.tensor([0, 2, 1])
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, subject, smoothing), normal(3, 4).requires_grad_())


def test_cross_entropy_of_half_precision_is_computed_in_float32() -> None:
    logits, subject = normal(4, 7, dtype=torch.float32).bfloat16(), torch.tensor([0, 1, 5, 6])
    assert cross_entropy(logits, subject).dtype == torch.float32
    assert cross_entropy(logits, subject) == cross_entropy(logits.float(), subject)


# -- focal


def slow_focal(logits: Tensor, subject: list[int], gamma: float, everyone: bool) -> float:
    """DI2L eq. 5, number by number: of the subject, or of every class."""
    total = 0.0
    for row, own in zip(logits.tolist(), subject, strict=True):
        sum_exp = sum(math.exp(value) for value in row)
        for c, value in enumerate(row):
            if c == own or everyone:
                p = math.exp(value) / sum_exp
                total -= (1 - p) ** gamma * math.log(p)
    return total / len(subject)


def test_focal_by_hand() -> None:
    """METHODS 8: of p = 1/2, ln 2 / 4. Of p = 1/4 and 3/4: (9/16 ln 4 + 1/16 ln 4/3) / 2."""
    assert focal(torch.zeros(5, 2), torch.tensor([0, 1, 1, 0, 1])).item() == pytest.approx(0.173287, abs=1e-6)
    logits, subject = torch.tensor([[0.0, math.log(3)]] * 2), torch.tensor([0, 1])
    expected = (9 / 16 * math.log(4) + 1 / 16 * math.log(4 / 3)) / 2
    assert focal(logits, subject).item() == pytest.approx(expected)
    assert focal(logits, subject, over="all").item() == pytest.approx(2 * expected)
    assert focal_weight(logits, subject).tolist() == pytest.approx([9 / 16, 1 / 16])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("over", ["subject", "all"])
def test_focal_is_its_definition(gamma: float, over: Any) -> None:
    for seed, dtype in ((3, torch.float64), (4, torch.float32)):
        logits, subject = 2 * normal(9, 6, seed=seed, dtype=dtype), [0, 5, 2, 2, 1, 3, 4, 0, 5]
        expected = slow_focal(logits, subject, gamma, over == "all")
        found = focal(logits, torch.tensor(subject), gamma, over)
        assert found.item() == pytest.approx(expected, rel=1e-5)
        weight = focal_weight(logits, torch.tensor(subject), gamma)
        p = logits.double().softmax(1)[torch.arange(9), subject]
        torch.testing.assert_close(weight.double(), (1 - p) ** gamma, rtol=1e-4, atol=1e-7)


def test_focal_without_gamma_is_cross_entropy() -> None:
    logits, subject = normal(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    torch.testing.assert_close(focal(logits, subject, 0.0), cross_entropy(logits, subject))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("over", ["subject", "all"])
def test_focal_gradient(gamma: float, over: Any) -> None:
    subject = torch.tensor([0, 2, 1])
    assert torch.autograd.gradcheck(lambda x: focal(x, subject, gamma, over), normal(3, 4).requires_grad_())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("over", ["subject", "all"])
def test_focal_of_the_certain_is_finite(gamma: float, over: Any) -> None:
    """p that rounds to 1, and p far below what exp holds: the loss and its slope are numbers."""
    logits = torch.tensor([[500.0, 0.0, 0.0], [0.0, 500.0, 0.0]], requires_grad=True)
    loss = focal(logits, torch.tensor([0, 0]), gamma, over)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert loss.item() == pytest.approx(250.0 if over == "subject" else 500 + 250 * 2, rel=1e-5)


def test_focal_of_nearly_certain_images_keeps_its_digits() -> None:
    """1 - p is taken from log p: of p = 1 - 2e-7 a difference of float32 numbers would have one digit."""
    logits = torch.tensor([[15.4, 0.0]])
    expected = slow_focal(logits.double(), [0], 2.0, False)
    assert focal(logits, torch.tensor([0])).item() == pytest.approx(expected, rel=1e-4)


def test_focal_of_half_precision_is_computed_in_float32() -> None:
    logits, subject = normal(4, 7, dtype=torch.float32).bfloat16(), torch.tensor([0, 1, 5, 6])
    assert focal(logits, subject).dtype == torch.float32
    assert focal(logits, subject) == focal(logits.float(), subject)


# -- AdaFace: the formula


def transcribed(raw: Tensor, weight: Tensor, subject: Tensor, mean: float, spread: float) -> list[list[float]]:
    """METHODS 2, number by number, margin 0.4, h 0.333, scale 64."""
    rows = []
    for vector, own in zip(raw.tolist(), subject.tolist(), strict=True):
        length = math.sqrt(sum(x * x for x in vector))
        q = 0.333 * (min(max(length, 0.001), 100.0) - mean) / (spread + EPS)
        q = min(max(q, -1.0), 1.0)
        row = []
        for c, direction in enumerate(weight.tolist()):
            reach = math.sqrt(sum(w * w for w in direction))
            cosine = sum(x * w for x, w in zip(vector, direction, strict=True)) / length / reach
            cosine = min(max(cosine, -1 + EPS), 1 - EPS)
            if c == own:
                theta = min(max(math.acos(cosine) - 0.4 * q, EPS), math.pi - EPS)
                cosine = math.cos(theta) - (0.4 + 0.4 * q)
            row.append(64 * cosine)
        rows.append(row)
    return rows


@pytest.mark.parametrize(("mean", "spread"), [(20.0, 100.0), (25.0, 4.0), (50.0, 1.0)])
def test_adaface_is_its_definition(mean: float, spread: float) -> None:
    """Lengths from below the shortest to above the longest, cosines up to exactly -1 and 1."""
    ours = head(mean, spread)
    raw = of_length(normal(7, 5, seed=2), [1e-4, 1.0, 10.0, 25.0, 49.0, 80.0, 500.0])
    raw[3], raw[4] = ours.weight.detach()[1] * 30, ours.weight.detach()[2] * -30
    subject = torch.tensor([0, 1, 2, 1, 2, 3, 0])
    expected = torch.tensor(transcribed(raw, ours.weight, subject, mean, spread), dtype=torch.float64)
    torch.testing.assert_close(ours.logits(raw, subject), expected, rtol=1e-9, atol=1e-9)
    expected_loss = -expected.log_softmax(1)[torch.arange(7), subject].mean()
    torch.testing.assert_close(ours.eval()(raw, subject), expected_loss)


LIMITS: dict[str, tuple[float, Callable[[float], float]]] = {
    "ArcFace, q = -1": (1.0, lambda cosine: math.cos(math.acos(cosine) + 0.4)),
    "CosFace, q = 0": (50.0, lambda cosine: cosine - 0.4),
    "q = 1": (100.0, lambda cosine: math.cos(math.acos(cosine) - 0.4) - 0.8),
}


@pytest.mark.parametrize("name", LIMITS)
def test_adaface_limits(name: str) -> None:
    length, own = LIMITS[name]
    ours = head(mean=50.0, spread=1.0, features=3, classes=3)
    ours.weight.data = torch.eye(3, dtype=torch.float64) * torch.tensor([[0.1], [1.0], [7.0]])  # directions alone count
    raw = of_length(torch.tensor([[2.0, -1.0, 2.0]], dtype=torch.float64), length)  # cosines 2/3, -1/3, 2/3
    expected = [64 * own(2 / 3), 64 * -1 / 3, 64 * 2 / 3]
    assert ours.logits(raw, torch.tensor([0]))[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_adaface_quality_between() -> None:
    """n 26, mean 20, spread 4: q = 0.333 * 6 / 4.001 = 0.4993752."""
    q = 0.333 * 6 / 4.001
    ours = head(mean=20.0, spread=4.0, features=2, classes=2)
    ours.weight.data = torch.eye(2, dtype=torch.float64)
    raw = of_length(torch.tensor([[0.6, 0.8]], dtype=torch.float64), 26.0)
    expected = [64 * (math.cos(math.acos(0.6) - 0.4 * q) - 0.4 * (1 + q)), 64 * 0.8]
    assert ours.logits(raw, torch.tensor([0]))[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_adaface_without_margin_is_a_cosine_classifier() -> None:
    ours, raw, subject = head(margin=0.0, scale=3.0), normal(6, 5, seed=3), torch.tensor([0, 1, 2, 3, 0, 1])
    unit = of_length(raw, 1.0) @ of_length(ours.weight.detach(), 1.0).T
    torch.testing.assert_close(ours.logits(raw, subject), 3 * unit)


# -- AdaFace: gradients


@pytest.mark.parametrize(
    ("length", "scale"), [(1.0, 64.0), (50.0, 64.0), (50.7, 64.0), (51.9, 8.0), (90.0, 8.0)], ids=str
)
def test_adaface_gradient(length: float, scale: float) -> None:
    """At fixed lengths, since none passes through them; q is -1, 0, .23, .63 and 1."""
    ours, subject = head(mean=50.0, spread=1.0, scale=scale).eval(), torch.tensor([0, 3, 1, 1])

    def loss(direction: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(ours, {"weight": weight}, (of_length(direction, length), subject))

    assert torch.autograd.gradcheck(
        loss, (normal(4, 5, seed=4).requires_grad_(), ours.weight.detach().clone().requires_grad_())
    )


def test_adaface_gives_no_gradient_to_lengths() -> None:
    """The gradient stands upright on each feature, at every quality."""
    ours = head(mean=50.0, spread=10.0)
    raw = of_length(normal(6, 5, seed=5), [1.0, 30.0, 45.0, 55.0, 70.0, 99.0]).requires_grad_()
    ours(raw, torch.tensor([0, 1, 2, 3, 0, 1])).backward()
    assert raw.grad is not None
    assert (raw.grad.norm(dim=1) > 1e-6).all()
    assert (raw.grad * raw).sum(1).abs().max() < 1e-10
    assert ours.weight.grad is not None
    assert torch.isfinite(ours.weight.grad).all()


def test_adaface_stays_finite_at_the_ends() -> None:
    """A feature along its class, against it, and of length 0."""
    ours = head(mean=50.0, spread=1.0)
    ends = torch.stack([ours.weight.detach()[0] * 90, ours.weight.detach()[1] * -90, torch.zeros(5).double()])
    raw = ends.requires_grad_()
    loss = ours(raw, torch.tensor([0, 1, 2]))
    loss.backward()
    assert torch.isfinite(loss)
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()


# -- AdaFace: the running state


def test_adaface_averages_by_hand() -> None:
    """Three steps at a weight of a half. The deviation is a sample's; 400 counts as 100."""
    ours, subject = head(average=0.5), torch.tensor([0, 1])
    steps = [
        ([9.0, 11.0], 0.5 * 20 + 0.5 * 10, 0.5 * 100 + 0.5 * math.sqrt(2)),
        ([30.0, 30.0], 22.5, 0.5 * (50 + 0.5 * math.sqrt(2))),
        ([10.0, 400.0], 0.5 * 22.5 + 0.5 * 55, 0.25 * (50 + 0.5 * math.sqrt(2)) + 0.5 * 90 / math.sqrt(2)),
    ]
    for lengths, mean, spread in steps:
        raw = of_length(normal(2, 5, seed=6), lengths)
        loss = ours(raw, subject)
        assert (ours.mean.item(), ours.spread.item()) == (pytest.approx(mean), pytest.approx(spread))
        expected = torch.tensor(transcribed(raw, ours.weight, subject, mean, spread), dtype=torch.float64)
        # updated before use
        torch.testing.assert_close(loss, -expected.log_softmax(1)[[0, 1], [0, 1]].mean())


def test_adaface_starts_as_said() -> None:
    ours = AdaFace(512, 300)
    assert (ours.mean.item(), ours.spread.item(), ours.average) == (20.0, 100.0, 0.01)
    assert ours.weight.shape == (300, 512)
    assert ours.weight.norm(dim=1).mean().item() == pytest.approx(1.0, abs=0.02)
    assert set(ours.state_dict()) == {"weight", "mean", "spread"}


def test_adaface_leaves_its_state_alone() -> None:
    """In evaluation, in `logits`, and in a batch of one, whose loss is still there."""
    ours, subject = head(average=0.5), torch.tensor([0, 1])
    raw = of_length(normal(2, 5, seed=7), [5.0, 7.0])
    ours.eval()(raw, subject)
    ours.train().logits(raw, subject)
    loss = ours(raw[:1].clone().requires_grad_(), subject[:1])
    loss.backward()
    assert torch.isfinite(loss)
    assert (ours.mean.item(), ours.spread.item()) == (20.0, 100.0)
    ours(raw, subject)
    assert ours.mean.item() == pytest.approx(13.0)


def test_adaface_resumes_from_its_state() -> None:
    first, raw, subject = head(average=0.5), normal(4, 5, seed=8), torch.tensor([0, 1, 2, 3])
    first(raw, subject)
    second = AdaFace(5, 4, average=0.5).double()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert first(raw, subject) == second(raw, subject)


def test_adaface_figures() -> None:
    ours = head(average=0.5)
    assert ours.figures() == {"norm_mean": (20.0, 1.0), "norm_spread": (100.0, 1.0)}
    ours(of_length(normal(2, 5, seed=9), [9.0, 11.0]), torch.tensor([0, 1]))
    total, count = ours.figures()["norm"]
    assert (total, count) == (pytest.approx(20.0), 2.0)
    assert ours.figures()["norm_mean"] == (pytest.approx(15.0), 1.0)


def test_adaface_under_autocast_is_computed_in_float32() -> None:
    ours, subject = head(features=64).float().eval(), torch.tensor([0, 1, 2, 3])
    raw = normal(4, 64, seed=10, dtype=torch.float32).bfloat16()
    outside = ours(raw.float(), subject)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ours(raw, subject)
    assert inside.dtype == torch.float32
    assert inside == outside
