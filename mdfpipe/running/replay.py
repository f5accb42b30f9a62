"""Frames of a video again, as detect received them: for pictures, pages and exports."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import DataError
from mdfpipe.running.survey import VideoState
from mdfpipe.store.naming import safe_relative
from mdfpipe.store.urls import is_url
from mdfpipe.store.video_cache import VideoCache, called
from mdfpipe.study.study import open_run

_THREADS = 2
_BATCH = 4


def data_root(run: Path) -> Path:
    """The data root of the last call on a run folder. Raises DataError where it is not there."""
    root = open_run(run)[2]
    if not root.is_dir():
        raise DataError(f"{run}: expected its videos under {root}, found no such folder; mount the data there again")
    return root


def frames_of(
    data: Path, video: VideoState, wanted: Iterable[int]
) -> Iterator[tuple[int, NDArray[np.uint8] | NDArray[np.uint16]]]:
    """(frame number, pixels (H, W, C)) of the wanted frames, ascending. Raises DataError where one does not come."""
    from mdfpipe.video.decoders import Decoder

    left, name = set(wanted), str(video.row["path"])
    if not left:
        return
    decoder = Decoder.as_recorded(video.facts("detect"))
    with contextlib.ExitStack() as stack:
        if is_url(name):  # never fetched to be looked at
            stamp, sha256 = str(video.row["stamp"]), video.row["sha256"]
            path = stack.enter_context(VideoCache().at(name, stamp, sha256, fetch=False))
            stack.enter_context(called(path, name))
        else:  # index decided where links may lead
            path = data / safe_relative(name, f"video {video.video_id}")
        stream = iter(decoder.frames(path, wanted=frozenset(left).__contains__, batch=_BATCH, threads=_THREADS))
        if hasattr(stream, "close"):
            stack.callback(stream.close)
        for batch in stream:
            for number, image in zip(batch.index.tolist(), batch.pixels, strict=True):
                left.remove(number)
                yield number, image
            if not left:
                return
    where = name if is_url(name) else data / name
    raise DataError(f"{where}: frame {min(left)} was delivered to detect and is not delivered now; run detect again")
