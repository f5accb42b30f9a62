"""What is known of the published data sets: counts, galleries, splits and lists, from their own index files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mdfpipe.evaluation.benchmark import evaluate_benchmark, mean_and_spread
from mdfpipe.evaluation.benchmarks import BenchmarkImages
from tests.datasets.made_benchmarks import official_sysu_rows
from tests.evaluation.hdf5 import read_hdf5
from tests.evaluation.made_images import (
    benchmark,
    everything,
    rows_of,
)
from tests.evaluation.published_loops import (
    kept_by_llcm,
    literal,
)
from tests.real import ASSETS, needs_assets

INDEX = ASSETS / "index"


@needs_assets
@pytest.mark.parametrize(
    ("search", "shots", "gallery", "valid", "people"),
    [
        ("all", 1, 301, 3803, 96),
        ("indoor", 1, 112, 2208, 56),
        ("all", 10, 3010, 3803, 96),
        ("indoor", 10, 1120, 2208, 56),
    ],
)
def test_published_counts_of_sysu(search: str, shots: int, gallery: int, valid: int, people: int) -> None:
    rows, trials = official_sysu_rows(ASSETS), 2 if shots == 1 else 1
    rows = rows.filter(pc.equal(rows["split"].cast(pa.string()), "test"))
    vectors = np.random.default_rng(0).standard_normal((rows.num_rows, 4)).astype(np.float32)
    found = {
        kind: evaluate_benchmark(
            benchmark(
                use="sysu", search=search, shots=shots, permutations=str(INDEX / name), galleries=kind, trials=trials
            ),
            rows,
            vectors,
            everything(rows),
        )[0]
        for kind, name in (("official", "sysu_rand_perm_cam.mat"), ("seeded", "none"))
    }
    for one in found.values():
        assert one.rank.shape == (trials, 3803)
        assert one.n.tolist() == [valid] * trials
        assert one.gallery_images.tolist() == [gallery] * trials
        assert one.gallery_identities.tolist() == [people] * trials
    assert found["official"].of("map").tolist() != found["seeded"].of("map").tolist()


@needs_assets
def test_published_result_of_sysu() -> None:
    """Zero padding's own result file: its curves have a rank an identity and are shares of 3,803 queries, as ours."""
    found = read_hdf5(INDEX / "sysu_result_zero_padding_all_1shot.mat")
    curves, maps = found["performance/cmc_all"], found["performance/map_all"]
    assert curves is not None
    assert maps is not None
    assert curves.shape == (96, 10)  # 96 identities, ten trials; of images there are 301
    np.testing.assert_allclose(curves * 3803, (curves * 3803).round(), atol=1e-8)
    assert curves[-1].tolist() == pytest.approx([1.0] * 10)
    assert (np.diff(curves, axis=0) >= 0).all()
    for values, name in ((curves[0], "cmc_mean"), (maps.ravel(), "map_mean")):
        published = found[f"performance/{name}"]
        assert published is not None
        assert mean_and_spread(values)[0] == pytest.approx(published.ravel()[0], abs=1e-12)
    assert [100 * curves[0].mean(), 100 * maps.mean()] == pytest.approx([16.71, 19.10], abs=0.006)


@needs_assets
def test_published_splits_of_regdb() -> None:
    from scipy.io import loadmat

    splits = loadmat(INDEX / "RegDB_split.mat")
    everybody = set(range(1, 413))
    for number in range(10):
        train, test = (set(splits[name][number].tolist()) for name in ("TrainIdx", "TestIdx"))
        assert (len(train), len(test), train & test, train | test) == (206, 206, set(), everybody)
        if number % 4:
            continue
        images = [
            (f"{domain}/{s}/{n}.bmp", str(s), domain, c)
            for s in sorted(test)
            for domain, c in (("VIS", 1), ("LWIR", 2))
            for n in range(10)
        ]
        rows = rows_of(images)
        vectors = np.random.default_rng(number).standard_normal((len(images), 4)).astype(np.float32)
        for one in evaluate_benchmark(benchmark(use="regdb", split=number + 1), rows, vectors, everything(rows)):
            assert (one.rank.shape, one.n.tolist(), one.gallery_images.tolist()) == ((1, 2060), [2060], [2060])
            assert one.gallery_identities.tolist() == [206]


@needs_assets
def test_published_lists_of_market() -> None:
    """3,368 queries among 15,913 images, 2,798 of them distractors; 3,819 are junk."""
    from scipy.io import loadmat

    lists = {
        name: loadmat(INDEX / f"market1501_{name}.mat")[name].ravel().astype(int).tolist()
        for name in ("queryID", "queryCAM", "testID", "testCAM")
    }
    images = [
        (f"{kind}/{n:05d}.jpg", str(s), "VIS", c)
        for kind in ("query", "test")
        for n, (s, c) in enumerate(zip(lists[f"{kind}ID"], lists[f"{kind}CAM"], strict=True))
    ]
    sessions = ["query"] * len(lists["queryID"]) + ["bounding_box_test"] * len(lists["testID"])
    rows = rows_of(images, sessions)
    generator = np.random.default_rng(0)
    people = generator.standard_normal((1503, 16))
    vectors = np.array([people[int(one[1]) + 1] for one in images]) + 2 * generator.standard_normal((len(images), 16))
    (found,) = evaluate_benchmark(benchmark(use="market"), rows, vectors.astype(np.float32), everything(rows))
    assert (found.n.tolist(), found.gallery_images.tolist(), found.left_out) == ([3368], [15913], {"junk": 3819})
    assert found.gallery_identities.tolist() == [751]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    gallery = [n for n in range(3368, len(images)) if images[n][1] != "-1"]
    some = list(range(0, 3368, 300))
    pid, cam = ([one[k] for one in images] for k in (1, 3))
    sides = ([pid[n] for n in some], [pid[n] for n in gallery], [cam[n] for n in some], [cam[n] for n in gallery])
    answer = literal(-(unit[some] @ unit[gallery].T), *sides, kept_by_llcm, dedupe=False)
    order = BenchmarkImages.of(rows).chosen(np.array(sessions) == "query").tolist()
    ours = [found.precision[0][order.index(n)] for n in some]
    np.testing.assert_allclose(ours, [answer.precision[n] for n in range(len(some))], atol=1e-7)
