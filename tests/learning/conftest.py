"""What the tests of the learning wing share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mdfpipe.learning.data.crops import Crops


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """One thread of torch, for what a module makes once, too: the last bits of a network depend on their number."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    if torch:
        torch.set_num_threads(1)
    yield
    if torch and before:
        torch.set_num_threads(before)


@pytest.fixture
def crops(tmp_path: Path) -> Crops:
    from tests.learning.stored_crops import whole

    return whole(tmp_path)


@pytest.fixture
def damaged(tmp_path: Path) -> Crops:
    from tests.learning.stored_crops import spoilt

    return spoilt(tmp_path)
