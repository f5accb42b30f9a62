"""Losses of DFW: centres of a subject near each other across domains, and two branches that look at different places.

Places are in pixels of the network's input: S = 100 is larger than any distance on the 18x9 map itself.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mdfpipe.learning.losses.ranking import distances, precise
from mdfpipe.learning.streams import DomainPairs

SQUARED = 1e-6
"""Added to a squared distance, px^2, so that the root has a slope at 0."""
FLATTEST = 1e-4
"""A response of less range counts as having this: a flat map has no place, and must not have an endless slope."""


def centres(features: Tensor, subject: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(C, D) means of the features (B, D) of each subject and group in the batch; their subjects and groups."""
    x = precise(features)
    cells, place = torch.unique(torch.stack([subject, group], 1), dim=0, return_inverse=True)
    member = functional.one_hot(place, len(cells)).T.to(x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        means = (member @ x) / member.sum(1, keepdim=True)
    return means, cells[:, 0], cells[:, 1]


def hetero_centre_triplet(
    features: Tensor, subject: Tensor, domain: Tensor, pairs: DomainPairs, margin: float
) -> Tensor:
    """L_hc, a scalar: the mean over centres of max(0, margin + |c - c_p| - |c - c_n|) (DFW eq. 6, METHODS 6.3, 6.6).

    c_p: the farthest centre of the same subject in a domain that `pairs` brings together with the centre's own; of two
    domains, the only one. c_n: the nearest centre of another subject, in any domain. A centre that lacks one of them is
    left out of the mean (eq. 6 has a sum); of none it is a zero with a graph. features: (B, D), raw; subject: (B,);
    domain: (B,) places in the domains that `pairs` was made of.
    """
    means, whose, where = centres(features, subject, pairs.of_images(domain))
    together = torch.zeros(pairs.groups, pairs.groups, dtype=torch.bool, device=means.device)
    for a, b in pairs.pairs:
        together[a, b] = together[b, a] = True
    distance = distances(means, means)
    same = whose[:, None] == whose[None, :]
    mates = same & together[where[:, None], where[None, :]]
    counted = mates.any(1) & ~same.all(1)
    farthest = distance.masked_fill(~mates, -torch.inf).amax(1)
    nearest = distance.masked_fill(same, torch.inf).amin(1)
    hinge = torch.where(counted, farthest - nearest + margin, 0.0).relu()
    return hinge.sum() / counted.sum().clamp_min(1)


def soft_centre(response: Tensor, cell_px: tuple[float, float], temperature: float) -> Tensor:
    """(B, 2) y and x of the strongest response, px: the mean place under softmax(r' / temperature), r' the response
    (B, h, w) brought to 0..1 in its image. A hard arg-max has no gradient. cell_px: height and width of a cell.
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
    """L_op (eq. 4-5), a scalar: the mean over images of max(0, S - |c_1 - c_2|). Centres: (B, 2), px."""
    return (separation_px - apart(first, second)).relu().mean()


def _places(r: Tensor, cell_px: tuple[float, float]) -> Tensor:
    """(h w, 2) the middle of each cell, px."""
    y, x = (
        (torch.arange(count, dtype=r.dtype, device=r.device) + 0.5) * size
        for count, size in zip(r.shape[1:], cell_px, strict=True)
    )
    return torch.cartesian_prod(y, x)
