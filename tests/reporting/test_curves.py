"""Curves of a table: bands where they can be told apart, and words that say what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdfpipe.reporting.curves import MOST_BANDS, families
from mdfpipe.store.results import Results, Row


def results(systems: int, *, benchmark: bool = False) -> Results:
    """A CMC of each system."""
    rows: list[Row] = [
        {
            "table": "t",
            "_system": f"s{n}",
            "_file": "evaluate/curves.parquet",
            "_row": 3 * n + rank,
            "gallery_domain": "VIS",
            "probe_domain": "NIR",
            "gallery": "all",
            "curve": "cmc",
            "x": float(rank),
            "y": 0.2 * rank,
            "low": 0.2 * rank - 0.1,
            "high": 0.2 * rank + 0.1,
        }
        for n in range(systems)
        for rank in (1, 2, 3)
    ]
    return Results(Path(), "run", "", {"t": {"benchmark": benchmark}}, [], [], rows)


@pytest.mark.parametrize("systems", [1, MOST_BANDS, MOST_BANDS + 1])
def test_a_drawing_has_bands_or_many_lines(systems: int) -> None:
    (family,) = families(results(systems), "t", {f"s{n}": n for n in range(systems)})
    (picture,) = family.pictures
    bands = systems if systems <= MOST_BANDS else 0
    assert picture.svg.count("opacity: 0.14") == bands
    assert ("the bands are Wilson's 95 % intervals." in family.meaning) == (bands > 0)
    assert ("bounds are in evaluate/curves.parquet only." in family.meaning) == (bands == 0)


def test_bands_of_a_benchmark_are_its_trials() -> None:
    (family,) = families(results(2, benchmark=True), "t", {"s0": 0, "s1": 1})
    assert family.meaning.endswith("; the bands reach from the least to the greatest trial.")
