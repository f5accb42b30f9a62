"""Golden figures: what a training of seconds comes to on fixed crops. A change here moves a user's numbers.

Where a figure changes on purpose: raise the `version` of Train or Embed (so that finished runs are made again), say it
in the CHANGELOG under *Results change*, and put in the new figures. They hold for the committed constraints, to one
part in a thousand: another CPU adds up in another order. Rates are low, so that six steps do not make more of it;
a rate of 2 % more, or no flip, shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdfpipe.stages.embed import Embed
from mdfpipe.stages.train import Train
from mdfpipe.store.run import Run
from tests.systems import FACE, STRIPED, VIT, body, copied, train, vectors

LONG = {"length": 6, "unit": "steps", "warm_up": 0}
FORMER: dict[str, Any] = {"bias_rate": 1, "augment": {"erased_up_to": None}}  # before these defaults were PASS's
SYSTEMS: dict[str, Any] = {
    "striped": {"recipe": body(STRIPED, schedule=LONG, optimiser={"rate": 3e-4}, **FORMER)},
    "vit": {"recipe": body(VIT, schedule=LONG, optimiser={"rate": 0.02}, **FORMER)},
    "face": {"recipe": body(FACE, schedule=LONG, optimiser={"rate": 3e-4})},
}
VIDEO = "videos/VIS-500m_b"
TOLERANCE = 1e-3
RAISE = "figures of the same settings and crops change: raise the stage's `version` (see the head of this file)"
TRAINED: dict[str, tuple[int, dict[str, float]]] = {
    "striped": (
        1,
        {"loss/identity": 0.6924, "loss/triplet": 2.1314, "mining/d_pos": 7.7238, "mining/d_neg": 5.5924},
    ),
    "vit": (1, {"loss/identity": 0.7212, "loss/triplet": 1.2492, "mining/d_pos": 2.3662, "mining/d_neg": 1.1182}),
    "face": (1, {"loss/adaface": 19.9032, "mining/d_pos": 1.6000, "mining/d_neg": 1.3978}),
}
EMBEDDED = {
    "striped": (1, [0.0885, 0.2505, -0.3426, 0.0058, -0.0471]),
    "vit": (1, [1.0543, 0.8449, -0.1252, 0.5954, -0.3744]),
    "face": (1, [0.8387, -0.7466, -0.4651, 0.4810, 0.0303]),
}
"""The version of the stage, and what it makes: of VIDEO's first crop the first values."""


@pytest.fixture(scope="module")
def made(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = copied(labelled, tmp_path_factory.mktemp("golden") / "home")
    assert train(home, SYSTEMS)[0].complete
    return home


def figures(home: Path, system: str) -> dict[str, float]:
    """The last epoch's: losses, and how far mined pairs are apart."""
    rows = Run(home / "run").table(f"train/{system}", "training").to_pylist()
    last = max(row["epoch"] for row in rows)
    named = {row["figure"]: row["value"] for row in rows if row["epoch"] == last and row["anchor_domain"] is None}
    return {name: value for name, value in named.items() if name.startswith(("loss/", "mining/d_"))}


@pytest.mark.parametrize("system", SYSTEMS)
def test_figures_are_as_they_were(made: Path, system: str) -> None:
    version, expected = TRAINED[system]
    assert Train.version == version, RAISE
    assert figures(made, system) == pytest.approx(expected, rel=TOLERANCE), RAISE


@pytest.mark.parametrize("system", SYSTEMS)
def test_vectors_are_as_they_were(made: Path, system: str) -> None:
    version, expected = EMBEDDED[system]
    assert Embed.version == version, RAISE
    found = vectors(made, system, VIDEO)[1][0]
    near = 5 * TOLERANCE * float(np.abs(expected).max())  # torch's instructions of old processors move face's by 0.3 %
    np.testing.assert_allclose(found[: len(expected)], expected, rtol=0, atol=near, err_msg=RAISE)
