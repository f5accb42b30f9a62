"""Losses of IDKL: distillation between two branches, and what a purified feature must have gained and lost.

Triplet graph structure alignment (TGSA, eq. 15-17), class semantic alignment (CSA, eq. 19) and modality discrepancy
reduction (MDR, eq. 20), as METHODS 5.2 reads them: means instead of sums, Kullback-Leibler divergences of
distributions, none of which depends on the size of the batch. They are computed as logarithms.

Purification (eq. 10 and 11) compares what a mask lets through with what there was before it, whose own value gets no
gradient by default: the cheap way to improve would be to make the other one worse.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from mdfpipe.learning.losses.ranking import NEAREST, distances, precise

Sign: TypeAlias = Literal[-1, 1]
Kl: TypeAlias = Literal["paper", "teacher_first", "symmetric"]
"""In which order a divergence takes its two distributions: as printed, the other way round, or both, added."""
NOTHING = -1e9
"""The logarithm of a share that is left out: exp gives 0, and differences of two are no NaN."""


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The mean over rows of KL(p | q) = sum p (log p - log q): a scalar. log_p, log_q: (N, M) logarithms."""
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def diverging(log_p: Tensor, log_q: Tensor, kl: Kl = "paper") -> Tensor:
    """`divergence` as printed, with q first, or the sum of both (released code): a scalar."""
    if kl == "symmetric":
        return divergence(log_p, log_q) + divergence(log_q, log_p)
    return divergence(log_p, log_q) if kl == "paper" else divergence(log_q, log_p)


