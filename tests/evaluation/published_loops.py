"""The evaluators of PROTOCOLS 2 and 4, loop by loop as they stand there: slow and plain."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Answer(NamedTuple):
    """cmc: ranks 1..20; per query: AP and INP of the valid ones, by the query's place."""

    cmc: list[float]
    map: float
    minp: float
    valid: int
    precision: dict[int, float]


def kept_by_sysu(q_pid: Any, q_cam: Any, g_pid: Any, g_cam: Any) -> bool:
    return not (q_cam == 3 and g_cam == 2)


def kept_by_llcm(q_pid: Any, q_cam: Any, g_pid: Any, g_cam: Any) -> bool:
    return not (q_pid == g_pid and q_cam == g_cam)


def kept_always(q_pid: Any, q_cam: Any, g_pid: Any, g_cam: Any) -> bool:
    return True


def literal(
    dist: Any,
    q_pid: Any,
    g_pid: Any,
    q_cam: Any,
    g_cam: Any,
    keep: Any,
    *,
    dedupe: bool,
    max_rank: int = 20,
    absent: Any = (),
    lost: Any = (),
) -> Answer:
    """PROTOCOLS 2.1 (dedupe), 2.2 and 2.4 (images). absent: gallery places, lost: query places without a vector.

    With none absent and none lost it is the page's loop, line by line; otherwise a lost query misses, an absent image
    is in no list, and who is valid does not change.
    """
    wanted = max_rank
    max_rank = min(max_rank, len(g_pid))
    rows, precisions, penalties, valid = [], {}, [], 0
    for q in range(len(q_pid)):
        order = sorted(range(len(g_pid)), key=lambda g: dist[q][g])  # Python's sort is stable
        order = [g for g in order if keep(q_pid[q], q_cam[q], g_pid[g], g_cam[g])]
        if not any(g_pid[g] == q_pid[q] for g in order):
            continue  # its row of zeros adds nothing
        valid += 1
        ids = [g_pid[g] for g in order if g not in absent]
        if q in lost or q_pid[q] not in ids:
            rows.append([0] * max_rank)
            precisions[q] = 0.0
            penalties.append(0.0)
            continue
        listed = list(dict.fromkeys(ids)) if dedupe else ids
        row, hits = [], 0
        for one in listed[:max_rank]:
            hits += one == q_pid[q]
            row.append(min(hits, 1))
        rows.append(row + [row[-1]] * (max_rank - len(row)))  # ragged rows go on with their last value
        relevant = [place for place, one in enumerate(ids) if one == q_pid[q]]
        penalties.append(len(relevant) / (1 + relevant[-1]))
        precisions[q] = sum((n + 1) / (place + 1) for n, place in enumerate(relevant)) / len(relevant)
    cmc = [sum(row[rank] for row in rows) / valid for rank in range(max_rank)]
    cmc += [cmc[-1]] * (wanted - max_rank)
    return Answer(cmc, sum(precisions.values()) / valid, sum(penalties) / valid, valid, precisions)


def literal_rerank(squared: Any, queries: int, k1: int, k2: int, weight: float, half: int | None = None) -> Any:
    """PROTOCOLS 4, from squared distances (N, N) of all: (Q, G). half: another size of the smaller neighbourhoods."""
    n = len(squared)
    d = (squared / squared.max(axis=0)).T
    rank = np.argsort(d, axis=1, kind="stable")
    half = half or round(k1 / 2) + 1  # Python rounds halves to even
    v = np.zeros((n, n))
    for i in range(n):
        r = {j for j in rank[i, : k1 + 1].tolist() if i in rank[j, : k1 + 1]}
        star = set(r)
        for c in r:
            rc = {j for j in rank[c, :half].tolist() if c in rank[j, :half]}
            if len(rc & r) > 2 / 3 * len(rc):
                star |= rc
        weights = {j: np.exp(-d[i, j]) for j in sorted(star)}
        for j, one in weights.items():
            v[i, j] = one / sum(weights.values())
    if k2 != 1:
        v = np.array([v[rank[i, :k2]].mean(axis=0) for i in range(n)])
    found = np.zeros((queries, n))
    for i in range(queries):
        for j in range(n):
            m = sum(min(v[i, t], v[j, t]) for t in np.flatnonzero(v[i]))
            found[i, j] = (1 - weight) * (1 - m / (2 - m)) + weight * d[i, j]
    return found[:, queries:]
