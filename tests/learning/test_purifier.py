"""The purifier, and the losses of what it gains and takes away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mdfpipe.learning.losses.idkl import discrepancy_reducing, discrimination_enhancing, entropy
from mdfpipe.learning.models.idkl import Mask, Purifier
from mdfpipe.learning.models.parts.layers import gem
from tests.learning.scalars import close, normal, slow_reducing, softmax

# -- L_e and L_r


def slow_entropy(logits: Sequence[float]) -> float:
    return -sum(p * math.log(p) for p in softmax(logits))


def test_enhancing_is_its_definition() -> None:
    d, sp = normal(5, 6) * 2, normal(5, 6, seed=1) * 2
    wanted = sum(
        math.log(1 + math.exp(slow_entropy(x) - slow_entropy(y))) for x, y in zip(d.tolist(), sp.tolist(), strict=True)
    )
    close(discrimination_enhancing(d.float(), sp.float()), wanted / 5)
    close(discrimination_enhancing(d, d), math.log(2))  # METHODS 8
    assert torch.autograd.gradcheck(lambda x: discrimination_enhancing(x, sp), d.requires_grad_())
    reference = sp.clone().requires_grad_()
    discrimination_enhancing(d, reference).backward()
    assert reference.grad is None  # the cheap way out is barred
    assert torch.isfinite(entropy(torch.tensor([[0.0, 1e4]]))).all()


@pytest.mark.parametrize("by", ["unit", "released"])
def test_reducing_is_its_definition(by: str) -> None:
    """Three groups, unequal counts; subject 3 lacks group 1, nobody has groups 0 and 3 in common."""
    subject, group = [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 9], [0, 0, 1, 0, 1, 2, 1, 2, 0, 2, 3]
    reduced, instance = normal(11, 4) * 2, normal(11, 4, seed=1) * 3
    pairs = [(0, 1), (0, 2), (1, 2), (0, 3)]
    options: dict[str, Any] = {} if by == "unit" else {"unit": False, "hinge": "relu"}
    labels = (torch.tensor(subject), torch.tensor(group), pairs)
    close(
        discrepancy_reducing(reduced.float(), instance.float(), *labels, **options),
        slow_reducing(reduced, instance, subject, group, pairs, by=by),
    )
    assert torch.autograd.gradcheck(
        lambda x: discrepancy_reducing(x, instance, *labels, **options), reduced.requires_grad_()
    )


def test_reducing_at_equality_without_anybody_and_where_centres_meet() -> None:
    x, subject, group = normal(4, 3).requires_grad_(), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    close(discrepancy_reducing(x, x, subject, group, [(0, 1)]), math.log(2))  # METHODS 8
    nothing = discrepancy_reducing(x, x, torch.arange(4), group, [(0, 1)])
    nothing.backward()
    close(nothing, 0.0)
    same = torch.ones(4, 3, requires_grad=True)
    discrepancy_reducing(same, same, subject, group, [(0, 1)]).backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()
    reference = normal(4, 3, seed=1).requires_grad_()
    discrepancy_reducing(x, reference, subject, group, [(0, 1)]).backward()
    assert reference.grad is None


def test_reducing_is_not_met_by_shrinking() -> None:
    """Behind a mask of 1e-3 unit-length centres lie as far apart as before; others seem to have come together."""
    x, subject, group = normal(4, 3), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    close(discrepancy_reducing(1e-3 * x, x, subject, group, [(0, 1)]), math.log(2))
    assert discrepancy_reducing(1e-3 * x, x, subject, group, [(0, 1)], unit=False) < 0.5


# -- the purifier


def test_average_pooling_after_instance_norm_is_nothing() -> None:
    """Why masks pool by GeM: the average of F_in is 0 for every image: m_r would be constant, W3 would never move."""
    x = normal(3, 8, 6, 4, dtype=torch.float32).relu() * 5
    instance = nn.InstanceNorm2d(8)(x)
    assert instance.mean((2, 3)).abs().max() < 1e-6
    assert gem(instance).std(0).max() > 1e-2  # images differ

    def step(g: Tensor) -> tuple[float, float]:
        """How far the masks of three images lie apart, and the gradient of W3, behind this pooling."""
        torch.manual_seed(0)
        mask = Mask(8, 2, "channel", 3.0)
        weights = mask.excite(functional.relu(mask.squeeze(g))).sigmoid()
        weights.square().sum().backward()
        assert mask.squeeze.weight.grad is not None
        return float(weights.detach().std(0).max()), float(mask.squeeze.weight.grad.abs().max())

    assert max(step(instance.mean((2, 3), keepdim=True))) < 1e-6
    assert min(step(gem(instance)[:, :, None, None])) > 1e-3
    torch.manual_seed(0)
    mask = Mask(8, 2, "channel", 3.0)
    assert mask(instance).std(0).max() > 1e-3  # and so does ours


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("mask", ["channel", "full"])
def test_purifier_is_its_definition(mask: Any, affine: bool) -> None:
    """Eq. 7 to 9 and 12, written out over maps; F_p as printed."""
    torch.manual_seed(0)
    module = Purifier(16, mask=mask, reduction=4, affine=affine).double()
    if affine:
        nn.init.normal_(module.norm.weight)
        nn.init.normal_(module.norm.bias)
    x = normal(2, 16, 3, 2).relu()
    found = module(x)
    mean, spread = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
    instance = (x - mean) / (spread + 1e-5).sqrt()
    if affine:
        instance = instance * module.norm.weight[:, None, None] + module.norm.bias[:, None, None]

    def weights(part: Mask, of: Tensor) -> Tensor:
        first, second = (layer.weight[:, :, 0, 0] for layer in (part.squeeze, part.excite))
        g = of.clamp_min(1e-6).pow(3).mean((2, 3)).pow(1 / 3)[:, :, None, None] if mask == "channel" else of
        inner = torch.einsum("oc,bchw->bohw", first, g).clamp_min(0)
        return 1 / (1 + torch.exp(-torch.einsum("oc,bchw->bohw", second, inner)))

    m_e, m_r = weights(module.enhance, x), weights(module.reduce, instance)
    assert m_e.shape == ((2, 16, 1, 1) if mask == "channel" else (2, 16, 3, 2))
    enhanced, reduced = m_e * x, m_r * instance
    purified = m_e * reduced + m_r * enhanced
    torch.testing.assert_close(purified, m_e * m_r * (instance + x))  # METHODS 8
    maps = {"specific": x, "instance": instance, "enhanced": enhanced, "reduced": reduced, "purified": purified}
    assert found.keys() == maps.keys()
    for name, wanted in maps.items():
        torch.testing.assert_close(found[name], gem(wanted), atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("mask", ["channel", "full"])
def test_purifier_gradient(mask: Any) -> None:
    torch.manual_seed(0)
    module = Purifier(4, mask=mask, reduction=2).double()
    x = normal(2, 4, 3, 2).abs().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: tuple(module(value).values()), x)
    sum(value.square().sum() for value in module(x).values()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def test_purifier_of_a_resnet_50() -> None:
    with torch.device("meta"):
        module = Purifier(2048)
        found = module(torch.zeros(2, 2048, 24, 8))
    assert {value.shape for value in found.values()} == {(2, 2048)}
    assert module.enhance.squeeze.weight.shape == (128, 2048, 1, 1)  # METHODS 5.1: 2048 -> 128 -> 2048
    assert sum(p.numel() for p in module.parameters()) == 4 * 128 * 2048
