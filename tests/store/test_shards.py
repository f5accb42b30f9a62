"""Shards: tar tools read them, offsets read them, and the same crops give the same bytes."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest

from mdfpipe.errors import DataError
from mdfpipe.store.shards import Place, ShardWriter, read_crop

CROPS = [
    ("v/000001/00", b"a" * 5),
    ("v/000001/01", b""),
    ("v/" + "long/" * 30 + "000002/00", b"b" * 1024),
    ("w", b"c" * 513),
]


def write(path: Path) -> list[Place]:
    with ShardWriter(path) as shard:
        return [shard.add(crop_id, "jpg", data) for crop_id, data in CROPS]


def test_tar_and_offsets_agree(tmp_path: Path) -> None:
    places = write(tmp_path / "a.tar")
    for (_, data), place in zip(CROPS, places, strict=True):
        assert read_crop(tmp_path / "a.tar", *place) == data
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [m.name for m in tar] == [
            crop_id.replace("/", "__").replace(".", "%2E") + ".jpg" for crop_id, _ in CROPS
        ]
        assert {(m.mtime, m.uid, m.mode) for m in tar} == {(0, 0, 0o644)}


def test_same_crops_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    write(tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize(
    "names", [["a/0/00"], ["v.1/000001/00f", "b/2/01", "b/3/01"], ["n" * 96, "n" * 97, "n" * 300], ["Grün/0/00", "b"]]
)
def test_it_is_byte_for_byte_the_tar_of_the_library(names: list[str], tmp_path: Path) -> None:
    """Headers, also of names too long for one, padding and the end of the archive."""
    contents = [bytes(range(256)) * 2 * number + b"x" * number for number in range(len(names))]
    with ShardWriter(tmp_path / "a.tar") as shard:
        places = [shard.add(name, "jpeg", data) for name, data in zip(names, contents, strict=True)]
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in zip(names, contents, strict=True):
            member = tarfile.TarInfo(f"{name.replace('/', '__').replace('.', '%2E')}.jpg")
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    made = (tmp_path / "a.tar").read_bytes()
    assert made == (tmp_path / "b.tar").read_bytes()
    assert [made[place.offset : place.offset + place.size] for place in places] == contents


def test_an_empty_shard_is_a_tar(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar"):
        pass
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == []


def test_a_short_shard_is_named(tmp_path: Path) -> None:
    place, *_ = write(tmp_path / "a.tar")
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: place.offset + 2])
    with pytest.raises(DataError, match=r"a\.tar: expected 5 bytes at 512, got 2"):
        read_crop(tmp_path / "a.tar", *place)


def test_no_flipped_bit_of_a_crop_passes(tmp_path: Path) -> None:
    """Of a shard: each crop is read as it was stored, or is refused by the shard's name."""
    path, chance = tmp_path / "a.tar", random.Random(3)
    places = write(path)
    whole, refused = path.read_bytes(), 0
    for _ in range(200):
        at = chance.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
        for (_, data), place in zip(CROPS, places, strict=True):
            if place.offset <= at < place.offset + place.size:
                refused += 1
                with pytest.raises(DataError, match=r"a\.tar: the \d+ bytes at \d+ are not those .* run crop again"):
                    read_crop(path, *place)
            else:
                assert read_crop(path, *place) == data
    assert refused > 20


def test_a_crop_of_an_earlier_version_has_no_checksum_and_is_read(tmp_path: Path) -> None:
    place = write(tmp_path / "a.tar")[3]
    assert read_crop(tmp_path / "a.tar", place.offset, place.size, None) == b"c" * 513


@pytest.mark.parametrize("place", [(-1, 5), (0, -5), (1 << 62, 5), (1 << 70, 5)])
def test_a_place_that_no_file_has_is_refused(place: tuple[int, int], tmp_path: Path) -> None:
    write(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"a\.tar: "):
        read_crop(tmp_path / "a.tar", *place, 0)
