"""Shards: tar tools read them, offsets read them, and the same crops give the same bytes."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from mdfpipe.errors import DataError
from mdfpipe.store.shards import ShardWriter, read_crop

CROPS = [
    ("v/000001/00", b"a" * 5),
    ("v/000001/01", b""),
    ("v/" + "long/" * 30 + "000002/00", b"b" * 1024),
    ("w", b"c" * 513),
]


def write(path: Path) -> list[tuple[int, int]]:
    with ShardWriter(path) as shard:
        return [shard.add(crop_id, "jpg", data) for crop_id, data in CROPS]


def test_tar_and_offsets_agree(tmp_path: Path) -> None:
    places = write(tmp_path / "a.tar")
    for (_, data), (offset, size) in zip(CROPS, places, strict=True):
        assert read_crop(tmp_path / "a.tar", offset, size) == data
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [m.name for m in tar] == [
            crop_id.replace("/", "__").replace(".", "%2E") + ".jpg" for crop_id, _ in CROPS
        ]
        assert {(m.mtime, m.uid, m.mode) for m in tar} == {(0, 0, 0o644)}


def test_same_crops_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    write(tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_an_empty_shard_is_a_tar(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar"):
        pass
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == []


def test_a_short_shard_is_named(tmp_path: Path) -> None:
    (offset, size), *_ = write(tmp_path / "a.tar")
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: offset + 2])
    with pytest.raises(DataError, match=r"a\.tar: expected 5 bytes at 512, got 2"):
        read_crop(tmp_path / "a.tar", offset, size)
