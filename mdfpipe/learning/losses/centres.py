"""Hetero-centre triplets: the centres of a subject in two domains nearer than those of others (DFW eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mdfpipe.learning.losses.ranking import distances, precise
from mdfpipe.learning.streams import DomainPairs


def centres(features: Tensor, subject: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(C, D) means of the features (B, D) of each subject and group that the batch holds; their subjects and groups.

    >>> found = centres(torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([4, 4, 4]), torch.tensor([0, 0, 1]))
    >>> [part.tolist() for part in found]
    [[[2.0], [7.0]], [4, 4], [0, 1]]
    """
    x = precise(features)
    cells, place = torch.unique(torch.stack([subject, group], 1), dim=0, return_inverse=True)
    member = functional.one_hot(place, len(cells)).T.to(x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        means = (member @ x) / member.sum(1, keepdim=True)
    return means, cells[:, 0], cells[:, 1]


def hetero_centre_triplet(
    features: Tensor, subject: Tensor, domain: Tensor, pairs: DomainPairs, margin: float
) -> Tensor:
    """L_hc, a scalar: the mean over centres of max(0, margin + |c - c_p| - |c - c_n|) (METHODS 6.3, 6.6).

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
