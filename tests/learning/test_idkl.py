"""IDKL: losses against scalar transcriptions of their equations, purifier, adversaries, each option and row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.learning.batches import CropBatch
from mdfpipe.learning.losses import graph
from mdfpipe.learning.losses.identity import cross_entropy
from mdfpipe.learning.losses.purification import discrepancy_reducing, discrimination_enhancing, entropy
from mdfpipe.learning.losses.ranking import mine, triplet
from mdfpipe.learning.models.adversary import (
    DomainClassifier,
    DomainClassifiers,
    balanced_cross_entropy,
    ramp,
    reverse,
)
from mdfpipe.learning.models.heads import BNNeck
from mdfpipe.learning.models.idkl import without_running
from mdfpipe.learning.models.pooling import gem
from mdfpipe.learning.models.purifier import Mask, Purifier
from mdfpipe.learning.recipes import Losses, Progress, Recipe
from mdfpipe.learning.training import fit
from tests.learning.trained import crops_in, job, tiny

TWO = ["LWIR-30m", "VIS-500m"]
FOUR = ["LWIR-30m", "MWIR-30m", "SWIR-30m", "VIS-500m"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(found: Tensor, wanted: float) -> None:
    assert found.ndim == 0
    assert float(found.detach()) == pytest.approx(wanted, abs=1e-5, rel=1e-5)


# -- scalars: plain Python, written from the equations


def unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def between(a: Sequence[float], b: Sequence[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def softmax(values: Sequence[float]) -> list[float]:
    top = sum(math.exp(v) for v in values)
    return [math.exp(v) / top for v in values]


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)


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
    found = graph.affinity(x, x, temperature=1.0).exp()
    assert found.shape == (3, 2)
    assert found[0].tolist() == pytest.approx([0.5, 0.5])
    near, far = math.exp(-math.sqrt(2)), math.exp(-2)
    assert found[1].tolist() == pytest.approx([near / (near + far), far / (near + far)])
    assert found[2].tolist() == pytest.approx([near / (near + far), far / (near + far)])
    literal = graph.affinity(x, x, temperature=1.0, sign=1).exp()
    assert float(literal[1, 1]) > 0.5  # as printed: the farthest weighs most


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_structure_is_its_definition(sign: Any, tau: float) -> None:
    a, b = normal(7, 5), normal(7, 5, seed=1)
    for x, y in ((a, a), (a, b)):
        wanted = slow_affinity(x.tolist(), y.tolist(), tau, sign)
        np.testing.assert_allclose(graph.affinity(x, y, tau, sign).exp().numpy(), wanted, atol=1e-9)
    close(graph.structure(a.float(), b.float(), tau, sign), slow_structure(a.tolist(), b.tolist(), tau, sign))
    aa, bb = (slow_affinity(x.tolist(), x.tolist(), tau, sign) for x in (a, b))
    wanted_within = sum(kl(p, q) for p, q in zip(aa, bb, strict=True)) / 7
    close(graph.structure(a, b, tau, sign, cross=False), wanted_within)


def test_structure_of_equal_features_is_zero() -> None:
    """METHODS 8; and the column that is left out of A_ab is what makes it so."""
    a = normal(6, 4, dtype=torch.float32).requires_grad_()
    found = graph.structure(a, a)
    found.backward()
    close(found, 0.0)
    assert a.grad is not None
    assert a.grad.abs().max() < 1e-5


def test_structure_gradient() -> None:
    a, b = normal(5, 3).requires_grad_(), normal(5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: graph.structure(x, y, 0.5), (a, b))
    subject = torch.tensor([0, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(
        lambda x, y: graph.structure_of_subjects(x, y, subject, subject.flip(0), 0.5), (a, b)
    )


@given(st.lists(st.integers(0, 3), min_size=2, max_size=9), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_structure_of_subjects_is_its_definition(of_a: list[int], random: Any) -> None:
    """Any counts, single images among them, in any order."""
    of_b = [s for s in sorted(set(of_a)) for _ in range(random.randint(1, 3))]
    random.shuffle(of_b)
    a, b = normal(len(of_a), 4, seed=random.randint(0, 99)), normal(len(of_b), 4, seed=random.randint(100, 199))
    x, y = a.float().requires_grad_(), b.float()
    found = graph.structure_of_subjects(x, y, torch.tensor(of_a), torch.tensor(of_b))
    thin_alone = len(set(of_a)) == 1  # one subject: one column, or none
    close(found, 0.0 if thin_alone else slow_structure_of_subjects(a.tolist(), b.tolist(), of_a, of_b))
    found.backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_structure_of_subjects_does_not_look_at_the_order() -> None:
    a, b, of_a, of_b = normal(6, 4), normal(6, 4, seed=1), torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([2, 1, 0] * 2)
    first = graph.structure_of_subjects(a, b, of_a, of_b)
    turned = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(graph.structure_of_subjects(a[turned], b, of_a[turned], of_b), first)


def test_means_do_not_depend_on_the_size_of_the_batch() -> None:
    """Twice the same rows: a divergence between rows is the same; a sum would have doubled."""
    p, q = normal(4, 6).log_softmax(1), normal(4, 6, seed=1).log_softmax(1)
    torch.testing.assert_close(graph.divergence(p.repeat(2, 1), q.repeat(2, 1)), graph.divergence(p, q))


# -- CSA and MDR


@pytest.mark.parametrize("kind", ["paper", "teacher_first", "symmetric"])
def test_csa_is_its_definition(kind: Any) -> None:
    student, teacher = normal(5, 6) * 3, normal(5, 6, seed=1) * 3
    rows = [(softmax(s), softmax(t)) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    forward, backward = sum(kl(s, t) for s, t in rows) / 5, sum(kl(t, s) for s, t in rows) / 5
    wanted = {"paper": forward, "teacher_first": backward, "symmetric": (forward + backward) / 2}[kind]
    close(graph.class_semantic_alignment(student.float(), teacher.float(), kind), wanted)
    close(graph.class_semantic_alignment(student, student, kind), 0.0)  # METHODS 8
    both = (student.requires_grad_(), teacher.requires_grad_())
    assert torch.autograd.gradcheck(lambda s, t: graph.class_semantic_alignment(s, t, kind), both)


def test_csa_may_spare_the_teacher() -> None:
    for spared in (False, True):
        student, teacher = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
        graph.class_semantic_alignment(student, teacher, detach_teacher=spared).backward()
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
        a, b = graph.counterparts(torch.tensor(of_a), torch.tensor(of_b))
        assert set(zip(a.tolist(), b.tolist(), strict=True)) == wanted
        assert len(a) == len(wanted)


def test_mdr_by_index_is_its_definition() -> None:
    """In any order of subjects; a third image of 7 and the only one of 9 have no counterpart."""
    of_a, of_b = [7, 7, 8, 8, 7], [8, 9, 7, 8, 7]
    a, b, z_a, z_b = normal(5, 4), normal(5, 4, seed=1), normal(5, 3, seed=2), normal(5, 3, seed=3)
    rows = [(0, 2), (1, 4), (2, 0), (3, 3)]
    wanted = slow_structure([a[i].tolist() for i, _ in rows], [b[j].tolist() for _, j in rows])
    wanted += sum(kl(softmax(z_a[i].tolist()), softmax(z_b[j].tolist())) for i, j in rows) / 4
    made = graph.modality_discrepancy((a, b), (z_a, z_b), (torch.tensor(of_a), torch.tensor(of_b)))
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
    made = graph.modality_discrepancy((a, b), (z_a, z_b), (torch.tensor(of_a), torch.tensor(of_b)), "class")
    assert made is not None
    close(made[0], wanted)
    assert made[1] == 9


@pytest.mark.parametrize("pairing", ["index", "class"])
def test_mdr_gradient_and_strangers(pairing: Any) -> None:
    subject, other = torch.tensor([0, 0, 1, 1]), torch.tensor([2, 3, 4, 5])
    given = [normal(4, 3, seed=n).requires_grad_() for n in range(4)]

    def loss(a: Tensor, b: Tensor, z_a: Tensor, z_b: Tensor) -> Tensor:
        made = graph.modality_discrepancy((a, b), (z_a, z_b), (subject, subject.flip(0)), pairing, 0.5)
        assert made is not None
        return made[0]

    assert torch.autograd.gradcheck(loss, given)
    a, b, z_a, z_b = given
    assert graph.modality_discrepancy((a, b), (z_a, z_b), (subject, other), pairing) is None


# -- L_e and L_r


def slow_entropy(logits: Sequence[float]) -> float:
    return -sum(p * math.log(p) for p in softmax(logits))


def test_enhancing_is_its_definition() -> None:
    d, sp = normal(5, 6) * 2, normal(5, 6, seed=1) * 2
    wanted = sum(
        math.log(1 + math.exp(slow_entropy(x) - slow_entropy(y))) for x, y in zip(d.tolist(), sp.tolist(), strict=True)
    )
    close(discrimination_enhancing(d.float(), sp.float()), wanted / 5)
    close(discrimination_enhancing(d, d), math.log(2))  # METHODS 8
    assert torch.autograd.gradcheck(lambda x: discrimination_enhancing(x, sp), d.requires_grad_())
    reference = sp.clone().requires_grad_()
    discrimination_enhancing(d, reference).backward()
    assert reference.grad is None  # the cheap way out is barred
    assert torch.isfinite(entropy(torch.tensor([[0.0, 1e4]]))).all()


def slow_reducing(
    reduced: Tensor,
    instance: Tensor,
    subject: list[int],
    group: list[int],
    pairs: Sequence[tuple[int, int]],
    *,
    by: str,
) -> float:
    """by unit: as METHODS reads eq. 11; released: not normalised, relu."""
    rows = [[unit(v) if by == "unit" else v for v in x.tolist()] for x in (reduced, instance)]
    means = []
    for a, b in pairs:
        values = []
        for s in sorted(set(subject)):
            mine, other = ([n for n in range(len(subject)) if (subject[n], group[n]) == (s, g)] for g in (a, b))
            if mine and other:
                far = []
                for x in rows:
                    c_a, c_b = (np.mean([x[n] for n in at], axis=0).tolist() for at in (mine, other))
                    far.append(between(c_a, c_b))
                excess = far[0] - far[1]
                values.append(math.log(1 + math.exp(excess)) if by == "unit" else max(excess, 0.0))
        if values:
            means.append(sum(values) / len(values))
    return sum(means) / len(means)


@pytest.mark.parametrize("by", ["unit", "released"])
def test_reducing_is_its_definition(by: str) -> None:
    """Three groups, unequal counts; subject 3 lacks group 1, nobody has groups 0 and 3 in common."""
    subject, group = [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 9], [0, 0, 1, 0, 1, 2, 1, 2, 0, 2, 3]
    reduced, instance = normal(11, 4) * 2, normal(11, 4, seed=1) * 3
    pairs = [(0, 1), (0, 2), (1, 2), (0, 3)]
    options: dict[str, Any] = {} if by == "unit" else {"unit": False, "hinge": "relu"}
    labels = (torch.tensor(subject), torch.tensor(group), pairs)
    close(
        discrepancy_reducing(reduced.float(), instance.float(), *labels, **options),
        slow_reducing(reduced, instance, subject, group, pairs, by=by),
    )
    assert torch.autograd.gradcheck(
        lambda x: discrepancy_reducing(x, instance, *labels, **options), reduced.requires_grad_()
    )


def test_reducing_at_equality_without_anybody_and_where_centres_meet() -> None:
    x, subject, group = normal(4, 3).requires_grad_(), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    close(discrepancy_reducing(x, x, subject, group, [(0, 1)]), math.log(2))  # METHODS 8
    nothing = discrepancy_reducing(x, x, torch.arange(4), group, [(0, 1)])
    nothing.backward()
    close(nothing, 0.0)
    same = torch.ones(4, 3, requires_grad=True)
    discrepancy_reducing(same, same, subject, group, [(0, 1)]).backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()
    reference = normal(4, 3, seed=1).requires_grad_()
    discrepancy_reducing(x, reference, subject, group, [(0, 1)]).backward()
    assert reference.grad is None


def test_reducing_is_not_met_by_shrinking() -> None:
    """Behind a mask of 1e-3 unit-length centres lie as far apart as before; others seem to have come together."""
    x, subject, group = normal(4, 3), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    close(discrepancy_reducing(1e-3 * x, x, subject, group, [(0, 1)]), math.log(2))
    assert discrepancy_reducing(1e-3 * x, x, subject, group, [(0, 1)], unit=False) < 0.5


# -- the purifier


def test_average_pooling_after_instance_norm_is_nothing() -> None:
    """Why masks pool by GeM: the average of F_in is 0 for every image: m_r would be constant, W3 would never move."""
    x = normal(3, 8, 6, 4, dtype=torch.float32).relu() * 5
    instance = nn.InstanceNorm2d(8)(x)
    assert instance.mean((2, 3)).abs().max() < 1e-6
    assert gem(instance).std(0).max() > 1e-2  # images differ

    def step(g: Tensor) -> tuple[float, float]:
        """How far the masks of three images lie apart, and the gradient of W3, behind this pooling."""
        torch.manual_seed(0)
        mask = Mask(8, 2, "channel", 3.0)
        weights = mask.excite(functional.relu(mask.squeeze(g))).sigmoid()
        weights.square().sum().backward()
        assert mask.squeeze.weight.grad is not None
        return float(weights.detach().std(0).max()), float(mask.squeeze.weight.grad.abs().max())

    assert max(step(instance.mean((2, 3), keepdim=True))) < 1e-6
    assert min(step(gem(instance)[:, :, None, None])) > 1e-3
    torch.manual_seed(0)
    mask = Mask(8, 2, "channel", 3.0)
    assert mask(instance).std(0).max() > 1e-3  # and so does ours


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("mask", ["channel", "full"])
def test_purifier_is_its_definition(mask: Any, affine: bool) -> None:
    """Eq. 7 to 9 and 12, written out over maps; F_p as printed."""
    torch.manual_seed(0)
    module = Purifier(16, mask=mask, reduction=4, affine=affine).double()
    if affine:
        nn.init.normal_(module.norm.weight)
        nn.init.normal_(module.norm.bias)
    x = normal(2, 16, 3, 2).relu()
    found = module(x)
    mean, spread = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
    instance = (x - mean) / (spread + 1e-5).sqrt()
    if affine:
        instance = instance * module.norm.weight[:, None, None] + module.norm.bias[:, None, None]

    def weights(part: Mask, of: Tensor) -> Tensor:
        first, second = (layer.weight[:, :, 0, 0] for layer in (part.squeeze, part.excite))
        g = of.clamp_min(1e-6).pow(3).mean((2, 3)).pow(1 / 3)[:, :, None, None] if mask == "channel" else of
        inner = torch.einsum("oc,bchw->bohw", first, g).clamp_min(0)
        return 1 / (1 + torch.exp(-torch.einsum("oc,bchw->bohw", second, inner)))

    m_e, m_r = weights(module.enhance, x), weights(module.reduce, instance)
    assert m_e.shape == ((2, 16, 1, 1) if mask == "channel" else (2, 16, 3, 2))
    enhanced, reduced = m_e * x, m_r * instance
    purified = m_e * reduced + m_r * enhanced
    torch.testing.assert_close(purified, m_e * m_r * (instance + x))  # METHODS 8
    maps = {"specific": x, "instance": instance, "enhanced": enhanced, "reduced": reduced, "purified": purified}
    assert found.keys() == maps.keys()
    for name, wanted in maps.items():
        torch.testing.assert_close(found[name], gem(wanted), atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("mask", ["channel", "full"])
def test_purifier_gradient(mask: Any) -> None:
    torch.manual_seed(0)
    module = Purifier(4, mask=mask, reduction=2).double()
    x = normal(2, 4, 3, 2).abs().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: tuple(module(value).values()), x)
    sum(value.square().sum() for value in module(x).values()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.parameters())


def test_purifier_of_a_resnet_50() -> None:
    with torch.device("meta"):
        module = Purifier(2048)
        found = module(torch.zeros(2, 2048, 24, 8))
    assert {value.shape for value in found.values()} == {(2, 2048)}
    assert module.enhance.squeeze.weight.shape == (128, 2048, 1, 1)  # METHODS 5.1: 2048 -> 128 -> 2048
    assert sum(p.numel() for p in module.parameters()) == 4 * 128 * 2048


# -- adversaries


def test_reversal_turns_gradients_round() -> None:
    x = normal(3, 2).requires_grad_()
    (reverse(x, 0.25) * torch.arange(6.0).view(3, 2)).sum().backward()
    torch.testing.assert_close(x.grad, -0.25 * torch.arange(6.0, dtype=torch.float64).view(3, 2))
    assert torch.equal(reverse(x), x)
    assert [round(ramp(t), 6) for t in (0.0, 0.25, 1.0)] == [0.0, 0.848284, 0.999909]


def test_balanced_cross_entropy_is_its_definition() -> None:
    """Domain 2 is not there; without the weights the mean would be another."""
    logits, domain = normal(6, 4), [0, 0, 0, 0, 1, 3]
    each = [-math.log(softmax(row)[d]) for row, d in zip(logits.tolist(), domain, strict=True)]
    close(balanced_cross_entropy(logits.float(), torch.tensor(domain)), (sum(each[:4]) / 4 + each[4] + each[5]) / 3)
    assert torch.autograd.gradcheck(lambda x: balanced_cross_entropy(x, torch.tensor(domain)), logits.requires_grad_())
    even = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    both = normal(8, 4)
    torch.testing.assert_close(balanced_cross_entropy(both, even), functional.cross_entropy(both, even))


def test_domain_classifiers_start_near_chance_and_are_what_the_paper_says() -> None:
    torch.manual_seed(0)
    heads = DomainClassifiers({"stage3": 1024, "neck": 2048}, 4)
    shapes = [tuple(p.shape) for p in heads["neck"].parameters() if p.ndim == 2]
    assert shapes == [(100, 2048), (100, 100), (4, 100)]
    kinds = [type(layer).__name__ for layer in DomainClassifier(8, 2)]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2 + ["Linear"]
    for head in heads.values():
        nn.init.zeros_(head[-1].weight)
        nn.init.zeros_(head[-1].bias)
    features = {"stage3": normal(8, 1024).float(), "neck": normal(8, 2048).float()}
    domain = torch.arange(8) % 4
    close(heads.loss(features, domain), 2 * math.log(4))  # METHODS 8: ln D per head
    with torch.no_grad():
        heads["neck"][-1].bias[0] = 3.0
    alone = balanced_cross_entropy(torch.tensor([[3.0, 0, 0, 0]] * 8), domain)
    close(heads.loss(features, domain), math.log(4) + float(alone))


def test_a_confuser_learns_the_domain_and_its_feature_forgets_it() -> None:
    """Along the turned gradient the loss of the confuser grows; along its own weights' it falls."""
    torch.manual_seed(0)
    head = DomainClassifier(6, 2, dropout=0.0)
    x, domain = normal(16, 6).float().requires_grad_(), torch.arange(16) % 2
    before = balanced_cross_entropy(head(reverse(x)), domain)
    before.backward()
    assert x.grad is not None
    moved = balanced_cross_entropy(head(x.detach() - 0.1 * x.grad), domain)
    assert moved > before
    with torch.no_grad():
        for p in head.parameters():
            p -= 0.1 * p.grad  # type: ignore[operator]
    assert balanced_cross_entropy(head(x), domain) < before


