"""Pooling of feature maps."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mdfpipe.learning.losses.ranking import precise

SMALLEST = 1e-6
"""What a value is at least before it is raised to a power (METHODS 0)."""


def gem(x: Tensor, power: Tensor | float = 3.0, dim: tuple[int, ...] | int = (2, 3)) -> Tensor:
    """Generalised mean over `dim`, in float32 at least: (mean of max(x, 1e-6)^p)^(1/p) (METHODS 0). p = 1 is the
    average, p to infinity the maximum.

    >>> round(float(gem(torch.tensor([[[[1.0, 2.0]]]]))), 6)  # the cube root of (1 + 8) / 2
    1.650964
    """
    with uncast(x):
        return precise(x).clamp_min(SMALLEST).pow(power).mean(dim).pow(1 / power)


def uncast(x: Tensor) -> AbstractContextManager[Any]:
    """No autocast for what is computed of x. On the meta device, where shapes alone are computed, there is none."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


class GeM(nn.Module):
    """(B, C, H, W) to (B, C) float32: `gem` over space. learnable: one power for all channels is trained."""

    def __init__(self, power: float = 3.0, learnable: bool = False) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power), requires_grad=True) if learnable else power

    def forward(self, x: Tensor) -> Tensor:
        """The generalised mean over all places."""
        return gem(x, self.power)
