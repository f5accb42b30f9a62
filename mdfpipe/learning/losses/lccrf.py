"""Losses of LCCRF: which crops of a batch belong together, angular triplets, compactness, distillation (CMKD).

Matches and triples are lists of rows, each in a part (an ordered pair of domains), over which a loss is the mean of the
parts' means: so a pair with more data counts no more than another, and one without data counts nothing (METHODS 0 and
4.6). All losses are computed in float32 at least; without a match they are zeros that one can still differentiate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mdfpipe.learning.data.batches import ANCHOR, NEGATIVE, POSITIVE, CropBatch
from mdfpipe.learning.losses.ranking import NEAREST, precise
from mdfpipe.learning.streams import DomainPairs

ROLES = 3
CROSS, SAME = 0, 1
"""Kinds of triples: the negative is of the positive's domain, or of the anchor's."""
SMALLEST = 1e-12
"""What a mean square is at least before one divides by it (METHODS 0, as of squared distances)."""


# -- matches and triples


@dataclass(frozen=True, eq=False)
class Matches:
    """Anchors and positives of the same subject across a pair of domains: (M,) int64 rows of the batch.

    part: (M,) number of the ordered pair of domains, below `parts`.
    """

    anchor: Tensor
    positive: Tensor
    part: Tensor
    parts: int

    def only(self, chosen: Tensor) -> Matches:
        """Those at which the (M,) bool `chosen` is true."""
        return Matches(self.anchor[chosen], self.positive[chosen], self.part[chosen], self.parts)


@dataclass(frozen=True, eq=False)
class Triples:
    """Matches with a negative each: (K,) int64 rows. part: (K,) 2 x the ordered pair's number + CROSS or SAME."""

    anchor: Tensor
    positive: Tensor
    negative: Tensor
    part: Tensor
    parts: int

    def only(self, kind: int) -> Triples:
        """Those of kind CROSS, or SAME."""
        of = self.part % 2 == kind
        return Triples(self.anchor[of], self.positive[of], self.negative[of], self.part[of], self.parts)


def tuple_number(domain: Tensor, role: Tensor) -> Tensor:
    """(B,) int64 number of each row's tuple. Rows are ordered by tuple, domain, role, and some may be missing: a tuple
    begins where domain and role do not ascend. domain: (B,) places in the order in which the sampler has them.
    """
    place = domain * ROLES + role
    return functional.pad(place[1:] <= place[:-1], (1, 0)).cumsum(0)


def matches(batch: CropBatch, pairs: DomainPairs, number: Tensor | None) -> Matches:
    """The positives of every anchor in other domains.

    number: (B,) the tuple of each row, whose positives are taken; None: every image of the subject is a positive.
    Crops of further manifests take no part where there are own ones (source 0).
    """
    group, own = pairs.of_images(batch.domain), _takes_part(batch.source)
    ordered = torch.full((pairs.groups, pairs.groups), -1)  # -1: not brought together
    for place, (a, b) in enumerate(pairs.ordered_within(range(pairs.groups))):
        ordered[a, b] = place
    part = ordered.to(group.device)[group[:, None], group]
    fits = (part >= 0) & (batch.subject[:, None] == batch.subject) & own[:, None] & own
    fits &= (batch.role == ANCHOR)[:, None]
    if number is not None:
        fits &= (number[:, None] == number) & (batch.role == POSITIVE)
    anchor, positive = torch.nonzero(fits, as_tuple=True)
    return Matches(anchor, positive, part[anchor, positive], 2 * len(pairs.pairs))


def triples(batch: CropBatch, pairs: DomainPairs, of: Matches, number: Tensor | None) -> Triples:
    """The matches with every negative that fits: of another subject, in the positive's domain or in the anchor's.

    number: as for `matches`; None: all images of other subjects are negatives. A domain is a group of `pairs`.
    """
    group = pairs.of_images(batch.domain)
    other = (batch.subject[of.anchor][:, None] != batch.subject) & _takes_part(batch.source)
    if number is not None:
        other &= (number[of.anchor][:, None] == number) & (batch.role == NEGATIVE)
    found = [torch.nonzero(other & (group[side][:, None] == group), as_tuple=True) for side in (of.positive, of.anchor)]
    match, negative = (torch.cat(rows) for rows in zip(*found, strict=True))
    kind = torch.cat([torch.full_like(rows[0], kind) for kind, rows in zip((CROSS, SAME), found, strict=True)])
    return Triples(of.anchor[match], of.positive[match], negative, 2 * of.part[match] + kind, 2 * of.parts)


def _takes_part(source: Tensor) -> Tensor:
    """(B,) bool: the study's own crops; all, where there are none of them."""
    own = source == 0
    return own | ~own.any()


# -- means over parts


def means(values: Tensor, part: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """(parts,) the mean of each part's values (K,), 0 where it has none; (parts,) int64, how many it has."""
    of = functional.one_hot(part, parts)
    count = of.sum(0)
    return (values[:, None] * of).sum(0) / count.clamp_min(1), count


def mean_of_means(values: Tensor, part: Tensor, parts: int) -> Tensor:
    """The mean over the parts that have values of their means, a scalar; a differentiable zero where none has."""
    found, count = means(values, part, parts)
    return found.sum() / (count > 0).sum().clamp_min(1)


def of_anchors(values: Tensor, batch: CropBatch, domains: int, *, summed: bool = False) -> Tensor:
    """Twice the mean over domains of the mean (or sum) over a domain's anchors: of two domains, the sum of both
    (METHODS 4.6). values: (B,); domains: how many there may be. Crops of further manifests take no part.
    """
    chosen = (batch.role == ANCHOR) & _takes_part(batch.source)
    found, count = means(values[chosen], batch.domain[chosen], domains)
    return 2 * (found * count if summed else found).sum() / (count > 0).sum().clamp_min(1)


# -- angular losses


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


# -- distillation


def mean_squares(maps: Tensor) -> Tensor:
    """(B, B) mean over elements of (m_i - m_j)^2, for (B, ...), in float32 at least.

    Expanded, so that no difference of two maps is ever held (256 x 96 x 32 for each pair); what all maps have in
    common is taken off first, since it would cost the digits of their differences.
    """
    with torch.autocast(maps.device.type, enabled=False):
        m = precise(maps).flatten(1)
        m = m - m.detach().mean(0)
        product = m @ m.T / m.shape[1]
        square = product.diagonal()
        return square[:, None] + square - 2 * product


def mean_square(maps: Tensor) -> Tensor:
    """The mean of m^2 over all elements, a scalar without a gradient: it shows whether maps only shrink."""
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


@torch.no_grad()
def spread(v: Tensor, subject: Tensor) -> float | None:
    """0..1 how far subjects are spread: d / (d + e), d the mean distance of an image to the mean of its subject's other
    images, e that to the nearest mean of another subject. 0: each is one point; 1/2: no nearer to its own.

    v: (N, D); subject: (N,). None of fewer than two subjects with two images.
    """
    v = v.double()
    place = torch.unique(subject, return_inverse=True)[1]
    count = torch.bincount(place)
    sums = torch.zeros(len(count), v.shape[1], dtype=v.dtype, device=v.device).index_add_(0, place, v)
    known = count[place] > 1
    if int((count > 1).sum()) < 2:
        return None
    own = (sums[place] - v)[known] / (count[place] - 1)[known, None]
    others = torch.cdist(v[known], sums / count[:, None])
    others = others.scatter(1, place[known, None], torch.inf)
    within, apart = float((v[known] - own).norm(dim=1).mean()), float(others.amin(1).mean())
    return within / max(within + apart, 1e-12)
