"""Whether samplers draw what they say: shares of domains and videos against the exact numbers of a plain draw.

Each statistic is of visits that do not depend on each other (one to a subject in an epoch), and held to the bounds that
chance leaves once in a thousand times; that the other way of drawing lies far outside of them is asserted, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from math import comb, sqrt
from typing import Any

import numpy as np
import pytest

from mdfpipe.config import validate
from mdfpipe.learning.data.batches import Sampler
from mdfpipe.learning.data.sampling import DomainAware, Evenly, RandomIdentity, Tuples
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.system import System
from mdfpipe.running.plan import explain
from mdfpipe.store.run import Receipt
from tests.learning.sampling_tables import Table, cells, rows, table

CHI2 = {3: 16.3, 9: 27.9, 14: 36.1, 19: 43.8}  # degrees of freedom -> the value that chance passes once in 1,000
FOUR = ("VIS", "SWIR", "MWIR", "LWIR")


def within(found: float, expected: float, n: int) -> bool:
    """Whether a share of n independent draws is one that chance gives 999 times in 1,000."""
    return abs(found - expected) < 3.29 * sqrt(expected * (1 - expected) / n) + 1e-9


def fits(met: Iterable[Any], expected: dict[Any, float]) -> bool:
    """Whether what was met is distributed as expected: value -> probability."""
    counted = Counter(met)
    n = counted.total()
    assert counted.keys() <= expected.keys(), counted
    chi2 = sum((counted[value] - n * p) ** 2 / (n * p) for value, p in expected.items())
    return chi2 < CHI2[len(expected) - 1]


def filmed(videos: int, frames: tuple[int, ...], subjects: int = 4) -> Table:
    """Each subject in four domains, by so many videos each; frames: of each of the domain's videos."""
    sizes = [(s, d, [frames[d]] * videos) for s in range(subjects) for d in range(4)]
    crops = cells(*sizes)
    return Table(crops.subject, crops.domain, crops.video, crops.source, crops.subjects, FOUR)


def first_visits(sampler: Sampler, crops: Table, each: int, epochs: int) -> list[list[int]]:
    """The first visit to each subject in each epoch."""
    found = []
    for number in range(epochs):
        seen = set()
        for batch in rows(sampler, number):
            for at in range(0, len(batch), each):
                who = crops.of(batch[at])[0]
                if who not in seen:
                    seen.add(who)
                    found.append(batch[at : at + each])
    return found


