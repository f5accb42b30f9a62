"""Places of mates against a loop that sorts every list, where some queries are tied and others are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mdfpipe.evaluation.comparing import Removal
from mdfpipe.evaluation.measures.placing import FEW, Placing, _tied

SAME_PLACE = Removal("3 never searches 2", "everyone", ((3, 2),))
SAME_CAMERA = Removal("same camera", "mates")


def by_sorting(
    scores: Any, gallery: Any, queries: Any, missing: Any, removal: Removal | None, distinct: bool
) -> list[tuple[int, float, float]]:
    """(rank, average precision, inverse negative penalty) of each query. scores: (Q, G), the gallery in its order."""
    found = []
    for q, (person, camera) in enumerate(zip(*queries, strict=True)):
        kept = []
        for g, (other, place) in enumerate(zip(*gallery, strict=True)):
            apart = removal is not None and bool(removal.matches(camera, place))
            if not missing[g] and not (apart and (removal.of == "everyone" or person == other)):
                kept.append(g)
        names = [gallery[0][g] for g in sorted(kept, key=lambda g: -scores[q, g])]
        hits = [place for place, name in enumerate(names, start=1) if name == person]
        if not hits:
            found.append((0, 0.0, 0.0))
            continue
        rank = list(dict.fromkeys(names)).index(person) + 1 if distinct else hits[0]
        precision = sum(n / place for n, place in enumerate(hits, start=1)) / len(hits)
        found.append((rank, precision, len(hits) / hits[-1]))
    return found


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("removal", [None, SAME_PLACE, SAME_CAMERA])
@pytest.mark.parametrize("images", [1, FEW, FEW + 1, 4 * FEW])
@pytest.mark.parametrize("values", [3, 200, 10**6])
def test_equals_sorting(values: int, images: int, removal: Removal | None, distinct: bool) -> None:
    """All tied, some tied, none; few mates, and many; in turns of a few queries."""
    generator = np.random.default_rng(values + images)
    people, count = 9, 50
    persons = np.repeat(np.arange(people), generator.integers(1, images + 1, people))
    gallery = generator.permutation(persons), generator.integers(1, 4, len(persons))
    queries = generator.integers(0, people + 1, count), generator.choice(np.array([3, 6]), count)
    missing = generator.random(len(gallery[0])) < 0.1
    scores = ((generator.integers(0, values, (count, len(gallery[0]))) - values // 2) / values).astype(np.float32)
    if values == 200:  # both zeros are one score
        scores[generator.random(scores.shape) < 0.01] = -0.0
    if images <= FEW and values != 3:
        tied = _tied(np.ascontiguousarray(scores.T), np.arange(count), np.arange(count) % len(persons))
        assert not tied.any() if values > 200 else tied.any() and not tied.all()
    placing = Placing(gallery, queries, missing, removal, distinct=distinct)
    for first in range(0, count, 20):
        placing.look(np.ascontiguousarray(scores[first : first + 20, placing.order].T), first)
    found = list(zip(placing.rank.tolist(), placing.precision.tolist(), placing.penalty.tolist(), strict=True))
    expected = by_sorting(scores, gallery, queries, missing, removal, distinct)
    assert [one[0] for one in found] == [one[0] for one in expected]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert 0 < sum(one[0] > 0 for one in found) < count
