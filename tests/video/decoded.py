"""What a decoder gives of a file, and the real files there are."""

import os
from pathlib import Path

import numpy as np
import pytest

from mdfpipe.errors import DecodeError
from mdfpipe.video.decoders import Decoder

ASSETS = Path(
    os.environ.get("MDFPIPE_TEST_ASSETS") or Path(__file__).parents[2].parent / "shared" / "assets"
)  # real inputs, no part of the repository
needs_assets = pytest.mark.skipif(not (ASSETS / "real-walk").is_dir(), reason=f"the real inputs are not at {ASSETS}")


def read(name, path, stride=1, threads=1):
    """Everything that a decoder gives before it ends or raises: (pixels, times, error)."""
    pixels, times, error = [], [], None
    try:
        for image, seconds in Decoder.variant(name)().read(path, lambda number: number % stride == 0, threads):
            pixels.append(image)
            times.append(seconds)
    except DecodeError as e:
        error = str(e)
        assert "\n" not in error
    return pixels, np.array(times), error
