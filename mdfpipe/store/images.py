"""Stored crops as pixels: encoded, decoded, resized, brought to 8 bits. The one place that does so.

JPEG q95 4:4:4 for 8-bit frames; 16-bit PNG, with the source's own values, for frames above 8 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import DataError
from mdfpipe.store.image_bytes import JPEG_START, damage_of, jpeg_size, orientation_of, unpacked
from mdfpipe.store.shards import Spoilt

if TYPE_CHECKING:
    from mdfpipe.store.run import Run

Image = NDArray[Any]  # (H, W, C), uint8 RGB, or uint16 grey or RGB


def encode(image: Image) -> tuple[bytes, str]:
    """The bytes of a crop and its codec: (data, "jpeg") for uint8, (data, "png") for uint16."""
    import cv2

    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.shape[2] == 3 else image  # 40 times faster than [::-1]
    if image.dtype == np.uint8:
        sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        options = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        good, data = cv2.imencode(".jpg", stored, options)
        codec = "jpeg"
    else:
        good, data = cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 3])
        codec = "png"
    if not good:
        raise DataError(f"a crop of {image.shape} {image.dtype} could not be encoded")
    return data.tobytes(), codec


def decode(data: bytes, where: str) -> Image:
    """The pixels of an encoded crop, (H, W, C): uint8 RGB, or uint16 grey or RGB.

    Raises DataError that says `where`.
    """
    try:
        image = _decoded(data, None)
    except Spoilt as error:
        raise DataError(f"{where}: {error}") from None
    return image[..., None] if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])


def decode_at(data: bytes, height: int, width: int) -> Image:
    """(H, W, 3) uint8 or uint16 BGR, or (H, W) uint16, of an encoded crop that will be shown at (height, width).

    A JPEG of at least twice that size is decoded at a half, quarter or eighth: the decoder leaves the high frequencies
    of each block out, so nothing is aliased. Raises Spoilt.
    """
    return _decoded(data, (height, width))


def _decoded(data: bytes, least: tuple[int, int] | None) -> Image:
    """An image of elsewhere may say that it is shown turned: it is."""
    import cv2

    if not data:
        raise Spoilt("it has no bytes")
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH  # unlike IMREAD_UNCHANGED, they turn as EXIF data say
    if data.startswith(JPEG_START):
        if damage := damage_of(data):  # libjpeg would make up the rest
            raise Spoilt(damage)
        flags = cv2.IMREAD_COLOR
        full = jpeg_size(data) if least else None
        if full and orientation_of(data) >= 5:  # its sides change places
            full = full[::-1]
        reduced = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
        for times, flag in reduced.items():
            if full and least and full[0] >= times * least[0] and full[1] >= times * least[1]:
                flags = flag
    try:
        image = unpacked(data, flags)
    except DataError as error:
        raise Spoilt(str(error)) from None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        found = f"{len(data)} bytes that do not decode" if image is None else f"pixels of {image.dtype}"
        raise Spoilt(f"expected an image of 8 or 16 bits, found {found}")
    if image.ndim == 3 and image.shape[2] == 4:
        image = image[..., :3]
    if image.ndim == 2 and image.dtype == np.uint8:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(image)


def resize(image: Image, width: int, height: int) -> Image:
    """`image`, (H, W, C) or (H, W), at another size; the same dtype.

    Areas are averaged along an axis that shrinks (no aliasing); along one that grows, cubic interpolation.
    """
    import cv2

    (h, w), more = image.shape[:2], image.shape[2:]
    mixed = (w > width and h < height) or (w < width and h > height)
    for to in ((width, h), (width, height)) if mixed else ((width, height),):
        if to != image.shape[1::-1]:
            shrinks = to[0] <= image.shape[1] and to[1] <= image.shape[0]
            image = cv2.resize(image, to, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return image.reshape(height, width, *more)


def scaled(
    values: Image,
    low: float,
    high: float,
    top: float,
    *,
    precision: type[np.float32] | type[np.float64] = np.float32,
    least: float = 1.0,
) -> NDArray[Any]:
    """Values of `precision`: `low` becomes 0, `high` becomes `top`, linear between and beyond.

    least: the narrowest window, in values; below it `low` alone decides.
    """
    black: Any = precision(low)
    factor: Any = precision(top / max(high - low, least))
    moved: NDArray[Any] = (values.astype(precision) - black) * factor
    return moved


def stretched(values: Image, low: float, high: float) -> NDArray[np.uint8]:
    """uint8: `low` and below is 0, `high` and above 255, linear between.

    >>> stretched(np.array([100, 200, 300, 900], np.uint16), 100, 355).tolist()
    [0, 100, 200, 255]
    """
    return _in_8_bits(scaled(values, low, high, 255))


def stretching(low: float, high: float) -> NDArray[np.uint8]:
    """(65536,) uint8: the grey of each 16-bit value, as `stretched`, for whole videos.

    It is computed in float64 and knows no narrowest window: detections depend on it to the last bit.

    >>> stretching(100, 355)[[0, 100, 200, 355, 65535]].tolist(), stretching(7, 7)[[6, 7, 8]].tolist()
    ([0, 0, 100, 255, 255], [0, 0, 255])
    """
    return _in_8_bits(scaled(np.arange(1 << 16), low, high, 255, precision=np.float64, least=1e-9))


def _in_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    grey: NDArray[np.uint8] = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return grey


def recorded_window(run: Run, video_id: str) -> tuple[float, float] | None:
    """The values of a video that detect took for black and white; None of 8 bits."""
    receipt = run.receipt("detect", video_id)
    found = receipt.facts.get("window") if receipt else None
    return (float(found[0]), float(found[1])) if found else None
