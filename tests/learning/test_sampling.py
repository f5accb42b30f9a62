"""Samplers: random label tables against plain counting, turns and rounds, tuples, errors, a million rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.learning.batches import ANCHOR, AUXILIARY, NEGATIVE, PLAIN, POSITIVE, Sampler
from mdfpipe.learning.sampling import DomainAware, Joint, RandomIdentity, Tuples, Uniform, with_auxiliary

NAMES = ("VIS", "SWIR", "LWIR")
quick = settings(max_examples=50, deadline=None)


@dataclass(frozen=True, eq=False)
class Table:
    """The labels of crops."""

    subject: NDArray[np.int64]
    domain: NDArray[np.int64]
    video: NDArray[np.int64]
    source: NDArray[np.int64]
    subjects: tuple[str, ...]
    domains: tuple[str, ...] = NAMES

    def of(self, row: int) -> tuple[int, int, int]:
        return int(self.subject[row]), int(self.domain[row]), int(self.video[row])


def table(rows: Sequence[tuple[int, int, int, int]]) -> Table:
    """From rows of (subject, domain, number of the domain's video, source); a video may show several subjects."""
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return Table(columns[0], columns[1], columns[1] * 100 + columns[2], columns[3], tuple(f"s{i}" for i in range(8)))


def cells(*sizes: tuple[int, int, Sequence[int]]) -> Table:
    """From (subject, domain, frames of each of its videos), all of source 0."""
    return table([(s, d, 10 * s + v, 0) for s, d, frames in sizes for v, n in enumerate(frames) for _ in range(n)])


def full(subjects: int, domains: int, frames: Sequence[int] = (2, 3)) -> Table:
    return cells(*((s, d, frames) for s in range(subjects) for d in range(domains)))


def rows(sampler: Sampler, number: int = 0) -> list[list[int]]:
    return [draw.row.tolist() for draw in sampler.epoch(number)]


def scattered(size: int, seed: int) -> Table:
    """Labels as they fall: some subjects lack a domain, some crops are another source's."""
    generator = np.random.default_rng(seed)
    most = generator.integers(2, [7, 4, 5])
    subject, domain, video = generator.integers(0, most, (size, 3)).T
    return table(np.stack([subject, domain, video, generator.random(size) < 0.2], axis=1).tolist())


tables = st.builds(scattered, st.integers(15, 90), st.integers(0, 2**32))


def complete(crops: Table) -> dict[int, set[int]]:
    """Subjects of source 0 -> the domains they have, of those that source 0 has."""
    has = defaultdict(set)
    for s, d, source in zip(crops.subject.tolist(), crops.domain.tolist(), crops.source.tolist(), strict=True):
        if source == 0:
            has[s].add(d)
    return has


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
    claimed, batches = sampler.claims(), rows(sampler, 3)
    own = [r for r in range(len(crops.subject)) if crops.source[r] == 0]
    possible = [r for r in own if crops.subject[r] in sampler.eligible]
    parts = len({int(crops.domain[r]) for r in own}) if aware else 1
    size = subjects * parts * each
    assert claimed["crops_a_batch"] == size
    assert {len(b) for b in batches} == {size}
    assert claimed["batches"] == len(batches) == -(-len(possible) // size)
    turns = [crops.of(batch[i])[0] for batch in batches for i in range(0, size, parts * each)]
    visits = [turns.count(s) for s in sampler.eligible.tolist()]
    assert sum(visits) == len(turns) == len(batches) * subjects
    assert (min(visits), max(visits)) == (claimed["fewest_visits"], claimed["most_visits"])
    assert max(visits) - min(visits) <= 1
    assert claimed["subjects"] == len(visits)
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
    sampler = RandomIdentity(crops, subjects=2, crops_each=3, seed=2)
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
    for number in range(100):
        for batch in rows(RandomIdentity(crops, subjects=2, crops_each=5, seed=0), number):
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
    assert aware.claims()["crops_a_batch"] == random.claims()["crops_a_batch"] == 8
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
@given(st.integers(2, 40), st.integers(2, 12), st.booleans())
def test_uniform_gives_every_crop_once(count: int, size: int, keep: bool) -> None:
    crops = table([(i % 2, 0, 0, i % 3 // 2) for i in range(count * 3)])
    own = np.flatnonzero(crops.source == 0).tolist()
    assume(keep or len(own) >= size)
    sampler = Uniform(crops, size=size, seed=1, keep_last=keep, sources=(0,))
    batches = rows(sampler, 2)
    drawn = [r for batch in batches for r in batch]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(own)
    assert len(batches) == len(sampler) == sampler.claims()["batches"]
    assert sampler.claims()["crops"] == len(drawn)
    assert sampler.claims()["dropped"] == len(own) - len(drawn)
    assert min(map(len, batches)) >= 2
    assert {len(b) for b in batches[:-1]} <= {size}
    if keep:
        assert len(drawn) == len(own)
        assert len(batches[-1]) <= size + 1
    else:
        assert len(batches) == len(own) // size
        assert len(batches[-1]) == size


# -- side by side


def two_sources() -> Table:
    own = [(s, d, v, 0) for s in range(3) for d in range(3) for v in range(2)]
    return table(own + [(s, 0, v, 1) for s in range(3, 8) for v in range(7)])


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
    wrapped: Any = with_auxiliary(Joint(own, own), crops.domain, [0])
    assert wrapped.left_out == {"s2": ["SWIR"]}


def test_an_auxiliary_view_follows_each_row_of_some_domains() -> None:
    crops = full(3, 3)
    plain = DomainAware(crops, subjects=2, crops_each=2, seed=0)
    sampler = with_auxiliary(plain, crops.domain, [0])
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
    tuples = with_auxiliary(Tuples(crops, tuples=2, seed=0), crops.domain, [1])
    for draw in tuples.epoch(0):
        assert draw.role.tolist() == [0, 1, 2, 0, 0, 1, 1, 2, 2] * 2
        assert draw.view.tolist() == [0, 0, 0, 0, 1, 0, 1, 0, 1] * 2
    for twice, once in zip(with_auxiliary(tuples, crops.domain, [1]).epoch(0), tuples.epoch(0), strict=True):
        assert len(twice) == len(once) + 6  # of the six plain ones again, of no auxiliary one
    none = with_auxiliary(Uniform(crops, size=4, seed=0), crops.domain, [])
    assert [len(draw) for draw in none.epoch(0)] == [4] * len(none)


# -- tuples


@quick
@given(tables, st.integers(1, 5), st.integers(0, 3))
def test_tuples_hold_anchor_positive_and_negative_of_each_domain(crops: Table, tuples: int, seed: int) -> None:
    has = complete(crops)
    used = sorted(set().union(*has.values()))
    eligible = {s for s in has if has[s] == set(used)}
    assume(len(used) >= 2 and len(eligible) >= 2)
    sampler = Tuples(crops, tuples=tuples, seed=seed)
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
                assert (crops.of(anchor)[2] != crops.of(positive)[2]) == (len(videos) > 1)
    walk = {r for (s, d), found in cell.items() if s in eligible and d == used[0] for r in found}
    assert set(anchors) == walk
    assert sampler.claims()["anchors"] == len(walk)
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
    assert sampler.claims() == {"batches": 2, "crops_a_batch": 24, "subjects": 2, "anchors": 6}
    (only,) = Tuples(crops, tuples=8, seed=0).epoch(0)  # more tuples than anchors
    assert len(set(only.row.reshape(8, 2, 3)[:, 0, ANCHOR].tolist())) == 6


# -- what all have in common


MAKE: dict[str, Callable[[Table, int], Sampler]] = {
    "aware": lambda crops, seed: DomainAware(crops, subjects=2, crops_each=2, seed=seed),
    "random": lambda crops, seed: RandomIdentity(crops, subjects=2, crops_each=3, seed=seed),
    "uniform": lambda crops, seed: Uniform(crops, size=5, seed=seed),
    "tuples": lambda crops, seed: Tuples(crops, tuples=3, seed=seed),
    "auxiliary": lambda crops, seed: with_auxiliary(Uniform(crops, size=5, seed=seed), crops.domain, [0]),
    "joint": lambda crops, seed: Joint(
        DomainAware(crops, subjects=2, crops_each=1, seed=seed),
        RandomIdentity(crops, subjects=3, crops_each=2, seed=seed + 1, sources=[1]),
    ),
}


@pytest.mark.parametrize("name", MAKE)
def test_an_epoch_depends_on_seed_and_number_alone(name: str) -> None:
    crops, make = two_sources(), MAKE[name]
    first = make(crops, 0)
    expected = [rows(first, number) for number in range(4)]
    again = make(crops, 0)
    half_way = again.epoch(1)
    next(half_way)
    assert [rows(again, number) for number in (3, 1, 0, 2, 1)] == [expected[number] for number in (3, 1, 0, 2, 1)]
    assert [draw.row.tolist() for draw in half_way] == expected[1][1:]
    assert all(a != b for a, b in combinations(expected, 2))
    other = [rows(make(crops, 1), number) for number in range(4)]
    assert all(a != b for a in expected for b in other)
    assert {len(epoch) for epoch in expected} == {len(first)}


@pytest.mark.parametrize("name", MAKE)
def test_the_state_of_the_global_generator_neither_matters_nor_changes(name: str) -> None:
    crops = two_sources()
    np.random.seed(0)
    before = rows(MAKE[name](crops, 0))
    drawn = np.random.random()
    np.random.seed(0)
    assert drawn == np.random.random()
    assert rows(MAKE[name](crops, 0)) == before


def test_names_do_not_matter() -> None:
    crops = two_sources()
    renamed = replace(crops, subjects=tuple(f"x{i}" for i in range(8)), domains=("a", "b", "c"))
    for make in MAKE.values():
        assert rows(make(crops, 3)) == rows(make(renamed, 3))


ERRORS: list[tuple[Callable[[], object], str]] = [
    (lambda: DomainAware(full(1, 2), subjects=2, crops_each=1, seed=0), "at least 2 subjects .* got 1"),
    (lambda: RandomIdentity(full(1, 2), subjects=2, crops_each=1, seed=0), "at least 2 subjects, got 1"),
    (lambda: Uniform(full(1, 2), size=2, seed=0), "at least 2 subjects, got 1"),
    (lambda: Tuples(full(1, 2), tuples=2, seed=0), "at least 2 subjects .* got 1"),
    (
        lambda: DomainAware(cells((0, 0, [1]), (1, 0, [1]), (2, 1, [2])), subjects=2, crops_each=1, seed=0),
        "in all of VIS, SWIR, got none of 3: missing are VIS for 1, SWIR for 2;",
    ),
    (
        lambda: DomainAware(cells(*((s, d, [1]) for s in range(4) for d in range(1 + s % 2))), **FOUR),
        r"at least 4 subjects with crops in all of VIS, SWIR \(2 lack some\), got 2: set the sampler's subjects to 2",
    ),
    (lambda: RandomIdentity(full(3, 1), **FOUR), "at least 4 subjects, got 3: set the sampler's subjects to 3"),
    (lambda: DomainAware(full(4, 2), **FOUR, domains=["VIS", "LWIR"]), "got none in LWIR; there are some in VIS, SWIR"),
    (lambda: DomainAware(full(4, 2), **FOUR, domains=["VIS", "XIR"]), "got none in XIR"),
    (lambda: DomainAware(full(4, 2), **FOUR, domains=[]), "no domain named"),
    (lambda: RandomIdentity(full(4, 2), **FOUR, sources=[1, 2]), "expected crops of source 1, 2, got none among 40"),
    (lambda: RandomIdentity(full(4, 2), **FOUR, sources=[]), "none named"),
    (lambda: Uniform(full(2, 1), size=11, seed=0), "at least 11 crops for a batch, got 10"),
    (lambda: Tuples(full(2, 1), tuples=2, seed=0), "at least 2 domains, got VIS"),
]
FOUR: Any = {"subjects": 4, "crops_each": 1, "seed": 0}


@pytest.mark.parametrize(("make", "message"), ERRORS)
def test_what_cannot_be_drawn_is_said_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DomainAware(full(4, 2), subjects=1, crops_each=2, seed=0),
        lambda: RandomIdentity(full(4, 2), subjects=2, crops_each=0, seed=0),
        lambda: Uniform(full(4, 2), size=1, seed=0),
        lambda: Tuples(full(4, 2), tuples=0, seed=0),
    ],
)
def test_sizes_that_make_no_batch_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match="at least"):
        make()


def test_the_shares_of_a_draw_are_the_draw() -> None:
    for draw in Tuples(full(3, 2), tuples=4, seed=0).epoch(0):
        parts = [draw.share(rank, 2) for rank in range(2)]
        assert np.concatenate([p.row for p in parts]).tolist() == draw.row.tolist()
        assert [p.role.tolist() for p in parts] == [[ANCHOR, POSITIVE, NEGATIVE] * 4] * 2


def test_a_million_crops() -> None:
    generator = np.random.default_rng(0)
    video = generator.integers(0, 20000, 10**6)
    crops = Table(
        video % 1000, video // 1000 % 4, video, np.zeros_like(video), tuple(map(str, range(1000))), (*NAMES, "MWIR")
    )
    sampler = DomainAware(crops, subjects=8, crops_each=2, seed=0)
    drawn = np.stack([draw.row for draw in sampler.epoch(0)])
    assert drawn.shape == (15625, 64)
    subject = crops.subject[drawn].reshape(-1, 8, 8)
    assert (subject == subject[:, :, :1]).all()
    assert (np.diff(np.sort(subject[:, :, 0], axis=1), axis=1) > 0).all()
    assert (crops.domain[drawn].reshape(-1, 8, 4, 2) == np.arange(4)[:, None]).all()
    videos = crops.video[drawn].reshape(-1, 2)
    assert (videos[:, 0] != videos[:, 1]).all()  # five videos a cell
    # videos of a cell are about as long, an epoch comes by nearly every crop
    assert len(np.unique(drawn)) > 0.9 * 10**6
