"""One page of a TIFF as the numbers that were written into it, for more kinds of TIFF than any one library gives right.

OpenCV's libtiff unpacks the strips or tiles, and nothing else: each page is handed to it as a small TIFF of grey bytes
with the same compressed data. What the samples mean (bits, sign, byte order, planes, palette, which end is white) is
worked out here. Asked for the page itself, OpenCV 4.14 gives 12 bits times 16, planes of 16 bits scrambled, colour
times alpha; Pillow 13 gives 16-bit colour in 8 bits; both read 16-bit MinIsWhite as a negative, and no page of BigTIFF
or many pages costs them less than all pages before it.

Values that cannot be delivered exactly are refused with a sentence.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import DataError, refuse_lack_of_memory
from mdfpipe.store.limits import refuse_larger
from mdfpipe.store.tiff import Tiff

Samples = NDArray[np.generic]

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
_DESCRIPTION, _STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_BYTES = 270, 273, 274, 277, 278, 279
_PLANAR, _T4, _T6, _PREDICTOR, _COLORMAP, _TILE_WIDTH, _TILE_HEIGHT = 284, 292, 293, 317, 320, 322, 323
_TILE_OFFSETS, _TILE_BYTES, _EXTRA, _FORMAT, _TABLES, _SUBSAMPLING = 324, 325, 338, 339, 347, 530
_USED = frozenset(
    {_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _DESCRIPTION, _STRIP_OFFSETS}
    | {_ORIENTATION, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR, _T4, _T6, _PREDICTOR, _COLORMAP, _TILE_WIDTH}
    | {_TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES, _EXTRA, _FORMAT, _TABLES, _SUBSAMPLING}
)
_WHITE_IS_ZERO, _GREY, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_PHOTOMETRICS = {4: "a mask", 5: "CMYK", 8: "L*a*b*", 9: "L*a*b*", 10: "L*a*b*", 32803: "raw sensor data (CFA)"}
_OF_BYTES = {1: "none", 5: "LZW", 8: "deflate", 32773: "PackBits", 32946: "deflate", 34925: "LZMA", 50000: "Zstandard"}
_OF_PICTURES = {2: "CCITT", 3: "CCITT", 4: "CCITT", 7: "JPEG"}  # they need to know what the samples mean
_COMPRESSIONS = _OF_BYTES | _OF_PICTURES | {6: "old JPEG", 34712: "JPEG 2000", 34887: "LERC", 50001: "WebP"}
_KINDS = {1: "u", 2: "i", 3: "f"}
_WORDS = {1: "unsigned integers", 2: "signed integers", 3: "floating-point numbers"}
_MOST_PIXELS = 1 << 30
_MOST_BYTES = 1 << 20  # of a row: as wide as a picture of OpenCV may be


def read_page(tiff: Tiff, offset: int) -> tuple[Samples, int, int]:
    """(numbers, bit depth, orientation) of the page whose directory is at `offset`.

    Numbers: (H, W) grey or (H, W, 3) RGB, uint8 or uint16, as stored: not turned. Bit depth: of a sample in the file,
    at least 8; colour above 8 bits is brought to 16. Orientation: 1 to 8, as EXIF counts. Raises DataError, which says
    why not, for what cannot be had exactly.
    """
    tags = tiff.tags(offset, _USED)
    layout = _Layout.of(tags)
    of_sample = layout.bits // 8 if layout.bits in (8, 16, 32, 64) else 16  # the others are spread to single bits
    claimed = layout.height * layout.width * max(layout.samples, 3) * of_sample
    refuse_larger(claimed, tiff.size, f"the page, of {layout.width}x{layout.height} pixels")
    orientation = tags.get(_ORIENTATION, (1,))[0]
    orientation = orientation if 1 <= orientation <= 8 else 1
    if tags.get(_COMPRESSION, (1,))[0] in _OF_PICTURES:
        return _as_a_picture(tiff, tags, layout), 8, orientation
    samples = _samples(tiff, tags, layout)
    if layout.photometric == _PALETTE:
        return _painted(samples[..., 0], tags, layout), 8, orientation
    values, depth = _in_16_bits(samples, layout)
    return values[..., 0] if layout.colours == 1 else values, depth, orientation


@dataclass(frozen=True)
class _Layout:
    """How the samples of a page lie. tile: (height, width) of a tile; None where there are strips."""

    height: int
    width: int
    bits: int
    kind: int  # of _KINDS
    samples: int  # of a pixel
    colours: int  # of these: the first 1 or 3; the others are alpha
    photometric: int
    planes: int  # stored one after the other
    in_a_row: int  # samples of a pixel that are stored side by side
    predictor: int
    tile: tuple[int, int] | None

    @classmethod
    def of(cls, tags: dict[int, tuple[int, ...]]) -> _Layout:
        """What the tags say. Raises DataError where it cannot be read, or not exactly."""

        def one(tag: int, default: int) -> int:
            return tags.get(tag, (default,))[0]

        samples, bits, kinds = one(_SAMPLES, 1), tags.get(_BITS, (1,)), tags.get(_FORMAT, (1,))
        photometric = one(_PHOTOMETRIC, _RGB if samples >= 3 else _GREY)
        tile = (one(_TILE_HEIGHT, 0), one(_TILE_WIDTH, 0)) if _TILE_OFFSETS in tags else None
        planar = one(_PLANAR, 1) == 2
        colours = 3 if photometric in (_RGB, _YCBCR) else 1
        found = cls(
            height=one(_HEIGHT, 0),
            width=one(_WIDTH, 0),
            bits=bits[0],
            kind=1 if kinds[0] == 4 else kinds[0],  # 4: undefined
            samples=samples,
            colours=colours,
            photometric=photometric,
            planes=samples if planar else 1,
            in_a_row=1 if planar else samples,
            predictor=one(_PREDICTOR, 1),
            tile=tile,
        )
        found._check(tags, bits, kinds)
        return found

    def _check(self, tags: dict[int, tuple[int, ...]], bits: Sequence[int], kinds: Sequence[int]) -> None:
        compression = tags.get(_COMPRESSION, (1,))[0]
        name = _COMPRESSIONS.get(compression, f"number {compression}")
        if tags.get(_SUBFILE, (0,))[0] & 1:
            raise DataError("the page is a reduced copy of another one (NewSubfileType 1); keep the full pages only")
        if not (self.height and self.width and self.height * self.width <= _MOST_PIXELS):
            raise DataError(f"expected a TIFF with a size, got {self.width}x{self.height} pixels")
        if compression not in _OF_BYTES | _OF_PICTURES:
            raise DataError(f"the compression {name} of TIFF is not read; write it with deflate, LZW or none")
        if self.tile and not (0 < self.tile[0] <= _MOST_BYTES and 0 < self.tile[1] <= _MOST_BYTES):
            raise DataError(f"expected tiles with a size, got {self.tile[1]}x{self.tile[0]} pixels")
        if len({*bits}) > 1 or len({*kinds}) > 1:
            raise DataError(f"expected samples of one kind, got samples of {', '.join(map(str, bits))} bits")
        if self.photometric not in (_WHITE_IS_ZERO, _GREY, _RGB, _PALETTE) and not (
            self.photometric == _YCBCR and compression == 7
        ):
            what = _PHOTOMETRICS.get(self.photometric, "YCbCr" if self.photometric == _YCBCR else "unknown")
            raise DataError(
                f"expected grey, RGB or palette colours, got {what} (PhotometricInterpretation {self.photometric}); "
                "convert it to RGB or grey"
            )
        if self.kind not in _KINDS or not 0 < self.bits <= 64 or (self.kind == 3 and self.bits not in (16, 32, 64)):
            raise DataError(f"expected integers, got {self.bits} bits of SampleFormat {kinds[0]}; convert it to uint16")
        self._check_channels(tags)

    def _check_channels(self, tags: dict[int, tuple[int, ...]]) -> None:
        extra = self.samples - self.colours
        is_alpha = tags.get(_EXTRA, (2,))[0] != 0 or self.colours == 3
        if extra < 0 or extra > 1 or (extra == 1 and not is_alpha):
            raise DataError(
                f"expected grey or RGB, with or without transparency, got {self.samples} channels; keep the one to use"
            )

    def row_bytes(self, width: int) -> int:
        """The bytes of a row of so many pixels."""
        return -(-width * self.in_a_row * self.bits // 8)


# -- from compressed strips to samples


def _samples(tiff: Tiff, tags: dict[int, tuple[int, ...]], layout: _Layout) -> Samples:
    """(H, W, samples) numbers in the machine's byte order."""
    if layout.predictor not in (1, 2) or (layout.predictor == 2 and layout.bits not in (8, 16, 32, 64)):
        if layout.kind == 3:
            raise DataError(_no_floats(f"float{layout.bits}"))
        raise DataError(f"a predictor {layout.predictor} on {layout.bits} bits is not read; write it without predictor")
    planes = []
    for plane in range(layout.planes):
        rows = _unpacked(tiff, tags, layout, plane)
        values = _numbers(rows, layout, tiff.order)
        if layout.predictor == 2:  # differences to the pixel on the left, from the left edge of each tile
            step = layout.tile[1] if layout.tile else layout.width
            for left in range(0, layout.width, step):
                part = values[:, left : left + step]
                np.cumsum(part, axis=1, dtype=values.dtype, out=part)
        planes.append(values)
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)