def test_a_pass_beside_the_main_one_leaves_the_running_statistics_alone() -> None:
    neck, z = BNNeck(5), normal(6, 5, dtype=torch.float32) * 3 + 1
    nn.init.normal_(neck.weight)
    before = {name: value.clone() for name, value in neck.state_dict().items()}
    beside = without_running(neck, z)
    assert all(torch.equal(value, before[name]) for name, value in neck.state_dict().items())
    torch.testing.assert_close(beside, neck(z))
    assert not torch.equal(neck.running_mean, before["running_mean"])  # type: ignore[arg-type]
    torch.testing.assert_close(without_running(neck.eval(), z), neck(z))


# -- the network


def test_weights_and_vectors_of_a_resnet_50() -> None:
    """Stages 3 and 4 twice (METHODS 0: 7,098,368 and 14,964,736); vectors only, no maps."""
    recipe = validate(Recipe.variant("idkl"), {}, "idkl")
    with torch.device("meta"):
        model = recipe.model(395, TWO)
        found = model.train()(torch.zeros(2, 3, 384, 128))
        plain = recipe.model(0, TWO)
        alone = plain(torch.zeros(2, 3, 384, 128))
    assert sum(p.numel() for p in model.backbone.parameters()) == 23_508_032 + 7_098_368 + 14_964_736
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        **dict.fromkeys(("shared", "specific", "instance", "enhanced", "reduced", "purified"), (2, 2048)),
        "shared_stage3": (2, 1024),
        "specific_stage3": (2, 1024),
    }
    assert {name: tuple(value.shape) for name, value in alone.items()} == {"shared": (2, 2048)}
    assert sum(p.numel() for p in plain.parameters()) == 23_508_032 + 2 * 2048
    assert recipe.features == 2048
    ours = {n for n in plain.state_dict() if not n.startswith("backbone.")}
    assert ours == {f"neck.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert plain.state_dict().keys() <= model.state_dict().keys()


def test_branches_share_three_stages() -> None:
    recipe = tiny("idkl")
    model = recipe.model(3, TWO)
    assert list(model.backbone.branches) == ["shared", "specific"]
    stages = {n.split(".")[1] for n, _ in model.backbone.shared.named_parameters(prefix="x")}
    assert stages == {"conv1", "bn1", "layer1", "layer2"}
    for branch in model.backbone.branches.values():
        assert {n.split(".")[0] for n, _ in branch.named_parameters()} == {"layer3", "layer4"}


def test_embedding_is_the_shared_feature_behind_its_neck() -> None:
    torch.manual_seed(0)
    recipe = tiny("idkl")
    model = recipe.model(3, TWO)
    images = torch.randn(4, 3, 64, 32)
    model.train()
    model.neck(model(images)["shared"])  # move the running statistics
    model.eval()
    assert model(images).keys() == {"shared"}
    batch = labels(torch.zeros(4, dtype=torch.int64), torch.tensor([0, 1, 0, 1]), images)
    found = recipe.embed(model, batch)
    neck, z = model.neck, model(images)["shared"]
    torch.testing.assert_close(found, (z - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight)
    flipped = recipe.embed(model, labels(batch.subject, batch.domain, images.flip(3)))
    both = tiny("idkl", flip_fusion=True).embed(model, batch)
    torch.testing.assert_close(both, (found + flipped) / 2)
    embedding = recipe.model(0, TWO).eval()
    embedding.load_state_dict({n: t for n, t in model.state_dict().items() if n in embedding.state_dict()})
    torch.testing.assert_close(recipe.embed(embedding, batch), found)


# -- the recipe


def labels(subject: Tensor, domain: Tensor, images: Tensor | None = None, source: Tensor | None = None) -> CropBatch:
    none = torch.zeros(len(subject), dtype=torch.int64)
    empty = torch.zeros(0, 3, 64, 32)
    return CropBatch(
        empty if images is None else images, subject, domain, none if source is None else source, none, none, none
    )


def grid(subjects: int, domains: int, each: int) -> tuple[Tensor, Tensor]:
    """Subject by subject, domain by domain."""
    subject = torch.arange(subjects).repeat_interleave(domains * each)
    return subject, torch.arange(domains).repeat_interleave(each).repeat(subjects)


def vectors(count: int, recipe: Any, seed: int = 0) -> dict[str, Tensor]:
    """What `forward` would give of so many images, drawn; no backbone has to run."""
    names = ["shared", "specific", "shared_stage3", "specific_stage3"]
    names += ["instance", "enhanced", "reduced", "purified"] if recipe.ip.weight else []
    return {
        name: (normal(count, 128 if name.endswith("3") else 256, seed=seed + n).abs().float()).requires_grad_()
        for n, name in enumerate(names)
    }


class NoTrunk(nn.Module):
    """Of the same channels. Where vectors are drawn no backbone has to be."""

    channels = (32, 32, 64, 128, 256)

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__()


def headed(recipe: Any, classes: int, domains: Sequence[str]) -> Any:
    """The recipe's network in training, without its backbone."""
    torch.manual_seed(0)
    with mock.patch("mdfpipe.learning.models.idkl.Trunk", NoTrunk):
        return recipe.model(classes, domains).train()


def run(recipe: Any, domains: Sequence[str], subject: Tensor, domain: Tensor) -> tuple[Losses, Any, dict[str, Tensor]]:
    model = headed(recipe, int(subject.max()) + 1, domains)
    nn.init.normal_(model.classifier.weight)
    nn.init.normal_(model.training_only.classifier.weight)
    features = vectors(len(subject), recipe)
    made = recipe.losses(model, features, labels(subject, domain), Progress(1, 3, 0, 1))
    for name, term in made.terms.items():
        assert term.ndim == 0, name
        assert torch.isfinite(term), name
    torch.stack(list(made.terms.values())).sum().backward()
    for value in (*features.values(), *model.parameters()):
        assert value.grad is None or torch.isfinite(value.grad).all()
    made.terms = {name: term.detach() for name, term in made.terms.items()}
    return made, model, features


BASE = {"identity", "triplet", "specific_identity", "specific_triplet", "discriminators", "confusers"}
IP = {"purified_identity", "purified_triplet", "enhancing", "reducing"}
OFF = {"weight": 0}
ROWS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "L_b": ({"ip": OFF, "tgsa": OFF, "csa": OFF, "mdr": OFF}, BASE),
    "L_b + tgsa": ({"ip": OFF, "csa": OFF, "mdr": OFF}, BASE | {"tgsa"}),
    "L_b + ip": ({"tgsa": OFF, "csa": OFF, "mdr": OFF}, BASE | IP),
    "L_b + ip + tgsa": ({"csa": OFF, "mdr": OFF}, BASE | IP | {"tgsa"}),
    "L_b + ip + csa": ({"tgsa": OFF, "mdr": OFF}, BASE | IP | {"csa"}),
    "L_b + ip + mdr": ({"tgsa": OFF, "csa": OFF}, BASE | IP | {"mdr"}),
    "all": ({}, BASE | IP | {"tgsa", "csa", "mdr"}),
}
"""Table 4, and the row that it lacks."""
OPTIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "mask full": ({"ip": {"mask": "full"}}, ROWS["all"][1]),
    "affine": ({"ip": {"affine": True}}, ROWS["all"][1]),
    "released L_r": ({"ip": {"unit": False, "hinge": "relu"}}, ROWS["all"][1]),
    "purified alone": ({"specific_identity": "purified"}, ROWS["all"][1] - {"specific_identity", "specific_triplet"}),
    "literal affinity": ({"affinity": {"sign": 1}}, ROWS["all"][1]),
    "within": ({"tgsa": {"cross": False}}, ROWS["all"][1]),
    "teacher first": ({"csa": {"kl": "teacher_first", "detach_teacher": True}}, ROWS["all"][1]),
    "symmetric": ({"csa": {"kl": "symmetric"}}, ROWS["all"][1]),
    "class": ({"mdr": {"pairing": "class"}}, ROWS["all"][1]),
    "one adversary": ({"adversary": {"depths": ["neck"], "confuser": "shuffled"}}, ROWS["all"][1]),
    "no adversary": ({"adversary": {"depths": []}}, ROWS["all"][1] - {"discriminators", "confusers"}),
    "ramp": ({"adversary": {"ramp": True, "strength": 2}}, ROWS["all"][1]),
    "soft": ({"margin": "soft"}, ROWS["all"][1]),
}


