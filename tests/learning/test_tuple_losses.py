"""LCCRF's losses against scalar transcriptions: angular triplets, compactness, distillation; and whom they compare."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from mdfpipe.learning.data.batches import ANCHOR, NEGATIVE, POSITIVE, CropBatch
from mdfpipe.learning.losses import lccrf
from mdfpipe.learning.losses.lccrf import Triples, cross_modality_distillation, mean_squares
from mdfpipe.learning.streams import DomainPairs

TWO = ["LWIR-30m", "VIS-500m"]
FOUR = ["LWIR-30m", "MWIR-30m", "SWIR-30m", "VIS-500m"]
Row = dict[str, int]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows_of(count: int, domains: int, seed: int = 0) -> list[Row]:
    """`count` tuples over so many domains, of five subjects; `tuple` says which one a row is of."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        who = int(draw.integers(5))
        for domain in range(domains):
            other = int((who + draw.integers(1, 5)) % 5)
            for role, subject in ((ANCHOR, who), (POSITIVE, who), (NEGATIVE, other)):
                found.append({"tuple": number, "domain": domain, "role": role, "subject": subject, "source": 0})
    return found


def batch_of(rows: Sequence[Row], images: Tensor | None = None) -> CropBatch:
    def column(name: str) -> Tensor:
        return torch.tensor([row[name] for row in rows], dtype=torch.int64)

    none = torch.zeros(len(rows), dtype=torch.int64)
    pixels = torch.zeros(0, 3, 1, 1) if images is None else images
    return CropBatch(pixels, column("subject"), column("domain"), column("source"), none, column("role"), none)


def pair_values(rows: Sequence[Row], group: Sequence[int], s: int, t: int) -> Iterator[tuple[int, int, int, int]]:
    """(anchor, positive, negative of t, negative of s) of each tuple, by its definition (METHODS 4.6)."""
    for number in sorted({row["tuple"] for row in rows}):
        of = {(group[r["domain"]], r["role"]): i for i, r in enumerate(rows) if r["tuple"] == number}
        yield of[s, ANCHOR], of[t, POSITIVE], of[t, NEGATIVE], of[s, NEGATIVE]


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def slow_e(v: list[list[float]], a: int, n: int, p: int, m: float, clamp: bool, hinge: bool) -> float:
    positive = cosine(v[a], v[p])
    exponent = max(0.0, cosine(v[a], v[n])) - (max(0.0, positive) if clamp else positive) + m
    return math.exp(max(0.0, exponent) if hinge else exponent)


def found_in(rows: Sequence[Row], names: Sequence[str], among: str, kind: Any = "all") -> tuple[Any, Triples]:
    batch, pairs = batch_of(rows), DomainPairs.of(names, kind)
    number = lccrf.tuple_number(batch.domain, batch.role) if among == "own" else None
    matches = lccrf.matches(batch, pairs, number)
    return matches, lccrf.triples(batch, pairs, matches, number)


# -- the angular loss


@pytest.mark.parametrize("names", [TWO, FOUR], ids=len)
@pytest.mark.parametrize(("clamp", "hinge"), [(False, False), (True, False), (False, True)])
def test_eat_against_scalars(names: list[str], clamp: bool, hinge: bool) -> None:
    """Eq. 15-17 tuple by tuple; of more domains the mean over ordered pairs, times two."""
    rows, v, m = rows_of(5, len(names)), normal(5 * 3 * len(names), 7), 0.3
    _, triples = found_in(rows, names, "own")
    assert len(triples.anchor) == 5 * 2 * len(names) * (len(names) - 1)
    options: Any = {"margin": m, "clamp_positive": clamp, "hinge": hinge}
    found = lccrf.enumerate_angular_triplet(lccrf.cosines(v), triples, **options)
    total, pairs = 0.0, list(permutations(range(len(names)), 2))
    for s, t in pairs:
        for a, p, n_t, n_s in pair_values(rows, range(4), s, t):
            total += slow_e(v.tolist(), a, n_t, p, m, clamp, hinge) / 5
            total += slow_e(v.tolist(), a, n_s, p, m, clamp, hinge) / 5
    assert found.item() == pytest.approx(2 * total / len(pairs), abs=1e-9)
    assert gradcheck(
        lambda x: lccrf.enumerate_angular_triplet(lccrf.cosines(x), triples, **options), v.requires_grad_()
    )


