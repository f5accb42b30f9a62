"""Ranking losses: what belongs together nearer than what does not. Triplets, batch-hard or weighted; contrast.

All are computed in float32 at least, also where the network runs under autocast. A loss without an anchor is a zero
that one can still differentiate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mdfpipe.errors import ConfigError

NEAREST = 1e-6
"""Distances below count as this: METHODS 0, the root of 1e-12."""


def precise(tensor: Tensor) -> Tensor:
    """The tensor as float32, or float64 where it is that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def distances(a: Tensor, b: Tensor) -> Tensor:
    """(A, B) Euclidean distances of (A, D) from (B, D), with a finite gradient at 0: sqrt(max(|a - b|^2, 1e-12)).

    From differences: the expanded |a|^2 + |b|^2 - 2ab, which `torch.cdist` takes by default, loses every digit where
    features are long and near each other. `torch.cdist` also knows its own gradient at 0, where a root has none.
    """
    found = torch.cdist(precise(a), precise(b), compute_mode="donot_use_mm_for_euclid_dist")
    return found.clamp_min(NEAREST)


@dataclass(frozen=True, eq=False)
class Mined:
    """The hardest pairs of a batch.

    positive, negative: (B,) int64 places in the batch, of the farthest of the same subject and the nearest of another;
    -1 where there is none. d_positive, d_negative: (B,) their distances, with gradient; 0 where there is none. valid:
    (B,) bool, has both. distance: (B, B), all.
    """

    positive: Tensor
    negative: Tensor
    d_positive: Tensor
    d_negative: Tensor
    valid: Tensor
    distance: Tensor


def mine(features: Tensor, subject: Tensor) -> Mined:
    """The hardest positive and negative of every anchor (batch-hard; METHODS 0 and 1.4, text of the body paper's IV-C).

    features: (B, D), raw; subject: (B,) int64. An anchor is not its own positive. Ties give the lowest place.
    """
    distance = distances(features, features)
    same = subject[:, None] == subject[None, :]
    mates = same & ~torch.eye(len(subject), dtype=torch.bool, device=subject.device)
    # the first of equals is what argmax and argmin document
    farthest = distance.detach().masked_fill(~mates, -torch.inf).argmax(1)
    nearest = distance.detach().masked_fill(same, torch.inf).argmin(1)
    has_positive, has_negative = mates.any(1), ~same.all(1)
    return Mined(
        positive=torch.where(has_positive, farthest, -1),
        negative=torch.where(has_negative, nearest, -1),
        d_positive=_chosen(distance, farthest, has_positive),
        d_negative=_chosen(distance, nearest, has_negative),
        valid=has_positive & has_negative,
        distance=distance,
    )


def triplet(mined: Mined, margin: float | Literal["soft"] = 0.0) -> Tensor:
    """Batch-hard triplet loss, a scalar: the mean over valid anchors of max(0, margin + d_positive - d_negative).

    With margin "soft", of log(1 + exp(d_positive - d_negative)), which never goes silent (Hermans et al. 2017). It
    is what eq. 6 of the body paper means (METHODS 1.2). Raises ConfigError for another word.
    """
    apart = mined.d_positive - mined.d_negative
    if isinstance(margin, str):
        if margin != "soft":
            raise ConfigError(f"triplet: expected a number or 'soft' as margin, got {margin!r}")
        return _mean(functional.softplus(apart), mined.valid)
    return _mean(functional.relu(apart + margin), mined.valid)


def weighted_triplet(
    distance: Tensor,
    subject: Tensor,
    phi: Literal["square", "identity"] = "square",
    *,
    itself: bool = False,
    epsilon: float = 0.0,
) -> Tensor:
    """Weighted regularised triplet loss, a scalar (DI2L eq. 6, METHODS 3.2): the mean over anchors of
    log(1 + exp(phi(x))), x = sum_j w_j d_j over positives less sum_k w_k d_k over negatives.

    w is the softmax of d over an anchor's positives, of -d over its negatives, and takes part in the gradient. phi:
    sign(x) x^2 (DI2L, CAJ), or x (AGW). distance: (B, B); subject: (B,) int64. An anchor without a positive or a
    negative is left out. itself: an image is a positive of its own, at its distance from itself (CAJ). epsilon: added
    to the sums that weights are divided by (AGW and CAJ: 1e-6), which are sums of exp(-d) for negatives: of distances
    of 14 or more, their weights then add up to less than 1.
    """
    apart = precise(distance)
    same = subject[:, None] == subject[None, :]
    mates = same if itself else same & ~torch.eye(len(subject), dtype=torch.bool, device=subject.device)
    x = _weighted(apart, apart, mates, epsilon) - _weighted(apart, -apart, ~same, epsilon)
    return _mean(functional.softplus(x * x.abs() if phi == "square" else x), mates.any(1) & ~same.all(1))


def supervised_contrastive(features: Tensor, subject: Tensor, temperature: float = 0.1) -> Tensor:
    """SupCon, a scalar: Khosla et al. 2020 eq. 2 (L_out), the mean over anchors that have a positive.

    features: (B, D), made unit length here; subject: (B,) int64. An anchor's loss is the mean over its positives of
    -log softmax over all other images of cosine / temperature.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = functional.normalize(precise(features))
        similarity = unit @ unit.T / temperature
    itself = torch.eye(len(subject), dtype=torch.bool, device=subject.device)
    mates = (subject[:, None] == subject[None, :]) & ~itself
    others = similarity.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    shares = torch.where(mates, similarity - others, 0.0).sum(1) / mates.sum(1).clamp_min(1)
    return _mean(-shares, mates.any(1))


def _chosen(distance: Tensor, place: Tensor, there: Tensor) -> Tensor:
    """(B,) the distance at a place of each row, 0 where it is not there."""
    return torch.where(there, distance.gather(1, place[:, None]).squeeze(1), 0.0)


def _weighted(distance: Tensor, evidence: Tensor, chosen: Tensor, epsilon: float) -> Tensor:
    """(B,) mean of the chosen distances of each row, weighted by the softmax of their evidence; 0 of none."""
    # a finite number in place of the others: of a row of infinities softmax is not a number
    masked = evidence.masked_fill(~chosen, torch.finfo(evidence.dtype).min)
    weight = masked.softmax(1)
    if epsilon:  # AGW takes the row's largest evidence off first, where what is not chosen counts as 0
        top = torch.where(chosen, evidence, 0.0).amax(1, keepdim=True)
        weight = weight * (masked.logsumexp(1, keepdim=True) - top - math.log(epsilon)).sigmoid()
    return torch.where(chosen, weight * distance, 0.0).sum(1)


def _mean(value: Tensor, counted: Tensor) -> Tensor:
    """The mean of the counted ones; 0, with a graph, of none."""
    return torch.where(counted, value, 0.0).sum() / counted.sum().clamp_min(1)
