"""Images: what their bytes say, and stored crops as pixels: encoded, decoded, resized, brought to 8 bits.

JPEG q95 4:4:4 for 8-bit frames; 16-bit PNG, with the source's own values, for frames above 8 bits.

Decoders silently fill a truncated JPEG with grey and take the first picture of an animation, and they differ in whether
they turn a picture as its EXIF data ask. So each of these is decided here, once, from the bytes.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Collection, Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import DataError, refuse_lack_of_memory
from mdfpipe.store.limits import refuse_larger
from mdfpipe.store.shards import Spoilt
from mdfpipe.store.tiff import HEADS, Tiff

if TYPE_CHECKING:
    from mdfpipe.store.run import Run

Image = NDArray[Any]  # (H, W, C), uint8 RGB, or uint16 grey or RGB
Window: TypeAlias = tuple[float, float]  # the values that stand for black and white
EIGHT_BITS: Window = (0.0, 255.0)
SIXTEEN_BITS: Window = (0.0, 65535.0)


def encode(image: Image) -> tuple[bytes, str]:
    """The bytes of a crop and its codec: (data, "jpeg") for uint8, (data, "png") for uint16."""
    import cv2

    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.shape[2] == 3 else image  # 40 times faster than [::-1]
    if image.dtype == np.uint8:
        sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        options = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        codec = "jpeg"
    else:
        options, codec = [cv2.IMWRITE_PNG_COMPRESSION, 3], "png"
    good, data = cv2.imencode(f".{codec}", stored, options)
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

    Areas are averaged along an axis that shrinks (no aliasing); along one that grows, cubic interpolation. The pixels
    are the same on every processor: without IPP, whose cubic interpolation rounds as the instructions there have it.
    """
    import cv2

    (h, w), more = image.shape[:2], image.shape[2:]
    mixed = (w > width and h < height) or (w < width and h > height)
    had_ipp = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)  # of this thread
    try:
        for to in ((width, h), (width, height)) if mixed else ((width, height),):
            if to != image.shape[1::-1]:
                shrinks = to[0] <= image.shape[1] and to[1] <= image.shape[0]
                image = cv2.resize(image, to, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    finally:
        cv2.ipp.setUseIPP(had_ipp)
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


def top_bits(values: Image, depth: int = 16) -> NDArray[np.uint8]:
    """uint8: the top 8 of `depth` bits."""
    return (values >> max(depth - 8, 0)).astype(np.uint8)


def rounded(values: Image) -> NDArray[np.uint8]:
    """uint8: the whole range of 16 bits, 0..65535, as 0..255, rounded."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _in_8_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    grey: NDArray[np.uint8] = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return grey


def recorded_window(run: Run, video_id: str) -> Window | None:
    """The values of a video that detect took for black and white; None of 8 bits."""
    receipt = run.receipt("detect", video_id)
    found = receipt.facts.get("window") if receipt else None
    return (float(found[0]), float(found[1])) if found else None


JPEG_START, PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WebP", "PNM")

_ORIENTATION = 0x0112  # a tag of TIFF
_SIZES = (256, 257, 258, 277)  # tags of a TIFF: width, height, bits of a sample, samples of a pixel
_END, _SCAN = 0xD9, 0xDA  # markers of a JPEG
_ANIMATED = "it is animated, and only still images are read; convert it to a video"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in coded data: no stuffed byte, no restart, no padding
"""With a `+` behind the first byte it takes twenty times as long."""
_PNM_SIZE = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)")
_OTHERS = {
    b"GIF8": "a GIF",
    b"%PDF": "a PDF",
    b"\x00\x00\x00\x0cjP": "a JPEG 2000",
    b"\xff\x4f\xff\x51": "a JPEG 2000",
    b"FFF\x00": "FLIR's own format",
    b"SIMPL": "a FITS",
}


def format_of(data: bytes) -> str | None:
    """One of FORMATS, found by the first bytes, not the name; None for anything else.

    >>> format_of(b"BM" + bytes(60)), format_of(b"P5 2 2 255 abcd"), format_of(b"GIF89a")
    ('BMP', 'PNM', None)
    """
    if data.startswith(PNG_START):
        return "PNG"
    if data.startswith(JPEG_START):
        return "JPEG"
    if data[:4] in HEADS:
        return "TIFF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if re.match(rb"P[1-6][\s#]", data):
        return "PNM"
    return "BMP" if data.startswith(b"BM") else None


def said_of_others(data: bytes) -> str:
    """What bytes are that are no image of FORMATS, in a few words.

    >>> said_of_others(b"GIF89a"), said_of_others(b"12345")
    ('a GIF', '5 bytes of none of these')
    """
    if data[4:8] == b"ftyp":
        return "a HEIF, AVIF or mp4 file"
    return next(
        (what for head, what in _OTHERS.items() if data.startswith(head)), f"{len(data)} bytes of none of these"
    )


def unpacked(data: bytes, flags: int, what: str = "the picture") -> NDArray[Any] | None:
    """The pixels of an image of FORMATS as OpenCV gives them by its `flags`; None where they do not decode.

    Raises DataError where its header claims more pixels than a file of its size may unfold to. What OpenCV would read
    beyond FORMATS is not tried: no code here knows what its header claims.
    """
    import cv2

    if format_of(data) is None:
        return None
    width, height, of_pixel = _claimed(data)
    refuse_larger(width * height * of_pixel, len(data), f"{what}, of {width}x{height} pixels")
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        refuse_lack_of_memory(error)
        return None


def _claimed(data: bytes) -> tuple[int, int, int]:
    """(width, height, bytes of a pixel) by the header of an image of FORMATS; 0 where it says nothing.

    For a TIFF of many pages that of the first: the one that is given where one picture is asked for.
    """
    kind = format_of(data)

    def number(at: int, length: int, order: Literal["big", "little"] = "little", *, signed: bool = False) -> int:
        return int.from_bytes(data[at : at + length], order, signed=signed)

    if kind == "PNG":
        return number(16, 4, "big"), number(20, 4, "big"), 6 if data[24:25] == b"\x10" else 3
    if kind == "JPEG":
        height, width = jpeg_size(data) or (0, 0)
        return width, height, 3
    if kind == "TIFF":
        tags = _first_page(data, _SIZES)
        width, height, bits, samples = (tags.get(tag, (1,))[0] for tag in _SIZES) if tags is not None else (0, 0, 1, 1)
        return width, height, max(samples, 3) * max(bits // 8, 1)
    if kind == "BMP":
        return abs(number(18, 4, signed=True)), abs(number(22, 4, signed=True)), 3
    if kind == "PNM":
        found = _PNM_SIZE.match(data)
        return (int(found[1][:9]), int(found[2][:9]), 6) if found else (0, 0, 3)
    if kind == "WebP" and data[12:16] == b"VP8X":
        return number(24, 3) + 1, number(27, 3) + 1, 4
    if kind == "WebP" and data[12:16] == b"VP8L":
        return (number(21, 4) & 0x3FFF) + 1, (number(21, 4) >> 14 & 0x3FFF) + 1, 4
    if kind == "WebP" and data[12:16] == b"VP8 ":
        return number(26, 2) & 0x3FFF, number(28, 2) & 0x3FFF, 3
    return 0, 0, 3


def _first_page(data: bytes, wanted: Collection[int]) -> dict[int, tuple[int, ...]] | None:
    """The wanted tags of the first page of a TIFF, or of EXIF data; None where it is broken: its decoder says how."""
    try:
        tiff = Tiff.of(io.BytesIO(data))
        first = next(tiff.pages(), None) if tiff else None
        return tiff.tags(first, wanted) if tiff and first else {}
    except DataError:
        return None


def damage_of(data: bytes) -> str | None:
    """What is broken in a PNG or JPEG that a decoder would fill up without a word, or what it would leave out.

    None where nothing is found, and for other formats, of which decoders refuse what is cut short.
    """
    kind = format_of(data)
    if kind == "JPEG":  # to the end of the picture itself: a thumbnail within has an end, too, and a trailer none
        whole = any(marker == _END for marker, _ in _jpeg_segments(data))
        return None if whole else f"a JPEG without an end in {len(data)} bytes"
    if kind == "WebP" and data[12:16] == b"VP8X" and len(data) > 20 and data[20] & 2:
        return _ANIMATED
    if kind != "PNG":
        return None
    for position, chunk, body, checksum in _png_chunks(data):
        if zlib.crc32(chunk + body).to_bytes(4, "big") != checksum:
            return f"a checksum of the PNG does not fit at byte {position}"
        if chunk == b"acTL" and int.from_bytes(body[:4], "big") > 1:
            return _ANIMATED
        if chunk == b"IEND":
            return None
    return "the PNG has no end"


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) in the frame header of a JPEG (ITU-T T.81, B.2.2); None where there is none."""
    for marker, at in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and at + 9 <= len(data):
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, place of its 0xFF) of each segment behind the first two bytes, up to the end of the picture."""
    at = 2
    while at + 2 <= len(data):
        if data[at] != 0xFF:
            found = _MARKER.search(data, at)  # bytes between segments are passed over, as libjpeg does
            if found is None:
                return
            at = found.end() - 2
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        yield marker, at
        if marker == _END:
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SCAN:  # coded data follow
            found = _MARKER.search(data, at)
            if found is None:
                return
            at = found.end() - 2


def _png_chunks(data: bytes) -> Iterator[tuple[int, bytes, bytes, bytes]]:
    """(place, kind, body, checksum) of each whole chunk."""
    position = 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):
            return
        yield position, data[position + 4 : position + 8], data[position + 8 : end - 4], data[end - 4 : end]
        position = end


def has_alpha(data: bytes) -> bool:
    """Whether a PNG or WebP says that it has transparency; of other formats it is not asked."""
    if format_of(data) == "PNG":
        return data[25:26] in (b"\4", b"\6") or any(kind == b"tRNS" for _, kind, _, _ in _png_chunks(data))
    return format_of(data) == "WebP" and data[12:16] == b"VP8X" and data[20] & 0x10 != 0


def orientation_of(data: bytes) -> int:
    """How the picture is turned to be shown, 1 (as stored) to 8 as EXIF counts; 1 where the file does not say.

    For a TIFF with many pages, that of the first.
    """
    block = _exif_of(data)
    value = (_first_page(block, {_ORIENTATION}) or {}).get(_ORIENTATION, ()) if block is not None else ()
    return value[0] if len(value) == 1 and 1 <= value[0] <= 8 else 1


def _exif_of(data: bytes) -> bytes | None:
    kind = format_of(data)
    if kind == "TIFF":
        return data
    if kind == "PNG":
        return next((body for _, chunk, body, _ in _png_chunks(data) if chunk == b"eXIf"), None)
    if kind == "JPEG":
        for marker, at in takewhile(lambda segment: segment[0] != _SCAN, _jpeg_segments(data)):
            if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
                return data[at + 10 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
    at = 12 if kind == "WebP" else len(data)
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            return data[at + 8 : at + 8 + size].removeprefix(b"Exif\0\0")
        at += 8 + size + size % 2
    return None
