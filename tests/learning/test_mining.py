"""Mining statistics: worked by hand, against a scalar transcription, chance levels, merging and resuming."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mdfpipe.errors import DataError
from mdfpipe.learning.losses.mining import MiningStatistics
from mdfpipe.learning.losses.ranking import mine

NAMES = ["vis", "swir", "mwir", "lwir"]
Batch = tuple[Tensor, Tensor, Tensor]  # features, domain, subject
SHARES = ("pos_other", "neg_same", "d_pos", "d_neg", "pos_other_chance", "neg_same_chance")


def batch(subjects: int, domains: int, images: int, seed: int) -> Batch:
    """P x D x K images without information."""
    features = torch.randn(subjects * domains * images, 16, generator=torch.Generator().manual_seed(seed))
    return (
        features,
        torch.arange(domains).repeat_interleave(images).repeat(subjects),
        torch.arange(subjects).repeat_interleave(domains * images),
    )


def ragged(seed: int, size: int = 14) -> Batch:
    """Subjects and domains as they fall: some anchors lack a positive."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, 3, generator=generator)
    domain, subject = (
        torch.randint(0, 3, (size,), generator=generator),
        torch.randint(0, 6, (size,), generator=generator),
    )
    return features, domain, subject


def added(*batches: Batch) -> MiningStatistics:
    statistics = MiningStatistics()
    for features, domain, subject in batches:
        statistics.add(mine(features, subject), domain, subject)
    return statistics


def slow(batches: list[Batch]) -> dict[str, Any]:
    """METHODS 1.4, anchor by anchor; chance by listing what could have been picked."""
    sums, n, skipped = dict.fromkeys(SHARES, 0.0), 0, 0
    tables: dict[str, dict[tuple[int, int], list[float]]] = {"positive": {}, "negative": {}}
    for features, domain, subject in batches:
        apart = (features.double()[:, None] - features.double()[None]).norm(dim=-1).tolist()
        dom, who = domain.tolist(), subject.tolist()
        for i in range(len(who)):
            mates = [j for j in range(len(who)) if who[j] == who[i] and j != i]
            others = [j for j in range(len(who)) if who[j] != who[i]]
            if not mates or not others:
                skipped += 1
                continue
            p, q = max(mates, key=apart[i].__getitem__), min(others, key=apart[i].__getitem__)
            n += 1
            sums["pos_other"] += dom[p] != dom[i]
            sums["neg_same"] += dom[q] == dom[i]
            sums["d_pos"] += apart[i][p]
            sums["d_neg"] += apart[i][q]
            sums["pos_other_chance"] += sum(dom[j] != dom[i] for j in mates) / len(mates)
            sums["neg_same_chance"] += sum(dom[j] == dom[i] for j in others) / len(others)
            tables["positive"].setdefault((dom[i], dom[p]), []).append(apart[i][p])
            tables["negative"].setdefault((dom[i], dom[q]), []).append(apart[i][q])
    rows = {
        kind: [
            {"anchor": NAMES[a], "mined": NAMES[m], "count": len(d), "mean_distance": sum(d) / len(d)}
            for (a, m), d in sorted(table.items())
        ]
        for kind, table in tables.items()
    }
    return {"anchors": n, "skipped": skipped, **{name: total / n for name, total in sums.items()}, **rows}


def close(found: dict[str, Any], expected: dict[str, Any], rel: float = 1e-6) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        if name in ("positive", "negative"):
            assert [{**row, "mean_distance": pytest.approx(row["mean_distance"], rel=rel)} for row in value] == found[
                name
            ]
        else:
            assert found[name] == pytest.approx(value, rel=rel), name


def test_by_hand() -> None:
    """On a line: a vis 0, a swir 4, b vis 1, b vis 3, c swir 10 (no positive)."""
    line = torch.tensor([[0.0], [4.0], [1.0], [3.0], [10.0]])
    found = added((line, torch.tensor([0, 1, 0, 0, 1]), torch.tensor([0, 0, 1, 1, 2]))).result(["vis", "swir"])
    assert (found["anchors"], found["skipped"]) == (4, 1)
    assert found["pos_other"] == 2 / 4  # both of a
    assert found["neg_same"] == 2 / 4  # a 0 - b 1 and back; a 4 - b 3 crosses
    assert (found["d_pos"], found["d_neg"]) == (12 / 4, 4 / 4)
    assert found["pos_other_chance"] == 2 / 4
    # of a vis: b, b of b, b, c; of a swir: c of b, b, c; of b vis, twice: a vis of a, a, c
    assert found["neg_same_chance"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 3 + 1 / 3) / 4)
    assert found["positive"] == [
        {"anchor": "vis", "mined": "vis", "count": 2, "mean_distance": 2.0},
        {"anchor": "vis", "mined": "swir", "count": 1, "mean_distance": 4.0},
        {"anchor": "swir", "mined": "vis", "count": 1, "mean_distance": 4.0},
    ]
    assert found["negative"] == [
        {"anchor": "vis", "mined": "vis", "count": 2, "mean_distance": 1.0},
        {"anchor": "vis", "mined": "swir", "count": 1, "mean_distance": 1.0},
        {"anchor": "swir", "mined": "vis", "count": 1, "mean_distance": 1.0},
    ]