@pytest.mark.parametrize(("kind", "pairs"), [("vis_ir", [(0, 3), (1, 3), (2, 3)]), ("grouped", [])])
def test_eat_of_other_pairs(kind: str, pairs: list[tuple[int, int]]) -> None:
    rows, v = rows_of(3, 4, seed=1), normal(36, 5, seed=2)
    found = lccrf.enumerate_angular_triplet(lccrf.cosines(v), found_in(rows, FOUR, "own", kind)[1]).item()
    x, group = v.tolist(), [0, 0, 0, 1]
    if kind == "vis_ir":
        ordered = pairs + [(b, a) for a, b in pairs]
        terms = [
            slow_e(x, a, n, p, 1.0, False, False)
            for s, t in ordered
            for a, p, *both in pair_values(rows, range(4), s, t)
            for n in both
        ]
        assert found == pytest.approx(4 * sum(terms) / len(terms), abs=1e-9)
        return
    means = []  # all infrared images of a tuple are one modality
    for s, t in ((0, 1), (1, 0)):
        for of in (t, s):
            values = [
                slow_e(x, a, n, p, 1.0, False, False)
                for a, one in enumerate(rows)
                for p, two in enumerate(rows)
                for n, three in enumerate(rows)
                if one["tuple"] == two["tuple"] == three["tuple"]
                and (one["role"], two["role"], three["role"]) == (ANCHOR, POSITIVE, NEGATIVE)
                and [group[r["domain"]] for r in (one, two, three)] == [s, t, of]
            ]
            means.append(sum(values) / len(values))
    assert found == pytest.approx(sum(means), abs=1e-9)


def test_eat_of_the_whole_batch() -> None:
    """Every image of the subject in another domain, whatever its role, with every image of others: loops over all."""
    rows, v = rows_of(4, 3, seed=3), normal(36, 5)
    _, triples = found_in(rows, FOUR[1:], "batch")
    x, means = v.tolist(), []
    for s, t in permutations(range(3), 2):
        for of in (t, s):
            values = [
                slow_e(x, a, n, p, 1.0, False, False)
                for a in range(36)
                for p in range(36)
                for n in range(36)
                if rows[a]["role"] == ANCHOR
                and rows[a]["subject"] == rows[p]["subject"] != rows[n]["subject"]
                and [rows[i]["domain"] for i in (a, p, n)] == [s, t, of]
            ]
            means.append(sum(values) / len(values))
    found = lccrf.enumerate_angular_triplet(lccrf.cosines(v), triples)
    assert found.item() == pytest.approx(4 * sum(means) / len(means), abs=1e-9)
    assert len(triples.anchor) > len(found_in(rows, FOUR[1:], "own")[1].anchor)


@pytest.mark.parametrize(
    ("negative", "positive", "expected"), [(0.0, 0.0, 10.873127), (0.0, 1.0, 4.0), (1.0, 0.0, 29.556224)]
)
def test_eat_by_hand(negative: float, positive: float, expected: float) -> None:
    """METHODS 8: one tuple, all cosines alike."""
    _, triples = found_in(rows_of(1, 2), TWO, "own")
    cosines = torch.full((6, 6), torch.nan, dtype=torch.float64)
    cosines[triples.anchor, triples.negative] = negative
    cosines[triples.anchor, triples.positive] = positive
    assert lccrf.enumerate_angular_triplet(cosines, triples).item() == pytest.approx(expected, abs=1e-6)


def test_a_clamped_positive_has_no_gradient() -> None:
    _, triples = found_in(rows_of(1, 2), TWO, "own")
    for clamp in (True, False):
        cosines = torch.full((6, 6), -0.5, requires_grad=True)
        loss = lccrf.enumerate_angular_triplet(cosines, triples, clamp_positive=clamp)
        assert 4 <= loss.item() <= 29.56 or not clamp
        loss.backward()
        assert cosines.grad is not None
        assert bool(cosines.grad[triples.anchor, triples.positive].any()) is not clamp


def test_the_margin_is_a_factor_but_for_a_hinge() -> None:
    """METHODS 4.3: 0.3 instead of 1 is a weight of 0.50."""
    _, triples = found_in(rows_of(4, 2), TWO, "own")
    c = lccrf.cosines(normal(24, 6))
    one, less = (lccrf.enumerate_angular_triplet(c, triples, margin=m).item() for m in (1.0, 0.3))
    assert less / one == pytest.approx(math.exp(-0.7))
    assert less / one == pytest.approx(0.50, abs=0.005)
    one, less = (lccrf.enumerate_angular_triplet(c, triples, margin=m, hinge=True).item() for m in (1.0, 0.3))
    assert less / one != pytest.approx(math.exp(-0.7), abs=1e-3)


