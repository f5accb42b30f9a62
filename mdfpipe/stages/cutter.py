"""Cutter: boxes cut out of frames as they come, in threads of its own, and stored in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mdfpipe.store import images
from mdfpipe.store.images import Image, Window
from mdfpipe.store.shards import ShardWriter
from mdfpipe.store.tables import CropStatus
from mdfpipe.video import cropping

MODALITIES: Final = ("body", "face")
CODECS: Final = ("jpeg", "png")
STATUSES: Final = tuple(status.value for status in CropStatus)
STORED: Final = (
    *(("offset", "i8"), ("size", "i8"), ("crc32", "u4"), ("codec", "i1")),
    *(("sharpness", "f4"), ("contrast", "f4"), ("status", "i1")),
)
"""Fields of a crop that was cut, by name and type; all but `status`, a position in STATUSES, are 0 if it is not stored.
codec: position in CODECS."""
_LARGEST_CROP = 4  # times the frame's longer side: a face that is larger is a damaged annotation


@dataclass(frozen=True)
class CropShape:
    """What a crop is like. sizes: (width, height) by modality; face_margin: a share of the longer side of a face."""

    sizes: Mapping[str, tuple[int, int]]
    face_margin: float

    def pixels(
        self, xyxy: NDArray[np.float32], modality: int, width: int, height: int
    ) -> tuple[int, int, int, int] | CropStatus:
        """The pixels to cut out of a frame for one box, (x1, y1, x2, y2), or why there are none."""
        box = cropping.pixel_box(xyxy, width, height)
        if box is None:
            return CropStatus.EMPTY
        if MODALITIES[modality] == "face":
            box = cropping.square_box(xyxy, self.face_margin)
        too_large = max(box[2] - box[0], box[3] - box[1]) > _LARGEST_CROP * max(width, height)
        return CropStatus.TOO_LARGE if too_large else box


class _Encoded(NamedTuple):
    """One crop before it is stored."""

    modality: int
    crop_id: str
    data: bytes
    codec: str
    quality: tuple[float, float]


class Cutter:
    """Cuts boxes out of frames into one shard a modality. Use as a context: the shards are whole when it ends well.

    Crops are resized, measured and encoded by `threads` threads, of at most `waiting` frames beyond the one that is
    handed over; the shards have the order of the calls, regardless of the threads.
    """

    def __init__(
        self, shape: CropShape, files: Mapping[str, Path], window: Window, *, threads: int = 1, waiting: int = 8
    ) -> None:
        """files: a shard by modality. window: the values that are black and white, for the quality of a crop."""
        self.shape, self.files, self.window, self.waiting = shape, dict(files), window, waiting
        self._cut: list[NDArray[np.void]] = []
        self._at_work: deque[Future[list[_Encoded | CropStatus]]] = deque()
        self._stack = ExitStack()
        self._shards = {m: self._stack.enter_context(ShardWriter(path)) for m, path in self.files.items()}
        self._threads = ThreadPoolExecutor(threads, "cutter")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for job in self._at_work:
            job.cancel()
        self._threads.shutdown()
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def take(self, image: Image, crop_id: Sequence[str], modality: NDArray[np.int8], xyxy: NDArray[np.float32]) -> None:
        """Cut boxes out of one frame. modality: (n,) position in MODALITIES; xyxy: (n, 4) pixels of the frame."""
        self._at_work.append(self._threads.submit(self._encoded, image, crop_id, modality, xyxy))
        while self._at_work and (len(self._at_work) > self.waiting or self._at_work[0].done()):
            self._store(self._at_work.popleft().result())

    def finish(self) -> NDArray[np.void]:
        """What became of each box, (n,) of STORED, in the order in which they came; every frame is cut then."""
        while self._at_work:
            self._store(self._at_work.popleft().result())
        return np.concatenate([np.zeros(0, list(STORED)), *self._cut])

    def _encoded(
        self, image: Image, crop_id: Sequence[str], modality: NDArray[np.int8], xyxy: NDArray[np.float32]
    ) -> list[_Encoded | CropStatus]:
        """The crops of one frame, or why there is none. Runs in a thread."""
        found = list[_Encoded | CropStatus]()
        for name, of, corners in zip(crop_id, modality.tolist(), xyxy, strict=True):
            box = self.shape.pixels(corners, of, image.shape[1], image.shape[0])
            if isinstance(box, CropStatus):
                found.append(box)
                continue
            crop = images.resize(cropping.cut(image, box), *self.shape.sizes[MODALITIES[of]])
            found.append(_Encoded(of, name, *images.encode(crop), cropping.quality(crop, self.window)))
        return found

    def _store(self, crops: list[_Encoded | CropStatus]) -> None:
        rows = np.zeros(len(crops), list(STORED))
        for row, crop in enumerate(crops):
            if isinstance(crop, CropStatus):
                rows["status"][row] = STATUSES.index(crop)
                continue
            place = self._shards[MODALITIES[crop.modality]].add(crop.crop_id, crop.codec, crop.data)
            rows[row] = (*place, CODECS.index(crop.codec), *crop.quality, STATUSES.index(CropStatus.OK))
        self._cut.append(rows)
