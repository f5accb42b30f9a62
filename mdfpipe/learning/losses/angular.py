"""Angular losses: cosines within triples of anchor, positive and negative across domains, and compactness (LCCRF).

All are computed in float32 at least. A loss without a triple is a zero that one can still differentiate.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mdfpipe.learning.losses.ranking import NEAREST, precise
from mdfpipe.learning.losses.tuples import SAME, Triples, mean_of_means, means


def cosines(features: Tensor) -> Tensor:
    """(B, B) of (B, D): the cosine of every two features; 0 of one that is 0."""
    with torch.autocast(features.device.type, enabled=False):
        unit = functional.normalize(precise(features), eps=NEAREST)
        return unit @ unit.T


def enumerate_angular_triplet(
    cosine: Tensor, triples: Triples, *, margin: float = 1.0, clamp_positive: bool = False, hinge: bool = False
) -> Tensor:
    """EAT, a scalar: LCCRF eq. 15-17, of the cosines (B, B) of the features after the BN neck.

    Four times the mean over (ordered pairs of domains, domain of the negative) of the mean over triples of
    exp([cos(a, n)]_+ - cos(a, p) + margin): of two domains, the paper's sum of four means (METHODS 4.3, 4.6).

    clamp_positive: [cos(a, p)]_+, as printed, which gives a positive beyond a right angle no gradient. hinge: the
    exponent is cut off at 0, without which the margin only multiplies the loss by exp(margin).
    """
    negative = functional.relu(cosine[triples.anchor, triples.negative])
    positive = cosine[triples.anchor, triples.positive]
    exponent = negative - (functional.relu(positive) if clamp_positive else positive) + margin
    each = (functional.relu(exponent) if hinge else exponent).exp()
    return 4 * mean_of_means(each, triples.part, triples.parts)


def exponential_angular_triplet(cosine: Tensor, triples: Triples, *, margin: float = 1.0) -> Tensor:
    """expAT, a scalar: what LCCRF's released code trains with (METHODS 4.3; Ye et al. 2021).

    Two of EAT's four terms, with the negative of the anchor's own domain: twice the mean over ordered pairs of domains
    of exp(mean over triples of [margin - cos(a, p) + [cos(a, n)]_+]_+).
    """
    used = triples.only(SAME)
    negative = functional.relu(cosine[used.anchor, used.negative])
    each = functional.relu(margin - cosine[used.anchor, used.positive] + negative)
    found, count = means(each, used.part, used.parts)
    return 2 * torch.where(count > 0, found.exp(), 0.0 * found).sum() / (count > 0).sum().clamp_min(1)


def compactness_of_map(maps: Tensor) -> Tensor:
    """(B,) the mean over the places r of a map of exp(cos(f_r, mean of all f)), for (B, C, H, W) (METHODS 4.3, `map`).

    From 1/e to e, and from 1 where nothing is negative. Less where the places see different things.

    >>> round(float(compactness_of_map(torch.ones(1, 2, 1, 3))), 6)  # everywhere the same: e
    2.718282
    """
    f = precise(maps).flatten(2)
    middle = f.mean(2, keepdim=True)
    cosine = (f * middle).sum(1) / (_length(f) * _length(middle))
    return cosine.exp().mean(1)


def compactness_of_elements(features: Tensor) -> Tensor:
    """(B,) exp of the mean over elements of |f_r - mean of f|, of (B, D) at unit length (METHODS 4.3, `element`)."""
    f = functional.normalize(precise(features), eps=NEAREST)
    return (f - f.mean(1, keepdim=True)).abs().mean(1).exp()


def compactness_as_printed(features: Tensor) -> Tensor:
    """(B,) the sum over elements of exp(cos(f_r mean of f)) of (B, D), the cosine of an angle: eq. 18, literally."""
    f = precise(features)
    return (f * f.mean(1, keepdim=True)).cos().exp().sum(1)


def _length(x: Tensor) -> Tensor:
    return x.square().sum(1).clamp_min(NEAREST**2).sqrt()