@pytest.mark.parametrize("domains", [TWO, FOUR], ids=["2", "4"])
@pytest.mark.parametrize("name", [*ROWS, *OPTIONS])
def test_rows_and_options_have_their_terms(name: str, domains: list[str]) -> None:
    given, wanted = (ROWS | OPTIONS)[name]
    made, model, _ = run(tiny("idkl", **given), domains, *grid(3, len(domains), 2))
    assert made.terms.keys() == wanted
    # nothing lies idle: several processes would wait for it
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None and "backbone" not in n]
    masks = [n for n in idle if n.startswith("training_only.purifier.")]  # behind vectors that were drawn here
    assert idle == masks
    assert (model.training_only.purifier is None) == (name in ("L_b", "L_b + tgsa"))


@pytest.mark.parametrize("name", ["L_b", "L_b + ip", "mask full", "purified alone", "one adversary", "no adversary"])
def test_rows_and_options_train_every_weight(name: str) -> None:
    """A step through the whole network, in which each weight takes part."""
    torch.manual_seed(0)
    recipe = tiny("idkl", **(ROWS | OPTIONS)[name][0])
    model = recipe.model(2, TWO).train()
    subject, domain = grid(2, 2, 2)
    batch = labels(subject, domain, torch.randn(8, 3, 64, 32))
    features = recipe.forward(model, batch)
    assert all(value.ndim == 2 and len(value) == 8 for value in features.values())
    made = recipe.losses(model, features, batch, Progress(1, 3, 0, 1))
    torch.stack(list(made.terms.values())).sum().backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_total_is_eq_21() -> None:
    """Each term from the parts it is made of, over two domains; visible light first, whatever the order of names."""
    recipe = tiny("idkl", adversary={"dropout": 0.0})
    subject, domain = grid(3, 2, 2)
    made, model, features = run(recipe, TWO, subject, domain)
    only = model.training_only
    ir, vis = domain == 0, domain == 1
    with torch.no_grad():
        for part in (model.neck, only.specific_neck, only.purified_neck):
            part.momentum = 0.0
        f = {name: value.detach() for name, value in features.items()}
        h, h_raw, h_p = model.neck(f["shared"]), only.specific_neck(f["specific"]), only.purified_neck(f["purified"])
        z, z_raw, z_p = model.classifier(h), only.classifier(h_raw), only.classifier(h_p)
        z_d = only.classifier(only.specific_neck(f["enhanced"]))

        def ranked(name: str) -> Tensor:
            return triplet(mine(f[name], subject), 0.3)

        t = [graph.structure(f["purified"][of], f["shared"][of]) for of in (vis, ir)]
        c = [graph.class_semantic_alignment(z[of], z_p[of]) for of in (vis, ir)]
        mdr = graph.modality_discrepancy(
            (f["shared"][vis], f["shared"][ir]), (z[vis], z[ir]), (subject[vis], subject[ir])
        )
        turned = graph.modality_discrepancy(
            (f["shared"][ir], f["shared"][vis]), (z[ir], z[vis]), (subject[ir], subject[vis])
        )
        assert mdr is not None
        assert turned is not None
        assert float(mdr[0]) != pytest.approx(float(turned[0]), rel=1e-4)
        sp = {"stage3": f["specific_stage3"], "stage4": f["specific"], "neck": h_raw}
        sh = {"stage3": f["shared_stage3"], "stage4": f["shared"], "neck": h}
        wanted = {
            "identity": cross_entropy(z, subject),
            "triplet": ranked("shared"),
            "specific_identity": cross_entropy(z_raw, subject),
            "specific_triplet": ranked("specific"),
            "discriminators": only.discriminators.loss(sp, domain),
            "confusers": only.confusers.loss(sh, domain),
            "purified_identity": 0.1 * cross_entropy(z_p, subject),
            "purified_triplet": 0.1 * ranked("purified"),
            "enhancing": 0.1 * discrimination_enhancing(z_d, z_raw),
            "reducing": 0.1 * discrepancy_reducing(f["reduced"], f["instance"], subject, domain, [(1, 0)]),
            "tgsa": 0.6 * (t[0] + t[1]),
            "csa": 0.8 * (c[0] + c[1]),
            "mdr": mdr[0],
        }
    assert made.terms.keys() == wanted.keys()
    for name, value in wanted.items():
        assert float(made.terms[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def test_of_two_domains_the_order_of_names_makes_no_difference() -> None:
    """MDR is not symmetric: the visible domain is first in it, wherever its name stands."""
    recipe = tiny("idkl", adversary={"depths": []})
    subject, domain = grid(3, 2, 2)
    first = run(recipe, TWO, subject, domain)[0].terms
    other = run(recipe, TWO[::-1], subject, 1 - domain)[0].terms
    for name in first:
        assert float(first[name]) == pytest.approx(float(other[name]), rel=1e-5), name


@pytest.mark.parametrize("pairs", ["all", "vis_ir", "grouped"])
def test_terms_of_four_domains_are_means(pairs: Any) -> None:
    pairing = "class" if pairs == "grouped" else "index"
    recipe = tiny("idkl", pairs=pairs, mdr={"pairing": pairing}, adversary={"dropout": 0.0})
    subject, domain = grid(3, 4, 2)
    made, model, f = run(recipe, FOUR, subject, domain)
    group = torch.where(domain == 3, 1, 0) if pairs == "grouped" else domain
    groups = 2 if pairs == "grouped" else 4
    wanted = {
        "all": [(0, 1), (0, 2), (1, 2), (3, 0), (3, 1), (3, 2)],
        "vis_ir": [(3, 0), (3, 1), (3, 2)],
        "grouped": [(1, 0)],
    }[pairs]
    assert set(model.pairs.pairs) == set(wanted)
    with torch.no_grad():
        z = model.classifier(without_running(model.neck, f["shared"]))
        mdr = [
            graph.modality_discrepancy(
                (f["shared"][group == a], f["shared"][group == b]),
                (z[group == a], z[group == b]),
                (subject[group == a], subject[group == b]),
                pairing,
            )
            for a, b in wanted
        ]
        t = [graph.structure(f["purified"][group == g], f["shared"][group == g]) for g in range(groups)]
    assert float(made.terms["mdr"]) == pytest.approx(sum(float(m[0]) for m in mdr if m) / len(wanted), rel=1e-4)
    assert float(made.terms["tgsa"]) == pytest.approx(0.6 * 2 * sum(map(float, t)) / groups, rel=1e-4)
    reducing = slow_reducing(f["reduced"], f["instance"], subject.tolist(), group.tolist(), wanted, by="unit")
    assert float(made.terms["reducing"]) == pytest.approx(0.1 * reducing, rel=1e-4)
    assert model.training_only.confusers["neck"][-1].out_features == groups
    assert made.figures["chance_loss"] == (pytest.approx(math.log(groups)), 1.0)
    assert made.figures["mdr_paired"][0] == made.figures["mdr_paired"][1] > 0
    assert made.figures["confuser_loss"][0] == pytest.approx(float(made.terms["confusers"]) / 3)


@pytest.mark.parametrize("pairing", ["index", "class"])
def test_a_batch_may_lack_things(pairing: str) -> None:
    """Subjects without some domain, a domain with a single image, one that is not there, visible-only subjects."""
    recipe = tiny("idkl", mdr={"pairing": pairing})
    subject = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 4])
    domain = torch.tensor([3, 3, 0, 0, 3, 0, 1, 3, 3, 3, 3, 3])
    made, _, _ = run(recipe, FOUR, subject, domain)
    paired, asked = made.figures["mdr_paired"]
    assert paired < asked
    alone, _, _ = run(recipe, FOUR, torch.tensor([0, 0, 1, 1]), torch.tensor([3, 3, 3, 3]))  # nothing to bring together
    assert float(alone.terms["mdr"]) == 0
    assert float(alone.terms["reducing"]) == 0
    strangers, _, _ = run(recipe, FOUR, torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 3]))
    assert float(strangers.terms["tgsa"]) == float(strangers.terms["mdr"]) == 0