@pytest.mark.parametrize("names", [TWO, FOUR], ids=len)
def test_the_released_loss_against_scalars(names: list[str]) -> None:
    """exp of the batch mean, negatives of the anchor's own modality, two terms."""
    rows, v = rows_of(5, len(names)), normal(15 * len(names), 7)
    _, triples = found_in(rows, names, "own")
    total, ordered = 0.0, list(permutations(range(len(names)), 2))
    for s, t in ordered:
        hinges = [
            max(0.0, 1.0 - cosine(v[a].tolist(), v[p].tolist()) + max(0.0, cosine(v[a].tolist(), v[n].tolist())))
            for a, p, _, n in pair_values(rows, range(4), s, t)
        ]
        total += math.exp(sum(hinges) / 5)
    found = lccrf.exponential_angular_triplet(lccrf.cosines(v), triples)
    assert found.item() == pytest.approx(2 * total / len(ordered), abs=1e-9)
    assert gradcheck(
        lambda x: lccrf.exponential_angular_triplet(lccrf.cosines(x), triples), v.detach().requires_grad_()
    )


# -- tuples


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_tuples_that_lost_crops(data: st.DataObject) -> None:
    """No tuple that is whole enough is torn; what is found besides still has the subjects right."""
    rows = rows_of(4, 3, seed=data.draw(st.integers(0, 50)))
    rows = [row for row in rows if data.draw(st.integers(0, 3))]
    _, triples = found_in(rows, FOUR[1:], "own")
    if not rows:
        return
    found = set(zip(*(x.tolist() for x in (triples.anchor, triples.positive, triples.negative)), strict=True))
    true = {
        (a, p, n)
        for a, one in enumerate(rows)
        for p, two in enumerate(rows)
        for n, three in enumerate(rows)
        if one["tuple"] == two["tuple"] == three["tuple"]
        and (one["role"], two["role"], three["role"]) == (ANCHOR, POSITIVE, NEGATIVE)
        and one["domain"] != two["domain"]
        and three["domain"] in (one["domain"], two["domain"])
    }
    assert true <= found
    for a, p, n in found:
        assert rows[a]["subject"] == rows[p]["subject"] != rows[n]["subject"]
        assert rows[a]["domain"] != rows[p]["domain"]
    merged = len({row["tuple"] for row in rows}) - int(lccrf.tuple_number(*_order(rows)).max()) - 1
    assert merged or found == true