def test_is_its_definition() -> None:
    batches = [ragged(seed) for seed in range(20)] + [batch(3, 3, 2, 99), batch(1, 3, 2, 98)]
    expected = slow(batches)
    assert expected["skipped"] > 0
    close(added(*batches).result(NAMES), expected)


def test_without_information_the_shares_are_at_chance() -> None:
    """P 8, D 4, K 2: 6/7 of hardest positives cross, 1/4 of hardest negatives do not (METHODS 8)."""
    found = added(*(batch(8, 4, 2, seed) for seed in range(80))).result(NAMES)
    assert (found["anchors"], found["skipped"]) == (80 * 64, 0)
    assert found["pos_other_chance"] == pytest.approx(6 / 7, abs=1e-12)
    assert found["neg_same_chance"] == pytest.approx(1 / 4, abs=1e-12)
    assert found["pos_other"] == pytest.approx(6 / 7, abs=0.02)
    assert found["neg_same"] == pytest.approx(1 / 4, abs=0.02)
    assert len(found["positive"]) == len(found["negative"]) == 16


def test_domains_that_stand_apart_are_seen() -> None:
    """Features that are their domain: all positives cross, no negative does."""
    features, domain, subject = batch(8, 4, 2, 0)
    found = added((features + 100 * torch.eye(16)[domain], domain, subject)).result(NAMES)
    assert (found["pos_other"], found["neg_same"]) == (1.0, 1.0)
    assert found["pos_other_chance"] == pytest.approx(6 / 7)
    assert [row["count"] for row in found["negative"]] == [16] * 4


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(1, 4))
def test_chance_of_balanced_batches(subjects: int, domains: int, images: int) -> None:
    found = added(batch(subjects, domains, images, 0)).result(NAMES)
    if domains * images == 1:
        assert (found["anchors"], found["pos_other"], found["pos_other_chance"]) == (0, None, None)
        return
    assert found["pos_other_chance"] == pytest.approx((domains - 1) * images / (domains * images - 1), abs=1e-12)
    assert found["neg_same_chance"] == pytest.approx(1 / domains, abs=1e-12)


def test_a_checkpoint_carries_it_to_the_last_bit() -> None:
    """Through JSON, in the middle of an epoch, with sums whose last bits depend on their order."""
    batches = [(x.double() / 3, domain, subject) for x, domain, subject in map(ragged, range(12))]
    first = added(*batches[:5])
    resumed = added(ragged(77))  # what was there is forgotten
    resumed.load_state(json.loads(json.dumps(first.state())))
    assert resumed.state() == first.state()
    for features, domain, subject in batches[5:]:
        resumed.add(mine(features, subject), domain, subject)
    assert resumed.result(NAMES) == added(*batches).result(NAMES)


def test_results_are_plain_numbers() -> None:
    found = added(ragged(0), batch(2, 4, 2, 0)).result(NAMES)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {type(found[name]) for name in SHARES} == {float}
    assert {type(value) for row in found["positive"] for value in row.values()} == {str, int, float}


@pytest.mark.parametrize("subject", [[0, 0, 0], [0, 1, 2]])
def test_nothing_to_count(subject: list[int]) -> None:
    empty = MiningStatistics().result(NAMES)
    assert {empty[name] for name in SHARES} == {None}
    found = added((torch.rand(3, 2), torch.tensor([0, 1, 2]), torch.tensor(subject))).result(NAMES)
    assert found == {**empty, "skipped": 3}


def test_keeps_no_graph_and_asks_for_no_gradient() -> None:
    features, domain, subject = batch(2, 2, 2, 0)
    statistics = added((features.requires_grad_(), domain, subject))
    assert features.grad is None
    json.dumps(statistics.state())


def test_refusals() -> None:
    with pytest.raises(DataError, match="expected names of at least 4 domains, got 2"):
        added(batch(2, 4, 2, 0)).result(NAMES[:2])
    with pytest.raises(DataError, match=r"expected a state of neg_same_chance, .* got skipped: "):
        MiningStatistics().load_state({"skipped": 1})
