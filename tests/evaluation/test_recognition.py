"""Recognition at a glance against the same written out in loops."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdfpipe.evaluation.intervals import wilson
from mdfpipe.evaluation.recognition import POOLED, Hits, identify, rank_one, templates_of

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


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7), st.sampled_from(["cosine", "euclidean"]), st.booleans())
def test_identify_is_what_is_written_out(seed: int, subjects: int, measure: Any, ties: bool) -> None:
    """Subjects missing in domains, crops without a vector; ties: one crop of three directions, scores equal exactly."""
    generator = np.random.default_rng(seed)
    rows, vectors = [], []
    for subject in range(subjects):
        for domain in DOMAINS:
            for crop in range(int(generator.integers(0, 2 if ties else 4))):
                rows.append((f"s{subject}", domain, f"v{crop % 2}"))
                one = [(1, 0), (0, 1), (1, 1)][generator.integers(3)] if ties else generator.normal(0, 1, 6)
                vectors.append(np.asarray(one, np.float32))
    if not rows:
        return
    stacked = np.stack(vectors)
    usable = (generator.random(len(rows)) > 0.2).tolist()
    templates = templates_of(table(rows), [stacked[:3], stacked[3:]], np.array(usable))
    found = identify(templates, DOMAINS[0], DOMAINS[1:], measure)
    expected = [written_out(rows, stacked, usable, DOMAINS[0], probe, measure) for probe in DOMAINS[1:]]
    assert [(h.k, h.n, h.unmated, h.enrolled) for h in found[:2]] == expected
    for hits in found[:2]:
        assert (hits.low, hits.high) == (wilson(hits.k, hits.n) if hits.n else (0.0, 1.0))
        assert hits.chance == (1 / hits.enrolled if hits.enrolled else 0.0)
    if any(n for _, n, _, _ in expected):
        pooled = found[2]
        assert pooled.probe == POOLED
        assert (pooled.k, pooled.n, pooled.unmated) == tuple(sum(e[i] for e in expected) for i in range(3))
        assert pooled.low <= pooled.k / pooled.n <= pooled.high
    else:
        assert len(found) == 2


def test_by_hand() -> None:
    """Three enrolled; a is found in SWIR, b lies nearer to c, d has no mate; c ties in LWIR, which is a miss."""
    rows = [
        ("a", "VIS-500m", "v"),
        ("b", "VIS-500m", "v"),
        ("c", "VIS-500m", "v"),
        ("a", "SWIR-30m", "v"),
        ("b", "SWIR-30m", "v"),
        ("d", "SWIR-30m", "v"),
        ("c", "LWIR-30m", "v"),
    ]
    vectors = np.array([[1, 0], [0, 1], [1, 1], [1, 0.1], [0.6, 1], [5, 5], [1, 2.41421356]], np.float32)
    vectors[6] = [0, 2]  # as near to c as ... b, whom it equals: b wins
    swir, lwir, pooled = identify(templates_of(table(rows), [vectors]), "VIS-500m", ["SWIR-30m", "LWIR-30m"])
    assert (swir.k, swir.n, swir.unmated, swir.enrolled) == (1, 2, 1, 3)
    assert (lwir.k, lwir.n) == (0, 1)
    assert (pooled.k, pooled.n, pooled.unmated, pooled.chance) == (1, 3, 1, 1 / 3)
    assert swir.plain()["rank1"] == 0.5
    everybody_alike = templates_of(table(rows), [np.ones_like(vectors)])
    assert [h.k for h in identify(everybody_alike, "VIS-500m", ["SWIR-30m"])] == [0]


def test_a_gallery_of_one_is_not_searched() -> None:
    rows = [("a", "VIS-500m", "v"), ("a", "SWIR-30m", "v"), ("b", "SWIR-30m", "v")]
    templates = templates_of(table(rows), [np.eye(3, dtype=np.float32)])
    assert identify(templates, "VIS-500m", ["SWIR-30m"]) == [Hits("VIS-500m", "SWIR-30m", 0, 0, 1, 1, 0.0, 1.0)]
    assert identify(templates, "MWIR-30m", ["SWIR-30m"]) == [Hits("MWIR-30m", "SWIR-30m", 0, 0, 2, 0, 0.0, 1.0)]


def test_one_mated_subject_has_no_narrow_interval() -> None:
    """Of two enrolled only one is searched, in two domains; nor does a validation stop a training for it."""
    rows = [("a", "VIS-500m", "v"), ("b", "VIS-500m", "v"), ("a", "SWIR-30m", "v"), ("a", "LWIR-30m", "v")]
    vectors = np.array([[1, 0], [0, 1], [1, 0.2], [1, 0.1]], np.float32)
    found = identify(templates_of(table(rows), [vectors]), "VIS-500m", ["SWIR-30m", "LWIR-30m"])
    assert [(h.k, h.n) for h in found] == [(1, 1), (1, 1), (2, 2)]
    assert (found[2].low, found[2].high) == (0.0, 1.0)
    assert rank_one(table(rows), vectors, ["VIS-500m"]) == 1.0


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
