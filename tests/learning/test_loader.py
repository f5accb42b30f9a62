"""Loader: stored crops to batches; what does not decode is left out, and threads change nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from mdfpipe.errors import DataError
from mdfpipe.learning.data.augment import Augment, generator_of
from mdfpipe.learning.data.batches import AUXILIARY, CropBatch, Draw
from mdfpipe.learning.data.crops import Crops
from mdfpipe.learning.data.loader import Loader, read_plain
from tests.learning.stored_crops import read, reader_of

STILL = Augment(flip=0, pad_px=0, erasing=0)
FULL = Augment(shift_x=0.1, scale=0.1, low_resolution=0.5, jitter=0.5, polarity=0.5)


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

    batches = Loader(crops, reader_of(crops), FULL, seed=0, threads=2).batches(endless(), 0)
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
        Loader(crops, reader_of(crops.take(np.arange(40)[::-1])), FULL, seed=0, threads=1)


# -- damage


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
        iter(Loader(damaged, reader_of(damaged), STILL, seed=0, threads=1).batches([Draw.plain(np.array([3]))], 0))
    )
    plain = torch.from_numpy(Augment().plain(read(reader, 3)))
    assert torch.equal(alone.images[0], plain)
    with pytest.raises(DataError, match="none of the 2 crops of a batch decodes; c/001"):
        list(Loader(damaged, reader_of(damaged), STILL, seed=0, threads=1).batches([Draw.plain(np.array([1, 2]))], 0))