def _order(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    batch = batch_of(rows)
    return batch.domain, batch.role


def test_a_domain_that_is_missing_leaves_its_pairs_out() -> None:
    """Of four domains one has no image: the loss is that of the other three."""
    rows, v = rows_of(3, 4), normal(36, 5)
    kept = [i for i, row in enumerate(rows) if row["domain"] != 1]
    some = [rows[i] for i in kept]
    _, triples = found_in(some, FOUR, "own")
    fewer = [{**row, "domain": [0, -1, 1, 2][row["domain"]]} for row in some]
    _, same = found_in(fewer, [FOUR[0], *FOUR[2:]], "own")
    c = lccrf.cosines(v[kept])
    for loss in (lccrf.enumerate_angular_triplet, lccrf.exponential_angular_triplet):
        assert loss(c, triples).item() == pytest.approx(loss(c, same).item(), abs=1e-12)


@pytest.mark.parametrize("among", ["own", "batch"])
def test_further_crops_take_no_part_in_pairs(among: str) -> None:
    rows = rows_of(3, 2)
    further = [{"tuple": -1, "domain": 1, "role": ANCHOR, "subject": 5 + n, "source": 1} for n in range(4)]
    alone, beside = found_in(rows, TWO, among), found_in(rows + further, TWO, among)
    for a, b in zip(alone, beside, strict=True):
        same = [x == y if isinstance(x, int) else torch.equal(x, y) for x, y in zip(*_values(a, b), strict=True)]
        assert all(same)
    elsewhere = [{**row, "source": 2} for row in rows]  # a study that has none of its own is trained on others'
    assert len(found_in(elsewhere, TWO, among)[0].anchor) == len(alone[0].anchor)


def _values(*found: Any) -> list[list[Any]]:
    return [list(vars(one).values()) for one in found]


def test_losses_without_data_are_zeros_with_a_gradient() -> None:
    v = normal(6, 4).requires_grad_()
    matches, triples = found_in([{**row, "domain": 0} for row in rows_of(2, 1)], TWO, "own")
    assert not len(matches.anchor)
    c = lccrf.cosines(v)
    found = [
        lccrf.enumerate_angular_triplet(c, triples),
        lccrf.exponential_angular_triplet(c, triples),
        cross_modality_distillation(v, matches),
        cross_modality_distillation(v, matches, relative=True),
    ]
    assert [loss.item() for loss in found] == [0, 0, 0, 0]
    torch.stack(found).sum().backward()
    assert v.grad is not None
    assert not v.grad.any()


# -- compactness


def test_compactness_of_a_map_against_scalars() -> None:
    maps = normal(3, 4, 2, 3)
    found = lccrf.compactness_of_map(maps)
    for n in range(3):
        places = [maps[n, :, y, x].tolist() for y in range(2) for x in range(3)]
        middle = [sum(f[c] for f in places) / 6 for c in range(4)]
        wanted = sum(math.exp(cosine(f, middle)) for f in places) / 6
        assert found[n].item() == pytest.approx(wanted, abs=1e-9)
        assert 1 / math.e <= wanted <= math.e
    assert (lccrf.compactness_of_map(maps.relu()) >= 1).all()
    assert gradcheck(lccrf.compactness_of_map, maps.requires_grad_())
    zeros = torch.zeros(1, 2, 2, 2, requires_grad=True)
    lccrf.compactness_of_map(zeros).sum().backward()
    assert zeros.grad is not None
    assert torch.isfinite(zeros.grad).all()


def test_other_readings_of_compactness_against_scalars() -> None:
    f = normal(3, 8)
    for n in range(3):
        values = f[n].tolist()
        printed = sum(math.exp(math.cos(x * sum(values) / 8)) for x in values)
        assert lccrf.compactness_as_printed(f)[n].item() == pytest.approx(printed, abs=1e-9)
        unit = [x / math.sqrt(sum(y * y for y in values)) for x in values]
        wanted = math.exp(sum(abs(x - sum(unit) / 8) for x in unit) / 8)
        assert lccrf.compactness_of_elements(f)[n].item() == pytest.approx(wanted, abs=1e-9)
    assert gradcheck(lccrf.compactness_as_printed, f.requires_grad_())
    assert gradcheck(lccrf.compactness_of_elements, f)
    # METHODS 4.3: 8 tuples x 2048 elements x two modalities at the maximum
    batch = batch_of(rows_of(8, 2))
    largest = lccrf.compactness_as_printed(torch.zeros(48, 2048, dtype=torch.float64))
    assert lccrf.of_anchors(largest, batch, 2, summed=True).item() == pytest.approx(89_072, abs=1)


# -- distillation


@pytest.mark.parametrize("names", [TWO, FOUR], ids=len)
@pytest.mark.parametrize("relative", [False, True])
def test_distillation_against_scalars(names: list[str], relative: bool) -> None:
    """Eq. 5 as a mean over elements; of more domains the mean over ordered pairs, times two."""
    rows, maps = rows_of(4, len(names)), normal(12 * len(names), 3, 2, 2)
    matches, _ = found_in(rows, names, "own")
    flat, total, ordered = maps.flatten(1).tolist(), 0.0, list(permutations(range(len(names)), 2))
    for s, t in ordered:
        for a, p, *_ in pair_values(rows, range(4), s, t):
            total += sum((x - y) ** 2 for x, y in zip(flat[a], flat[p], strict=True)) / 12 / 4
    wanted = 2 * total / len(ordered)
    if relative:
        used = [x for row, values in zip(rows, flat, strict=True) if row["role"] != NEGATIVE for x in values]
        wanted /= sum(x * x for x in used) / len(used)
    found = cross_modality_distillation(maps, matches, relative=relative)
    assert found.item() == pytest.approx(wanted, abs=1e-9)
    if not relative:  # whose divisor has no gradient
        assert gradcheck(lambda x: cross_modality_distillation(x, matches), maps.requires_grad_())


def test_mean_squares_of_maps_that_have_much_in_common() -> None:
    """Small differences of large maps, in float32: the common part must not cost their digits."""
    common = 20 * normal(1, 64, 24, 8).float()
    maps = common + 0.01 * normal(4, 64, 24, 8, seed=1).float()
    exact = (maps.double()[:, None] - maps.double()[None]).square().flatten(2).mean(2)
    off = ~torch.eye(4, dtype=torch.bool)
    assert ((mean_squares(maps) - exact)[off].abs() / exact[off]).max() < 1e-3
    m = maps.flatten(1)
    plain = m.square().mean(1)[:, None] + m.square().mean(1) - 2 * (m @ m.T) / m.shape[1]
    assert ((plain - exact)[off].abs() / exact[off]).max() > 1e-2  # what is avoided
