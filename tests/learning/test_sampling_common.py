"""What all samplers have in common: seeds, errors, shares of a draw, a million rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.learning.data.batches import ANCHOR, NEGATIVE, POSITIVE, Sampler
from mdfpipe.learning.data.sampling import DomainAware, Joint, RandomIdentity, Tuples, Uniform, WithAuxiliary
from tests.learning.sampling_tables import NAMES, Table, cells, full, rows, two_sources

MAKE: dict[str, Callable[[Table, int], Sampler]] = {
    "aware": lambda crops, seed: DomainAware(crops, subjects=2, crops_each=2, seed=seed),
    "random": lambda crops, seed: RandomIdentity(crops, subjects=2, crops_each=3, seed=seed),
    "uniform": lambda crops, seed: Uniform(crops, size=5, seed=seed),
    "tuples": lambda crops, seed: Tuples(crops, tuples=3, seed=seed),
    "auxiliary": lambda crops, seed: WithAuxiliary(Uniform(crops, size=5, seed=seed), crops.domain, [0]),
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
        r"at least 4 subjects with crops in all of VIS, SWIR \(2 lack some\), got 2: set batches.subjects to 2",
    ),
    (lambda: RandomIdentity(full(3, 1), **FOUR), "at least 4 subjects, got 3: set batches.subjects to 3"),
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
