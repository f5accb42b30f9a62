"""What the tests of the stages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.systems import copied


@pytest.fixture
def home(labelled: Path, tmp_path: Path) -> Path:
    """A home whose run folder, as far as its manifest, may be changed."""
    return copied(labelled, tmp_path / "home")
