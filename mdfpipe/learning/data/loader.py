"""Loader: crops from their shards to batches of tensors, in threads.

Threads, because a training is itself a worker process; OpenCV lets go of Python's lock. What a batch holds depends on
(seed, epoch, crop) alone, never on threads, on the cache, or on what was read before.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdfpipe.errors import DataError, one_line
from mdfpipe.learning.data.augment import Augment, generator_of
from mdfpipe.learning.data.batches import CropBatch, Draw
from mdfpipe.learning.data.crops import OWN, UNKNOWN
from mdfpipe.store.images import decode_at, resize, stretched, top_bits
from mdfpipe.store.run import refuse_damaged
from mdfpipe.store.shards import NotRead, Place, Spoilt, read_stored, refuse_lost

if TYPE_CHECKING:
    from mdfpipe.learning.data.crops import Crops
    from mdfpipe.learning.recipes import Depth

U8 = NDArray[np.uint8]

OPEN_FILES = 64  # shards held open at a time
CHUNK = 8  # crops of a thread's task
AHEAD = 4  # batches under way at a time: memory is bounded


class CropReader:
    """Decodes crops at the size of a network's input; may be read from many threads.

    depth: how crops above 8 bits become 8 bits. cache_bytes: finished crops kept in memory, the first that are read.
    strict: a crop that does not decode is an error; else it is put down in `bad`, crop_id -> why.
    """

    def __init__(
        self, crops: Crops, height: int, width: int, depth: Depth, *, cache_bytes: int = 0, strict: bool = False
    ) -> None:
        self.crops, self.height, self.width, self.depth, self.strict = crops, height, width, depth, strict
        self.bad: dict[str, str] = {}
        self._as_made: set[Path] = set()  # shards with crops that do not decode, though they are what was made
        self._files = _Files()
        room = min(len(crops), cache_bytes // (height * width * 3))
        self._cache = np.empty((room, height, width, 3), np.uint8)  # the system gives the memory when it is written
        self._slot = np.full(len(crops) if room else 0, -1, np.int64)
        self._taken = 0
        self._lock = threading.Lock()

    def read(self, row: int) -> U8 | None:
        """(height, width, 3) uint8 RGB, not to be written to; None where it does not decode.

        Raises Damaged where its shard is one of this run, and not what was made; DataError where a shard cannot be
        opened, or, where it is strict, for a crop that does not decode.
        """
        if len(self._slot) and self._slot[row] >= 0:
            kept: U8 = self._cache[self._slot[row]]
            return kept
        crops = self.crops
        shard = crops.shards[crops.shard[row]]
        try:
            stored = self.stored(row)
        except Spoilt as error:
            crop_id = crops.crop_id[row].as_py()
            if crops.source[row] == OWN and shard not in self._as_made:
                refuse_damaged(shard)  # else it was stored so, and making it again would change nothing
                self._as_made.add(shard)
            if isinstance(error, NotRead):
                again = "give the same command again once it can be read"
                raise DataError(f"{shard}: crop {crop_id}: {error}; {again}") from None
            if self.strict:
                raise DataError(f"{shard}: crop {crop_id}: {error}; delete the shard and run crop again") from None
            with self._lock:
                self.bad[crop_id] = str(error)
            return None
        image = resize(stored, self.width, self.height)
        if image.dtype != np.uint8:
            image = self._to_8_bits(row, stored, image)
        rgb = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
        image = rgb.astype(np.uint8, copy=False)
        if len(self._slot):
            self._keep(row, image)
        return image

    def stored(self, row: int) -> NDArray[Any]:
        """(H, W, 3) uint8 or uint16 BGR, or (H, W) uint16, as stored or, of a JPEG, smaller. Raises Spoilt."""
        crops = self.crops
        place = Place(int(crops.offset[row]), int(crops.size[row]), int(crops.crc32[row]))
        data = self._files.read(crops.shards[crops.shard[row]], place)
        return decode_at(data, self.height, self.width)

    def refuse_dead_shards(self, alive: Callable[[], None] = lambda: None) -> None:
        """Raise DataError where none of a shard's crops decodes, so that a whole video would be missing."""
        shard = self.crops.shard
        order = np.argsort(shard, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(shard[order])) + 1) if len(order) else ():
            alive()
            path = self.crops.shards[shard[rows[0]]]
            if path.suffix != ".tar" or any(self.read(row) is not None for row in rows.tolist()):
                continue  # a plain image is a shard of its own
            crop_id = self.crops.crop_id[int(rows[0])].as_py()
            raise DataError(
                f"{path}: none of its {len(rows)} crops decodes ({crop_id}: {self.bad[crop_id]}); delete the shard and "
                "run crop again"
            )

    def close(self) -> None:
        """Close the shards; reading opens them again."""
        self._files.close()

    def _keep(self, row: int, image: U8) -> None:
        with self._lock:
            if self._slot[row] >= 0 or self._taken == len(self._cache):
                return
            slot, self._taken = self._taken, self._taken + 1
            self._cache[slot] = image
            self._slot[row] = slot  # last: a reader that sees it finds the picture

    def _to_8_bits(self, row: int, stored: NDArray[Any], values: NDArray[Any]) -> U8:
        """8 bits of 16-bit values. stored: the crop as it is in its shard, whose percentiles may be asked for."""
        if self.depth.policy == "native":
            return top_bits(values)
        if self.depth.policy == "recorded":
            low, high = self.crops.window[row]
        else:
            low, high = np.percentile(stored, (self.depth.low_percentile, self.depth.high_percentile))
        return stretched(values, float(low), float(high))


