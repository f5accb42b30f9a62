"""crop, of a data set of images: each is a person already cut out, so its file goes into the shard as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdfpipe.errors import DataError
from mdfpipe.stages import Context, Inputs, Made, Review, Stage
from mdfpipe.store.naming import file_name
from mdfpipe.store.shards import ShardWriter
from mdfpipe.store.tables import CROPS, CropStatus
from mdfpipe.video import cropping
from mdfpipe.video.cropping import Window
from mdfpipe.video.threads import use_threads

_CHUNK = 256  # images read at a time
_JPEG_START, _JPEG_END, _PNG_START = b"\xff\xd8", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"
_WINDOWS = {"uint8": Window(), "uint16": Window(0.0, 65535.0)}


class _Image(NamedTuple):
    """One image to be stored. data: its bytes, or None where `problem` says why it cannot be a crop."""

    data: bytes | None
    codec: str = "jpeg"
    width: int = 0
    height: int = 0
    sharpness: float | None = None
    contrast: float | None = None
    problem: str = ""
    is_copy: bool = True


class Gather(Stage):
    """The images of one folder and camera, in one shard.

    JPEG and PNG files are stored byte for byte, other formats as PNG of the same pixels.
    """

    name: ClassVar[str] = "crop"  # what comes later reads crops, wherever they are from
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("media", "images")
    schema: ClassVar[pa.Schema] = CROPS
    unit: ClassVar[str] = "images"

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Copy every image of a unit into its shard, and look at it once: its size, its quality, whether it decodes."""
        use_threads(1)
        images = inputs.images()
        shard = f"crop/{file_name(key)}.body.tar"
        scratch = context.scratch(shard)
        rows: list[dict[str, Any]] = []
        bad: dict[str, str] = {}
        encoded_anew = 0
        with ShardWriter(scratch) as writer:
            for path, subject, image in _looked_at(images, context):
                row: dict[str, Any] = {"crop_id": path, "subject_id": subject, "frame": len(rows), **_columns(image)}
                if image.data is None:
                    bad[path] = image.problem
                else:
                    row["offset"], row["size"] = writer.add(path, _suffix(image.codec), image.data)
                    row["shard"], encoded_anew = shard, encoded_anew + (not image.is_copy)
                rows.append(row | {"video_id": key, "modality": "body"})
                if len(rows) % _CHUNK == 0:
                    context.progress(len(rows), images.num_rows)
        counted = Counter(f"body {row['status']}" for row in rows)
        facts = {
            "rows": dict(sorted(counted.items())),
            "subjects": dict(sorted(Counter(row["subject_id"] for row in rows if row["crop_id"] not in bad).items())),
            "bad": bad,
            "encoded_anew": encoded_anew,
        }
        return Made(pa.Table.from_pylist(rows, CROPS), facts, {shard: scratch})

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Say which images do not decode."""
        bad = {path: why for found in facts.values() for path, why in found["bad"].items()}
        if not bad:
            return Review()
        path, why = min(bad.items())
        return Review(warnings=[f"crop: {len(bad)} images do not decode and are left out ({path}: {why})"])


def _looked_at(images: pa.Table, context: Context) -> Iterator[tuple[str, str, _Image]]:
    """(path, subject, image) of every row, in their order; some are read ahead in threads."""
    paths, subjects = images["path"].to_pylist(), images["subject_id"].to_pylist()
    with ThreadPoolExecutor(max(context.resources.threads, 1)) as pool:
        for first in range(0, len(paths), _CHUNK):
            part = slice(first, first + _CHUNK)
            found = pool.map(_look, [context.data / path for path in paths[part]])
            yield from zip(paths[part], subjects[part], found, strict=True)


def _look(path: Path) -> _Image:
    """One image file as it is stored. Raises DataError where it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; if it has gone, run the study again") from None
    is_jpeg = data.startswith(_JPEG_START)
    if is_jpeg and data.rfind(_JPEG_END) < 0:  # the decoder would make up the rest
        return _Image(None, problem=f"a JPEG without an end in {len(data)} bytes")
    pixels = _pixels(data)
    if pixels is None:
        return _Image(None, problem=f"expected an image of 8 or 16 bits, found {len(data)} bytes that are none")
    is_copy = is_jpeg or (data.startswith(_PNG_START) and pixels.shape[2] in (1, 3))
    if not is_copy:
        pixels = pixels[..., : 3 if pixels.shape[2] > 2 else 1]  # without transparency
        data = _png(pixels)
    height, width = pixels.shape[:2]
    rgb = np.ascontiguousarray(pixels[..., ::-1])
    sharpness, contrast = cropping.quality(rgb, _WINDOWS[str(pixels.dtype)])
    return _Image(data, "jpeg" if is_jpeg else "png", width, height, sharpness, contrast, "", is_copy)


def _pixels(data: bytes) -> NDArray[Any] | None:
    """(H, W, C) uint8 or uint16, blue first; None where the bytes are no such image."""
    import cv2

    image: NDArray[Any] | None = None
    with suppress(cv2.error):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None or str(image.dtype) not in _WINDOWS:
        return None
    return image.reshape(*image.shape[:2], -1)


def _png(pixels: NDArray[Any]) -> bytes:
    import cv2

    good, data = cv2.imencode(".png", np.ascontiguousarray(pixels), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not good:
        raise DataError(f"an image of {pixels.shape} {pixels.dtype} could not be encoded")
    return bytes(data.tobytes())


def _columns(image: _Image) -> dict[str, Any]:
    """What a row of CROPS says of the image itself; the box is all of it."""
    stored = image.data is not None
    return {
        **{"x1": 0.0, "y1": 0.0, "x2": float(image.width), "y2": float(image.height)},
        **{"width": image.width, "height": image.height, "box_height_px": float(image.height)},
        **{"sharpness": image.sharpness, "contrast": image.contrast},
        "codec": image.codec if stored else None,
        "status": (CropStatus.OK if stored else CropStatus.UNREADABLE).value,
    }


def _suffix(codec: str) -> str:
    return "jpg" if codec == "jpeg" else codec
