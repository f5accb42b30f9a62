"""OpenCV: VideoCapture, read in order. For comparison, and for what the other two do not open."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mdfpipe.errors import DecodeError
from mdfpipe.video.containers import missing_end
from mdfpipe.video.decoders import Decoder, Pixels, Reading, Wanted, refuse_deep
from mdfpipe.video.orientation import turned
from mdfpipe.video.packets import packets
from mdfpipe.video.probe import open_video


class OpenCV(Decoder):
    """cv2.VideoCapture with FFmpeg, 8 bits only.

    It ends without a word where a frame does not decode: so the frames are counted against the container's packets,
    and DecodeError comes at the end. A concealed picture in the middle is not detected, except by checksums.
    It refuses interlaced video, and a stream that is not the first.
    """

    def read(self, path: Path, wanted: Wanted, threads: int) -> Reading:
        """Every frame, as `Decoder.read` promises. The times are those of the container's packets."""
        info = refuse_deep(path, self)
        if info.stream:
            raise DecodeError(f"{path}: OpenCV reads the first video stream only, not stream {info.stream}; use pyav")
        if info.is_interlaced:
            raise DecodeError(f"{path}: is interlaced, for which OpenCV gives no pictures; use pyav")
        turn = info.turn(self.orientation, path)
        found, first = packets(path, self.stream, check=True), info.first_seconds
        # Pictures before the first that decodes belong to a group that was cut open: no decoder gives them.
        early = 0 if first is None else next((n for n, t in enumerate(found.times) if not t < first - 1e-6), 0)
        times, leading = found.times[early:], early
        capture = _open(path, threads)
        number = 0
        last: Pixels | None = None
        is_checked = False
        try:
            while capture.grab():
                found.refuse_damaged(number)
                seconds = float(times[number]) if number < len(times) else np.nan
                pixels: Pixels | None = None
                if wanted(number):
                    pixels = turned(_retrieve(capture, path, number), turn)
                    if not is_checked and (not pixels.any() or (last is not None and np.array_equal(last, pixels))):
                        is_checked = True
                        _refuse_interlaced(path, self.stream, number)
                    last = pixels
                yield pixels, seconds
                number += 1
        finally:
            capture.release()
        found.refuse_damaged(number)
        if number == np.isfinite(times).sum():  # mkv gives no time to what leads a group that was cut open
            times, leading = times[:number], leading + len(times) - number
        if number != len(times):
            raise DecodeError(
                f"{path}: frame {number} does not decode: OpenCV gave {number} frames of {len(times)}; use pyav"
            )
        if why := missing_end(path, info.container) or found.broken:
            raise DecodeError(f"{path}: frame {number} does not decode: {why}")
        return {"leading": leading}


def _refuse_interlaced(path: Path, which: int | None, number: int) -> None:
    """Raise DecodeError where a frame is interlaced: OpenCV then gives what it gave before, or black, and no error."""
    import av.error

    with open_video(path, which) as (container, stream), suppress(av.error.FFmpegError):
        if any(frame.interlaced_frame for frame in container.decode(stream)):
            raise DecodeError(f"{path}: frame {number}: is interlaced, for which OpenCV gives no pictures; use pyav")


def _open(path: Path, threads: int) -> Any:
    # Read when the first capture is made. FFmpeg's words on what it patches up would go to the screen, from workers.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what it cannot open, an error says
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
