"""MATLAB files: arrays of numbers, and cells of them, from files of version 5 to 7.

The published lists of identities and permutations are such files. Written out here because the common reader ends the
whole process on some damaged files (scipy 1.17: a segmentation fault on 2 of 100 with six bytes changed).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import DataError, one_line
from mdfpipe.store.limits import refuse_larger

HEADER: Final = 128  # bytes; the last two say in which order the bytes of a number stand
DEEPEST: Final = 3  # cells in cells

_MATRIX, _COMPRESSED, _CELL, _COMPLEX = 14, 15, 1, 0x800
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MEANT = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}

Array = NDArray[Any]


def read_matlab(path: Path, what: str) -> dict[str, Array]:
    """The arrays of a file by name: numbers in their shape, or objects, each of which is such an array (a cell).

    Text, structures, sparse and complex arrays are left out. what: the file in a message. Raises DataError.
    """
    try:
        data = path.read_bytes()
        if data.startswith(b"MATLAB 7.3"):
            raise ValueError("it is of version 7.3; save it with -v7")
        order = {b"IM": "<", b"MI": ">"}.get(data[HEADER - 2 : HEADER])
        if order is None:
            raise ValueError("it has no header of one" if len(data) >= HEADER else f"it ends after {len(data)} bytes")
        claims = _Claims(len(data), what)
        found = dict(_named(kind, part, order, claims) for kind, part in _elements(data[HEADER:], order))
    except OSError as error:
        raise DataError(f"{what}: cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, struct.error, zlib.error) as error:
        why = one_line(error, 120)
        raise DataError(f"{what}: cannot be read as a MATLAB file of version 5 to 7: {why}") from None
    return {name: values for name, values in found.items() if name and values is not None}


@dataclass
class _Claims:
    """Bytes that the arrays of a file ask for, all together."""

    size: int
    what: str
    total: int = 0

    def add(self, count: int) -> None:
        """Count so many more. Raises DataError where a file of this size may not ask for them."""
        self.total += count
        refuse_larger(self.total, self.size, self.what)


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(kind, content) of each element: eight bytes of kind and size before it, or four where it is small."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        begin, room = at + 8, 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if kind >> 16:
            kind, size, begin, room = kind & 0xFFFF, min(kind >> 16, 4), at + 4, 8
        at += room
        if begin + size > len(data):
            raise ValueError("it is cut off, or damaged")
        yield kind, data[begin : begin + size]


def _named(kind: int, data: bytes, order: str, claims: _Claims, depth: int = 0) -> tuple[str, Array | None]:
    """Name and content of an element; none of what is no array of numbers."""
    if kind == _COMPRESSED:
        opened = zlib.decompressobj()
        head = opened.decompress(data, 8)
        size = int(struct.unpack_from(f"{order}I", head, 4)[0])  # as the array says that it is
        claims.add(size)
        array = head + opened.decompress(opened.unconsumed_tail, max(size, 1))
        ((kind, data),) = _elements(array, order)
        if opened.decompress(opened.unconsumed_tail, 1) or not opened.eof:
            raise ValueError("a compressed array is cut off, or larger than it says")
    if kind != _MATRIX or not data:
        return "", None if kind != _MATRIX else np.zeros((0, 0))
    (flags, shape, name), rest = _first(3, data, order)
    meant = int(_numbers(*flags, order)[0])
    dims = _numbers(5, shape[1], order).tolist()
    called = name[1].decode("latin-1")
    if meant & 0xFF == _CELL:
        return called, _shaped(_cells(rest, order, claims, depth + 1), dims)
    if meant & _COMPLEX or meant & 0xFF not in _MEANT:
        return called, None
    (real,), _ = _first(1, rest, order)
    values, kind_meant = _numbers(*real, order), np.dtype(_MEANT[meant & 0xFF])
    if values.dtype.kind == "f" != kind_meant.kind:
        raise ValueError(f"{values.dtype} where {kind_meant} is meant")
    claims.add(values.size * kind_meant.itemsize)
    return called, _shaped(values.astype(kind_meant), dims)


def _first(count: int, data: bytes | list[tuple[int, bytes]], order: str) -> tuple[list[tuple[int, bytes]], Any]:
    """The first elements, and those after them. Raises ValueError where there are fewer."""
    parts = list(_elements(data, order)) if isinstance(data, bytes) else data
    if len(parts) < count:
        raise ValueError("an array lacks its parts")
    return parts[:count], parts[count:]


def _cells(parts: list[tuple[int, bytes]], order: str, claims: _Claims, depth: int) -> Array:
    if depth > DEEPEST:
        raise ValueError(f"cells are more than {DEEPEST} deep")
    found = np.empty(len(parts), object)
    for n, (kind, data) in enumerate(parts):
        found[n] = _named(kind, data, order, claims, depth)[1]
    return found


def _numbers(kind: int, data: bytes, order: str) -> Array:
    if kind not in _STORED:
        raise ValueError(f"numbers of an unknown kind, {kind}")
    return np.frombuffer(data, f"{order}{_STORED[kind]}")


def _shaped(values: Array, dims: list[int]) -> Array:
    if len(dims) < 2 or min(dims) < 0:
        raise ValueError(f"an array of shape {dims}")
    return values.reshape(dims, order="F")