def test_terms_do_not_depend_on_the_size_of_the_batch() -> None:
    """Each image twice: the terms are the same (the released code has other weights where a batch is not of 120)."""
    recipe = tiny("idkl", mdr={"pairing": "class"}, adversary={"dropout": 0.0})
    subject, domain = grid(3, 2, 2)
    features = {name: value.detach() for name, value in vectors(12, recipe).items()}
    made = []
    for times in (1, 2):
        model = headed(recipe, 3, TWO)
        given = {name: value.repeat(times, 1) for name, value in features.items()}
        batch = labels(subject.repeat(times), domain.repeat(times))
        made.append(recipe.losses(model, given, batch, Progress(0, 3, 0, 1)).terms)
    for name in made[0].keys() - {"tgsa", "mdr"}:  # whose neighbours are others then
        torch.testing.assert_close(made[1][name], made[0][name], rtol=1e-4, atol=1e-6)


def test_entropies_leave_the_running_statistics_alone() -> None:
    """`losses` moves each neck once, by the feature that it is for."""
    recipe = tiny("idkl")
    _, model, f = run(recipe, TWO, *grid(3, 2, 2))
    necks = {"shared": model.neck, "specific": model.training_only.specific_neck}
    necks["purified"] = model.training_only.purified_neck
    for name, neck in necks.items():
        assert int(neck.num_batches_tracked) == 1, name
        torch.testing.assert_close(neck.running_mean, 0.1 * f[name].detach().mean(0))


