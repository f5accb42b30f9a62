"""Dynamic feature weakening: what a map answers to most strongly is turned down, so that other cues are learned, too.

It has no parameters (DFW section 3.2, METHODS 6.2).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from mdfpipe.learning.losses.ranking import precise

Form: TypeAlias = Literal["mask", "gate", "elementwise", "literal"]
TOLERANCE = 1e-6
"""Relative: a constant map lies at its own mean, but for round-off (METHODS 8)."""


class Weakening(nn.Module):
    """(B, C, H, W) to the same shape.

    threshold: mean of the response, or a share of its range; factor: of what reaches it, or `proportion`, the share e
    of places that do. M_D1 is mean and a number, M_D2 a number and proportion, M_D3 mean and proportion (DFW eq. 2).
    form: what is made of the map F, its response f and the matrix M: mask F M; gate F sigmoid(f M); elementwise
    sigmoid(F M); literal sigmoid(f M) for every channel (eq. 3). training_only: identity in evaluation.
    """

    def __init__(
        self,
        threshold: Literal["mean"] | float = "mean",
        factor: Literal["proportion"] | float = 0.5,
        form: Form = "mask",
        *,
        training_only: bool = False,
    ) -> None:
        super().__init__()
        self.threshold, self.factor, self.form, self.training_only = threshold, factor, form, training_only

    def forward(self, x: Tensor) -> Tensor:
        """The weakened map."""
        if self.training_only and not self.training:
            return x
        f = response(x)
        m = matrix(f.detach(), self.threshold, self.factor)
        if self.form == "mask":
            return x * m.to(x.dtype)
        if self.form == "elementwise":
            return (x * m.to(x.dtype)).sigmoid()
        gate = (f * m).sigmoid().to(x.dtype)
        return x * gate if self.form == "gate" else gate.expand_as(x)


def response(x: Tensor) -> Tensor:
    """f (B, 1, H, W), in float32 at least: mean and maximum over channels, added (DFW eq. 1)."""
    x = precise(x)
    return x.mean(1, keepdim=True) + x.amax(1, keepdim=True)


def matrix(f: Tensor, threshold: Literal["mean"] | float, factor: Literal["proportion"] | float) -> Tensor:
    """M (B, 1, H, W) of the response f (DFW eq. 2): `factor` where f reaches the threshold of its image, 1 elsewhere.

    A threshold in 0..1 is compared with f brought to 0..1 in its image, for f has no upper end (METHODS 6.2).

    >>> f = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]]])
    >>> matrix(f, "mean", 0.2).flatten().tolist(), matrix(f, 0.2, "proportion").flatten().tolist()
    ([1.0, 1.0, 0.20000000298023224, 0.20000000298023224], [1.0, 0.75, 0.75, 0.75])
    """
    if threshold == "mean":
        value, least = f, f.mean((2, 3), keepdim=True)
    else:
        low, high = f.amin((2, 3), keepdim=True), f.amax((2, 3), keepdim=True)
        value = (f - low) / (high - low).clamp_min(torch.finfo(f.dtype).tiny)
        least = torch.full_like(low, threshold)
    strong = value >= least - TOLERANCE * least.abs()
    share = strong.to(f.dtype).mean((2, 3), keepdim=True)
    weak = share if factor == "proportion" else torch.full_like(share, factor)
    return torch.where(strong, weak, 1.0)
