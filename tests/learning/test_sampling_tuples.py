"""Samplers of tuples, and samplers made of others: two side by side, with auxiliary views."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mdfpipe.learning.data.batches import ANCHOR, AUXILIARY, NEGATIVE, PLAIN, POSITIVE
from mdfpipe.learning.data.sampling import DomainAware, Evenly, Joint, RandomIdentity, Tuples, Uniform, WithAuxiliary
from tests.learning.sampling_tables import Table, cells, complete, full, quick, rows, table, tables, two_sources

# -- side by side


@pytest.mark.parametrize("further_crops", [1, 5])  # epochs longer, and shorter, than the own ones
def test_joint_goes_round_through_the_further_sampler(further_crops: int) -> None:
    crops = two_sources()
    own = DomainAware(crops, subjects=2, crops_each=1, seed=0)
    further = RandomIdentity(crops, subjects=4, crops_each=further_crops, seed=1, sources=[1])
    assert (len(own), len(further)) == (3, {1: 9, 5: 2}[further_crops])
    joint = Joint(own, further)
    expected = [draw for number in range(20) for draw in rows(further, number)]
    for number in (4, 0, 3):
        batches = rows(joint, number)
        assert len(batches) == len(joint) == 3
        for b, (batch, mine) in enumerate(zip(batches, rows(own, number), strict=True)):
            assert batch == mine + expected[number * 3 + b]
            assert crops.source[batch].tolist() == [0] * 6 + [1] * 4 * further_crops


def test_the_joint_recipe_of_the_synthetic_study_has_its_size() -> None:
    own = [(s, d, v, 0) for s in range(6) for d in range(3) for v in range(4)]
    crops = table(own + [(s, 0, v, 1) for s in range(6, 30) for v in range(4)])
    crops = replace(crops, subjects=tuple(map(str, range(30))))
    further = RandomIdentity(crops, subjects=12, crops_each=4, seed=1, sources=[1])
    joint = Joint(DomainAware(crops, subjects=6, crops_each=2, seed=0), further)
    assert {len(batch) for batch in rows(joint)} == {6 * 3 * 2 + 12 * 4}


def test_wrapped_samplers_say_what_was_left_out() -> None:
    crops = cells((0, 0, [2]), (0, 1, [2]), (1, 0, [2]), (1, 1, [2]), (2, 0, [2]))
    own = DomainAware(crops, subjects=2, crops_each=1, seed=0)
    wrapped: Any = WithAuxiliary(Joint(own, own), crops.domain, [0])
    assert wrapped.left_out == {"s2": ["SWIR"]}


def test_an_auxiliary_view_follows_each_row_of_some_domains() -> None:
    crops = full(3, 3)
    plain = DomainAware(crops, subjects=2, crops_each=2, seed=0)
    sampler = WithAuxiliary(plain, crops.domain, [0])
    assert len(sampler) == len(plain)
    for draw, before in zip(sampler.epoch(1), plain.epoch(1), strict=True):
        expected = []
        for r in before.row.tolist():
            expected += [(r, PLAIN), (r, AUXILIARY)] if crops.of(r)[1] == 0 else [(r, PLAIN)]
        assert list(zip(draw.row.tolist(), draw.view.tolist(), strict=True)) == expected
        assert draw.view.sum() == 4
        assert draw.role.tolist() == [ANCHOR] * 16
        assert {draw.row.dtype, draw.view.dtype, draw.role.dtype} == {np.dtype(np.int64), np.dtype(np.int8)}
        halves = [draw.share(rank, 2) for rank in (0, 1)]  # a subject each, with its auxiliary views
        assert [len({crops.of(r)[0] for r in half.row.tolist()}) for half in halves] == [1, 1]
        assert [half.view.tolist() for half in halves] == [[PLAIN, AUXILIARY] * 2 + [PLAIN] * 4] * 2


def test_auxiliary_views_keep_roles_and_are_of_plain_views_alone() -> None:
    crops = full(3, 2)
    tuples = WithAuxiliary(Tuples(crops, tuples=2, seed=0), crops.domain, [1])
    for draw in tuples.epoch(0):
        assert draw.role.tolist() == [0, 1, 2, 0, 0, 1, 1, 2, 2] * 2
        assert draw.view.tolist() == [0, 0, 0, 0, 1, 0, 1, 0, 1] * 2
    for twice, once in zip(WithAuxiliary(tuples, crops.domain, [1]).epoch(0), tuples.epoch(0), strict=True):
        assert len(twice) == len(once) + 6  # of the six plain ones again, of no auxiliary one
    none = WithAuxiliary(Uniform(crops, size=4, seed=0), crops.domain, [])
    assert [len(draw) for draw in none.epoch(0)] == [4] * len(none)


# -- tuples


@quick
@given(tables, st.integers(1, 5), st.integers(0, 3), st.sampled_from(["crops", "videos"]))
def test_tuples_hold_anchor_positive_and_negative_of_each_domain(
    crops: Table, tuples: int, seed: int, evenly: Evenly
) -> None:
    has = complete(crops)
    used = sorted(set().union(*has.values()))
    eligible = {s for s in has if has[s] == set(used)}
    assume(len(used) >= 2 and len(eligible) >= 2)
    sampler = Tuples(crops, tuples=tuples, seed=seed, evenly_over=evenly)
    draws = list(sampler.epoch(2))
    assert len(draws) == len(sampler)
    assert set(sampler.eligible.tolist()) == eligible
    cell = defaultdict(list)
    for r in np.flatnonzero(crops.source == 0).tolist():
        cell[crops.of(r)[:2]].append(r)
    anchors: Counter[int] = Counter()
    for draw in draws:
        assert draw.role.tolist() == [ANCHOR, POSITIVE, NEGATIVE] * len(used) * tuples
        assert not draw.view.any()
        assert not crops.source[draw.row].any()
        for one in draw.row.reshape(tuples, len(used), 3).tolist():
            who = crops.of(one[0][0])[0]
            anchors[one[0][0]] += 1
            for d, (anchor, positive, negative) in zip(used, one, strict=True):
                assert crops.of(anchor)[:2] == crops.of(positive)[:2] == (who, d)
                assert who in eligible
                assert crops.of(negative)[1] == d
                assert crops.of(negative)[0] != who
                videos = {crops.of(r)[2] for r in cell[who, d]}
                assert (anchor != positive) == (len(cell[who, d]) > 1)
                assert evenly == "crops" or (crops.of(anchor)[2] != crops.of(positive)[2]) == (len(videos) > 1)
    walk = {r for (s, d), found in cell.items() if s in eligible and d == used[0] for r in found}
    assert set(anchors) == walk
    assert max(anchors.values()) - min(anchors.values()) <= 1
    assert sum(anchors.values()) == len(draws) * tuples < len(walk) + tuples


def test_negatives_and_positives_of_tuples_are_drawn_evenly() -> None:
    """Negatives of each domain by themselves, of all others, also of those that lack a domain, short or long."""
    crops = cells((0, 0, [3, 9]), (0, 1, [3]), (1, 0, [40]), (1, 1, [2]), (2, 0, [1]), (3, 1, [5]))
    sampler = Tuples(crops, tuples=4, seed=0)
    negatives: dict[int, Counter[int]] = defaultdict(Counter)
    together: Counter[tuple[int, int]] = Counter()
    positives: Counter[int] = Counter()
    for number in range(100):
        for draw in sampler.epoch(number):
            for one in draw.row.reshape(4, 2, 3).tolist():
                if crops.of(one[0][ANCHOR])[0] == 0:
                    found = [crops.of(one[d][NEGATIVE])[0] for d in (0, 1)]
                    negatives[0][found[0]] += 1
                    negatives[1][found[1]] += 1
                    together[found[0], found[1]] += 1
                else:
                    positives[one[0][POSITIVE]] += 1
    assert set(negatives[0]) == {1, 2}
    assert set(negatives[1]) == {1, 3}
    total = sum(together.values())
    assert total >= 1200
    assert all(n / total == pytest.approx(0.25, abs=0.05) for n in together.values())
    assert len(together) == 4
    # forty frames of one video, a hundred epochs: each is a positive about a hundred times
    assert len(positives) == 40
    assert min(positives.values()) > 60
    assert max(positives.values()) < 145


def test_the_last_batch_of_tuples_is_filled_from_the_beginning() -> None:
    crops = full(2, 2, [3])
    sampler = Tuples(crops, tuples=4, seed=0)
    anchors = [draw.row.reshape(4, 2, 3)[:, 0, ANCHOR].tolist() for draw in sampler.epoch(0)]
    assert [len(batch) for batch in anchors] == [4, 4]
    assert anchors[1][2:] == anchors[0][:2]
    (only,) = Tuples(crops, tuples=8, seed=0).epoch(0)  # more tuples than anchors
    assert len(set(only.row.reshape(8, 2, 3)[:, 0, ANCHOR].tolist())) == 6
