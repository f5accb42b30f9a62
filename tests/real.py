"""Where the real inputs lie, for the tests that use them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ASSETS = Path(os.environ.get("MDFPIPE_TEST_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))

needs_assets = pytest.mark.skipif(
    not ASSETS.is_dir(), reason=f"REAL INPUTS NOT TESTED: no {ASSETS}; set MDFPIPE_TEST_ASSETS to their folder"
)
