"""Purification: what a purified feature must have gained and lost (IDKL eq. 10 and 11, METHODS 5.2).

Both compare what a mask lets through with what there was before it, whose own value gets no gradient: the cheap way
to look better would be to make the other one worse.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mdfpipe.learning.losses.ranking import NEAREST, precise


def entropy(logits: Tensor) -> Tensor:
    """(B,) entropy in nats of softmax(logits), (B, C).

    >>> [round(value, 6) for value in entropy(torch.tensor([[0.0, 0.0], [0.0, 100.0]])).tolist()]  # ln 2 and 0
    [0.693147, 0.0]
    """
    log_p = precise(logits).log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def discrimination_enhancing(enhanced: Tensor, specific: Tensor) -> Tensor:
    """L_e (IDKL eq. 10), a scalar: the mean over images of softplus(H(enhanced) - sg[H(specific)]), ln 2 where equal.

    enhanced, specific: (B, C) logits of one classifier, for the feature behind the mask and the one before it.
    """
    return functional.softplus(entropy(enhanced) - entropy(specific).detach()).mean()


def discrepancy_reducing(
    reduced: Tensor,
    instance: Tensor,
    subject: Tensor,
    group: Tensor,
    pairs: Iterable[tuple[int, int]],
    *,
    unit: bool = True,
    hinge: Literal["softplus", "relu"] = "softplus",
) -> Tensor:
    """L_r (IDKL eq. 11), a scalar: how much farther apart a subject's centres in two domains lie behind the mask.

    reduced, instance: (B, D) features behind the mask and before it; subject, group: (B,) int64; pairs: of groups. For
    each subject with images in both, hinge(|c_reduced| apart - sg[|c_instance| apart]); the mean over these subjects,
    then over the pairs that have any. unit: features count by their direction, else shrinking the mask to zero would
    do. With hinge relu and not unit it is what the released code has. Without any subject it is 0.
    """
    if unit:
        reduced, instance = functional.normalize(precise(reduced)), functional.normalize(precise(instance))
    found = []
    for a, b in pairs:
        of_a, of_b = subject[group == a], subject[group == b]
        both = torch.unique(of_a[torch.isin(of_a, of_b)])
        if not len(both):
            continue
        member = subject == both[:, None]
        apart, before = (_apart(x, member & (group == a), member & (group == b)) for x in (reduced, instance))
        excess = apart - before.detach()
        found.append((functional.softplus(excess) if hinge == "softplus" else excess.relu()).mean())
    return torch.stack(found).mean() if found else precise(reduced).sum() * 0


def _apart(x: Tensor, of_a: Tensor, of_b: Tensor) -> Tensor:
    """(S,) distances between two centres of each of S subjects. of_a, of_b: (S, B) bool, whose images are whose."""
    raw = precise(x)
    a, b = (of.to(raw.dtype) @ raw / of.sum(1, keepdim=True) for of in (of_a, of_b))
    return (a - b).square().sum(1).clamp_min(NEAREST**2).sqrt()
