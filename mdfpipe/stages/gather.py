"""crop, of a data set of images: each is a person already cut out, so its file goes into the shard as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from mdfpipe.errors import DataError, counted, one_line
from mdfpipe.machine.threads import use_threads
from mdfpipe.stages import Context, Inputs, Made, Review, Stage
from mdfpipe.store.images import EIGHT_BITS, SIXTEEN_BITS, has_alpha
from mdfpipe.store.left_out import of_stage
from mdfpipe.store.naming import file_name
from mdfpipe.store.shards import ShardWriter
from mdfpipe.store.tables import CROPS, CropStatus
from mdfpipe.video import cropping
from mdfpipe.video.image_files import Pixels, decode
from mdfpipe.video.orientation import AS_STORED

_CHUNK = 256  # images read at a time
_WINDOWS = {"uint8": EIGHT_BITS, "uint16": SIXTEEN_BITS}


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
    is_turned: bool = False


class Gather(Stage):
    """The images of one folder and camera, in one shard.

    JPEG and PNG files are stored byte for byte, other formats as PNG of the same pixels. So are images whose EXIF data
    say that they are shown turned: as they are shown, or as stored, so that no stored crop says anything of the kind.
    """

    name: ClassVar[str] = "crop"  # what comes later reads crops, wherever they are from
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = ("media", "images")
    schema: ClassVar[pa.Schema] = CROPS
    unit: ClassVar[str] = "images"

    orientation: Literal["display", "stored"] = "display"

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Copy every image of a unit into its shard, and look at it once: its size, its quality, whether it decodes."""
        use_threads(1)
        images = inputs.images()
        shard = f"crop/{file_name(key)}.body.tar"
        scratch = context.scratch(shard)
        rows: list[dict[str, Any]] = []
        bad: dict[str, str] = {}
        encoded_anew = turned = 0
        with ShardWriter(scratch) as writer:
            for path, subject, image in _looked_at(images, context, self.orientation == "display"):
                row: dict[str, Any] = {"crop_id": path, "subject_id": subject, "frame": len(rows), **_columns(image)}
                if image.data is None:
                    bad[path] = image.problem
                else:
                    row |= writer.add(path, image.codec, image.data)._asdict()
                    row["shard"], encoded_anew = shard, encoded_anew + (not image.is_copy)
                    turned += image.is_turned
                rows.append(row | {"video_id": key, "modality": "body"})
                if len(rows) % _CHUNK == 0:
                    context.progress(len(rows), images.num_rows)
        counted = Counter(f"body {row['status']}" for row in rows)
        facts = {
            "rows": dict(sorted(counted.items())),
            "subjects": dict(sorted(Counter(row["subject_id"] for row in rows if row["crop_id"] not in bad).items())),
            "bad": bad,
            "encoded_anew": encoded_anew,
            "turned": turned,
        }
        return Made(pa.Table.from_pylist(rows, CROPS), facts, {shard: scratch})

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Say which images do not decode, and how many are stored as their EXIF data say that they are shown."""
        warnings = []
        if turned := sum(found.get("turned", 0) for found in facts.values()):
            warnings.append(
                f"crop: {counted(turned, 'image is', 'images are')} turned as their EXIF data say that they are shown"
            )
        return Review(warnings=warnings, lasting=of_stage(self.name, facts))


def _looked_at(images: pa.Table, context: Context, as_shown: bool) -> Iterator[tuple[str, str, _Image]]:
    """(path, subject, image) of every row, in their order; some are read ahead in threads."""
    paths, subjects = images["path"].to_pylist(), images["subject_id"].to_pylist()
    look = partial(_look, as_shown=as_shown)
    with ThreadPoolExecutor(max(context.resources.threads, 1)) as pool:
        for first in range(0, len(paths), _CHUNK):
            part = slice(first, first + _CHUNK)
            found = pool.map(look, [context.data / path for path in paths[part]])
            yield from zip(paths[part], subjects[part], found, strict=True)


def _look(path: Path, as_shown: bool) -> _Image:
    """One image file as it is stored. Raises DataError where it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; if it has gone, run the study again") from None
    try:
        image = decode(data)
    except DataError as error:
        return _Image(None, problem=one_line(error))
    is_plain = image.orientation == AS_STORED
    pixels = image.shown().pixels if as_shown else image.pixels
    height, width = pixels.shape[:2]
    sharpness, contrast = cropping.quality(pixels, _WINDOWS[str(pixels.dtype)])
    is_copy = image.format in ("JPEG", "PNG") and is_plain and not has_alpha(data)
    codec = "jpeg" if is_copy and image.format == "JPEG" else "png"
    kept = data if is_copy else _png(pixels)
    return _Image(kept, codec, width, height, sharpness, contrast, "", is_copy, as_shown and not is_plain)


def _png(pixels: Pixels) -> bytes:
    """A PNG of these pixels, with no word on how it is turned; grey in one channel."""
    import cv2

    is_grey = pixels.shape[2] == 1 or bool((pixels == pixels[..., :1]).all())
    stored = pixels[..., 0] if is_grey else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    good, data = cv2.imencode(".png", np.ascontiguousarray(stored), [cv2.IMWRITE_PNG_COMPRESSION, 3])
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