def test_without_a_purifier_the_specific_feature_takes_its_place() -> None:
    recipe = tiny("idkl", ip=OFF, mdr=OFF, adversary={"depths": []})
    subject, domain = grid(3, 2, 2)
    made, model, f = run(recipe, TWO, subject, domain)
    with torch.no_grad():
        z = model.classifier(without_running(model.neck, f["shared"]))
        z_raw = model.training_only.classifier(without_running(model.training_only.specific_neck, f["specific"]))
        t = sum(graph.structure(f["specific"][domain == d], f["shared"][domain == d]) for d in (0, 1))
        c = sum(graph.class_semantic_alignment(z[domain == d], z_raw[domain == d]) for d in (0, 1))
    assert float(made.terms["tgsa"]) == pytest.approx(0.6 * float(t), rel=1e-4)
    assert float(made.terms["csa"]) == pytest.approx(0.8 * float(c), rel=1e-4)


def shared_gradient(recipe: Any, where: Progress) -> Tensor:
    """Of the confusers alone."""
    subject, domain = grid(3, 2, 2)
    model = headed(recipe, 3, TWO)
    features = vectors(12, recipe)
    recipe.losses(model, features, labels(subject, domain), where).terms["confusers"].backward()
    grad = features["shared"].grad
    assert grad is not None
    return grad


