"""OpenCV: VideoCapture, read in order. For comparison, and for what the other two do not open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mdfpipe.errors import DecodeError
from mdfpipe.video.decoders import Decoder, Pixels, Wanted, refuse_deep
from mdfpipe.video.orientation import turned
from mdfpipe.video.probe import missing_end, packet_times


class OpenCV(Decoder):
    """cv2.VideoCapture with FFmpeg, 8 bits only.

    It ends without a word where a frame does not decode: so the frames are counted against the container's packets,
    and DecodeError comes at the end. A patched-up picture in the middle passes unseen.
    """

    def read(self, path: Path, wanted: Wanted, threads: int) -> Iterator[tuple[Pixels | None, float]]:
        """Every frame, as `Decoder.read` promises. The times are those of the container's packets."""
        info = refuse_deep(path, self.use)
        turn = info.turn(self.orientation, path)
        times = packet_times(path)
        capture = _open(path, threads)
        number = 0
        try:
            while capture.grab():
                seconds = float(times[number]) if number < len(times) else np.nan
                pixels: Pixels | None = None
                if wanted(number):
                    pixels = turned(_retrieve(capture, path, number), turn)
                yield pixels, seconds
                number += 1
        finally:
            capture.release()
        if number != len(times):
            raise DecodeError(
                f"{path}: frame {number} does not decode: OpenCV gave {number} frames of {len(times)}; use pyav"
            )
        if why := missing_end(path):
            raise DecodeError(f"{path}: frame {number} does not decode: {why}")


def _open(path: Path, threads: int) -> Any:
    import cv2

    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, max(threads, 1)])
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # as a parameter of the opening it is refused
    if not capture.isOpened():
        capture.release()
        raise DecodeError(f"{path}: OpenCV cannot open it; use pyav")
    return capture


def _retrieve(capture: Any, path: Path, number: int) -> Pixels:
    import cv2

    is_read, image = capture.retrieve()
    if not is_read or image is None or image.ndim != 3 or image.dtype != np.uint8:
        raise DecodeError(f"{path}: frame {number} does not decode: OpenCV gave no 8-bit picture; use pyav")
    rgb: Pixels = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return rgb
