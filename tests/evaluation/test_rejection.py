"""Error against rejection: the curve of ISO/IEC 29794-1, against a scalar transcription."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mdfpipe.evaluation.rejection import COLUMNS, NORM, errors_left
from tests.evaluation.test_study import GALLERY, PROBES, done, rows_of, system

SUBJECTS = [f"s{n:02d}" for n in range(16)]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_left_is_counted_pair_by_pair(seed: int) -> None:
    random = np.random.default_rng(seed)
    quality, missed = random.integers(0, 9, 60) / 4, random.random(60) < 0.4
    found = errors_left(missed, quality)
    assert found[0] == (0.0, int(missed.sum()), 60)
    for share, k, n in found:
        (bound,) = {q for q in quality if sum(other < q for other in quality) == round(share * 60)}
        left = [error for error, q in zip(missed, quality, strict=True) if q >= bound]
        assert (k, n) == (sum(left), len(left))
    assert len(found) == len(set(quality))
    assert errors_left(missed[:9], quality[:9]) == errors_left(missed, np.ones(60)) == []


def test_curves_of_a_table_are_those_of_the_pairs() -> None:
    """The threshold is that of all pairs; the quality of a pair is that of its worse template."""
    rows = rows_of(SUBJECTS, (GALLERY, *PROBES))
    for n, row in enumerate(rows):
        row |= {"sharpness": float((7 * n) % 23), "contrast": 5.0, "box_height_px": None if n == 3 else 50.0 + n % 4}
    made = system("one", rows, noise=0.7)
    found = done({"t": {"metrics": ["rank-1"]}}, [made], rows)
    vectors = np.concatenate(list(made.blocks())).astype(float)

    def template(subject: str, domain: str) -> tuple[Any, dict[str, float]]:
        own = [n for n, row in enumerate(rows) if (row["subject_id"], row["domain"]) == (subject, domain)]
        vector = vectors[own].mean(axis=0)
        known = {NORM: float(np.sqrt(vector @ vector))}
        for name in COLUMNS:
            values = [rows[n][name] for n in own if rows[n][name] is not None]
            known[name] = sum(values) / len(values)
        return vector / known[NORM], known

    domain = PROBES[0]
    gallery, probes = ({s: template(s, d) for s in SUBJECTS} for d in (GALLERY, domain))
    pairs = [(g == p, float(gallery[g][0] @ probes[p][0]), g, p) for g in SUBJECTS for p in SUBJECTS]
    others = sorted((s for same, s, _, _ in pairs if not same), reverse=True)
    threshold = others[int(0.01 * len(others))]  # it would be one too many
    for name in (NORM, *COLUMNS):
        mine = [row for row in found.curves if row["curve"] == f"edc:{name}" and row["probe_domain"] == domain]
        mated = [(min(gallery[g][1][name], probes[p][1][name]), s <= threshold) for same, s, g, p in pairs if same]
        if name == "contrast":
            assert mine == []  # the same everywhere says nothing
            continue
        assert len(mine) > 2, name
        for row in mine:
            gone = round(row["x"] * len(mated))
            bound = sorted(q for q, _ in mated)[gone]
            left = [wrong for q, wrong in mated if q >= bound - 1e-9]
            assert row["y"] == pytest.approx(sum(left) / len(left)), (name, row)
            assert row["low"] <= row["y"] <= row["high"]


def test_few_pairs_resolve_no_threshold() -> None:
    rows = rows_of(SUBJECTS[:10], (GALLERY, *PROBES))  # 90 non-mated pairs
    assert not [row for row in done({"t": {}}, [system("one", rows)], rows).curves if row["curve"].startswith("edc")]