class _Files:
    """Shards, opened when they are read, OPEN_FILES of them at a time."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, int] = OrderedDict()
        self._users: Counter[Path] = Counter()
        self._lock = threading.Lock()

    def read(self, path: Path, place: Place) -> bytes:
        """The bytes of a crop. Raises DataError where the file cannot be opened, Spoilt where it holds others."""
        with self._used(path) as handle:
            return read_stored(handle, place.offset, place.size, None if place.crc32 == UNKNOWN else place.crc32)

    @contextmanager
    def _used(self, path: Path) -> Iterator[int]:
        with self._lock:
            if path not in self._open:
                try:
                    self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    refuse_lost(path, error)
                    problem = one_line(error.strerror)
                    raise DataError(f"{path}: the shard cannot be opened: {problem}; run crop again") from None
            self._open.move_to_end(path)
            self._users[path] += 1
            handle = self._open[path]
            over = len(self._open) - OPEN_FILES
            for other in [p for p in self._open if not self._users[p]][:over] if over > 0 else ():
                os.close(self._open.pop(other))
        try:
            yield handle
        finally:
            with self._lock:
                self._users[path] -= 1
                if not self._users[path]:
                    del self._users[path]

    def close(self) -> None:
        with self._lock:
            for path in [p for p in self._open if not self._users[p]]:
                os.close(self._open.pop(path))

    def __del__(self) -> None:
        for handle in self._open.values():
            with suppress(OSError):
                os.close(handle)


class Loader:
    """Batches of augmented crops. left_out: how many draws of crops that do not decode were left out of them so far."""

    def __init__(self, crops: Crops, reader: CropReader, augment: Augment, *, seed: int, threads: int) -> None:
        _must_belong(reader, crops)
        self.crops, self.reader, self.augment, self.seed = crops, reader, augment, seed
        self.threads, self.left_out = threads, 0

    def batches(self, draws: Iterable[Draw], epoch: int, first: int | None = None) -> Generator[CropBatch, None, None]:
        """The batches of `draws`, in order; closing the iterator ends its threads.

        How a crop is changed depends on (seed, epoch, crop_id, view, how often the draw held it before), and, where
        `first` says which batch of the epoch the first draw is, on the batch. Raises DataError where none of a batch's
        crops decodes.
        """

        def fill(image: U8, at: _Place, out: NDArray[np.float32]) -> None:
            crop_id, source = self.crops.crop_id[at.row].as_py(), int(self.crops.source[at.row])
            generator = generator_of(self.seed, epoch, crop_id, at.repeat, at.view, at.batch)
            self.augment.training(image, generator, view=at.view, source=source, out=out)

        numbered = ((draw, -1 if first is None else first + n) for n, draw in enumerate(draws))
        for batch, asked in _in_order(self.crops, self.reader, numbered, fill, self.threads):
            self.left_out += asked - len(batch)
            if asked and not len(batch):
                crop_id, why = next(iter(self.reader.bad.items()))
                raise DataError(
                    f"none of the {asked} crops of a batch decodes; {crop_id}: {why}; delete its shard and run "
                    "crop again"
                )
            yield batch


def read_plain(
    crops: Crops, reader: CropReader, augment: Augment, *, rows_per_batch: int, threads: int
) -> Iterator[CropBatch]:
    """Every crop that decodes, in row order, as at test: normalised only. Memory does not grow with the rows.

    A batch has `rows_per_batch` crops but for those that do not decode; one of which none decodes is left out.
    """
    _must_belong(reader, crops)
    starts = range(0, len(crops), rows_per_batch)
    draws = ((Draw.plain(np.arange(a, min(a + rows_per_batch, len(crops)))), -1) for a in starts)
    for batch, _ in _in_order(crops, reader, draws, lambda image, at, out: augment.plain(image, out), threads):
        if len(batch):
            yield batch


# -- one batch after the other


@dataclass(frozen=True)
class _Place:
    """One crop of a draw. repeat: how often the draw held it, in this view, before; batch: number, or -1."""

    row: int
    view: int
    repeat: int
    batch: int


_Fill = Callable[[U8, _Place, NDArray[np.float32]], object]


def _in_order(
    crops: Crops, reader: CropReader, draws: Iterable[tuple[Draw, int]], fill: _Fill, threads: int
) -> Iterator[tuple[CropBatch, int]]:
    """(batch, crops that were asked for) of each draw, in order, AHEAD of them under way."""
    waiting: deque[_Started] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="crops")
    try:
        for draw, number in draws:
            waiting.append(_Started(crops, reader, draw, number, fill, pool))
            if len(waiting) >= AHEAD:
                yield waiting.popleft().finish()
        while waiting:
            yield waiting.popleft().finish()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Started:
    """A batch whose crops are being read."""

    def __init__(
        self, crops: Crops, reader: CropReader, draw: Draw, number: int, fill: _Fill, pool: ThreadPoolExecutor
    ) -> None:
        self.crops, self.reader, self.draw, self.fill = crops, reader, draw, fill
        columns = (column.tolist() for column in (draw.row, draw.view, draw.repeat))
        self.places = [_Place(row, view, repeat, number) for row, view, repeat in zip(*columns, strict=True)]
        self.images = torch.empty((len(draw), 3, reader.height, reader.width), dtype=torch.float32)
        self.good = np.zeros(len(draw), bool)
        self.chunks: list[Future[None]] = [
            pool.submit(self._read, first, first + CHUNK) for first in range(0, len(draw), CHUNK)
        ]

    def _read(self, first: int, end: int) -> None:
        pixels = self.images.numpy()
        for at, place in enumerate(self.places[first:end], start=first):
            image = self.reader.read(place.row)
            if image is not None:
                self.fill(image, place, pixels[at])
                self.good[at] = True

    def finish(self) -> tuple[CropBatch, int]:
        """Wait for it. Raises what a thread raised."""
        for chunk in self.chunks:
            chunk.result()
        crops, draw, good = self.crops, self.draw, self.good
        row = draw.row[good]
        batch = CropBatch(
            images=self.images if good.all() else self.images[torch.from_numpy(good)],
            subject=_whole(crops.subject[row]),
            domain=_whole(crops.domain[row]),
            source=_whole(crops.source[row]),
            view=_whole(draw.view[good]),
            role=_whole(draw.role[good]),
            row=_whole(row),
            camera=_whole(crops.camera_of_video[crops.video[row]]),
        )
        return batch, len(draw)


def _whole(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))


def _must_belong(reader: CropReader, crops: Crops) -> None:
    if reader.crops is not crops:
        raise ValueError("the reader reads other crops: a row would be another picture")