def _numbers(rows: NDArray[np.uint8], layout: _Layout, order: str) -> NDArray[Any]:
    """(H, W, samples side by side) numbers of (H, bytes) rows."""
    across = layout.width * layout.in_a_row
    shape = (layout.height, layout.width, layout.in_a_row)
    if layout.bits in (8, 16, 32, 64):
        kind = "u" if layout.predictor == 2 and layout.kind == 2 else _KINDS[layout.kind]  # differences wrap round
        stored = np.dtype(f"{order}{kind}{layout.bits // 8}")
        values = np.ascontiguousarray(rows).view(stored).astype(stored.newbyteorder("="))
        return values.view(f"{_KINDS[layout.kind]}{layout.bits // 8}").reshape(shape)
    if layout.kind != 1 or layout.bits > 16:
        raise DataError(f"expected 8, 16 or 32 bits of {_WORDS[layout.kind]}, got {layout.bits} bits")
    spread = np.zeros((layout.height, across, 16), np.uint8)
    bits = np.unpackbits(rows, axis=1)[:, : across * layout.bits]
    spread[..., 16 - layout.bits :] = bits.reshape(layout.height, across, layout.bits)
    return np.packbits(spread, axis=2).view(">u2").astype(np.uint16).reshape(shape)


def _unpacked(tiff: Tiff, tags: dict[int, tuple[int, ...]], layout: _Layout, plane: int) -> NDArray[np.uint8]:
    """(H, bytes) rows of a plane, as they were before they were compressed."""
    width, compression = layout.row_bytes(layout.width), tags.get(_COMPRESSION, (1,))
    blocks = _blocks(tiff, tags, plane, layout.planes)
    if compression == (1,) and not layout.tile and tags.get(_FILL_ORDER, (1,)) == (1,):
        rows = min(tags.get(_ROWS, (layout.height,))[0], layout.height)
        data = b"".join(block[: rows * width] for block in blocks)  # some programs pad them
        if len(data) < layout.height * width:
            raise DataError("the TIFF ends before its pixels do")
        return np.frombuffer(data, np.uint8, layout.height * width).reshape(layout.height, width)
    if width > _MOST_BYTES:
        raise DataError(f"a row of {layout.width} pixels is too wide to be read")
    word = 2 if layout.bits % 16 == 0 else 1  # bytes: libtiff is faster with two
    small: dict[int, tuple[int, ...]] = {
        _WIDTH: (width // word,),
        _HEIGHT: (layout.height,),
        _BITS: (8 * word,),
        _COMPRESSION: compression,
        _PHOTOMETRIC: (_GREY,),
        _SAMPLES: (1,),
        _FORMAT: (1,),
    }
    if _FILL_ORDER in tags:
        small[_FILL_ORDER] = tags[_FILL_ORDER]
    if layout.tile:
        small |= {_TILE_WIDTH: (layout.row_bytes(layout.tile[1]) // word,), _TILE_HEIGHT: (layout.tile[0],)}
    else:
        small[_ROWS] = (min(tags.get(_ROWS, (layout.height,))[0], layout.height),)
    image = _decoded(_small_tiff(small, blocks))
    if image is None or image.shape != (layout.height, width // word) or image.dtype.itemsize != word:
        raise DataError(
            f"its data (compression: {_COMPRESSIONS[compression[0]]}) are damaged, or this OpenCV cannot unpack them: "
            "then write it with deflate, LZW or no compression"
        )
    return np.ascontiguousarray(image).view(np.uint8)


def _as_a_picture(tiff: Tiff, tags: dict[int, tuple[int, ...]], layout: _Layout) -> Samples:
    """(H, W) or (H, W, 3) uint8 of a page whose compression is one of pictures (JPEG, fax)."""
    if layout.bits not in (1, 8) or layout.planes > 1 or layout.kind != 1:
        raise DataError(
            f"expected 8 bits in one plane of a JPEG in TIFF, got {layout.bits} bits; write it with deflate"
        )
    dropped = {_ORIENTATION, _DESCRIPTION, _SUBFILE, _STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES}
    small = {tag: values for tag, values in tags.items() if tag not in dropped}
    image = _decoded(_small_tiff(small, _blocks(tiff, tags, 0, 1)))
    if image is None or image.shape[:2] != (layout.height, layout.width) or image.dtype != np.uint8:
        raise DataError("its data are damaged, or this OpenCV cannot decode them")
    if image.ndim == 2:
        return image
    return image[..., 2::-1] if layout.colours == 3 else image[..., 0]


def _decoded(data: bytes) -> Samples | None:
    import cv2

    try:
        image: Samples | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        refuse_lack_of_memory(error)
        return None
    return image


def _small_tiff(tags: dict[int, tuple[int, ...]], blocks: Sequence[bytes]) -> bytes:
    """A classic TIFF of one page with these tags and these compressed strips or tiles.

    It is little-endian for any file, so that libtiff leaves the bytes of a sample where they are.
    """
    out, offsets = bytearray(b"II*\0" + bytes(4)), []
    for block in blocks:
        offsets.append(len(out))
        out += block + bytes(len(block) % 2)
    names = (_TILE_OFFSETS, _TILE_BYTES) if _TILE_WIDTH in tags else (_STRIP_OFFSETS, _STRIP_BYTES)
    entries = []
    for tag, values in sorted((tags | {names[0]: tuple(offsets), names[1]: tuple(map(len, blocks))}).items()):
        kind, code = _KIND_OF.get(tag, (4, "I"))
        field = struct.pack(f"<{len(values)}{code}", *values)
        if len(field) > 4:
            at = len(out)
            out += field + bytes(len(field) % 2)
            field = struct.pack("<I", at)
        entries.append(struct.pack("<HHI", tag, kind, len(values)) + field.ljust(4, b"\0"))
    struct.pack_into("<I", out, 4, len(out))
    return bytes(out + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))


_SHORTS = {_BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _PLANAR, _PREDICTOR, _COLORMAP, _EXTRA, _FORMAT}
_KIND_OF = dict.fromkeys(_SHORTS | {_SUBSAMPLING}, (3, "H")) | {_TABLES: (7, "B")}


def _blocks(tiff: Tiff, tags: dict[int, tuple[int, ...]], plane: int, planes: int) -> list[bytes]:
    """The compressed strips or tiles of a plane. Raises DataError where the file ends before."""
    tiled = _TILE_OFFSETS in tags
    offsets = tags.get(_TILE_OFFSETS if tiled else _STRIP_OFFSETS, ())
    lengths = tags.get(_TILE_BYTES if tiled else _STRIP_BYTES, ())
    if not offsets or len(offsets) != len(lengths) or len(offsets) % planes:
        raise DataError(f"expected strips or tiles with their lengths, got {len(offsets)} and {len(lengths)}")
    count, blocks = len(offsets) // planes, []
    for place, length in list(zip(offsets, lengths, strict=True))[plane * count : (plane + 1) * count]:
        blocks.append(tiff.bytes_at(place, length))
        if len(blocks[-1]) < length:
            raise DataError("the TIFF ends before its pixels do")
    return blocks


# -- from samples to values


def _painted(index: Samples, tags: dict[int, tuple[int, ...]], layout: _Layout) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: the colours that the palette has for the samples."""
    size = 1 << layout.bits
    colours: NDArray[Any] = np.array(tags.get(_COLORMAP, ()), np.uint32)
    if layout.kind != 1 or layout.bits > 8 or len(colours) != 3 * size:
        raise DataError(f"expected a palette of {size} colours for {layout.bits} bits, got {len(colours) // 3}")
    if colours.max(initial=0) > 255:  # else written by a program that took them for 8 bits: libtiff's rule, too
        colours = colours >> 8
    table = colours.astype(np.uint8).reshape(3, size).T
    return np.ascontiguousarray(table[index.astype(np.intp)])


def _in_16_bits(samples: Samples, layout: _Layout) -> tuple[Samples, int]:
    """The grey or RGB samples as uint8 or uint16, and the bits of a sample.

    Raises DataError where a value is no whole number from 0 to 65535: to cut it off or to scale it would be a guess.
    """
    values: NDArray[Any] = samples[..., : layout.colours]
    bits, most = layout.bits, (1 << layout.bits) - 1
    if layout.photometric == _WHITE_IS_ZERO:
        if layout.kind != 1:
            raise DataError(f"expected MinIsWhite of unsigned integers, got {_WORDS[layout.kind]}; invert it to uint16")
        values = most - values
    if layout.kind == 1 and bits <= 8:
        scaled = values if bits == 8 else values * 255 // most
        return np.ascontiguousarray(scaled.astype(np.uint8)), 8
    if layout.kind == 1 and bits <= 16:
        wide: NDArray[Any] = values.astype(np.uint16)
        if layout.colours == 3 and bits < 16:
            wide = (wide << (16 - bits)) | (wide >> (2 * bits - 16))
        return np.ascontiguousarray(wide), 16 if layout.colours == 3 else bits
    if layout.kind == 3:  # whole numbers among them, too: a zero and a one may be the ends of the range
        finite = values[np.isfinite(values)]
        span = f" from {finite.min().item():.6g} to {finite.max().item():.6g}" if finite.size else ""
        raise DataError(_no_floats(f"float{bits}{span}"))
    low, high = values.min().item(), values.max().item()
    if low < 0 or high > 65535:
        name = f"{'int' if layout.kind == 2 else 'uint'}{bits}"
        raise DataError(
            f"expected whole numbers from 0 to 65535, got {name} from {low} to {high}; convert it to uint16"
        )
    return np.ascontiguousarray(values.astype(np.uint16)), 16


def _no_floats(what: str) -> str:
    return (
        f"expected whole numbers from 0 to 65535, got {what}; convert all frames once, by one rule, to uint16: "
        "degrees Celsius to hundredths of a kelvin, for instance, are rint(100 * value) + 27315"
    )


def stack_of(tiff: Tiff, offset: int) -> int:
    """The number of pictures in a page, as ImageJ declares it; 1 unless it is one of its stacks above 4 GB.

    ImageJ then writes one directory, and the other pictures behind it with none.
    """
    text = bytes(tiff.tags(offset, {_DESCRIPTION}).get(_DESCRIPTION, ()))
    if not text.startswith(b"ImageJ="):
        return 1
    counts = [line[7:] for line in text.split(b"\n") if line.startswith(b"images=")]
    return int(counts[0]) if counts and counts[0].strip().isdigit() else 1
