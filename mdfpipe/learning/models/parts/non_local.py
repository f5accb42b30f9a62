"""Non-local attention: every place of a map attends to all places (Wang et al. 2018; DI2L eq. 2-3, METHODS 3.1)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


class NonLocal(nn.Module):
    """z_i = x_i + W sum_j a_ij g(x_j); (B, C, H, W) to the same shape.

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
        found: Tensor = x + self.bn(self.w(seen.reshape(len(x), -1, *x.shape[2:])))
        return found
