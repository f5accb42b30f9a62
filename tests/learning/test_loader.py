"""Loader: stored crops to batches. What a crop looks like, what is damaged, and that threads change nothing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from mdfpipe.errors import DataError
from mdfpipe.learning import loader as module
from mdfpipe.learning.augment import Augment, generator_of
from mdfpipe.learning.batches import AUXILIARY, CropBatch, Draw
from mdfpipe.learning.crops import Crops
from mdfpipe.learning.loader import CropReader, Loader, decoded, jpeg_size, read_plain, resized
from mdfpipe.learning.recipes import Depth
from mdfpipe.store.shards import ShardWriter

cv2.setNumThreads(1)
FULL = Augment(shift_x=0.1, scale=0.1, low_resolution=0.5, jitter=0.5, polarity=0.5)


def picture(n: int, height: int = 96, width: int = 32) -> NDArray[np.uint8]:
    """A smooth RGB picture, another one for each n."""
    y, x = np.mgrid[:height, :width]
    planes = [
        128 + 100 * np.sin((y + 0.5) * 96 / height / 19 + n + c) * np.cos((x + 0.5) * 32 / width / 11 - c)
        for c in range(3)
    ]
    return np.rint(np.stack(planes, axis=2)).astype(np.uint8)


def jpeg(image: NDArray[np.uint8]) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(".jpg", image[..., ::-1], options)[1].tobytes()


def png(image: NDArray[Any]) -> bytes:
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def stored(folder: Path, data: list[bytes], shards: int = 2, **columns: Any) -> Crops:
    """Crops c/000.. of these bytes, one subject for every two, dealt out to so many shards."""
    n = len(data)
    offset, size = np.zeros(n, np.int64), np.zeros(n, np.int64)
    paths = tuple(folder / f"{s}.tar" for s in range(shards))
    for s, path in enumerate(paths):
        with ShardWriter(path) as writer:
            for row in range(s, n, shards):
                offset[row], size[row] = writer.add(f"c/{row:03d}", "x", data[row])
    count = np.arange(n)
    subjects = tuple(f"{s:03d}" for s in range((n + 1) // 2))
    made = Crops(
        crop_id=pa.array([f"c/{row:03d}" for row in range(n)]),
        subject=count // 2,
        domain=count % 2,
        video=count % 2,
        shard=count % shards,
        offset=offset,
        size=size,
        source=count % 3,
        window=np.tile(np.float32([0, 65535]), (n, 1)),
        subjects=subjects,
        domains=("VIS", "SWIR"),
        videos=("a", "b"),
        shards=paths,
    )
    return replace(made, **columns)


def reader_of(crops: Crops, height: int = 96, width: int = 32, **options: Any) -> CropReader:
    return CropReader(crops, height, width, options.pop("depth", Depth()), **options)


@pytest.fixture
def crops(tmp_path: Path) -> Crops:
    return stored(tmp_path, [jpeg(picture(n)) for n in range(40)])


def read(reader: CropReader, row: int) -> NDArray[np.uint8]:
    image = reader.read(row)
    assert image is not None
    assert image.dtype == np.uint8
    assert image.shape == (reader.height, reader.width, 3)
    return image


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
    assert decoded(jpeg(picture(0)), height, width).shape == (96 // divided, 32 // divided, 3)


@pytest.mark.parametrize("size", [(48, 16), (36, 12), (24, 8)])
def test_decoding_at_a_fraction_is_as_free_of_aliases_as_averaging(size: tuple[int, int]) -> None:
    y, x = np.mgrid[:96, :32]
    stripes = np.repeat(np.where((x + y) % 2, 255, 0)[..., None], 3, axis=2).astype(np.uint8)
    chirp = np.repeat((128 + 120 * np.sin(y**2 / 60 + x))[..., None], 3, axis=2).astype(np.uint8)
    flat = resized(decoded(jpeg(stripes), *size), *size)
    assert np.abs(flat.astype(int) - 128).max() <= 3, "one-pixel stripes must become grey"
    for image, close in ((chirp, 12), (picture(1), 2)):
        whole = cv2.imdecode(np.frombuffer(jpeg(image), np.uint8), cv2.IMREAD_COLOR)
        averaged = cv2.resize(whole, size[::-1], interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(resized(decoded(jpeg(image), *size), *size) - averaged).mean() < close


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


@pytest.fixture
def damaged(tmp_path: Path) -> Crops:
    """Of 8 crops: 1 is no image, 2 has lost its second half, 4 has no bytes, 5 lies beyond the end, 6 is torn."""
    data = [jpeg(picture(n)) for n in range(8)]
    data[1] = b"no image" * 9
    data[2] = data[2][: len(data[2]) // 2] + bytes(len(data[2]) - len(data[2]) // 2)
    data[4] = b""
    crops = stored(tmp_path, data)
    offset = crops.offset.copy()
    offset[5] += 10**6
    offset[6] += 100
    return replace(crops, offset=offset)


BAD = {
    "c/001": "do not decode",
    "c/002": "without an end",
    "c/004": "no bytes",
    "c/005": r"expected \d+ bytes at \d+, got 0",
    "c/006": "do not decode",
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


def test_a_missing_shard_stops_everything(crops: Crops) -> None:
    crops.shards[1].unlink()
    reader = reader_of(crops)
    read(reader, 0)
    with pytest.raises(DataError, match=r"1\.tar: the shard cannot be opened: No such file"):
        reader.read(1)
    with pytest.raises(DataError, match=r"1\.tar"):
        list(read_plain(crops, reader, Augment(), rows_per_batch=4, threads=2))
    assert not workers()


def test_damaged_crops_leave_their_batch(damaged: Crops) -> None:
    reader = reader_of(damaged)
    loader = Loader(damaged, reader, Augment(), seed=0, threads=2)
    batch, second = loader.batches([Draw.plain(np.arange(8)), Draw.plain(np.array([0, 5, 3]))], 0)
    assert batch.row.tolist() == [0, 3, 7]
    assert batch.subject.tolist() == [0, 1, 3]
    assert len(batch.images) == 3
    assert second.row.tolist() == [0, 3]
    assert loader.left_out == 6
    alone = next(
        iter(Loader(damaged, reader_of(damaged), None, seed=0, threads=1).batches([Draw.plain(np.array([3]))], 0))
    )
    plain = torch.from_numpy(Augment().plain(read(reader, 3)))
    assert torch.equal(alone.images[0], plain)
    with pytest.raises(DataError, match="none of the 2 crops of a batch decodes; c/001"):
        list(Loader(damaged, reader_of(damaged), None, seed=0, threads=1).batches([Draw.plain(np.array([1, 2]))], 0))


# -- cache and files


def test_the_cache_changes_nothing_but_reading(crops: Crops, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 96 * 32 * 3
    bare, cached = reader_of(crops), reader_of(crops, cache_bytes=10 * size + 5)
    for _ in range(2):
        for row in range(20):
            np.testing.assert_array_equal(read(bare, row), read(cached, row))
    asked: list[bytes] = []
    real = module.decoded
    monkeypatch.setattr(module, "decoded", lambda data, *size: (asked.append(data), real(data, *size))[1])
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


# -- batches


def draws(count: int = 6, size: int = 17) -> list[Draw]:
    generator = np.random.default_rng(0)
    return [
        Draw(generator.integers(0, 40, size), generator.integers(0, 2, size).astype(np.int8), np.zeros(size, np.int8))
        for _ in range(count)
    ]


def workers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("crops")]


def same(first: list[CropBatch], second: list[CropBatch]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(value, vars(b)[name]) for a, b in pairs for name, value in vars(a).items())


def load(crops: Crops, threads: int = 2, epoch: int = 0, seed: int = 0, **options: Any) -> list[CropBatch]:
    reader = reader_of(crops, cache_bytes=options.pop("cache_bytes", 0))
    return list(Loader(crops, reader, FULL, seed=seed, threads=threads).batches(draws(), epoch, **options))


def test_threads_and_cache_change_nothing(crops: Crops) -> None:
    alone = load(crops, threads=1)
    assert same(alone, load(crops, threads=4))
    assert same(alone, load(crops, threads=3, cache_bytes=200_000))
    assert not same(alone, load(crops, epoch=1))
    assert not same(alone, load(crops, seed=1))


def test_a_batch_holds_what_was_drawn(crops: Crops) -> None:
    drawn = Draw(np.array([5, 5, 0, 39]), np.array([0, 1, 0, 0], np.int8), np.array([0, 1, 2, 0], np.int8))
    (batch,) = Loader(crops, reader_of(crops), FULL, seed=3, threads=1).batches([drawn], 7)
    assert batch.subject.tolist() == [2, 2, 0, 19]
    assert batch.domain.tolist() == [1, 1, 0, 1]
    assert batch.source.tolist() == [2, 2, 0, 0]
    assert batch.view.tolist() == [0, 1, 0, 0]
    assert batch.role.tolist() == [0, 1, 2, 0]
    assert batch.row.tolist() == [5, 5, 0, 39]
    assert {value.dtype for name, value in vars(batch).items() if name != "images"} == {torch.int64}
    assert batch.images.shape == (4, 3, 96, 32)
    assert batch.images.dtype == torch.float32
    generator = generator_of(3, 7, "c/005", 0, AUXILIARY, -1)
    image = FULL.training(read(reader_of(crops), 5), generator, view=AUXILIARY, source=2)
    assert torch.equal(batch.images[1], torch.from_numpy(image))


def test_a_crop_is_changed_alike_wherever_it_is_drawn(crops: Crops) -> None:
    def images(rows: list[int], **options: Any) -> torch.Tensor:
        loader = Loader(crops, reader_of(crops), FULL, seed=0, threads=1)
        return torch.cat([b.images for b in loader.batches([Draw.plain(np.array(rows))] * 2, 0, **options)])

    one, other = images([3, 9, 3]), images([9, 3])
    assert torch.equal(one[0], other[1])
    assert torch.equal(one[1], other[0])
    assert not torch.equal(one[0], one[2]), "twice in a batch: twice changed"
    assert torch.equal(one[:3], one[3:]), "without numbers, the same in a later batch"
    numbered = images([3, 9, 3], first=4)
    assert not torch.equal(numbered[:3], numbered[3:])
    assert torch.equal(numbered[3:], images([3, 9, 3], first=5)[:3]), "taken up at batch 5"


def test_plain_batches_in_row_order(crops: Crops) -> None:
    augment = Augment(normalise="imagenet")
    batches = list(read_plain(crops, reader_of(crops), augment, rows_per_batch=16, threads=3))
    assert [len(b) for b in batches] == [16, 16, 8]
    assert torch.cat([b.row for b in batches]).tolist() == list(range(40))
    images = torch.cat([b.images for b in batches])
    reader = reader_of(crops)
    for row in (0, 17, 39):
        assert torch.equal(images[row], torch.from_numpy(augment.plain(read(reader, row))))


def test_plain_batches_leave_out_what_does_not_decode(damaged: Crops) -> None:
    batches = list(read_plain(damaged, reader_of(damaged), Augment(), rows_per_batch=3, threads=2))
    assert [b.row.tolist() for b in batches] == [[0], [3], [7]]
    only_bad = damaged.take(np.array([1, 2]))
    assert list(read_plain(only_bad, reader_of(only_bad), Augment(), rows_per_batch=1, threads=1)) == []


def test_few_batches_are_under_way(crops: Crops) -> None:
    taken = 0

    def endless() -> Iterator[Draw]:
        nonlocal taken
        while True:
            taken += 1
            yield Draw.plain(np.arange(4))

    batches = Loader(crops, reader_of(crops), FULL, seed=0, threads=2, ahead=3).batches(endless(), 0)
    for number in range(1, 20):
        next(batches)
        assert taken <= number + 3
    batches.close()  # type: ignore[attr-defined]
    assert not workers()


def test_an_abandoned_iterator_ends_its_threads(crops: Crops) -> None:
    batches = Loader(crops, reader_of(crops), FULL, seed=0, threads=3).batches(draws(50), 0)
    next(batches)
    assert workers()
    del batches
    assert not workers()


def test_what_goes_wrong_in_a_thread_reaches_the_caller(crops: Crops, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("augmenting")

    monkeypatch.setattr(Augment, "training", fails)
    with pytest.raises(ZeroDivisionError, match="augmenting"):
        load(crops)
    assert not workers()
    assert not list(Loader(crops, reader_of(crops), FULL, seed=0, threads=1).batches([], 0))


def test_draws_that_fail_reach_the_caller(crops: Crops) -> None:
    def draws() -> Iterator[Draw]:
        yield Draw.plain(np.arange(4))
        raise DataError("no more subjects")

    with pytest.raises(DataError, match="no more subjects"):
        list(Loader(crops, reader_of(crops), FULL, seed=0, threads=2).batches(draws(), 0))
    assert not workers()


def test_a_reader_of_other_crops_is_refused(crops: Crops) -> None:
    with pytest.raises(ValueError, match="other crops"):
        Loader(crops, reader_of(crops.take(np.arange(40)[::-1])), None, seed=0, threads=1)
