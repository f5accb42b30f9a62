"""Cross-modality distillation: what the streams give for a subject is brought together (LCCRF's CMKD)."""

from __future__ import annotations

import torch
from torch import Tensor

from mdfpipe.learning.losses.ranking import precise
from mdfpipe.learning.losses.tuples import Matches, mean_of_means


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
        square = m.square().mean(1)
        return square[:, None] + square - 2 * (m @ m.T) / m.shape[1]


def cross_modality_distillation(maps: Tensor, matches: Matches, *, relative: bool = False) -> Tensor:
    """CMKD, a scalar: LCCRF eq. 5, over elements as a mean. maps: (B, ...), at the end of the streams' own stages.

    Twice the mean over ordered pairs of domains of the mean over matches of the mean of (M_anchor - M_positive)^2: of
    two domains, the paper's sum of two (METHODS 4.6). Both sides have a gradient. relative: divided by the mean of M^2
    of the images that take part, without a gradient, so that shrinking M is no way down.
    """
    squares = mean_squares(maps)
    found = 2 * mean_of_means(squares[matches.anchor, matches.positive], matches.part, matches.parts)
    if relative and len(matches.anchor):
        part = torch.unique(torch.cat([matches.anchor, matches.positive]))
        found = found / precise(maps.detach()[part]).square().mean().clamp_min(torch.finfo(torch.float32).tiny)
    return found
