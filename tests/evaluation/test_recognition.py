"""Recognition at a glance against the same written out in loops."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mdfpipe.evaluation.measures.recognition import rank_one

DOMAINS = ("VIS-500m", "SWIR-30m", "LWIR-30m")


def table(rows: list[tuple[str, str, str]], split: str = "test") -> pa.Table:
    """(subject, domain, video) of each crop, with what a manifest has besides."""
    names = ("subject_id", "domain", "video_id")
    columns = {name: pa.array([row[n] for row in rows], pa.string()) for n, name in enumerate(names)}
    same = {"modality": "body", "split": split, "role": "none"}
    return pa.table(columns | {name: pa.array([value] * len(rows), pa.string()) for name, value in same.items()})


def score(a: list[float], b: list[float], measure: str) -> float:
    if measure == "euclidean":
        return -math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    lengths = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(y * y for y in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths


def written_out(
    rows: list[tuple[str, str, str]],
    vectors: np.ndarray[Any, Any],
    usable: list[bool],
    gallery: str,
    probe: str,
    measure: str,
) -> tuple[int, int, int, int]:
    """(k, n, unmated, enrolled): the mean of a subject's vectors in a domain; found where nobody scores as high."""
    of: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for (subject, domain, _), vector, good in zip(rows, vectors.tolist(), usable, strict=True):
        if good:
            of[subject, domain].append(vector)
    mean = {key: [math.fsum(c) / len(found) for c in zip(*found, strict=True)] for key, found in of.items()}
    enrolled = [subject for subject, domain in mean if domain == gallery]
    k = n = unmated = 0
    for subject, domain in mean:
        if domain != probe:
            continue
        if subject not in enrolled:
            unmated += 1
            continue
        own = score(mean[subject, probe], mean[subject, gallery], measure)
        others = [score(mean[subject, probe], mean[s, gallery], measure) for s in enrolled if s != subject]
        if others:
            n += 1
            k += all(own > other for other in others)
    return k, n, unmated, len(enrolled)


def test_rank_one_across_domains_and_within_one() -> None:
    rows = [(s, d, f"{s}/{d}/{n}") for s in "abc" for d in DOMAINS for n in range(2)]
    generator = np.random.default_rng(0)
    vectors = generator.normal(0, 1, (len(rows), 5)).astype(np.float32)
    usable = [True] * len(rows)
    for gallery in (["VIS-500m"], ["VIS-500m", "LWIR-30m"], []):
        across = gallery or ["LWIR-30m"]  # none that is there: the first by name
        probes = [d for d in sorted(DOMAINS) if d not in across]
        found = [written_out(rows, vectors, usable, g, p, "cosine") for g in across for p in probes]
        expected = sum(k for k, *_ in found) / sum(n for _, n, *_ in found)
        assert rank_one(table(rows).select(["subject_id", "domain", "video_id"]), vectors, gallery) == expected
    one = [row for row in rows if row[1] == "VIS-500m"]
    kept = vectors[[n for n, row in enumerate(rows) if row[1] == "VIS-500m"]]
    within = [(s, "first" if v.endswith("0") else "others", v) for s, _, v in one]
    k, n, _, _ = written_out(within, kept, [True] * len(one), "first", "others", "cosine")
    assert rank_one(table(one), kept, ["VIS-500m"]) == k / n
    assert rank_one(table(one[:1]), kept[:1], []) == 0.0


def test_rank_one_is_one_where_everybody_is_told_apart_and_chance_where_nobody() -> None:
    rows = [(f"s{s:02d}", d, d) for s in range(20) for d in DOMAINS]
    perfect = np.repeat(np.eye(20, dtype=np.float32), 3, axis=0)
    assert rank_one(table(rows), perfect, ["VIS-500m"]) == 1.0
    noise = np.random.default_rng(3).normal(0, 1, (len(rows), 64)).astype(np.float32)
    assert rank_one(table(rows), noise, ["VIS-500m"]) == pytest.approx(0.05, abs=0.1)
