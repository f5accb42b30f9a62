"""Golden rows: what each stage makes of a fixed input. A change here moves a user's numbers.

Where a row changes on purpose: raise the stage's `version` (so that finished runs are made again), say it in the
CHANGELOG under *Results change*, and put in the new digest. The digests hold for the committed constraints.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from mdfpipe.runner import Runner
from tests.drawn import draw
from tests.inline import runner

GOLDEN = {
    "index": (2, "921ebb900a49c66b"),
    "detect": (2, "222f4a259ac36a23"),
    "label": (1, "4bc01ade9a2ae358"),
    "crop": (1, "e45e916d8e1093fb"),
    "manifest": (1, "d19456970c6389bf"),
}


def digest(tables: list[pa.Table]) -> str:
    """A hash of the values of tables, whatever their chunks; floats to 1e-4."""
    found = hashlib.sha256()
    for table in tables:
        for name in table.column_names:
            values = table[name].to_pylist()
            if pa.types.is_floating(table[name].type):
                values = np.round(np.array([np.nan if v is None else v for v in values]), 4).tolist()
            found.update(f"{name}:{values}\n".encode())
    return found.hexdigest()[:16]


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
    if stage.name == "index":
        tables = [tables[0].drop_columns(["stamp"])]
    assert (stage.version, digest(tables)) == GOLDEN[stage.name]
