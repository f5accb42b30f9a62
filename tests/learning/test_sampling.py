"""Samplers of subjects and of crops one by one: random label tables against plain counting, turns and rounds."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mdfpipe.errors import DataError
from mdfpipe.learning.data.sampling import DomainAware, RandomIdentity, Uniform
from tests.learning.sampling_tables import NAMES, Table, cells, complete, full, quick, rows, table, tables

# -- domain-aware and random batches


@quick
@given(tables, st.integers(2, 4), st.integers(1, 4), st.integers(0, 3))
def test_a_domain_aware_batch_holds_p_subjects_k_crops_of_each_domain(
    crops: Table, subjects: int, each: int, seed: int
) -> None:
    has = complete(crops)
    used = sorted(set().union(*has.values()))
    eligible = sorted(s for s in has if has[s] == set(used))
    assume(len(eligible) >= subjects)
    sampler = DomainAware(crops, subjects=subjects, crops_each=each, seed=seed)
    assert sampler.eligible.tolist() == eligible
    assert sampler.left_out == {f"s{s}": [NAMES[d] for d in used if d not in has[s]] for s in has if s not in eligible}
    batches = rows(sampler, 1)
    assert len(batches) == len(sampler)
    for batch in batches:
        labels = np.array([crops.of(r)[:2] for r in batch]).reshape(subjects, len(used), each, 2)
        who = labels[:, 0, 0, 0]
        assert len(set(who.tolist())) == subjects
        assert set(who.tolist()) <= set(eligible)
        assert (labels[..., 0] == who[:, None, None]).all()
        assert (labels[..., 1] == np.array(used)[:, None]).all()
        assert not crops.source[batch].any()


@quick
@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=2, max_size=4), st.integers(1, 7))
def test_a_visit_goes_over_videos_in_rounds(frames: list[list[int]], each: int) -> None:
    crops = cells(*((s, 0, sizes) for s, sizes in enumerate(frames)))
    for batch in rows(DomainAware(crops, subjects=2, crops_each=each, seed=0)):
        for visit in np.array(batch).reshape(2, each).tolist():
            sizes = frames[crops.of(visit[0])[0]]
            given = Counter(crops.of(r)[2] % 10 for r in visit)
            assert len(given) == min(each, len(sizes))
            most, least = (f(Counter({r: visit.count(r) for r in set(visit)}).values()) for f in (max, min))
            if sum(sizes) >= each:
                assert len(set(visit)) == each
                for v, size in enumerate(sizes):  # who gave less than a round before the last has nothing left
                    assert given[v] >= max(given.values()) - 1 or given[v] == size
            else:
                assert len(set(visit)) == sum(sizes)
                assert most - least <= 1


@quick
@given(tables, st.integers(2, 4), st.integers(1, 5), st.booleans())
def test_an_epoch_visits_what_it_claims(crops: Table, subjects: int, each: int, aware: bool) -> None:
    try:
        sampler = (DomainAware if aware else RandomIdentity)(
            crops, subjects=subjects, crops_each=each, seed=5, sources=[0]
        )
    except DataError:
        assume(False)
    batches = rows(sampler, 3)
    own = [r for r in range(len(crops.subject)) if crops.source[r] == 0]
    possible = [r for r in own if crops.subject[r] in sampler.eligible]
    parts = len({int(crops.domain[r]) for r in own}) if aware else 1
    size = subjects * parts * each
    assert {len(b) for b in batches} == {size}
    assert len(sampler) == len(batches) == -(-len(possible) // size)
    turns = [crops.of(batch[i])[0] for batch in batches for i in range(0, size, parts * each)]
    visits = [turns.count(s) for s in sampler.eligible.tolist()]
    assert sum(visits) == len(turns) == len(batches) * subjects
    assert max(visits) - min(visits) <= 1
    # subjects come in rounds of all
    for begin in range(0, len(turns), len(visits)):
        part = turns[begin : begin + len(visits)]
        assert len(set(part)) == len(part)
    # and so do the frames of a video, per cell
    drawn = Counter(r for batch in batches for r in batch)
    by_video = defaultdict(list)
    for r in possible:
        by_video[crops.of(r) if aware else (int(crops.subject[r]), int(crops.video[r]))].append(drawn[r])
    assert all(max(counts) - min(counts) <= 1 for counts in by_video.values())


def test_videos_are_drawn_evenly_however_long_they_are() -> None:
    crops = cells((0, 0, [100, 2]), (1, 0, [51, 51]), (0, 1, [102]), (1, 1, [102]))
    sampler = DomainAware(crops, subjects=2, crops_each=1, seed=1)
    shares = []
    for number in range(20):
        drawn = [crops.of(r) for batch in rows(sampler, number) for r in batch]
        shares.append(np.mean([v == 0 for s, d, v in drawn if (s, d) == (0, 0)]))
    assert len(sampler) == 102
    assert np.mean(shares) == pytest.approx(0.5, abs=0.04)  # 2040 draws: 3.6 standard deviations
    assert 0.01 < np.std(shares) < 0.12  # drawn, not alternating: 0.05 is expected


def test_every_choice_of_videos_is_equally_likely() -> None:
    crops = cells((0, 0, [60, 1, 1, 30, 4]), (1, 0, [96]))
    sampler = RandomIdentity(crops, subjects=2, crops_each=3, seed=2, evenly_over="videos")
    met: Counter[tuple[int, ...]] = Counter()
    for number in range(60):
        for batch in rows(sampler, number):
            met[tuple(crops.of(r)[2] for r in batch if crops.of(r)[0] == 0)] += 1
    total = sum(met.values())
    assert total == 60 * 32
    assert set(met) == set(permutations(range(5), 3))
    chi2 = sum((n - total / 60) ** 2 / (total / 60) for n in met.values())
    assert chi2 < 98.3  # 59 degrees of freedom, p = 0.001


def test_crops_of_one_video_are_not_neighbours() -> None:
    sampler = DomainAware(full(2, 1, [40]), subjects=2, crops_each=2, seed=0)  # row r is frame r % 40
    drawn = np.array([batch for number in range(30) for batch in rows(sampler, number)]).reshape(-1, 2)
    assert len(drawn) == 30 * 40
    apart = np.abs(drawn[:, 0] - drawn[:, 1])
    assert apart.mean() == pytest.approx(41 / 3, abs=1)  # of two different numbers out of 40
    assert len(np.unique(apart)) > 35


def test_which_videos_give_in_the_last_round_is_drawn_from_those_with_crops_left() -> None:
    crops = cells((0, 0, [5, 1, 5, 1]), (1, 0, [12]))
    met: Counter[tuple[int, ...]] = Counter()
    sampler = RandomIdentity(crops, subjects=2, crops_each=5, seed=0, evenly_over="videos")
    for number in range(100):
        for batch in rows(sampler, number):
            given = Counter(crops.of(r)[2] for r in batch if crops.of(r)[0] == 0)
            met[tuple(given[v] for v in range(4))] += 1
    assert set(met) == {(2, 1, 1, 1), (1, 1, 2, 1)}
    assert met[2, 1, 1, 1] / sum(met.values()) == pytest.approx(0.5, abs=0.1)


def test_the_set_of_a_batch_is_drawn_even_where_rounds_meet_inside_it() -> None:
    """Five subjects by threes: each pair of subjects shares a batch about equally often."""
    sampler = RandomIdentity(full(5, 1, [30]), subjects=3, crops_each=1, seed=0)
    crops, pairs = full(5, 1, [30]), Counter[tuple[int, ...]]()
    for number in range(40):
        for batch in rows(sampler, number):
            pairs.update(combinations(sorted(crops.of(r)[0] for r in batch), 2))
    total = sum(pairs.values())
    assert len(pairs) == 10
    assert all(n / total == pytest.approx(0.1, abs=0.015) for n in pairs.values())


def test_random_batches_take_subjects_that_lack_a_domain_and_have_the_same_size() -> None:
    crops = cells((0, 0, [4]), (0, 1, [4]), (1, 0, [4]), (1, 1, [4]), (2, 1, [4]))
    aware = DomainAware(crops, subjects=2, crops_each=2, seed=0)
    random = RandomIdentity(crops, subjects=2, crops_each=4, seed=0)
    assert {len(batch) for sampler in (aware, random) for batch in rows(sampler)} == {8}
    assert {crops.of(r)[0] for batch in rows(aware) for r in batch} == {0, 1}
    assert {crops.of(r)[0] for n in range(5) for batch in rows(random, n) for r in batch} == {0, 1, 2}
    assert aware.left_out == {"s2": ["VIS"]}


def test_domains_in_use_can_be_named_and_give_the_order() -> None:
    crops = cells(*((s, d, [3]) for s in range(3) for d in range(3) if (s, d) != (2, 1)))
    sampler = DomainAware(crops, subjects=3, crops_each=1, seed=0, domains=["LWIR", "VIS"])
    assert sampler.left_out == {}
    assert len(sampler) == 3
    for batch in rows(sampler):
        assert [crops.of(r)[1] for r in batch] == [2, 0] * 3


# -- one by one


@quick
@given(st.integers(2, 40), st.integers(2, 12))
def test_uniform_gives_every_crop_once(count: int, size: int) -> None:
    crops = table([(i % 2, 0, 0, i % 3 // 2) for i in range(count * 3)])
    own = np.flatnonzero(crops.source == 0).tolist()
    assume(len(own) >= size)
    sampler = Uniform(crops, size=size, seed=1, sources=(0,))
    batches = rows(sampler, 2)
    drawn = [r for batch in batches for r in batch]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(own)
    assert len(batches) == len(sampler) == len(own) // size
    assert {len(b) for b in batches} == {size}
