"""The trivial looks: crops whose answer is known, arithmetic of chance, slow transcriptions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy import stats

from mdfpipe.audit import trivial as baselines
from mdfpipe.audit.trivial import POOLED, Guard, TrivialRow, guard, upper_bound
from mdfpipe.errors import DataError
from mdfpipe.evaluation.measures.intervals import wilson
from mdfpipe.store.images import encode
from mdfpipe.store.run import Receipt, Run
from mdfpipe.store.shards import ShardWriter
from mdfpipe.store.tables import MANIFEST
from tests.drawn import draw
from tests.inline import runner

VIS, SWIR, MWIR, LWIR = "VIS-500m", "SWIR-30m", "MWIR-30m", "LWIR-30m"
Picture = NDArray[Any]


def pattern(rng: np.random.Generator) -> Picture:
    """A 384x128 picture of 8x8 blocks, (384, 128) in 0..1."""
    return np.kron(rng.uniform(0.1, 0.9, (8, 8)), np.ones((48, 16)))


def colour(picture: Picture) -> Picture:
    """8-bit RGB, all channels alike."""
    return np.repeat((picture * 255).astype(np.uint8)[..., None], 3, axis=2)


def deep(picture: Picture) -> Picture:
    """16-bit grey, as a thermal camera delivers."""
    return (picture[..., None] * 3000 + 7000).astype(np.uint16)


class Made:
    """A run folder with crops, written without running anything."""

    def __init__(self, folder: Path) -> None:
        self.run = Run(folder)
        self.crops: list[tuple[dict[str, Any], bytes]] = []

    def add(self, subject: str, domain: str, picture: Picture, split: str = "test", modality: str = "body") -> Made:
        data, codec = encode(picture)
        row = {
            "crop_id": f"{domain}/{subject}/{len(self.crops):03d}",
            "subject_id": subject,
            "domain": domain,
            "band": domain.split("-")[0],
            "modality": modality,
            "split": split,
            "codec": codec,
        }
        self.crops.append((row, data))
        return self

    def guard(self, order: NDArray[np.int64] | None = None) -> Guard:
        """The guard over the crops, with the manifest's rows in an order."""
        self.run.path.mkdir(exist_ok=True)
        rows = []
        with ShardWriter(self.run.path / "crops.tar") as shard:
            for row, data in self.crops:
                place = shard.add(row["crop_id"], row["codec"], data)
                rows.append(row | {"shard": "crops.tar", **place._asdict()})
        rows = [rows[n] for n in order] if order is not None else rows
        columns = []
        for field in MANIFEST:
            plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            empty = None if field.nullable else "" if plain == pa.string() else 0
            values = pa.array([row.get(field.name, empty) for row in rows], plain)
            columns.append(values.dictionary_encode().cast(field.type) if plain != field.type else values)
        self.run.commit(Receipt("manifest", 1, "manifest", {}, {}), pa.table(columns, schema=MANIFEST), {})
        return guard(self.run)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def row(found: Guard, baseline: str, domain: str, split: str = POOLED) -> TrivialRow:
    return next(r for r in found.rows if (r.baseline, r.probe_domain, r.split) == (baseline, domain, split))


# -- crops whose answer is known


def test_the_same_patterns_are_all_found_and_break_the_guard(made: Made) -> None:
    rng = np.random.default_rng(0)
    for number in range(8):
        picture = pattern(rng)
        split = "train" if number < 3 else "test"
        for copy in range(2):
            dimmer = picture * (0.9 if copy else 1.0)
            made.add(f"s{number}", VIS, colour(dimmer), split).add(f"s{number}", LWIR, deep(dimmer), split)
        made.add(f"s{number}", SWIR, colour(picture), split)
    found = made.guard()
    for name in ("8x8 thumbnail", "16x8 thumbnail", "HOG"):
        for domain in (LWIR, SWIR):
            assert (row(found, name, domain, "train").k, row(found, name, domain, "train").n) == (3, 3)
            assert (row(found, name, domain, "test").k, row(found, name, domain, "test").n) == (5, 5)
            pooled = row(found, name, domain)
            assert (pooled.k, pooled.n, pooled.expected, pooled.ratio) == (8, 8, 2.0, 4.0)
    assert not found.holds
    assert {r.probe_domain for r in found.judged} == {LWIR}
    assert found.verdict.startswith("the guard is broken: ")
    assert "8x8 thumbnail to LWIR-30m 8/8, 4.0 times (below 3 times chance" in found.verdict
    assert found.lines()[-1] == found.verdict
    assert found.crops == 5 * 8