def test_confusers_deceive_by_turned_gradients() -> None:
    without = {"adversary": {"dropout": 0.0, "depths": ["stage4"]}}
    start, late = Progress(0, 10, 0, 1), Progress(5, 10, 0, 1)
    plain = shared_gradient(tiny("idkl", **without), start)
    twice = shared_gradient(tiny("idkl", adversary=without["adversary"] | {"strength": 2.0}), start)
    torch.testing.assert_close(twice, 2 * plain)
    growing = tiny("idkl", adversary=without["adversary"] | {"ramp": True})
    assert shared_gradient(growing, start).abs().max() == 0
    torch.testing.assert_close(shared_gradient(growing, late), ramp(0.5) * plain)
    shuffled = tiny("idkl", adversary=without["adversary"] | {"confuser": "shuffled"})
    assert not torch.allclose(shared_gradient(shuffled, start), plain)


def test_weights_scale_their_terms() -> None:
    """The three lambdas, for sweeps."""
    subject, domain = grid(3, 2, 2)
    plain = run(tiny("idkl"), TWO, subject, domain)[0].terms
    given = {"ip": {"weight": 0.3}, "tgsa": {"weight": 1.2}, "csa": {"weight": 0.4}, "mdr": {"weight": 2.0}}
    scaled = run(tiny("idkl", **given), TWO, subject, domain)[0].terms
    factors = {**dict.fromkeys(IP, 3.0), "tgsa": 2.0, "csa": 0.5, "mdr": 2.0, **dict.fromkeys(BASE, 1.0)}
    for name, factor in factors.items():
        assert float(scaled[name]) == pytest.approx(factor * float(plain[name]), rel=1e-5), name


