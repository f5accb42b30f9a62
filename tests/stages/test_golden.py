"""Golden rows: what each stage makes of a fixed input. A change here moves a user's numbers.

Where a row changes on purpose: raise the stage's `version` (so that finished runs are made again), say it in the
CHANGELOG under *Results change*, and put in the new digest. They hold for the committed constraints.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mdfpipe.running.runner import Runner
from tests.drawn import draw
from tests.inline import runner

BYTES = ("offset", "size", "crc32")  # of a crop in its shard: of one pixel that is rounded otherwise, and of the codec
GOLDEN: dict[str, tuple[int, str, dict[str, float]]] = {
    "index": (4, "6462c8f0a0585799", {"range_m": 522.5, "fps": 21.0, "pixel_aspect": 1.75}),
    "detect": (
        4,
        "d67536aea4469832",
        {
            "pts_seconds": 0.927788889,
            "x1": 308.664834,
            "y1": 172.005,
            "x2": 390.536834,
            "y2": 412.805001,
            "score": 1.79999995,
        },
    ),
    "label": (4, "c3684b3e7a7fbf2d", {"overlap": 1.6, "runner_up": 0.0}),
    "crop": (
        3,
        "f73f6c98d7e18b2a",
        {
            "x1": 295.353751,
            "y1": 169.554792,
            "x2": 352.926252,
            "y2": 314.412292,
            "sharpness": 21.0873274,
            "contrast": 104.484208,
            "box_height_px": 144.8575,
        },
    ),
    "manifest": (
        3,
        "dfafdd6c0cb9bd64",
        {
            "x1": 295.353751,
            "y1": 169.554792,
            "x2": 352.926252,
            "y2": 314.412292,
            "sharpness": 21.0873274,
            "contrast": 104.484208,
            "box_height_px": 144.8575,
        },
    ),
}
"""Of each stage: its version, a digest of all columns but those of floats, and of each of these a mean."""


def values(tables: list[pa.Table], *, floats: bool) -> Iterator[tuple[str, list[Any]]]:
    """(name, values) of each column of floats, or of each other one, table by table."""
    for table in tables:
        for name in table.column_names:
            if pa.types.is_floating(table[name].type) == floats:
                yield name, table[name].to_pylist()


def digest(tables: list[pa.Table]) -> str:
    """A hash of the values of tables, whatever their chunks, without those of floats."""
    lines = (f"{name}:{column}\n" for name, column in values(tables, floats=False))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def means(tables: list[pa.Table]) -> dict[str, float]:
    """Of each column of floats the mean of all its values, in which neighbouring rows count differently."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, column in values(tables, floats=True):
        found[name] += [-1.0 if value is None else value for value in column]
    return {name: float(np.mean(np.array(v) * (1 + np.arange(len(v)) % 3))) for name, v in found.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    folder = tmp_path_factory.mktemp("golden")
    draw(folder / "data", frames=12)
    make, _ = runner(folder / "data", folder / "run")
    assert make.execute().complete
    return make


@pytest.mark.parametrize("number", range(5))
def test_rows_are_as_they_were(made: Runner, number: int) -> None:
    plan = made.plan()
    stage = plan.stages[number]
    tables = [made.run.table(stage.name, item.key) for item in plan.items(stage)]
    tables = [table.drop_columns([name for name in BYTES if name in table.column_names]) for table in tables]
    if stage.name == "index":
        tables = [tables[0].drop_columns(["stamp"])]
    version, rows, floats = GOLDEN[stage.name]
    assert (stage.version, digest(tables)) == (version, rows)
    assert means(tables) == pytest.approx(floats, rel=1e-5)  # their last digits are the processor's
