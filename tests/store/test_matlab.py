"""MATLAB files: what the common reader reads, and what ends that one's process."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdfpipe.errors import DataError
from mdfpipe.store.matlab import read_matlab
from tests.real import ASSETS, needs_assets

CELLS = np.empty((2, 2), object)
CELLS[:] = [[np.ones((2, 3)), "text"], [np.zeros((0, 0)), np.array([[1]], np.int8)]]
VALUES: dict[str, Any] = {
    "whole": np.array([[7, 300]], np.uint16),
    "one": np.array([[5]], np.uint8),
    "real": np.array([[1.5, -2.0], [np.nan, 4.0]]),
    "block": np.arange(24, dtype=np.int64).reshape(2, 3, 4),
    "cells": CELLS,
}
OTHERS: dict[str, Any] = {"text": "words", "structure": {"a": 1}, "complex": np.array([[1 + 2j]])}


def written(values: dict[str, Any], *, compressed: bool) -> bytes:
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, values, do_compression=compressed)
    return file.getvalue()


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, str) or expected.dtype.kind == "U":
        assert found is None
    elif expected.dtype == object:
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        for one, other in zip(found.ravel(), expected.ravel(), strict=True):
            assert_same(one, other)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("compressed", [False, True])
def test_what_was_written_is_read(tmp_path: Path, compressed: bool) -> None:
    (tmp_path / "a.mat").write_bytes(written(VALUES | OTHERS, compressed=compressed))
    found = read_matlab(tmp_path / "a.mat", "a.mat")
    assert list(found) == list(VALUES)
    for name, expected in VALUES.items():
        assert_same(found[name], expected)
    assert [found[name].dtype for name in ("whole", "one", "real", "block")] == ["u2", "u1", "f8", "i8"]


def test_bytes_in_the_other_order(tmp_path: Path) -> None:
    """As a machine with the greatest byte first writes it; with a small element, whose tag holds its data."""
    flags, shape = struct.pack(">IIII", 6, 8, 9, 0), struct.pack(">IIii", 5, 8, 1, 2)
    name, data = struct.pack(">HH4s", 2, 1, b"id"), struct.pack(">HHBBxx", 2, 2, 7, 8)
    body = flags + shape + name + data
    (tmp_path / "a.mat").write_bytes(
        b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + struct.pack(">II", 14, len(body)) + body
    )
    assert read_matlab(tmp_path / "a.mat", "a.mat")["id"].tolist() == [[7, 8]]


@needs_assets
def test_the_published_files() -> None:
    from scipy.io import loadmat

    read = 0
    for path in sorted((ASSETS / "index").glob("*.mat")):
        if path.read_bytes().startswith(b"MATLAB 7.3"):
            with pytest.raises(DataError, match=r"version 7.3; save it with -v7"):
                read_matlab(path, path.name)
            continue
        found = read_matlab(path, path.name)
        expected = {name: values for name, values in loadmat(path).items() if not name.startswith("__")}
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert_same(found[name], values)
        read += 1
    assert read >= 9


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_is_one_line(tmp_path: Path, compressed: bool) -> None:
    """Bytes changed, and the end cut off: an answer or DataError, never another error, and never the process's end."""
    whole, refused, place = written(VALUES | OTHERS, compressed=compressed), 0, tmp_path / "a.mat"
    for seed in range(200):
        chance, data = random.Random(seed), bytearray(whole)
        for _ in range(chance.choice((1, 2, 6))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        place.write_bytes(data[: chance.randrange(len(data))] if seed % 5 == 0 else data)
        said = ""
        try:
            read_matlab(place, "exp/a.mat")
        except DataError as error:
            said, refused = str(error), refused + 1
        assert not said or said.startswith("exp/a.mat: cannot be read as a MATLAB file of version 5 to 7: ")
        assert not said or said.isprintable()
    assert refused > 75


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it ends after 0 bytes"),
        (b"no matrix " * 20, "it has no header of one"),
        (b"MATLAB 7.3 MAT-file".ljust(512), "it is of version 7.3"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "a.mat").write_bytes(data)
    with pytest.raises(DataError, match=why):
        read_matlab(tmp_path / "a.mat", "a.mat")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_matlab(tmp_path / "b.mat", "b.mat")


def test_an_array_that_unfolds_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    packed = zlib.compressobj()
    body = packed.compress(struct.pack("<II", 14, 800) + bytes(2 << 20)) + packed.flush()
    head = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"
    (tmp_path / "a.mat").write_bytes(head + struct.pack("<II", 15, len(body)) + body)
    with pytest.raises(DataError, match=r"cut off, or larger than it says"):
        read_matlab(tmp_path / "a.mat", "a.mat")


def test_cells_in_cells_in_cells_are_refused(tmp_path: Path) -> None:
    deep: Any = np.array([[1]])
    for _ in range(5):
        outer = np.empty((1, 1), object)
        outer[0, 0] = deep
        deep = outer
    (tmp_path / "a.mat").write_bytes(written({"deep": deep}, compressed=False))
    with pytest.raises(DataError, match="cells are more than 3 deep"):
        read_matlab(tmp_path / "a.mat", "a.mat")
