"""decord: 8-bit video through one native reader. Fast where it has threads, but it cannot tell damage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import ConfigError, DecodeError, one_line, refuse_lack_of_memory
from mdfpipe.video.containers import missing_end
from mdfpipe.video.decoders import Decoder, Pixels, Wanted, refuse_deep
from mdfpipe.video.orientation import AS_STORED
from mdfpipe.video.packets import packets


class Decord(Decoder):
    """decord's VideoReader, read in order, never by index.

    It refuses before the first frame what decord would answer with a hang, a substituted frame or silence: more than
    8 bits, a header that declares other frames than the packets, a file that is cut, a packet whose checksum does not
    hold (decord's own thread reads ahead: how many frames came before depended on how busy the machine was). What
    remains: decord 0.6 does not say when FFmpeg patched a damaged picture up (`fault_tol` counts only whole frames that
    it replaced).
    """

    def candidates(self, path: Path) -> list[Decoder]:
        """decord, and PyAV where decord says that it cannot."""
        own = super().candidates(path)
        return [self, self.other("pyav")] if own == [self] else own

    def read(self, path: Path, wanted: Wanted, threads: int) -> Iterator[tuple[Pixels | None, float]]:
        """Every frame, as `Decoder.read` promises. The times are those of the container's packets."""
        info = refuse_deep(path, self)
        if info.streams > 1:
            raise DecodeError(f"{path}: holds {info.streams} video streams, of which decord takes any; use pyav")
        if info.orientation != AS_STORED:
            raise DecodeError(f"{path}: is rotated or mirrored, which decord does right for some files only; use pyav")
        found = packets(path, self.stream, check=True)
        times = found.times
        damaged = f"frame {found.damaged} does not decode: {found.damage}" if found.damage else ""
        if why := missing_end(path, info.container) or found.broken or damaged:
            raise DecodeError(f"{path}: {why}; use pyav to get the frames before")
        if info.frames_declared not in (None, len(times)):
            raise DecodeError(
                f"{path}: the header declares {info.frames_declared} frames, the container holds {len(times)}; "
                "decord may hang on such a file, use pyav"
            )
        reader = _open(path, threads)
        try:
            if len(reader) != len(times):
                raise DecodeError(f"{path}: expected {len(times)} frames, decord counts {len(reader)}; use pyav")
            for number, seconds in enumerate(times.tolist()):
                yield _next(reader, path, number, skip=not wanted(number)), seconds
        finally:
            del reader  # its memory creeps over many files otherwise


def _open(path: Path, threads: int) -> Any:
    # Read once, at import. Each retry is one look at the decoder's queue: 64 are too few for a sound file whose
    # frames are reordered (250 frames of 720p x264), 1024 were enough; 10240 is decord's own value.
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "10240")
    # cv2 first: decord brings a zlib of its own, and where it comes before OpenCV's, every PNG that OpenCV reads or
    # writes in this process is broken ("bad parameters to zlib"; imencode even returns True).
    import cv2  # noqa: F401

    try:
        import decord
    except ImportError as error:
        raise ConfigError(
            f"the decoder decord needs the package decord, which does not load: {one_line(error)}; it has wheels for "
            "x86-64 under Linux and Windows only: take detect.decoder=auto, which never uses it"
        ) from None

    decord.logging.set_level(decord.logging.QUIET)
    try:
        # The tolerated share of substituted frames, so that one is too many. 0 switches nothing on, and 1 means one
        # frame is fine (30 damaged HEVC files: only this value raised).
        return decord.VideoReader(str(path.absolute()), num_threads=max(threads, 1), fault_tol=1e-6)
    except Exception as error:  # decord raises RuntimeError, DECORDError and bare assertions
        refuse_lack_of_memory(error)
        raise DecodeError(f"{path}: decord cannot open it: {_reason(error)}") from None


def _next(reader: Any, path: Path, number: int, skip: bool) -> Pixels | None:
    try:
        if skip:
            reader.skip_frames(1)
            return None
        pixels: NDArray[np.uint8] = reader.next().asnumpy()
        return pixels
    except StopIteration:
        raise DecodeError(f"{path}: frame {number} does not decode: decord ends before it") from None
    except Exception as error:
        refuse_lack_of_memory(error)
        raise DecodeError(f"{path}: frame {number} does not decode: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return one_line(str(error).split("Stack trace")[0].rpartition("video_reader.cc:")[2], 160)
