"""k-reciprocal re-ranking against PROTOCOLS 4 as it stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError, DataError
from mdfpipe.evaluation.rerank import Rerank
from tests.evaluation.published_loops import literal_rerank


def squared_distances(seed: int, n: int, width: int = 4, *, ties: bool = False) -> Any:
    generator = np.random.default_rng(seed)
    centres = 2 * generator.standard_normal((6, width))
    points = centres[generator.integers(0, 6, n)] + generator.standard_normal((n, width))
    if ties:
        points = points.round()
    return ((points[:, None] - points[None]) ** 2).sum(axis=2).astype(np.float32)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("k1", "k2", "weight"), [(20, 6, 0.3), (5, 2, 0.3), (7, 1, 0.0), (6, 7, 1.0), (1, 1, 0.5)])
def test_equals_the_page(k1: int, k2: int, weight: float, ties: bool) -> None:
    for seed in range(3):
        squared = squared_distances(seed, 60, ties=ties)
        expected = literal_rerank(squared.copy(), 25, k1, k2, weight)
        found = Rerank(k1=k1, k2=k2, weight=weight).of_squared(squared, 25)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-7)


def test_half_of_an_odd_k1_is_rounded_to_even() -> None:
    """k1 5: 2 and itself, not 3: the two give other numbers, and only the even one is right."""
    squared = squared_distances(3, 40)
    found = Rerank(k1=5, k2=1).of_squared(squared.copy(), 10)
    np.testing.assert_allclose(found, literal_rerank(squared, 10, 5, 1, 0.3), atol=2e-7)
    assert np.abs(found - literal_rerank(squared, 10, 5, 1, 0.3, half=4)).max() > 0.01


def test_from_vectors() -> None:
    generator = np.random.default_rng(0)
    queries, gallery = (generator.standard_normal((n, 8)).astype(np.float32) for n in (20, 30))
    both = np.concatenate([queries, gallery])
    squared = ((both[:, None].astype(float) - both[None]) ** 2).sum(axis=2)
    found = Rerank(k1=6, k2=3).distances(queries, gallery)
    np.testing.assert_allclose(found, literal_rerank(squared, 20, 6, 3, 0.3), atol=1e-5)
    unit = both / np.linalg.norm(both, axis=1, keepdims=True)
    cosine = 2 - 2 * (unit.astype(float) @ unit.T)  # PROTOCOLS 4: of cosines, 2 - 2cos
    np.fill_diagonal(cosine, 0)
    found = Rerank(k1=6, k2=3).distances(unit[:20], unit[20:])
    np.testing.assert_allclose(found, literal_rerank(cosine, 20, 6, 3, 0.3), atol=1e-5)


@pytest.mark.parametrize(("n", "k1"), [(40, 20), (41, 21), (10, 9), (10, 40)])
def test_refused_where_k1_makes_no_sense(n: int, k1: int) -> None:
    with pytest.raises(ConfigError, match=f"k1 {k1}, k2 6 make no sense among {n} images"):
        Rerank(k1=k1).of_squared(squared_distances(0, n), 4)


def test_vectors_that_do_not_differ_are_refused() -> None:
    with pytest.raises(DataError, match="expected finite distances and vectors that differ"):
        Rerank(k1=3, k2=1).distances(np.ones((6, 4), np.float32), np.ones((6, 4), np.float32))


def test_settings() -> None:
    assert str(validate(Rerank, {"k1": 10, "k2": 3, "lambda": 0.1}, "t")) == "k1 10, k2 3, lambda 0.1"
    made = validate(Rerank, {"weight": 0.2}, "t")
    assert validate(Rerank, made.model_dump(mode="json"), "t") == made
    assert str(Rerank()) == "k1 20, k2 6, lambda 0.3"
    with pytest.raises(ConfigError, match="unknown setting"):
        validate(Rerank, {"k3": 1}, "t")