def test_unrelated_patterns_are_found_by_chance(made: Made) -> None:
    rng = np.random.default_rng(1)
    for number in range(40):
        for domain in (VIS, MWIR, LWIR):
            made.add(f"s{number:02d}", domain, colour(pattern(rng)), "train" if number < 20 else "test")
    found = made.guard()
    for r in found.rows:
        if r.split == POOLED:
            assert (r.n, r.expected) == (40, 2.0)
            assert r.k < 6, r
    assert len(found.judged) == 2 * len(baselines.GUARDED)
    assert found.holds
    assert found.verdict.startswith("the guard holds: brightness, mean colour, 8x8 thumbnail below 3 times chance")


def test_brightness_finds_what_the_cosine_of_a_grey_mean_cannot(made: Made) -> None:
    rng = np.random.default_rng(2)
    for number in range(10):
        tint = np.array([1, 0.9, 0.8]) * (40 + 20 * number) + rng.uniform(-4, 4, 3)
        made.add(f"s{number}", VIS, np.full((384, 128, 3), tint.clip(0, 255)).astype(np.uint8))
        made.add(f"s{number}", LWIR, np.full((384, 128, 3), 30 + 12 * number, np.uint8))
    found = made.guard()
    assert row(found, "brightness", LWIR).k >= 8
    assert row(found, "mean colour", LWIR).k <= 2
    assert row(found, "8x8 thumbnail", LWIR).k <= 1  # nothing to see in any of them
    assert not found.holds


def test_chance_and_mates(made: Made) -> None:
    """Test: five enrolled, four of them searched in LWIR, and one more who is not enrolled. Train: two of two."""
    rng = np.random.default_rng(3)
    for number in range(5):
        made.add(f"s{number}", VIS, colour(pattern(rng)))
        if number:
            made.add(f"s{number}", LWIR, deep(pattern(rng)))
    made.add("stranger", LWIR, deep(pattern(rng)))
    for subject in ("t0", "t1"):
        made.add(subject, VIS, colour(pattern(rng)), "train").add(subject, LWIR, deep(pattern(rng)), "train")
    made.add("out", VIS, colour(pattern(rng)), "unused").add("s0", LWIR, colour(pattern(rng)), modality="face")
    found = made.guard()
    assert found.crops == 14
    test, train, pooled = (row(found, "HOG", LWIR, split) for split in ("test", "train", POOLED))
    assert (test.n, test.unmated, test.expected) == (4, 1, 4 / 5)
    assert (train.n, train.unmated, train.expected) == (2, 0, 1.0)
    assert (pooled.n, pooled.unmated, pooled.expected) == (6, 1, pytest.approx(1.8))
    assert pooled.found == {way: test.found[way] + train.found[way] for way in ("plain", "centred")}
    said = pooled.plain()
    assert said["chance"] == pytest.approx(0.3)
    assert said["rank1"] == pooled.k / 6
    assert said["times_chance"] == pytest.approx(pooled.k / 1.8)
    assert said["wilson"] == list(wilson(pooled.k, 6))


def test_the_order_of_rows_changes_nothing(made: Made) -> None:
    rng = np.random.default_rng(4)
    for number in range(6):
        for domain in (VIS, LWIR):
            for _ in range(9):
                made.add(f"s{number}", domain, colour(pattern(rng)) if domain == VIS else deep(pattern(rng)))
    first = made.guard()
    assert made.guard(rng.permutation(len(made.crops))) == first
    assert made.guard(np.arange(len(made.crops))[::-1]) == first


def test_of_equal_templates_the_first_subject_is_found_in_any_order_of_rows(made: Made) -> None:
    same = colour(pattern(np.random.default_rng(9)))
    for subject in ("b", "c", "a"):
        made.add(subject, VIS, same)
    for subject in ("b", "c"):  # not a, who is the first
        made.add(subject, LWIR, same)
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0]):
        assert {r.k for r in made.guard(np.array(order)).rows} == {0}