@pytest.mark.parametrize("videos", [1, 2, 3])
@pytest.mark.parametrize("frames", [(12, 12, 12, 12), (4, 12, 20, 12)])
def test_a_random_batch_holds_domains_as_the_crops_have_them(videos: int, frames: tuple[int, ...]) -> None:
    crops, visits = filmed(videos, frames), 1440
    sampler = RandomIdentity(crops, subjects=4, crops_each=8, seed=3)
    drawn = np.array(first_visits(sampler, crops, 8, visits // 4))
    assert len(drawn) == visits
    held = np.stack([(crops.domain[drawn] == d).sum(axis=1) for d in range(4)], axis=1)
    sizes = [videos * n for n in frames]
    even = np.prod([comb(n, 2) for n in sizes]) / comb(sum(sizes), 8)
    assert 0.003 < even < 0.06  # that two crops of each domain come together is rare
    assert within(float((held == 2).all(axis=1).mean()), even, visits)
    for d, n in enumerate(sizes):
        chances = [comb(n, k) * comb(sum(sizes) - n, 8 - k) / comb(sum(sizes), 8) for k in range(9)]
        assert fits(np.minimum(held[:, d], 3), {**dict(enumerate(chances[:3])), 3: sum(chances[3:])})
    if videos < 3:  # what it is not: one video has one domain, so this draw is even over domains
        other = RandomIdentity(crops, subjects=4, crops_each=8, seed=3, evenly_over="videos")
        spread = crops.domain[np.array(first_visits(other, crops, 8, 20))]
        assert all((np.bincount(visit, minlength=4) == 2).all() for visit in spread)


def test_every_set_of_crops_is_equally_likely_wherever_in_a_round_a_visit_lies() -> None:
    """Five crops by threes: the second visit takes what the first left and begins the next round, and so on."""
    crops = cells((0, 0, [2]), (0, 1, [3]), (1, 0, [20]))
    sampler = RandomIdentity(crops, subjects=2, crops_each=3, seed=1)
    assert len(sampler) == 5
    places: list[list[tuple[int, ...]]] = [[] for _ in range(5)]
    for number in range(400):
        visits = [batch[at : at + 3] for batch in rows(sampler, number) for at in (0, 3)]
        for place, visit in enumerate(visit for visit in visits if crops.of(visit[0])[0] == 0):
            places[place].append(tuple(sorted(visit)))
    expected = dict.fromkeys(combinations(range(5), 3), 0.1)
    assert all(fits(met, expected) for met in places)


def test_a_subject_of_few_crops_gives_each_as_often() -> None:
    crops = cells((0, 0, [2]), (0, 1, [1]), (1, 0, [40]))
    sampler = RandomIdentity(crops, subjects=2, crops_each=7, seed=1)
    for number in range(20):
        batches = rows(sampler, number)
        for batch in batches:
            met = Counter(row for row in batch if crops.of(row)[0] == 0)
            assert sorted(met.values()) == [2, 2, 3]
        drawn = Counter(row for batch in batches for row in batch if row < 3)
        assert max(drawn.values()) - min(drawn.values()) <= 1


@pytest.mark.parametrize("evenly", ["crops", "videos"])
def test_a_domain_aware_batch_draws_crops_or_videos(evenly: Evenly) -> None:
    crops = cells(*((s, d, [16, 3, 1]) for s in range(3) for d in range(2)))
    sampler = DomainAware(crops, subjects=3, crops_each=2, seed=4, evenly_over=evenly)
    pairs = [crops.video[pair] for pair in first_visits(sampler, crops, 4, 300)]
    both = [int((pair[at] % 10 == 0) & (pair[at + 1] % 10 == 0)) for pair in pairs for at in (0, 2)]
    long = comb(16, 2) / comb(20, 2)
    assert within(float(np.mean(both)), long if evenly == "crops" else 0, len(both))


@pytest.mark.parametrize("evenly", ["crops", "videos"])
def test_a_tuple_is_a_plain_draw_unless_videos_are_asked_for(evenly: Evenly) -> None:
    """Positives of every other crop, negatives of a subject and then any crop of it."""
    crops = cells(*((s, d, [7, 2, 1]) for s in range(3) for d in range(2)))
    sampler = Tuples(crops, tuples=3, seed=6, evenly_over=evenly)
    same: dict[tuple[int, int], list[bool]] = {(v, d): [] for v in range(3) for d in range(2)}
    long: list[bool] = []
    for number in range(60):
        for one in np.concatenate([np.reshape(batch, (3, 2, 3)) for batch in rows(sampler, number)]):
            for domain, (anchor, positive, negative) in enumerate(crops.video[one] % 10):
                same[int(anchor), domain].append(bool(anchor == positive))
                long.append(bool(negative == 0))
    expected = {0: 6 / 9, 1: 1 / 9, 2: 0.0} if evenly == "crops" else dict.fromkeys(range(3), 0.0)
    for (video, _), met in same.items():
        assert within(float(np.mean(met)), expected[video], len(met)), (video, np.mean(met), len(met))
    assert within(float(np.mean(long)), 0.7 if evenly == "crops" else 1 / 3, len(long))


RECIPES: list[tuple[dict[str, Any], Evenly]] = [
    ({"use": "body"}, "videos"),
    ({"use": "body", "batches": {"evenly_over": "crops"}}, "crops"),
    ({"use": "body", "batches": {"sampler": "random"}}, "crops"),
    ({"use": "body", "batches": {"sampler": "random", "evenly_over": "videos"}}, "videos"),
    ({"use": "di2l"}, "crops"),
    ({"use": "di2l", "batches": {"evenly_over": "videos"}}, "videos"),
    ({"use": "idkl"}, "crops"),
    ({"use": "dfw"}, "crops"),
    ({"use": "lccrf"}, "crops"),
    ({"use": "lccrf", "batches": {"evenly_over": "videos"}}, "videos"),
    ({"use": "lccrf", "tuples": "batch", "batches": {"sampler": "random"}}, "crops"),
    ({"use": "face", "sampler_subjects": 2, "batch": 8}, "crops"),
    ({"use": "face", "sampler_subjects": 2, "batch": 8, "sampler_evenly_over": "videos"}, "videos"),
]


@pytest.mark.parametrize(("settings", "evenly"), RECIPES)
def test_what_each_recipe_draws_evenly_over(settings: dict[str, Any], evenly: Evenly) -> None:
    """The share of the long video of each domain, 19 of 20 crops: a plain draw has it in the rows, another does not."""
    crops = cells(*((s, d, [57, 3]) for s in range(2) for d in range(2)))
    if settings["use"] not in ("face",):
        settings = {**settings, "batches": {**settings.get("batches", {}), "subjects": 2}}
    sampler = validate(Recipe, settings, "recipe").sampler(crops, 0)  # type: ignore[arg-type]
    drawn = np.concatenate([batch for number in range(2) for batch in rows(sampler, number)])
    if settings["use"] == "lccrf" and evenly == "videos":
        drawn = drawn[crops.domain[drawn] == 1]  # anchors of the first domain are walked over
    share = float((crops.video[drawn] % 10 == 0).mean())
    assert abs(share - (0.95 if evenly == "crops" else 0.5)) < 0.1, share


@pytest.mark.parametrize("use", [name for name in Recipe.methods() if name != "face"])
def test_how_crops_are_drawn_decides_weights(use: str) -> None:
    """So that a training made under another draw is due, and its reason names the setting."""
    before, after = (
        Receipt("train/a", 1, "training", validate(System, {"recipe": recipe}, "a").weight_settings(), {})
        for recipe in ({"use": use}, {"use": use, "batches": {"evenly_over": "videos"}})
    )
    assert explain(before, after) in (f"recipe.batches.evenly_over {was} -> videos" for was in ("none", "crops"))


def test_every_sampler_of_faces_one_by_one_takes_each_crop_once() -> None:
    crops = cells((0, 0, [5, 1]), (1, 1, [6]))
    sampler = validate(Recipe, {"use": "face", "batch": 4}, "recipe").sampler(crops, 0)  # type: ignore[arg-type]
    assert sorted(row for batch in rows(sampler, 5) for row in batch) == list(range(12))


def test_a_random_batch_has_the_size_of_the_domain_aware_one_beside_further_crops() -> None:
    """Further crops are of a domain of their own: it is none of those that a batch of the study's own crops is of."""
    own = [(s, d, v, 0) for s in range(3) for d in range(2) for v in range(4)]
    crops = table(own + [(s, 2, 0, 1) for s in range(3, 8) for _ in range(9)])
    sizes = set()
    for name in ("domain_aware", "random", "uniform"):
        batches = {"sampler": name, "subjects": 2, "crops": 2, "further_subjects": 3, "further_crops": 1}
        sampler = validate(Recipe, {"use": "body", "batches": batches}, "recipe").sampler(crops, 0)  # type: ignore[arg-type]
        sizes |= {len(batch) for batch in rows(sampler)}
    assert sizes == {2 * 2 * 2 + 3}
