"""TIFFs of our own making: of many kinds that no library here writes, with values that are known."""

import struct
import zlib

import numpy as np


def packed(values, bits):
    """Rows of numbers of so many bits, one behind the other, each row filled up to a byte: its bytes."""
    spread = np.unpackbits(values.astype(">u4").view(np.uint8).reshape(*values.shape, 4), axis=-1)[..., -bits:]
    return np.packbits(spread.reshape(len(values), -1), axis=1).tobytes()


def _coded(block, order, bits, kind, compression, predictor, fill_order):
    """The bytes of a strip or tile, (h, w, samples)."""
    if predictor == 2:
        left = np.zeros_like(block)
        left[:, 1:] = block[:, :-1]
        block = (block.astype(np.int64) - left) % (1 << bits)
    if bits in (8, 16, 32, 64):
        data = np.ascontiguousarray(block).astype(f"{order}{'_uif'[kind]}{bits // 8}").tobytes()
    else:
        data = packed(block.reshape(len(block), -1), bits)
    if fill_order == 2:
        data = np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)), bitorder="little").tobytes()
    return zlib.compress(data, 1) if compression == 8 else data


def tiff(
    pages,
    *,
    bits=16,
    kind=1,
    photometric=1,
    planar=1,
    order="<",
    big=False,
    compression=1,
    predictor=1,
    rows=None,
    tile=None,
    extra=None,
    palette=None,
    orientation=None,
    fill_order=1,
    subfile=None,
    description=None,
):
    """The bytes of a TIFF. pages: (h, w) or (h, w, samples) numbers; kind: 1 unsigned, 2 signed, 3 float."""
    word = "Q" if big else "I"
    out = bytearray((b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if big else 42))
    out += struct.pack(f"{order}HHQ", 8, 0, 0) if big else bytes(4)
    link = 8 if big else 4
    for page in pages:
        height, width = page.shape[:2]
        page = page.reshape(height, width, -1)
        samples = page.shape[2]
        offsets, lengths = [], []
        for plane in np.split(page, samples, axis=2) if planar == 2 else [page]:
            step = tile or rows or height
            for y in range(0, height, step):
                for x in range(0, width, tile or width):
                    block = plane[y : y + step, x : x + (tile or width)]
                    if tile:
                        fill = ((0, tile - block.shape[0]), (0, tile - block.shape[1]), (0, 0))
                        block = np.pad(block, fill)
                    offsets.append(len(out))
                    out += _coded(block, order, bits, kind, compression, predictor, fill_order)
                    lengths.append(len(out) - offsets[-1])
                    out += bytes(len(out) % 2)
        tags = {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * samples), 259: (3, [compression])}
        tags |= {262: (3, [photometric]), 266: (3, [fill_order]), 277: (3, [samples]), 284: (3, [planar])}
        tags |= {317: (3, [predictor]), 339: (3, [kind] * samples)}
        if tile:
            tags |= {322: (3, [tile]), 323: (3, [tile]), 324: (16 if big else 4, offsets), 325: (4, lengths)}
        else:
            tags |= {273: (16 if big else 4, offsets), 278: (4, [rows or height]), 279: (4, lengths)}
        if extra is not None:
            tags[338] = (3, [extra])
        if palette is not None:
            tags[320] = (3, list(palette.T.ravel()))
        if orientation is not None:
            tags[274] = (3, [orientation])
        if subfile is not None:
            tags[254] = (4, [subfile])
        if description is not None:
            tags[270] = (2, [*description.encode(), 0])
        entries = b""
        for tag, (code, values) in sorted(tags.items()):
            field = struct.pack(f"{order}{len(values)}{ {2: 'B', 3: 'H', 4: 'I', 16: 'Q'}[code] }", *values)
            if len(field) > (8 if big else 4):
                out += bytes(len(out) % 2)
                at = len(out)
                out += field
                field = struct.pack(order + word, at)
            entries += struct.pack(f"{order}HH{word}", tag, code, len(values)) + field.ljust(8 if big else 4, b"\0")
        out += bytes(len(out) % 2)
        struct.pack_into(order + word, out, link, len(out))
        out += struct.pack(order + ("Q" if big else "H"), len(tags)) + entries
        link = len(out)
        out += bytes(8 if big else 4)
    return bytes(out)