# -- settings


def idkl(**given: Any) -> Any:
    return validate(Recipe.variant("idkl"), given, "idkl")


def test_defaults_are_the_paper() -> None:
    recipe = idkl()
    assert (recipe.image_height_px, recipe.image_width_px) == (384, 128)
    assert (recipe.batches.subjects, recipe.batches.crops) == (12, 5)
    assert (recipe.optimiser.method, recipe.optimiser.rate, recipe.schedule.milestones) == ("adam", 3e-5, [60, 100])
    assert (recipe.ip.weight, recipe.tgsa.weight, recipe.csa.weight, recipe.mdr.weight) == (0.1, 0.6, 0.8, 1.0)
    assert recipe.embedded_as("MWIR-30m", TWO) == 0  # one stream takes any domain


def test_configurations_keep_what_is_given() -> None:
    released = idkl(configuration="released")
    assert (released.optimiser.rate, released.optimiser.weight_decay) == (3.5e-4, 5e-3)
    assert (released.schedule.length, released.schedule.milestones) == (160, [55, 95])
    mixed = idkl(configuration="released", optimiser={"weight_decay": 1e-4}, schedule={"length": 3, "milestones": []})
    assert (mixed.optimiser.rate, mixed.optimiser.weight_decay, mixed.optimiser.method) == (3.5e-4, 1e-4, "adam")
    assert (mixed.schedule.length, mixed.schedule.shape, mixed.schedule.warm_up) == (3, "steps", 0)
    told = {name: value for name, value in mixed.model_dump(mode="json").items() if name != "use"}
    assert idkl(**told) == mixed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"streams": "per_domain"}, "streams"),
        ({"configuration": "code"}, "configuration"),
        ({"specific_identity": "purified", "ip": OFF}, "ip.weight is 0"),
        ({"batches": {"sampler": "random"}}, "set mdr.pairing to class"),
        ({"adversary": {"depths": ["neck", "neck"]}}, "each once"),
        ({"affinity": {"sign": 0}}, "sign"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        idkl(**given)


def test_pairing_by_index_refuses_groups_of_unequal_size() -> None:
    recipe = tiny("idkl", pairs="grouped")
    with pytest.raises(ConfigError, match="equally many domains"):
        recipe.model(3, FOUR)
    recipe.model(3, TWO)
    recipe.model(0, FOUR)  # to embed nothing is paired
    tiny("idkl", pairs="grouped", mdr={"pairing": "class"}).model(3, FOUR)
    idkl(batches={"sampler": "random"}, mdr={"pairing": "class"})


def test_a_start_from_another_system_takes_no_heads() -> None:
    kind = Recipe.variant("idkl")
    names = [n for n in tiny("idkl").model(3, TWO).state_dict() if not n.startswith(kind.head)]
    parts = {".".join(n.split(".")[:2]) for n in names if not n.startswith(("backbone.", "neck."))}
    assert parts == {"training_only.specific_neck", "training_only.purified_neck", "training_only.purifier"}


# -- training


def test_trains_where_crops_do_not_decode(tmp_path: Path) -> None:
    """Their counterparts are left out of MDR, and counted."""
    recipe = tiny("idkl", schedule={"length": 1})
    crops = crops_in(tmp_path / "run", recipe, subjects=3, damaged=3)
    fitted = fit(job(crops, recipe, tmp_path / "state.pt"))
    assert all(math.isfinite(value) for value in fitted.lines[-1].values() if isinstance(value, float))
    assert {"chance_loss", "confuser_loss", "discriminator_loss"} <= fitted.lines[-1].keys()
    assert 0.5 < fitted.lines[-1]["mdr_paired"] < 1
