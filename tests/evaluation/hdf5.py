"""The little of HDF5 that the published files use: groups of float64 arrays and strings (superblock 0, MATLAB 7.3)."""

from __future__ import annotations

import struct
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Found = NDArray[np.float64] | None


def read_hdf5(path: Path) -> dict[str, Found]:
    """Name, or group/name -> array; None for what is no float64 (a string)."""
    data = path.read_bytes()
    data = data[512:] if data.startswith(b"MATLAB 7.3") else data  # a block of MATLAB's own, not counted in addresses
    assert data[:8] == b"\x89HDF\r\n\x1a\n"
    assert data[8] == 0, "superblock 0"
    return _group(data, *struct.unpack_from("<QQ", data, 80))


def _group(data: bytes, tree: int, heap: int) -> dict[str, Found]:
    names = struct.unpack_from("<Q", data, heap + 24)[0]
    found: dict[str, Found] = {}
    for (node,) in _children(data, tree, 8):
        assert data[node : node + 4] == b"SNOD"
        for entry in range(struct.unpack_from("<H", data, node + 6)[0]):
            name, header = struct.unpack_from("<QQ", data, node + 8 + 40 * entry)
            text = data[names + name : data.index(b"\0", names + name)].decode()
            messages = _messages(data, header)
            if 17 in messages:
                inner = _group(data, *struct.unpack_from("<QQ", data, messages[17]))
                found |= {f"{text}/{below}": values for below, values in inner.items()}
            elif 1 in messages:
                found[text] = _dataset(data, messages)
    return found


def _children(data: bytes, tree: int, key: int) -> list[tuple[int]]:
    """Addresses of the leaves' children in a version 1 B-tree whose keys have `key` bytes."""
    assert data[tree : tree + 4] == b"TREE"
    level, used = data[tree + 5], struct.unpack_from("<H", data, tree + 6)[0]
    places = [tree + 24 + key + entry * (key + 8) for entry in range(used)]
    addresses = [struct.unpack_from("<Q", data, place)[0] for place in places]
    return [(a,) for a in addresses] if not level else [leaf for a in addresses for leaf in _children(data, a, key)]


def _messages(data: bytes, header: int) -> dict[int, int]:
    """Kind -> where it begins, of the messages of an object's header."""
    count, size = struct.unpack_from("<H", data, header + 2)[0], struct.unpack_from("<I", data, header + 8)[0]
    parts, messages, seen = [(header + 16, size)], dict[int, int](), 0
    for at, size in parts:
        end = at + size
        while at < end and seen < count:
            kind, length = struct.unpack_from("<HH", data, at)
            messages[kind] = at + 8
            if kind == 16:  # it goes on elsewhere
                parts.append(struct.unpack_from("<QQ", data, at + 8))
            at, seen = at + 8 + length, seen + 1
    return messages


def _dataset(data: bytes, messages: dict[int, int]) -> Found:
    space, kind, layout = messages[1], messages[3], messages[8]
    if data[kind] & 15 != 1:  # no floating point: a string
        return None
    shape = struct.unpack_from(f"<{data[space + 1]}Q", data, space + 8)
    assert data[layout] == 3
    if data[layout + 1] == 0:  # within the header
        return np.frombuffer(data, "<f8", int(np.prod(shape)), layout + 4).reshape(shape)
    if data[layout + 1] == 1:  # in one piece
        return np.frombuffer(data, "<f8", int(np.prod(shape)), struct.unpack_from("<Q", data, layout + 2)[0]).reshape(
            shape
        )
    rank = data[layout + 2]  # in chunks; one dimension more than the array has
    tree = struct.unpack_from("<Q", data, layout + 3)[0]
    chunk = struct.unpack_from(f"<{rank - 1}I", data, layout + 11)
    found = np.full(shape, np.nan)
    for offset, address in _chunks(data, tree, rank):
        part = np.frombuffer(data, "<f8", int(np.prod(chunk)), address).reshape(chunk)
        for place in product(*(range(n) for n in chunk)):
            target = tuple(o + p for o, p in zip(offset, place, strict=True))
            if all(t < s for t, s in zip(target, shape, strict=True)):
                found[target] = part[place]
    return found


def _chunks(data: bytes, tree: int, rank: int) -> list[tuple[tuple[int, ...], int]]:
    key = 8 + 8 * rank
    level, used = data[tree + 5], struct.unpack_from("<H", data, tree + 6)[0]
    found = []
    for entry in range(used):
        place = tree + 24 + entry * (key + 8)
        address = struct.unpack_from("<Q", data, place + key)[0]
        if level:
            found += _chunks(data, address, rank)
        else:
            found.append((struct.unpack_from(f"<{rank - 1}Q", data, place + 8), address))
    return found
