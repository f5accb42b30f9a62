"""SYSU-MM01's ten trials against the loop of research codes, query by query, on made-up rows of its counts."""

from __future__ import annotations

import argparse
import math
from typing import Any

from benchmarks.measure import Times, in_turns, profiled

WIDTH = 2048
OURS, LOOP = "ten trials, product included", "the same by a loop over queries"
Made = tuple[list[tuple[str, int, str]], Any]
"""(subject, camera, crop) of each image, and their vectors."""


def trials(options: argparse.Namespace) -> tuple[dict[str, Times], int, list[str]]:
    """Times of ours and of the loop, whose results are equal; queries; where ours spends its time."""
    import numpy as np
    import pyarrow as pa

    from mdfpipe.evaluation.benchmark import evaluate_benchmark
    from mdfpipe.evaluation.benchmarks import Benchmark, BenchmarkImages

    images, vectors = _made(options.queries)
    subject, camera, crop = zip(*images, strict=True)
    rows = pa.table(
        {
            "subject_id": subject,
            "camera_id": [str(number) for number in camera],
            "crop_id": crop,
            "domain": ["NIR" if number in (3, 6) else "VIS" for number in camera],
        }
    )
    benchmark = Benchmark.model_validate({"use": "sysu", "galleries": "seeded"})
    (direction,) = benchmark.directions(BenchmarkImages.of(rows), None)
    person, cameras, usable = np.array([int(one) for one in subject]), np.array(camera), np.ones(len(crop), bool)
    found: dict[str, Any] = {}

    def ours() -> None:
        found[OURS] = evaluate_benchmark(benchmark, rows, vectors, usable)[0]

    def loop() -> None:
        found[LOOP] = [
            query_by_query(vectors, person, cameras, trial.queries, trial.gallery) for trial in direction.trials
        ]

    ours()  # threads are started, and memory is had from the system, once
    times = in_turns(options.rounds, **{OURS: ours, LOOP: loop})
    outcome = found[OURS]
    for name, measured in (("curves", outcome.cmc), ("mAP", outcome.of("map")), ("mINP", outcome.of("minp"))):
        others = [dict(zip(("curves", "mAP", "mINP"), one, strict=True))[name] for one in found[LOOP]]
        if not np.allclose(measured, others, rtol=0, atol=1e-7):  # the loop's curves are float32
            raise SystemExit(f"scripts/bench: {name} of SYSU's trials: expected equal results, they differ")
    return times, outcome.rank.shape[1], profiled(ours) if options.profile else []


def _made(queries: int) -> Made:
    """96 people; 301 of person and visible camera, 112 of them indoors, of 22 images each; infrared queries.

    Vectors differ in their signs alone, and the squares of a row add up to 2 ** 24: lengths and all sums of products
    are exact, so that equal means equal; some scores are tied.
    """
    import numpy as np

    shelves = [(person, camera) for person in range(56) for camera in (1, 2)]
    shelves += [(person, 4) for person in range(96)] + [(person, 5) for person in range(93)]
    own = [(f"{person:04d}", camera, f"{person}-{camera}-{n:04d}") for person, camera in shelves for n in range(22)]
    own += [(f"{n % 96:04d}", (3, 6)[n // 96 % 2], f"q-{n:05d}") for n in range(queries)]
    generator = np.random.default_rng(5)
    size, rest = generator.integers(1, 154, WIDTH - 8), list[int]()
    while missing := 2**24 - int((size**2).sum()) - sum(one**2 for one in rest):
        rest.append(math.isqrt(missing))
    size = np.concatenate([size, rest, np.zeros(8 - len(rest))]).astype(np.float32)
    people = generator.choice(np.array([-1, 1], np.int8), (96, WIDTH))
    kept = np.where(generator.random((len(own), WIDTH), np.float32) < 0.54, 1, -1).astype(np.int8)
    return own, kept * people[[int(one[0]) for one in own]] * size


def query_by_query(vectors: Any, person: Any, camera: Any, queries: Any, gallery: Any) -> tuple[Any, float, float]:
    """One trial as research codes have it: each list sorted, its identities made unique, precisions one by one."""
    import numpy as np

    def unit(rows: Any) -> Any:
        return vectors[rows] / np.linalg.norm(vectors[rows], axis=1, keepdims=True)

    order = np.argsort(-(unit(queries) @ unit(gallery).T), axis=1, kind="stable")
    names = person[gallery][order]
    curves, precisions, penalties = [], [], []
    for n, query in enumerate(queries):
        keep = ~((camera[query] == 3) & (camera[gallery][order[n]] == 2))
        ids = names[n][keep]
        hit = (ids == person[query]).astype(np.int64)
        if not hit.any():
            continue
        unique = [ids[place] for place in sorted(np.unique(ids, return_index=True)[1])]
        curves.append((np.asarray(unique) == person[query]).cumsum()[:20].astype(np.float32))
        count = hit.cumsum()
        penalties.append(count[-1] / (np.flatnonzero(hit)[-1] + 1.0))
        shares = np.asarray([hits / (place + 1.0) for place, hits in enumerate(count)])
        precisions.append((shares * hit).sum() / hit.sum())
    return np.asarray(curves).mean(axis=0), float(np.mean(precisions)), float(np.mean(penalties))