def test_the_guard_judges_pooled_thermal_rows_of_its_baselines() -> None:
    fine = TrivialRow("mean colour", LWIR, POOLED, 60, 0, 2.0, {"plain": 5, "centred": 1})
    assert Guard(VIS, 0, (fine,)).holds
    assert not Guard(VIS, 0, (fine, replace(fine, found={"plain": 1, "centred": 6}))).holds
    all_found = replace(fine, found={"plain": 60})
    others: list[dict[str, Any]] = [{"baseline": "HOG"}, {"split": "test"}, {"probe_domain": SWIR}]
    not_judged = [replace(all_found, **other) for other in others]
    assert Guard(VIS, 0, (fine, *not_judged)).holds
    empty = Guard(VIS, 0, tuple(not_judged))
    assert not empty.holds
    assert empty.verdict.startswith("the guard has nothing to judge")


# -- ways to search


def test_centring_takes_off_what_a_domain_has_in_common() -> None:
    own = np.eye(4)
    gallery, probes = own + np.array([9, 0, 0, 0]), own + np.array([0, 0, 5, 0])
    assert baselines.plain(gallery, probes).tolist() != [0, 1, 2, 3]
    assert baselines.centred(gallery, probes).tolist() == [0, 1, 2, 3]
    common = np.array([-2.0, 0.5, 0, 0])  # of the gallery alone: its templates lie to one side
    assert baselines.plain(own + common, own - own.mean(axis=0)).tolist() != [0, 1, 2, 3]
    assert baselines.centred(own + common, own).tolist() == [0, 1, 2, 3]
    assert baselines.plain(own, 3 * own[::-1]).tolist() == [3, 2, 1, 0]
    assert baselines.distance(np.array([[1.0], [2], [9]]), np.array([[50.0], [130], [60]])).tolist() == [0, 2, 1]


def test_vectors_without_length_are_no_division_by_zero() -> None:
    nothing = np.zeros((3, 4))
    for way in (baselines.plain, baselines.centred, baselines.distance):
        assert way(nothing, nothing).tolist() == [0, 0, 0]


# -- a crop as a vector


