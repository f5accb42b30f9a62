"""Crops of smooth pictures in shards, whole and damaged, and what a reader gives of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdfpipe.learning.data.crops import Crops
from mdfpipe.learning.data.loader import CropReader
from mdfpipe.learning.recipes import Depth
from mdfpipe.store.shards import ShardWriter

cv2.setNumThreads(1)


def picture(n: int, height: int = 96, width: int = 32) -> NDArray[np.uint8]:
    """A smooth RGB picture, another one for each n."""
    y, x = np.mgrid[:height, :width]
    planes = [
        128 + 100 * np.sin((y + 0.5) * 96 / height / 19 + n + c) * np.cos((x + 0.5) * 32 / width / 11 - c)
        for c in range(3)
    ]
    return np.rint(np.stack(planes, axis=2)).astype(np.uint8)


def jpeg(image: NDArray[np.uint8]) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(".jpg", image[..., ::-1], options)[1].tobytes()


def stored(folder: Path, data: list[bytes], shards: int = 2, **columns: Any) -> Crops:
    """Crops c/000.. of these bytes, one subject for every two, dealt out to so many shards."""
    n = len(data)
    offset, size, crc32 = (np.zeros(n, np.int64) for _ in range(3))
    paths = tuple(folder / f"{s}.tar" for s in range(shards))
    for s, path in enumerate(paths):
        with ShardWriter(path) as writer:
            for row in range(s, n, shards):
                offset[row], size[row], crc32[row] = writer.add(f"c/{row:03d}", "x", data[row])
    count = np.arange(n)
    subjects = tuple(f"{s:03d}" for s in range((n + 1) // 2))
    made = Crops(
        crop_id=pa.array([f"c/{row:03d}" for row in range(n)]),
        subject=count // 2,
        domain=count % 2,
        video=count % 2,
        shard=count % shards,
        offset=offset,
        size=size,
        crc32=crc32,
        source=count % 3,
        window=np.tile(np.float32([0, 65535]), (n, 1)),
        subjects=subjects,
        domains=("VIS", "SWIR"),
        videos=("a", "b"),
        shards=paths,
    )
    return replace(made, **columns)


def whole(folder: Path) -> Crops:
    """Crops of 40 pictures."""
    return stored(folder, [jpeg(picture(n)) for n in range(40)])


def spoilt(folder: Path) -> Crops:
    """Of 8 crops: 1 is no image, 2 has lost its second half, 4 has no bytes, 5 lies beyond the end, 6 is torn."""
    data = [jpeg(picture(n)) for n in range(8)]
    data[1] = b"no image" * 9
    data[2] = data[2][: len(data[2]) // 2] + bytes(len(data[2]) - len(data[2]) // 2)
    data[4] = b""
    crops = stored(folder, data)
    offset = crops.offset.copy()
    offset[5] += 10**6
    offset[6] += 100
    return replace(crops, offset=offset)


def reader_of(crops: Crops, height: int = 96, width: int = 32, **options: Any) -> CropReader:
    return CropReader(crops, height, width, options.pop("depth", Depth()), **options)


def read(reader: CropReader, row: int) -> NDArray[np.uint8]:
    image = reader.read(row)
    assert image is not None
    assert image.dtype == np.uint8
    assert image.shape == (reader.height, reader.width, 3)
    return image
