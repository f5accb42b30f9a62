"""Layers of feature maps: generalised mean pooling, and non-local attention."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mdfpipe.learning.losses.ranking import precise

SMALLEST = 1e-6
"""What a value is at least before it is raised to a power (METHODS 0)."""


def gem(x: Tensor, power: float = 3.0, dim: tuple[int, ...] | int = (2, 3)) -> Tensor:
    """Generalised mean over `dim`, in float32 at least: (mean of max(x, 1e-6)^p)^(1/p) (METHODS 0). p = 1 is the
    average, p to infinity the maximum.
    """
    with uncast(x):
        return precise(x).clamp_min(SMALLEST).pow(power).mean(dim).pow(1 / power)


def uncast(x: Tensor) -> AbstractContextManager[Any]:
    """No autocast for what is computed of x. On the meta device, where shapes alone are computed, there is none."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


class GeM(nn.Module):
    """(B, C, H, W) to (B, C) float32: `gem` over space."""

    def __init__(self, power: float = 3.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        """The generalised mean over all places."""
        return gem(x, self.power)


class NonLocal(nn.Module):
    """z_i = x_i + W sum_j a_ij g(x_j), every place attending to all; (B, C, H, W) to the same shape (Wang et al. 2018;
    DI2L eq. 2-3, METHODS 3.1).

    inner: width of u, v, g: half of C (DI2L), or one (AGW's released code, an integer division that went wrong). norm:
    a_ij = softmax_j(u(x_i).v(x_j)), or u(x_i).v(x_j) divided by the number of places (AGW). W ends in a BN whose scale
    starts at 0, so that the block starts as the identity: until it moves, nothing within has a gradient.
    """

    def __init__(
        self, channels: int, *, inner: Literal["half", "one"] = "half", norm: Literal["softmax", "mean"]
    ) -> None:
        super().__init__()
        width = channels // 2 if inner == "half" else 1
        self.norm = norm
        self.u = nn.Conv2d(channels, width, 1)
        self.v = nn.Conv2d(channels, width, 1)
        self.g = nn.Conv2d(channels, width, 1)
        self.w = nn.Conv2d(width, channels, 1)
        self.bn = nn.BatchNorm2d(channels)
        for convolution in (self.u, self.v, self.g, self.w):
            nn.init.normal_(convolution.weight, std=0.01)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The map with what each place found elsewhere added."""
        u, v, g = (layer(x).flatten(2) for layer in (self.u, self.v, self.g))
        alike = u.transpose(1, 2) @ v  # (B, places, places): of i over j
        weight = alike.softmax(dim=2) if self.norm == "softmax" else alike / alike.shape[2]
        seen = (weight @ g.transpose(1, 2)).transpose(1, 2)
        rows = seen.reshape(-1, seen.shape[1], *x.shape[2:])  # in an exported graph the batch is of any size
        found: Tensor = x + self.bn(self.w(rows))
        return found
