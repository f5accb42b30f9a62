"""Part aggregation: what stripes of a body find in one another, added to the pooled map (DI2L's DPA; METHODS 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mdfpipe.errors import ConfigError
from mdfpipe.learning.losses.ranking import precise
from mdfpipe.learning.models.parts.pooling import GeM, uncast


class PartAggregation(nn.Module):
    """(B, C, H, W) to (B, C) float32: GeM of the map, and a gated sum of its attended stripes.

    x_i are the averages of `parts` horizontal stripes that do not overlap; a_ij = softmax_j(u(x_i).v(x_j)) (DI2L
    eq. 4), x'_i = sum_j a_ij z(x_j); the output is GeM + sum_i w_i x'_i, w the softmax of gates that start equal.
    scaled: u.v is divided by the root of u's width, which is a quarter of C (512 of ResNet-50). u, v and z have no
    bias: one of v cancels in the softmax, one of z in every distance and in a BN neck.
    """

    def __init__(self, channels: int, parts: int = 3, power: float = 3.0, *, scaled: bool = True) -> None:
        super().__init__()
        inner = channels // 4
        self.parts = parts
        self.scale = inner**-0.5 if scaled else 1.0
        self.pool = GeM(power)
        self.u = nn.Conv2d(channels, inner, 1, bias=False)
        self.v = nn.Conv2d(channels, inner, 1, bias=False)
        self.z = nn.Conv2d(channels, channels, 1, bias=False)
        self.gate = nn.Parameter(torch.zeros(parts))
        for convolution in (self.u, self.v, self.z):
            nn.init.normal_(convolution.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Raises ConfigError where the rows of the map cannot be divided into the stripes."""
        if x.shape[2] % self.parts:
            raise ConfigError(
                f"part aggregation: expected a map whose rows divide into {self.parts} parts, got {x.shape[2]}; "
                "change the parts, or the height of the image"
            )
        stripes = functional.adaptive_avg_pool2d(x, (self.parts, 1))  # (B, C, p, 1)
        seen = self.attention(stripes).to(x.dtype) @ self.z(stripes).flatten(2).transpose(1, 2)  # (B, p, C)
        gathered: Tensor = self.pool(x) + (self.gate.softmax(0)[:, None] * precise(seen)).sum(1)
        return gathered

    def attention(self, stripes: Tensor) -> Tensor:
        """(B, p, p) float32, how stripe i weighs stripe j: rows sum to 1. stripes: (B, C, p, 1)."""
        u, v = self.u(stripes).flatten(2), self.v(stripes).flatten(2)
        with uncast(u):
            return (self.scale * precise(u).transpose(1, 2) @ precise(v)).softmax(dim=2)