def test_colours_are_red_green_blue(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.add("s", VIS, np.full((384, 128, 3), (200, 100, 50), np.uint8)).guard()
    _, pictures = next(baselines._pictures(tmp_path, baselines._body_rows(made.run, VIS)))
    assert pictures.shape == (1, 128, 64, 3)
    assert pictures.dtype == np.float32
    np.testing.assert_allclose(baselines.mean_colour(pictures)[0] * 255, (200, 100, 50), atol=2)


def test_16_bit_crops_are_shown_by_their_own_percentiles(tmp_path: Path) -> None:
    made, rng = Made(tmp_path), np.random.default_rng(5)
    picture = rng.uniform(0, 1, (384, 128))
    hot = deep(picture)
    hot[:4, :4] = 65535  # less than one percent of the pixels
    for values in (deep(picture), deep(picture) // 2 + 300, hot, np.repeat(deep(picture), 3, axis=2)):
        made.add("s", VIS, values)
    made.add("s", VIS, np.full((384, 128, 1), 7000, np.uint16))
    made.guard()
    _, pictures = next(baselines._pictures(tmp_path, baselines._body_rows(made.run, VIS)))
    for other in (1, 2, 3):
        np.testing.assert_allclose(pictures[other][8:], pictures[0][8:], atol=0.01)
    assert 0.45 < pictures[0].mean() < 0.55
    np.testing.assert_array_equal(pictures[4], 0)


def test_thumbnails_are_means_of_their_cells() -> None:
    rng = np.random.default_rng(6)
    small = rng.uniform(0, 1, (16, 8))
    pictures = np.repeat(np.kron(small, np.ones((8, 8)))[None, ..., None], 3, axis=3).astype(np.float32)
    standard = (small - small.mean()) / small.std()
    np.testing.assert_allclose(baselines.thumbnail(16, 8)(pictures)[0], standard.ravel(), atol=1e-4)
    halves = small.reshape(8, 2, 8).mean(axis=1)
    np.testing.assert_allclose(
        baselines.thumbnail(8, 8)(pictures)[0], ((halves - halves.mean()) / halves.std()).ravel(), atol=1e-4
    )
    np.testing.assert_allclose(baselines.brightness(pictures)[0], small.mean(), atol=1e-5)
    np.testing.assert_array_equal(baselines.thumbnail(8, 8)(np.full_like(pictures, 0.5)), 0)


def test_hog_as_the_slow_transcription() -> None:
    rng = np.random.default_rng(7)
    picture = cv2.GaussianBlur(rng.uniform(0, 1, (128, 64)).astype(np.float32), (0, 0), 2)
    cells = np.zeros((8, 4, 9))
    for y in range(128):
        for x in range(64):
            dx = picture[y, x + 1] - picture[y, x - 1] if 0 < x < 63 else 0.0
            dy = picture[y + 1, x] - picture[y - 1, x] if 0 < y < 127 else 0.0
            length, turn = np.hypot(dx, dy), np.arctan2(dy, dx) % np.pi / np.pi * 9 - 0.5
            low = int(np.floor(turn))
            cells[y // 16, x // 16, low % 9] += length * (1 - (turn - low))
            cells[y // 16, x // 16, (low + 1) % 9] += length * (turn - low)
    blocks = []
    for y in range(7):
        for x in range(3):
            block = np.concatenate([cells[y, x], cells[y, x + 1], cells[y + 1, x], cells[y + 1, x + 1]])
            blocks.append(block / (np.sqrt((block**2).sum()) + 1e-3))
    pictures = np.repeat(picture[None, ..., None], 3, axis=3)
    found = baselines.hog(np.concatenate([pictures, pictures[:, ::-1]]))
    assert found.shape == (2, 756)
    np.testing.assert_allclose(found[0], np.concatenate(blocks), atol=2e-3)
    np.testing.assert_array_equal(baselines.hog(np.zeros((1, 128, 64, 3), np.float32)), 0)


def test_hog_does_not_see_polarity() -> None:
    rng = np.random.default_rng(8)
    picture = np.repeat(pattern(rng)[None, ::3, ::2, None], 3, axis=3).astype(np.float32)
    np.testing.assert_allclose(baselines.hog(1 - picture), baselines.hog(picture), atol=2e-3)


# -- bounds


def test_bounds_are_those_of_scipy() -> None:
    for n in (1, 2, 7, 48, 192):
        for k in {0, 1, n // 3, n - 1, n}:
            low, high = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
            assert wilson(k, n) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))
            exact = stats.binomtest(k, n, alternative="less").proportion_ci(0.95, "exact").high
            assert upper_bound(k, n) == pytest.approx(exact, abs=1e-9)
    assert wilson(0, 0) == (0.0, 1.0)
    assert upper_bound(0, 0) == 1.0


# -- what is refused, and a real run


def test_what_cannot_be_guarded_is_refused_with_its_reason(made: Made, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a run folder with a manifest, found none"):
        guard(Run(tmp_path / "none"))
    with pytest.raises(DataError, match=r"in the gallery domain VIS-500m, got the domains LWIR-30m; name one of these"):
        made.add("s", LWIR, np.zeros((384, 128, 3), np.uint8)).guard()
    made.add("s", VIS, np.zeros((384, 128, 3), np.uint8))
    made.crops = [(row, data[:40]) for row, data in made.crops]
    with pytest.raises(DataError, match=r"crop LWIR-30m/s/000: a JPEG without an end in 40 bytes"):
        made.guard()


def test_a_drawn_run(tmp_path: Path) -> None:
    draw(tmp_path / "data", frames=8)
    make, _ = runner(tmp_path / "data", tmp_path / "run")
    assert make.execute().complete
    found = guard(Run(tmp_path / "run"))
    assert {(r.probe_domain, r.split, r.n) for r in found.rows} == {
        (LWIR, "train", 2),
        (LWIR, "test", 2),
        (LWIR, POOLED, 4),
    }
    assert [r.baseline for r in found.rows][::3] == list(baselines.BASELINES)
    assert len(found.lines()) == 1 + len(found.rows) + 1
