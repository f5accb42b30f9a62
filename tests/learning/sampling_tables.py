"""Made-up labels of crops for samplers to draw from, by hand and as they fall."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mdfpipe.learning.data.batches import Sampler

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


def two_sources() -> Table:
    own = [(s, d, v, 0) for s in range(3) for d in range(3) for v in range(2)]
    return table(own + [(s, 0, v, 1) for s in range(3, 8) for v in range(7)])
