"""Which images of a batch belong together: anchors, positives and negatives of tuples, or of the whole batch.

Both are lists of rows, each in a part (an ordered pair of domains), over which a loss is the mean of the parts' means:
so a pair with more data counts no more than another, and one without data counts nothing (METHODS 0 and 4.6).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mdfpipe.learning.data.batches import ANCHOR, NEGATIVE, POSITIVE, CropBatch
from mdfpipe.learning.streams import DomainPairs

ROLES = 3
CROSS, SAME = 0, 1
"""Kinds of triples: the negative is of the positive's domain, or of the anchor's."""


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

    >>> tuple_number(torch.tensor([0, 0, 1, 0, 1]), torch.tensor([0, 2, 0, 0, 1])).tolist()
    [0, 0, 0, 1, 1]
    """
    place = domain * ROLES + role
    return functional.pad(place[1:] <= place[:-1], (1, 0)).cumsum(0)


def matches(batch: CropBatch, pairs: DomainPairs, number: Tensor | None) -> Matches:
    """The positives of every anchor in other domains.

    number: (B,) the tuple of each row, whose positives are taken; None: every image of the subject is a positive.
    Crops of further manifests take no part where there are own ones (source 0).
    """
    group, own = pairs.of_images(batch.domain), _takes_part(batch.source)
    part = _ordered(pairs).to(group.device)[group[:, None], group]
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


def means(values: Tensor, part: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """(parts,) the mean of each part's values, 0 where it has none; (parts,) int64, how many it has.

    values, part: (K,).
    """
    of = functional.one_hot(part, parts)
    count = of.sum(0)
    return (values[:, None] * of).sum(0) / count.clamp_min(1), count


def mean_of_means(values: Tensor, part: Tensor, parts: int) -> Tensor:
    """The mean over the parts that have values of their means, a scalar; a zero one can differentiate where none has.

    >>> float(mean_of_means(torch.tensor([1.0, 3.0, 7.0]), torch.tensor([0, 0, 2]), 4))  # of 2 and 7
    4.5
    """
    found, count = means(values, part, parts)
    return found.sum() / (count > 0).sum().clamp_min(1)


def of_anchors(values: Tensor, batch: CropBatch, domains: int, *, summed: bool = False) -> Tensor:
    """Twice the mean over domains of the mean (or sum) over a domain's anchors: of two domains, the sum of both
    (METHODS 4.6). values: (B,); domains: how many there may be. Crops of further manifests take no part.
    """
    chosen = (batch.role == ANCHOR) & _takes_part(batch.source)
    found, count = means(values[chosen], batch.domain[chosen], domains)
    return 2 * (found * count if summed else found).sum() / (count > 0).sum().clamp_min(1)


def _takes_part(source: Tensor) -> Tensor:
    """(B,) bool: the study's own crops; all, where there are none of them."""
    own = source == 0
    return own | ~own.any()


def _ordered(pairs: DomainPairs) -> Tensor:
    """(G, G) int64 number of each ordered pair of groups, -1 of those that are not brought together."""
    found = torch.full((pairs.groups, pairs.groups), -1)
    for number, (a, b) in enumerate(pairs.ordered_within(range(pairs.groups))):
        found[a, b] = number
    return found
