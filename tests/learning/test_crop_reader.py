"""Crop reader: what a stored crop looks like, above 8 bits too, what is damaged, cache and open files."""

from __future__ import annotations

import contextlib
import errno
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mdfpipe.errors import DataError
from mdfpipe.learning.data import loader as module
from mdfpipe.learning.data.augment import Augment
from mdfpipe.learning.data.crops import Crops
from mdfpipe.learning.data.loader import read_plain
from mdfpipe.learning.recipes import Depth
from mdfpipe.store.images import decode_at, jpeg_size, resize
from tests.learning.stored_crops import jpeg, picture, read, reader_of, stored, whole


def png(image: NDArray[Any]) -> bytes:
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


# -- one crop


def test_a_crop_is_what_was_stored_in_rgb(crops: Crops) -> None:
    reader = reader_of(crops)
    for row in (0, 7, 39):
        assert np.abs(read(reader, row).astype(int) - picture(row)).max() <= 6


def test_eight_bit_png_and_grey_and_alpha(tmp_path: Path) -> None:
    image = picture(0)
    grey = image[..., 0]
    with_alpha = np.concatenate([image[..., ::-1], np.full((96, 32, 1), 9, np.uint8)], axis=2)
    crops = stored(tmp_path, [png(image), png(grey), cv2.imencode(".png", with_alpha)[1].tobytes()])
    reader = reader_of(crops)
    np.testing.assert_array_equal(read(reader, 0), image)
    np.testing.assert_array_equal(read(reader, 1), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(read(reader, 2), image)


@pytest.mark.parametrize(("height", "width"), [(48, 16), (36, 12), (24, 8), (64, 24), (192, 64), (48, 64), (120, 20)])
def test_other_sizes_show_the_same_picture(crops: Crops, height: int, width: int) -> None:
    expected = picture(3, height, width).astype(int)
    found = read(reader_of(crops, height, width), 3)
    assert np.abs(found - expected).mean() < 6
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("height", "width", "divided"), [(96, 32, 1), (49, 16, 1), (48, 16, 2), (36, 12, 2), (12, 4, 8)]
)
def test_a_jpeg_is_decoded_at_a_fraction_only_where_that_is_enough(height: int, width: int, divided: int) -> None:
    assert decode_at(jpeg(picture(0)), height, width).shape == (96 // divided, 32 // divided, 3)


@pytest.mark.parametrize("size", [(48, 16), (36, 12), (24, 8)])
def test_decoding_at_a_fraction_is_as_free_of_aliases_as_averaging(size: tuple[int, int]) -> None:
    y, x = np.mgrid[:96, :32]
    stripes = np.repeat(np.where((x + y) % 2, 255, 0)[..., None], 3, axis=2).astype(np.uint8)
    chirp = np.repeat((128 + 120 * np.sin(y**2 / 60 + x))[..., None], 3, axis=2).astype(np.uint8)
    flat = resize(decode_at(jpeg(stripes), *size), *size[::-1])
    assert np.abs(flat.astype(int) - 128).max() <= 3, "one-pixel stripes must become grey"
    for image, close in ((chirp, 12), (picture(1), 2)):
        whole = cv2.imdecode(np.frombuffer(jpeg(image), np.uint8), cv2.IMREAD_COLOR)
        averaged = cv2.resize(whole, size[::-1], interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(resize(decode_at(jpeg(image), *size), *size[::-1]) - averaged).mean() < close


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_of_elsewhere_are_read_as_they_are_shown(kind: str) -> None:
    """Stored lying, 96 wide and 32 high, and turned by their EXIF data: at any size, and at a fraction where enough."""
    found, file = Image.Exif(), io.BytesIO()
    found[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(picture(0)))).save(file, kind, exif=found, quality=100)
    for size, divided in (((96, 32), 1), ((48, 16), 2), ((49, 16), 1)):
        got = decode_at(file.getvalue(), *size)
        assert got.shape == (96 // (divided if kind == "JPEG" else 1), 32 // (divided if kind == "JPEG" else 1), 3)
        shown = resize(got, 32, 96)[..., ::-1]
        assert np.abs(shown.astype(int) - picture(0)).mean() < 8


def test_the_size_in_a_jpeg() -> None:
    assert jpeg_size(jpeg(picture(0, 50, 30))) == (50, 30)
    progressive = cv2.imencode(".jpg", picture(0, 50, 30), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert jpeg_size(progressive) == (50, 30)
    assert jpeg_size(b"\xff\xd8\xff\xe0\x00") is None


# -- above 8 bits


def deep(seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(1000, 5000, (96, 32), dtype=np.uint16)


def test_depth_policies_by_hand(tmp_path: Path) -> None:
    image = deep()
    crops = stored(tmp_path, [png(image)], window=np.float32([[1500, 4050]]))
    native = read(reader_of(crops, depth=Depth(policy="native")), 0)
    np.testing.assert_array_equal(native[..., 0], image >> 8)
    recorded = read(reader_of(crops, depth=Depth(policy="recorded")), 0)
    np.testing.assert_array_equal(recorded[..., 1], np.rint(np.clip((image - 1500.0) / 10, 0, 255)).astype(np.uint8))
    own = read(reader_of(crops), 0)
    low, high = np.percentile(image, (1, 99))
    expected = np.clip((image - low) * 255 / (high - low), 0, 255)
    assert np.abs(own[..., 2] - expected).max() <= 0.51
    assert (own == 0).mean() == pytest.approx(0.01, abs=0.003)
    wide = read(reader_of(crops, depth=Depth(low_percentile=0, high_percentile=100)), 0)
    assert (wide.min(), wide.max()) == (0, 255)


def test_deep_colour_and_flat_crops(tmp_path: Path) -> None:
    colour = np.stack([deep(c) + 4000 * np.uint16(c) for c in range(3)], axis=2)
    crops = stored(tmp_path, [png(colour), png(np.full((96, 32), 7, np.uint16))])
    reader = reader_of(crops, depth=Depth(policy="native"))
    np.testing.assert_array_equal(read(reader, 0), colour >> 8)
    assert not read(reader_of(crops), 1).any()


def test_percentiles_are_of_the_stored_crop_whatever_the_size(tmp_path: Path) -> None:
    crops = stored(tmp_path, [png(deep())])
    low, high = np.percentile(deep(), (1, 99))
    small = cv2.resize(deep(), (8, 24), interpolation=cv2.INTER_AREA)
    expected = np.clip((small - low) * 255 / (high - low), 0, 255)
    assert np.abs(read(reader_of(crops, 24, 8), 0)[..., 0] - expected).max() <= 0.51


# -- damage

BAD = {
    "c/001": "do not decode",
    "c/002": "without an end",
    "c/004": "no bytes",
    "c/005": r"expected \d+ bytes at \d+, got 0",
    "c/006": r"the \d+ bytes at \d+ are not those that were stored",
}


def test_damaged_crops_are_put_down(damaged: Crops) -> None:
    reader = reader_of(damaged, cache_bytes=10**8)
    for _ in range(2):
        assert [row for row in range(8) if reader.read(row) is None] == [1, 2, 4, 5, 6]
    assert sorted(reader.bad) == sorted(BAD)
    for crop_id, why in BAD.items():
        with pytest.raises(AssertionError, match=why):
            raise AssertionError(reader.bad[crop_id])


@pytest.mark.parametrize(("crop_id", "why"), BAD.items())
def test_strict_names_crop_and_shard(damaged: Crops, crop_id: str, why: str) -> None:
    row = int(crop_id[2:])
    with pytest.raises(DataError, match=rf"{row % 2}\.tar: crop {crop_id}: .*{why}"):
        reader_of(damaged, strict=True).read(row)


def test_a_flipped_bit_is_no_other_picture(tmp_path: Path) -> None:
    """A JPEG decodes whatever its bits are: only the checksum tells. One of before has none, and is read."""
    crops = whole(tmp_path)
    shard = crops.shards[0]
    for row in (0, 2):  # in the middle of both pictures' entropy-coded data
        at, data = int(crops.offset[row] + crops.size[row] // 2), shard.read_bytes()
        shard.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    reader = reader_of(crops)
    assert [row for row in range(8) if reader.read(row) is None] == [0, 2]
    before = reader_of(replace(crops, crc32=np.full(len(crops), -1, np.int64)))
    assert before.read(0) is not None


# -- cache and files


def test_the_cache_changes_nothing_but_reading(crops: Crops, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 96 * 32 * 3
    bare, cached = reader_of(crops), reader_of(crops, cache_bytes=10 * size + 5)
    for _ in range(2):
        for row in range(20):
            np.testing.assert_array_equal(read(bare, row), read(cached, row))
    asked: list[bytes] = []
    real = module.decode_at
    monkeypatch.setattr(module, "decode_at", lambda data, *size: (asked.append(data), real(data, *size))[1])
    for row in range(20):
        read(cached, row)
    assert len(asked) == 10, "ten crops fit, the first that were read"


def test_few_files_are_open_at_a_time(tmp_path: Path) -> None:
    crops = stored(tmp_path, [jpeg(picture(n)) for n in range(90)], shards=90)
    reader = reader_of(crops)
    rows = [int(b.row[0]) for b in read_plain(crops, reader, Augment(), rows_per_batch=1, threads=4)]
    assert rows == list(range(90))
    assert 1 < opened(tmp_path) <= module.OPEN_FILES
    reader.close()
    assert opened(tmp_path) == 0
    read(reader, 0)
    assert opened(tmp_path) == 1
    del reader
    assert opened(tmp_path) == 0


def opened(folder: Path) -> int:
    """Files below a folder that this process holds open."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(entry.readlink()))
    return sum(link.startswith(str(folder)) for link in links)


def test_a_crop_that_a_server_does_not_give_now_is_no_damaged_one(
    crops: Crops, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pread(*given: object) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")

    reader = reader_of(crops)
    monkeypatch.setattr("mdfpipe.store.shards.os.pread", pread)
    with pytest.raises(DataError, match=r"Stale file handle; give the same command again once it can be read"):
        reader.read(3)
    assert not reader.bad
