"""Adversaries: the turned gradient, classifiers of domains, their balanced cross-entropy."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from mdfpipe.learning.models.idkl import (
    DomainClassifier,
    DomainClassifiers,
    balanced_cross_entropy,
    ramp,
    reverse,
)
from tests.learning.scalars import close, normal, softmax


def test_reversal_turns_gradients_round() -> None:
    x = normal(3, 2).requires_grad_()
    (reverse(x, 0.25) * torch.arange(6.0).view(3, 2)).sum().backward()
    torch.testing.assert_close(x.grad, -0.25 * torch.arange(6.0, dtype=torch.float64).view(3, 2))
    assert torch.equal(reverse(x), x)
    assert [round(ramp(t), 6) for t in (0.0, 0.25, 1.0)] == [0.0, 0.848284, 0.999909]


def test_balanced_cross_entropy_is_its_definition() -> None:
    """Domain 2 is not there; without the weights the mean would be another."""
    logits, domain = normal(6, 4), [0, 0, 0, 0, 1, 3]
    each = [-math.log(softmax(row)[d]) for row, d in zip(logits.tolist(), domain, strict=True)]
    close(balanced_cross_entropy(logits.float(), torch.tensor(domain)), (sum(each[:4]) / 4 + each[4] + each[5]) / 3)
    assert torch.autograd.gradcheck(lambda x: balanced_cross_entropy(x, torch.tensor(domain)), logits.requires_grad_())
    even = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    both = normal(8, 4)
    torch.testing.assert_close(balanced_cross_entropy(both, even), functional.cross_entropy(both, even))


def test_domain_classifiers_start_near_chance_and_are_what_the_paper_says() -> None:
    torch.manual_seed(0)
    heads = DomainClassifiers({"stage3": 1024, "neck": 2048}, 4)
    shapes = [tuple(p.shape) for p in heads["neck"].parameters() if p.ndim == 2]
    assert shapes == [(100, 2048), (100, 100), (4, 100)]
    kinds = [type(layer).__name__ for layer in DomainClassifier(8, 2)]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2 + ["Linear"]
    for head in heads.values():
        nn.init.zeros_(head[-1].weight)
        nn.init.zeros_(head[-1].bias)
    features = {"stage3": normal(8, 1024).float(), "neck": normal(8, 2048).float()}
    domain = torch.arange(8) % 4
    close(heads.loss(features, domain), 2 * math.log(4))  # METHODS 8: ln D per head
    with torch.no_grad():
        heads["neck"][-1].bias[0] = 3.0
    alone = balanced_cross_entropy(torch.tensor([[3.0, 0, 0, 0]] * 8), domain)
    close(heads.loss(features, domain), math.log(4) + float(alone))


def test_a_confuser_learns_the_domain_and_its_feature_forgets_it() -> None:
    """Along the turned gradient the loss of the confuser grows; along its own weights' it falls."""
    torch.manual_seed(0)
    head = DomainClassifier(6, 2, dropout=0.0)
    x, domain = normal(16, 6).float().requires_grad_(), torch.arange(16) % 2
    before = balanced_cross_entropy(head(reverse(x)), domain)
    before.backward()
    assert x.grad is not None
    moved = balanced_cross_entropy(head(x.detach() - 0.1 * x.grad), domain)
    assert moved > before
    with torch.no_grad():
        for p in head.parameters():
            p -= 0.1 * p.grad  # type: ignore[operator]
    assert balanced_cross_entropy(head(x), domain) < before