def closeness(a: Tensor, b: Tensor, temperature: float, sign: Sign, unit: bool = True) -> Tensor:
    """(N, M) sign * Euclidean distance / temperature of features, (N, D) and (M, D), made unit length if `unit`.

    Eq. 15 as printed is sign +1, in which the farthest image weighs most, temperature 1, not unit.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = precise(a), precise(b)
        if unit:
            a, b = functional.normalize(a), functional.normalize(b)
        return sign * distances(a, b) / temperature


def affinity(a: Tensor, b: Tensor, temperature: float, sign: Sign = -1, unit: bool = True) -> Tensor:
    """(N, N - 1) logarithms of A (IDKL eq. 15): how the images of b, but for its i-th, share image i of a.

    a, b: (N, D), whose rows i belong together. Column i is left out, also where b is not a: so supports agree.
    """
    near = closeness(a, b, temperature, sign, unit)
    rows = len(near)
    # without the diagonal: what follows each of its elements, up to the next
    others = near.flatten()[1:].view(rows - 1, rows + 1)[:, :-1].reshape(rows, rows - 1)
    return others.log_softmax(1)


def structure(
    a: Tensor,
    b: Tensor,
    temperature: float = 0.1,
    sign: Sign = -1,
    unit: bool = True,
    kl: Kl = "paper",
    *,
    cross: bool = True,
) -> Tensor:
    """T(a; b) of TGSA (IDKL eq. 16), a scalar: KL(A_aa | A_bb) + KL(A_aa | A_ab) + KL(A_ab | A_bb), means over rows.

    a, b: (N, D), N >= 2, whose rows i belong together: an image in two branches, or two images of a subject. Without
    cross, the first alone.
    """
    aa, bb = (affinity(x, x, temperature, sign, unit) for x in (a, b))
    if not cross:
        return diverging(aa, bb, kl)
    return _triplet(aa, affinity(a, b, temperature, sign, unit), bb, kl)


def structure_of_subjects(
    a: Tensor,
    b: Tensor,
    subject_a: Tensor,
    subject_b: Tensor,
    temperature: float = 0.1,
    sign: Sign = -1,
    unit: bool = True,
    kl: Kl = "paper",
) -> Tensor:
    """T(a; b) between subjects, which needs neither order nor equal counts (METHODS 5.2, pairing by class).

    a: (N, D), subject_a: (N,) int64; b: (M, D), subject_b: (M,), of the same subjects. A's columns are summed by
    subject, its rows averaged by subject: P x P. No image is its own neighbour; a subject with a single image on either
    side has no neighbours of its own on any, so that supports agree.
    """
    who = torch.unique(subject_a)
    of_a, of_b = who[:, None] == subject_a, who[:, None] == subject_b
    thin = (of_a.sum(1) < 2) | (of_b.sum(1) < 2)

    def between(x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
        left_out = (of_x & thin[:, None]).to(x.dtype).T @ of_y.to(x.dtype) > 0  # (N, M): both of one thin subject
        if x is y:
            left_out = left_out | torch.eye(len(x), dtype=torch.bool, device=x.device)
        shares = closeness(x, y, temperature, sign, unit).masked_fill(left_out, NOTHING).log_softmax(1)
        columns = shares[:, None, :].masked_fill(~of_y, NOTHING).logsumexp(2)  # (N, P)
        return average(columns, of_x)

    return _triplet(between(a, a, of_a, of_a), between(a, b, of_a, of_b), between(b, b, of_b, of_b), kl)


def average(log_p: Tensor, of: Tensor) -> Tensor:
    """(P, M) logarithms of means of distributions, (N, M) as logarithms; of: (P, N) bool, which each mean takes."""
    mine = log_p.masked_fill(~of[:, :, None], NOTHING).logsumexp(1)
    return mine - of.sum(1, keepdim=True).to(log_p.dtype).log()


def class_semantic_alignment(
    student: Tensor, teacher: Tensor, kl: Kl = "paper", detach_teacher: bool = False
) -> Tensor:
    """CSA (IDKL eq. 19) of the images of one domain, a scalar. student, teacher: (N, C) logits of the same images.

    paper: KL(student | teacher); teacher_first: KL(teacher | student); symmetric: the sum of the two.
    """
    own, other = precise(student).log_softmax(1), precise(teacher).log_softmax(1)
    return diverging(own, other.detach() if detach_teacher else other, kl)


def counterparts(subject_a: Tensor, subject_b: Tensor) -> tuple[Tensor, Tensor]:
    """(N,), (N,) places in a and b of images that belong together: the k-th of a subject in a, and its k-th in b.

    What a subject has beyond its smaller count is in none.
    """
    nth_a, nth_b = ((s[:, None] == s[None]).tril(-1).sum(1) for s in (subject_a, subject_b))
    matches = (subject_a[:, None] == subject_b[None]) & (nth_a[:, None] == nth_b[None])
    a, b = matches.nonzero(as_tuple=True)
    return a, b


def modality_discrepancy(
    features: tuple[Tensor, Tensor],
    logits: tuple[Tensor, Tensor],
    subjects: tuple[Tensor, Tensor],
    pairing: Literal["index", "class"] = "index",
    temperature: float = 0.1,
    sign: Sign = -1,
    unit: bool = True,
    kl: Kl = "paper",
) -> tuple[Tensor, int] | None:
    """MDR (IDKL eq. 20) between two domains, the first of which is the visible one: T(a; b) + KL(p_a | p_b).

    features: (N, D) and (M, D); logits: (N, C) and (M, C); subjects: (N,) and (M,) int64. index: the k-th image of a
    subject in one and in the other belong together, the rest is left out; class: distributions are averaged by subject,
    and subjects without images in both are left out. The term, a scalar, and how many of the N + M images take part;
    None where fewer than two pairs, or no subject, do.
    """
    if pairing == "index":
        rows = counterparts(*subjects)
        if len(rows[0]) < 2:
            return None
        a, b = (x[at] for x, at in zip(features, rows, strict=True))
        p, q = (precise(x)[at].log_softmax(1) for x, at in zip(logits, rows, strict=True))
        return structure(a, b, temperature, sign, unit, kl) + diverging(p, q, kl), 2 * len(a)
    in_both = [torch.isin(own, other) for own, other in (subjects, subjects[::-1])]
    if not bool(in_both[0].any()):
        return None
    a, b = (x[here] for x, here in zip(features, in_both, strict=True))
    of_a, of_b = (own[here] for own, here in zip(subjects, in_both, strict=True))
    who = torch.unique(of_a)[:, None]
    p, q = (
        average(precise(x)[here].log_softmax(1), who == of)
        for x, here, of in zip(logits, in_both, (of_a, of_b), strict=True)
    )
    found = structure_of_subjects(a, b, of_a, of_b, temperature, sign, unit, kl) + diverging(p, q, kl)
    return found, len(a) + len(b)


def _triplet(aa: Tensor, ab: Tensor, bb: Tensor, kl: Kl) -> Tensor:
    return diverging(aa, bb, kl) + diverging(aa, ab, kl) + diverging(ab, bb, kl)


# -- purification


def entropy(logits: Tensor) -> Tensor:
    """(B,) entropy in nats of softmax(logits), (B, C)."""
    log_p = precise(logits).log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def discrimination_enhancing(
    enhanced: Tensor,
    specific: Tensor,
    *,
    detach: bool = True,
    form: Literal["softplus", "released"] = "softplus",
) -> Tensor:
    """L_e (IDKL eq. 10), a scalar: the mean over images of softplus(H(enhanced) - sg[H(specific)]), ln 2 where equal.

    enhanced, specific: (B, C) logits of one classifier, for the feature behind the mask and the one before it.
    released: exp(relu(.)) - 1, 0 where equal. Without detach the reference has a gradient, too.
    """
    before = entropy(specific)
    excess = entropy(enhanced) - (before.detach() if detach else before)
    return (functional.softplus(excess) if form == "softplus" else excess.relu().expm1()).mean()


def discrepancy_reducing(
    reduced: Tensor,
    instance: Tensor,
    subject: Tensor,
    group: Tensor,
    pairs: Iterable[tuple[int, int]],
    *,
    unit: bool = True,
    hinge: Literal["softplus", "relu"] = "softplus",
    detach: bool = True,
) -> Tensor:
    """L_r (IDKL eq. 11), a scalar: how much farther apart a subject's centres in two domains are behind the mask.

    reduced, instance: (B, D) features behind the mask and before it; subject, group: (B,) int64; pairs: of groups. For
    each subject with images in both, hinge(|c_reduced| apart - sg[|c_instance| apart]); the mean over these subjects,
    then over the pairs that have any. unit: features count by their direction, else shrinking the mask to zero would
    do. With hinge relu, neither unit nor detach it is what the released code has. Without any subject it is 0.
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
        excess = apart - (before.detach() if detach else before)
        found.append((functional.softplus(excess) if hinge == "softplus" else excess.relu()).mean())
    return torch.stack(found).mean() if found else precise(reduced).sum() * 0


def _apart(x: Tensor, of_a: Tensor, of_b: Tensor) -> Tensor:
    """(S,) distances between two centres of each of S subjects. of_a, of_b: (S, B) bool, whose images are whose."""
    raw = precise(x)
    a, b = (of.to(raw.dtype) @ raw / of.sum(1, keepdim=True) for of in (of_a, of_b))
    return (a - b).square().sum(1).clamp_min(NEAREST**2).sqrt()
