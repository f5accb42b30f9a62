"""What several tests share: a run of the drawn data set as far as its manifest, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drawn import draw
from tests.systems import runner


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with data/ and run/, which nobody changes: two training and two test subjects in two domains."""
    home = tmp_path_factory.mktemp("labelled")
    draw(home / "data", frames=8)
    assert runner(home, {})[0].execute(None, "manifest").complete
    return home
