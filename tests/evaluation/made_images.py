"""Made-up images under the cameras of a benchmark, their vectors, and what the loops of PROTOCOLS 2 say of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mdfpipe.config import validate
from mdfpipe.evaluation.benchmark import BenchmarkOutcome
from mdfpipe.evaluation.benchmarks import Benchmark
from tests.evaluation.published_loops import (
    Answer,
    literal,
)

VISIBLE, INFRARED = (1, 2, 4, 5), (3, 6)
Tree = list[tuple[str, str, str, int]]
"""crop_id, subject, domain, camera of each image."""


def benchmark(**settings: Any) -> Benchmark:
    return validate(Benchmark, settings, "test")


def tree(seed: int, subjects: int, cameras: dict[str, Sequence[int]], most: int = 4, absent: float = 0.2) -> Tree:
    """Images of subjects under the cameras of each domain; some were not seen by some."""
    generator = np.random.default_rng(seed)
    found: Tree = []
    for subject in range(1, subjects + 1):
        for domain, numbers in cameras.items():
            for camera in numbers:
                if generator.random() >= absent:
                    count = int(generator.integers(1, most + 1))
                    folder = f"{domain.lower()}/cam{camera}/{subject:04d}"
                    found += [(f"{folder}/{n:04d}.jpg", f"{subject:04d}", domain, camera) for n in range(1, count + 1)]
    return found


def rows_of(images: Tree, sessions: Sequence[str] | None = None) -> pa.Table:
    crop, subject, domain, camera = zip(*images, strict=True)
    return pa.table(
        {
            "crop_id": list(crop),
            "subject_id": list(subject),
            "domain": list(domain),
            "camera_id": [str(one) for one in camera],
            "session_id": pa.array(sessions or [None] * len(images), pa.string()),
        }
    )


def tied_vectors(seed: int, count: int) -> Any:
    """Of +1 and -1: all of one length, and their products small whole numbers, so that many are equal."""
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), (count, 16))


def shuffled(seed: int, rows: pa.Table, vectors: Any) -> tuple[pa.Table, Any]:
    order = np.random.default_rng(seed).permutation(rows.num_rows)
    return rows.take(pa.array(order)), vectors[order]


def everything(rows: pa.Table) -> Any:
    return np.ones(rows.num_rows, bool)


Loop = Callable[[list[int], list[int]], Answer]
"""Places of queries and of gallery images in a tree -> what the page's loop gives."""


def loop(images: Tree, vectors: Any, keep: Any, *, dedupe: bool, **more: Any) -> Loop:
    def answer(queries: list[int], gallery: list[int]) -> Answer:
        dist = -(vectors[queries] @ vectors[gallery].T)
        side = [[images[n] for n in rows] for rows in (queries, gallery)]
        pids, cams = ([[image[k] for image in rows] for rows in side] for k in (1, 3))
        places = {name: {rows.index(n) for n in lost if n in rows} for name, (rows, lost) in more_of(queries, gallery)}
        return literal(dist, *pids, *cams, keep, dedupe=dedupe, **places)

    def more_of(queries: list[int], gallery: list[int]) -> list[tuple[str, tuple[list[int], Any]]]:
        lost = more.get("lost", ())
        return [("lost", (queries, lost)), ("absent", (gallery, lost))]

    return answer


def assert_equal(found: BenchmarkOutcome, answers: list[Answer]) -> None:
    assert found.n.tolist() == [answer.valid for answer in answers]
    np.testing.assert_allclose(found.cmc, [answer.cmc for answer in answers], rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.of("map"), [answer.map for answer in answers], rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.of("minp"), [answer.minp for answer in answers], rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.of("rank-5"), found.cmc[:, 4])


def places(images: Tree, domain: str, cameras: Sequence[int] | None = None) -> list[int]:
    return [n for n, one in enumerate(images) if one[2] == domain and (cameras is None or one[3] in cameras)]


def seeded(images: Tree, cameras: Sequence[int], shots: int, trial: int, domain: str = "VIS") -> list[int]:
    """PROTOCOLS 2.1, as the page says it, with the module's own generator."""
    random.seed(trial)
    found = []
    for subject in sorted({one[1] for one in images}):
        for camera in cameras:
            files = sorted(one[0] for one in images if one[1:] == (subject, domain, camera))
            if not files:
                continue
            drawn = [random.choice(files)] if shots == 1 else random.sample(files, min(shots, len(files)))
            found += [next(n for n, one in enumerate(images) if one[0] == name) for name in drawn]
    return found


def permutations(path: Path, images: Tree, trials: int = 10) -> dict[tuple[int, str], Any]:
    """Write a rand_perm_cam.mat for a tree, in the published structure."""
    from scipy.io import savemat

    generator = np.random.default_rng(8)
    subjects = sorted({one[1] for one in images})
    orders: dict[tuple[int, str], Any] = {}
    cells = np.empty((6, 1), object)
    for camera in range(1, 7):
        own = np.empty((int(subjects[-1]), 1), object)
        for n in range(len(own)):
            count = sum(one[1] == f"{n + 1:04d}" and one[3] == camera for one in images)
            own[n, 0] = np.array([generator.permutation(count) + 1 for _ in range(trials)], np.uint8)
            orders[camera, f"{n + 1:04d}"] = own[n, 0]
        cells[camera - 1, 0] = own
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"rand_perm_cam": cells})
    return orders
