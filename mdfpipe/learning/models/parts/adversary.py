"""Adversary: classifiers that tell the domain of a feature, which a branch is trained to help, or to deceive.

Modality discriminators and confusers (IDKL eq. 2-4, METHODS 5.1), for any number of domains. They have BatchNorm and
look at the whole batch: they belong into a recipe's `losses`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mdfpipe.learning.losses.ranking import precise


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse(x: Tensor, strength: float = 1.0) -> Tensor:
    """The same values, whose gradient is turned round and multiplied by `strength` (Ganin and Lempitsky 2015).

    >>> x = torch.tensor([3.0], requires_grad=True)
    >>> reverse(2 * x, 0.5).backward()
    >>> x.grad.tolist()
    [-1.0]
    """
    found: Tensor = _Reversed.apply(x, strength)
    return found


def ramp(share: float) -> float:
    """How strong the reversal is when a share of the training is done, 0 to almost 1 (Ganin and Lempitsky 2015).

    >>> ramp(0.0), round(ramp(0.1), 6), round(ramp(1.0), 6)
    (0.0, 0.462117, 0.999909)
    """
    return 2 / (1 + math.exp(-10 * share)) - 1


def balanced_cross_entropy(logits: Tensor, domain: Tensor) -> Tensor:
    """Cross-entropy in which every domain present weighs the same: a scalar. logits: (B, D); domain: (B,) int64.

    On a batch of equally many images of each it is the plain mean; on another the plain one would teach the confused
    branch to look like the prior (METHODS 5.5).

    >>> logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, math.log(3)]])  # ln 2 and ln 4 / 3, as one each
    >>> round(float(balanced_cross_entropy(logits, torch.tensor([0, 0, 1]))), 6)
    0.490415
    """
    counts = torch.bincount(domain, minlength=logits.shape[1])
    weight = 1 / counts.clamp_min(1).to(logits.dtype)
    return functional.cross_entropy(precise(logits), domain, weight=precise(weight))


class DomainClassifier(nn.Sequential):
    """(B, width) to logits (B, domains): width - hidden - hidden - domains, with BN, ReLU and dropout in between.

    Each of several processes that see the same batch draws a dropout of its own.
    """

    def __init__(self, width: int, domains: int, *, hidden: int = 100, dropout: float = 0.5) -> None:
        layers: list[nn.Module] = []
        for given in (width, hidden):
            # no bias: the norm would take it out again
            layers += [nn.Linear(given, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(hidden, domains))


class DomainClassifiers(nn.ModuleDict):
    """One at each of several depths of a branch. widths: of the feature at each depth, by its name."""

    def __init__(self, widths: Mapping[str, int], domains: int, *, hidden: int = 100, dropout: float = 0.5) -> None:
        made = {
            name: DomainClassifier(width, domains, hidden=hidden, dropout=dropout) for name, width in widths.items()
        }
        super().__init__(made)

    def loss(self, features: Mapping[str, Tensor], domain: Tensor) -> Tensor:
        """The sum over depths of their cross-entropies (IDKL eq. 4): a scalar, near depths * ln D at chance.

        features: (B, width) at each depth; domain: (B,) int64.
        """
        return torch.stack([balanced_cross_entropy(head(features[name]), domain) for name, head in self.items()]).sum()
