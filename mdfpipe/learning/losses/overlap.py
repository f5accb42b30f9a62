"""Overlap penalty: two branches are to look at different places (DFW eq. 4-5, METHODS 6.3).

Places are in pixels of the network's input: S = 100 is larger than any distance on the 18x9 map itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdfpipe.learning.losses.ranking import precise

SQUARED = 1e-6
"""Added to a squared distance, px^2, so that the root has a slope at 0."""
FLATTEST = 1e-4
"""A response of less range counts as having this: a flat map has no place, and must not have an endless slope."""


def soft_centre(response: Tensor, cell_px: tuple[float, float], temperature: float) -> Tensor:
    """(B, 2) y and x of the strongest response, px: the mean place under softmax(r' / temperature), r' the response
    (B, h, w) brought to 0..1 in its image. A hard arg-max has no gradient. cell_px: height and width of a cell.

    >>> soft_centre(torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]), (16, 16), 0.01).tolist()
    [[8.0, 24.0]]
    """
    r = precise(response)
    low, high = r.amin((1, 2), keepdim=True), r.amax((1, 2), keepdim=True)
    scaled = (r - low) / (high - low).clamp_min(FLATTEST)
    weight = (scaled / temperature).flatten(1).softmax(1)
    # not as a product of matrices, which autocast would compute in half precision
    return (weight[:, :, None] * _places(r, cell_px)).sum(1)


def hard_centre(response: Tensor, cell_px: tuple[float, float]) -> Tensor:
    """(B, 2) y and x of the strongest response, px; of ties, the first by row. Without a gradient."""
    r = precise(response.detach())
    return _places(r, cell_px)[r.flatten(1).argmax(1)]


def apart(first: Tensor, second: Tensor) -> Tensor:
    """(B,) px between two centres (B, 2), with a finite slope where they coincide."""
    return ((first - second).square().sum(1) + SQUARED).sqrt()


def overlap(first: Tensor, second: Tensor, separation_px: float) -> Tensor:
    """L_op, a scalar: the mean over images of max(0, S - |c_1 - c_2|). Centres: (B, 2), px.

    >>> round(float(overlap(torch.zeros(1, 2), torch.tensor([[30.0, 40.0]]), 100.0)), 4)
    50.0
    """
    return (separation_px - apart(first, second)).relu().mean()


def _places(r: Tensor, cell_px: tuple[float, float]) -> Tensor:
    """(h w, 2) the middle of each cell, px."""
    y, x = (
        (torch.arange(count, dtype=r.dtype, device=r.device) + 0.5) * size
        for count, size in zip(r.shape[1:], cell_px, strict=True)
    )
    return torch.cartesian_prod(y, x)
