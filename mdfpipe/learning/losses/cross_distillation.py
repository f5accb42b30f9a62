"""Cross-modality distillation: what the streams give for a subject is brought together (LCCRF's CMKD)."""

from __future__ import annotations

import torch
from torch import Tensor

from mdfpipe.learning.losses.ranking import precise
from mdfpipe.learning.losses.tuples import Matches, mean_of_means

SMALLEST = 1e-12
"""What a mean square is at least before one divides by it (METHODS 0, as of squared distances)."""


def mean_squares(maps: Tensor) -> Tensor:
    """(B, B) mean over elements of (m_i - m_j)^2, for (B, ...), in float32 at least.

    Expanded, so that no difference of two maps is ever held (256 x 96 x 32 for each pair); what all maps have in
    common is taken off first, since it would cost the digits of their differences.

    >>> mean_squares(torch.tensor([[1.0, 2.0], [3.0, 2.0]])).tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    with torch.autocast(maps.device.type, enabled=False):
        m = precise(maps).flatten(1)
        m = m - m.detach().mean(0)
        product = m @ m.T / m.shape[1]
        square = product.diagonal()
        return square[:, None] + square - 2 * product


def mean_square(maps: Tensor) -> Tensor:
    """The mean of m^2 over all elements, a scalar without a gradient: it tells whether maps only shrink."""
    wide = torch.promote_types(maps.dtype, torch.float32)
    length: Tensor = torch.linalg.vector_norm(maps.detach(), dtype=wide)  # no copy of the maps
    return length.square() / max(maps.numel(), 1)


def cross_modality_distillation(maps: Tensor, matches: Matches, *, relative: bool = False) -> Tensor:
    """CMKD, a scalar: LCCRF eq. 5, over elements as a mean. maps: (B, ...), at the end of the streams' own stages.

    Twice the mean over ordered pairs of domains of the mean over matches of the mean of (M_anchor - M_positive)^2: of
    two domains, the paper's sum of two (METHODS 4.6). Both sides have a gradient. relative: divided by the mean of M^2
    of the images that take part, without a gradient, so that shrinking M is no way down.
    """
    rows, place = torch.unique(torch.cat([matches.anchor, matches.positive]), return_inverse=True)
    compared = maps[rows]
    squares = mean_squares(compared)[place[: len(matches.anchor)], place[len(matches.anchor) :]]
    found = 2 * mean_of_means(squares, matches.part, matches.parts)
    return found / mean_square(compared).clamp_min(SMALLEST) if relative else found
