"""Graph alignment, class alignment and their pairing of images, against scalar transcriptions; their gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mdfpipe.learning.losses import idkl
from tests.learning.scalars import between, close, kl, normal, softmax, unit


def slow_affinity(a: list[list[float]], b: list[list[float]], tau: float, sign: int) -> list[list[float]]:
    """Eq. 15 over j != i."""
    a, b = [unit(v) for v in a], [unit(v) for v in b]
    return [softmax([sign * between(x, y) / tau for j, y in enumerate(b) if j != i]) for i, x in enumerate(a)]


def slow_structure(a: list[list[float]], b: list[list[float]], tau: float = 0.1, sign: int = -1) -> float:
    """Eq. 16, as a mean."""
    aa, ab, bb = (slow_affinity(x, y, tau, sign) for x, y in ((a, a), (a, b), (b, b)))
    return sum(kl(aa[i], bb[i]) + kl(aa[i], ab[i]) + kl(ab[i], bb[i]) for i in range(len(a))) / len(a)


def slow_class_matrix(
    a: list[list[float]], b: list[list[float]], of_a: list[int], of_b: list[int], thin: set[int], same: bool, tau: float
) -> dict[int, dict[int, float]]:
    """Columns summed by subject, rows averaged by subject; own columns of thin subjects left out."""
    a, b = [unit(v) for v in a], [unit(v) for v in b]
    who = sorted(set(of_a))
    rows: dict[int, list[dict[int, float]]] = {s: [] for s in who}
    for i, x in enumerate(a):
        taken = [
            j
            for j in range(len(b))
            if not (same and i == j) and not (of_a[i] in thin and of_b[j] == of_a[i]) and of_b[j] in who
        ]
        shares = softmax([-between(x, b[j]) / tau for j in taken])
        row = dict.fromkeys(who, 0.0)
        for j, share in zip(taken, shares, strict=True):
            row[of_b[j]] += share
        rows[of_a[i]].append(row)
    return {s: {t: sum(row[t] for row in rows[s]) / len(rows[s]) for t in who} for s in who}


def slow_structure_of_subjects(
    a: list[list[float]], b: list[list[float]], of_a: list[int], of_b: list[int], tau: float = 0.1
) -> float:
    who = sorted(set(of_a))
    thin = {s for s in who if of_a.count(s) < 2 or of_b.count(s) < 2}
    aa = slow_class_matrix(a, a, of_a, of_a, thin, True, tau)
    ab = slow_class_matrix(a, b, of_a, of_b, thin, False, tau)
    bb = slow_class_matrix(b, b, of_b, of_b, thin, True, tau)
    total = 0.0
    for s in who:
        p, q, r = ([m[s][t] for t in who] for m in (aa, ab, bb))
        total += kl(p, r) + kl(p, q) + kl(q, r)
    return total / len(who)


# -- affinity and TGSA


def test_divergence_and_affinity_by_hand() -> None:
    """Three unit vectors at right angles but for one: distances sqrt(2), sqrt(2) and 2."""
    x = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, -1.0]], dtype=torch.float64)
    found = idkl.affinity(x, x, temperature=1.0).exp()
    assert found.shape == (3, 2)
    assert found[0].tolist() == pytest.approx([0.5, 0.5])
    near, far = math.exp(-math.sqrt(2)), math.exp(-2)
    assert found[1].tolist() == pytest.approx([near / (near + far), far / (near + far)])
    assert found[2].tolist() == pytest.approx([near / (near + far), far / (near + far)])
    literal = idkl.affinity(x, x, temperature=1.0, sign=1).exp()
    assert float(literal[1, 1]) > 0.5  # as printed: the farthest weighs most


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_structure_is_its_definition(sign: Any, tau: float) -> None:
    a, b = normal(7, 5), normal(7, 5, seed=1)
    for x, y in ((a, a), (a, b)):
        wanted = slow_affinity(x.tolist(), y.tolist(), tau, sign)
        np.testing.assert_allclose(idkl.affinity(x, y, tau, sign).exp().numpy(), wanted, atol=1e-9)
    close(idkl.structure(a.float(), b.float(), tau, sign), slow_structure(a.tolist(), b.tolist(), tau, sign))
    aa, bb = (slow_affinity(x.tolist(), x.tolist(), tau, sign) for x in (a, b))
    wanted_within = sum(kl(p, q) for p, q in zip(aa, bb, strict=True)) / 7
    close(idkl.structure(a, b, tau, sign, cross=False), wanted_within)


def test_structure_of_equal_features_is_zero() -> None:
    """METHODS 8; and the column that is left out of A_ab is what makes it so."""
    a = normal(6, 4, dtype=torch.float32).requires_grad_()
    found = idkl.structure(a, a)
    found.backward()
    close(found, 0.0)
    assert a.grad is not None
    assert a.grad.abs().max() < 1e-5


def test_structure_gradient() -> None:
    a, b = normal(5, 3).requires_grad_(), normal(5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: idkl.structure(x, y, 0.5), (a, b))
    subject = torch.tensor([0, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(
        lambda x, y: idkl.structure_of_subjects(x, y, subject, subject.flip(0), 0.5), (a, b)
    )


@given(st.lists(st.integers(0, 3), min_size=2, max_size=9), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_structure_of_subjects_is_its_definition(of_a: list[int], random: Any) -> None:
    """Any counts, single images among them, in any order."""
    of_b = [s for s in sorted(set(of_a)) for _ in range(random.randint(1, 3))]
    random.shuffle(of_b)
    a, b = normal(len(of_a), 4, seed=random.randint(0, 99)), normal(len(of_b), 4, seed=random.randint(100, 199))
    x, y = a.float().requires_grad_(), b.float()
    found = idkl.structure_of_subjects(x, y, torch.tensor(of_a), torch.tensor(of_b))
    thin_alone = len(set(of_a)) == 1  # one subject: one column, or none
    close(found, 0.0 if thin_alone else slow_structure_of_subjects(a.tolist(), b.tolist(), of_a, of_b))
    found.backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_structure_of_subjects_does_not_look_at_the_order() -> None:
    a, b, of_a, of_b = normal(6, 4), normal(6, 4, seed=1), torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([2, 1, 0] * 2)
    first = idkl.structure_of_subjects(a, b, of_a, of_b)
    turned = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(idkl.structure_of_subjects(a[turned], b, of_a[turned], of_b), first)


def test_means_do_not_depend_on_the_size_of_the_batch() -> None:
    """Twice the same rows: a divergence between rows is the same; a sum would have doubled."""
    p, q = normal(4, 6).log_softmax(1), normal(4, 6, seed=1).log_softmax(1)
    torch.testing.assert_close(idkl.divergence(p.repeat(2, 1), q.repeat(2, 1)), idkl.divergence(p, q))


# -- CSA and MDR


@pytest.mark.parametrize("kind", ["paper", "teacher_first", "symmetric"])
def test_csa_is_its_definition(kind: Any) -> None:
    student, teacher = normal(5, 6) * 3, normal(5, 6, seed=1) * 3
    rows = [(softmax(s), softmax(t)) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    forward, backward = sum(kl(s, t) for s, t in rows) / 5, sum(kl(t, s) for s, t in rows) / 5
    wanted = {"paper": forward, "teacher_first": backward, "symmetric": forward + backward}[kind]
    close(idkl.class_semantic_alignment(student.float(), teacher.float(), kind), wanted)
    close(idkl.class_semantic_alignment(student, student, kind), 0.0)  # METHODS 8
    both = (student.requires_grad_(), teacher.requires_grad_())
    assert torch.autograd.gradcheck(lambda s, t: idkl.class_semantic_alignment(s, t, kind), both)


def test_csa_may_spare_the_teacher() -> None:
    for spared in (False, True):
        student, teacher = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
        idkl.class_semantic_alignment(student, teacher, detach_teacher=spared).backward()
        assert student.grad is not None
        assert (teacher.grad is None) == spared


def test_counterparts_are_the_kth_of_each_subject() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        of_a, of_b = (generator.integers(0, 4, generator.integers(1, 12)).tolist() for _ in range(2))
        wanted = set()
        for s in set(of_a) & set(of_b):
            at_a, at_b = ([n for n, t in enumerate(of) if t == s] for of in (of_a, of_b))
            wanted |= set(zip(at_a, at_b, strict=False))
        a, b = idkl.counterparts(torch.tensor(of_a), torch.tensor(of_b))
        assert set(zip(a.tolist(), b.tolist(), strict=True)) == wanted
        assert len(a) == len(wanted)


def test_mdr_by_index_is_its_definition() -> None:
    """In any order of subjects; a third image of 7 and the only one of 9 have no counterpart."""
    of_a, of_b = [7, 7, 8, 8, 7], [8, 9, 7, 8, 7]
    a, b, z_a, z_b = normal(5, 4), normal(5, 4, seed=1), normal(5, 3, seed=2), normal(5, 3, seed=3)
    rows = [(0, 2), (1, 4), (2, 0), (3, 3)]
    wanted = slow_structure([a[i].tolist() for i, _ in rows], [b[j].tolist() for _, j in rows])
    wanted += sum(kl(softmax(z_a[i].tolist()), softmax(z_b[j].tolist())) for i, j in rows) / 4
    made = idkl.modality_discrepancy((a, b), (z_a, z_b), (torch.tensor(of_a), torch.tensor(of_b)))
    assert made is not None
    close(made[0], wanted)
    assert made[1] == 8


def test_mdr_by_class_is_its_definition() -> None:
    of_a, of_b = [7, 7, 8, 5, 7], [8, 9, 7, 8, 7, 8]
    a, b, z_a, z_b = normal(5, 4), normal(6, 4, seed=1), normal(5, 3, seed=2), normal(6, 3, seed=3)
    at_a, at_b = [0, 1, 2, 4], [0, 2, 3, 4, 5]
    wanted = slow_structure_of_subjects(
        a[at_a].tolist(), b[at_b].tolist(), [of_a[n] for n in at_a], [of_b[n] for n in at_b]
    )
    for s in (7, 8):
        p, q = (
            np.mean([softmax(z[n].tolist()) for n in range(len(of)) if of[n] == s], axis=0).tolist()
            for z, of in ((z_a, of_a), (z_b, of_b))
        )
        wanted += kl(p, q) / 2
    made = idkl.modality_discrepancy((a, b), (z_a, z_b), (torch.tensor(of_a), torch.tensor(of_b)), "class")
    assert made is not None
    close(made[0], wanted)
    assert made[1] == 9


@pytest.mark.parametrize("pairing", ["index", "class"])
def test_mdr_gradient_and_strangers(pairing: Any) -> None:
    subject, other = torch.tensor([0, 0, 1, 1]), torch.tensor([2, 3, 4, 5])
    given = [normal(4, 3, seed=n).requires_grad_() for n in range(4)]

    def loss(a: Tensor, b: Tensor, z_a: Tensor, z_b: Tensor) -> Tensor:
        made = idkl.modality_discrepancy((a, b), (z_a, z_b), (subject, subject.flip(0)), pairing, 0.5)
        assert made is not None
        return made[0]

    assert torch.autograd.gradcheck(loss, given)
    a, b, z_a, z_b = given
    assert idkl.modality_discrepancy((a, b), (z_a, z_b), (subject, other), pairing) is None
