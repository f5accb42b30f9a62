"""The published protocols against the loops of PROTOCOLS 2, and vectors of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mdfpipe.evaluation.benchmark import evaluate_benchmark
from mdfpipe.evaluation.benchmarks import BenchmarkImages
from mdfpipe.evaluation.rerank import Rerank
from tests.evaluation.made_images import (
    INFRARED,
    VISIBLE,
    assert_equal,
    benchmark,
    everything,
    loop,
    permutations,
    places,
    rows_of,
    seeded,
    shuffled,
    tied_vectors,
    tree,
)
from tests.evaluation.published_loops import (
    kept_always,
    kept_by_llcm,
    kept_by_sysu,
    literal,
    literal_rerank,
)

# -- SYSU-MM01


@pytest.mark.parametrize("search", ["all", "indoor"])
@pytest.mark.parametrize("shots", [1, 10])
@pytest.mark.parametrize("galleries", ["official", "seeded"])
@pytest.mark.parametrize(("seed", "subjects"), [(3, 7), (1, 24)])
def test_sysu_equals_the_page(
    tmp_path: Path, search: str, shots: int, galleries: str, seed: int, subjects: int
) -> None:
    """Ties everywhere, persons whom no visible camera saw, fewer identities than ranks."""
    images = tree(seed, subjects, {"VIS": VISIBLE, "NIR": INFRARED}, 4 if shots == 1 else 12, 0.35)
    images = [one for one in images if one[1:3] != ("0002", "VIS")]
    vectors = tied_vectors(seed, len(images))
    orders = permutations(tmp_path / "exp" / "rand_perm_cam.mat", images)
    cameras = VISIBLE if search == "all" else (1, 2)
    queries = places(images, "NIR")
    expected = loop(images, vectors, kept_by_sysu, dedupe=True)
    answers, trials = [], 10 if shots == 1 else 2
    for trial in range(trials):
        gallery = seeded(images, cameras, shots, trial)
        if galleries == "official":
            gallery = [
                next(n for n, one in enumerate(images) if one[0] == f"vis/cam{camera}/{subject}/{number:04d}.jpg")
                for subject in sorted({one[1] for one in images})
                for camera in cameras
                for number in orders[camera, subject][trial][:shots].tolist()
            ]
        answers.append(expected(queries, gallery))
    rows, moved = shuffled(seed, rows_of(images), vectors)
    asked = benchmark(use="sysu", search=search, shots=shots, galleries=galleries, trials=trials)
    (found,) = evaluate_benchmark(asked, rows, moved, everything(rows), data=tmp_path)
    assert_equal(found, answers)
    assert (found.gallery_domain, found.probe_domain) == ("VIS", "NIR")
    assert min(answer.valid for answer in answers) < len(queries)
    assert found.rank[~found.valid].tolist() == [0] * int((~found.valid).sum())


def test_sysu_query_with_nothing_left_to_search() -> None:
    """Everybody stands before camera 2 alone: camera 3's lists are empty, camera 6's are not."""
    images = tree(2, 6, {"VIS": (2,), "NIR": INFRARED}, absent=0)
    vectors = tied_vectors(2, len(images))
    rows = rows_of(images)
    (found,) = evaluate_benchmark(benchmark(use="sysu", galleries="seeded"), rows, vectors, everything(rows))
    expected = loop(images, vectors, kept_by_sysu, dedupe=True)
    assert_equal(found, [expected(places(images, "NIR"), seeded(images, (2,), 1, trial)) for trial in range(10)])
    assert found.n.tolist() == [len(places(images, "NIR", (6,)))] * 10


def test_sampler_of_the_common_code() -> None:
    """The exact files of seeds 0..9; two lists written out, as Python's generator has given them since 3.2."""
    images = tree(5, 3, {"VIS": VISIBLE, "NIR": INFRARED}, 5, 0.1)
    rows = rows_of(images)
    asked = benchmark(use="sysu", galleries="seeded")
    (direction,) = asked.directions(BenchmarkImages.of(rows), None)
    names = rows["crop_id"].to_pylist()
    lists = [[names[n] for n in trial.gallery] for trial in direction.trials]
    assert lists == [[images[n][0] for n in seeded(images, VISIBLE, 1, trial)] for trial in range(10)]
    two = [(f"vis/cam1/0001/{n:04d}.jpg", "0001", "VIS", 1) for n in range(1, 9)]
    two += [(f"vis/cam{c}/0002/{n:04d}.jpg", "0002", "VIS", c) for c in (1, 4) for n in range(1, 9)]
    two += [("nir/cam3/0001/0001.jpg", "0001", "NIR", 3)]
    (direction,) = asked.directions(BenchmarkImages.of(rows_of(two)), None)
    drawn = [[int(two[n][0][-8:-4]) for n in trial.gallery] for trial in direction.trials[:2]]
    assert drawn == WRITTEN_OUT


WRITTEN_OUT = [[7, 7, 1], [3, 2, 5]]


def test_order_of_subjects_is_of_numbers() -> None:
    """sorted("%04d"): 2 before 10, however a file of vectors writes them."""
    images = [
        (f"{s}/{c}/{n}.jpg", s, "VIS" if c in VISIBLE else "NIR", c)
        for s in ("10", "2")
        for c in (1, 3)
        for n in (1, 2)
    ]
    (direction,) = benchmark(use="sysu", galleries="seeded").directions(BenchmarkImages.of(rows_of(images)), None)
    assert [images[n][1] for n in direction.trials[0].gallery] == ["2", "10"]


# -- the others


@pytest.mark.parametrize("seed", [0, 1])
def test_regdb_equals_the_page(seed: int) -> None:
    images = tree(seed, 9, {"VIS": (1,), "LWIR": (2,)}, 6, 0.1)
    vectors = tied_vectors(seed, len(images))
    rows, moved = shuffled(seed, rows_of(images), vectors)
    found = evaluate_benchmark(benchmark(use="regdb", split=3), rows, moved, everything(rows))
    assert [(one.gallery_domain, one.probe_domain) for one in found] == [("VIS", "LWIR"), ("LWIR", "VIS")]
    expected = loop(images, vectors, kept_always, dedupe=False)
    for one, (gallery, probe) in zip(found, [("VIS", "LWIR"), ("LWIR", "VIS")], strict=True):
        assert_equal(one, [expected(places(images, probe), places(images, gallery))])


@pytest.mark.parametrize("seed", [0, 1])
def test_llcm_equals_the_page(seed: int) -> None:
    cameras = {"VIS": (1, 2, 3, 9), "NIR": (1, 2, 9)}
    images = tree(seed, 8, cameras, 4, 0.3)
    vectors = tied_vectors(seed, len(images))
    rows, moved = shuffled(seed, rows_of(images), vectors)
    usable = everything(rows)
    every = {domain: places(images, domain) for domain in cameras}
    one_shot = {d: [seeded(images, range(1, 10), 1, trial, d) for trial in range(10)] for d in cameras}
    expected = loop(images, vectors, kept_by_llcm, dedupe=True)

    paper = evaluate_benchmark(benchmark(use="llcm_deen_paper"), rows, moved, usable)
    for found, (gallery, probe) in zip(paper, [("VIS", "NIR"), ("NIR", "VIS")], strict=True):
        assert (found.gallery_domain, found.probe_domain) == (gallery, probe)
        assert_equal(found, [expected(every[probe], drawn) for drawn in one_shot[gallery]])
    (testpy,) = evaluate_benchmark(benchmark(use="llcm_testpy_v2i"), rows, moved, usable)
    assert (testpy.gallery_domain, testpy.probe_domain) == ("VIS", "NIR")
    assert_equal(testpy, [expected(drawn, every["VIS"]) for drawn in one_shot["NIR"]])
    full = evaluate_benchmark(benchmark(use="llcm_idkl_full"), rows, moved, usable)
    plain = loop(images, vectors, kept_always, dedupe=True)
    for found, (gallery, probe) in zip(full, [("VIS", "NIR"), ("NIR", "VIS")], strict=True):
        assert_equal(found, [plain(every[probe], every[gallery])])


def test_llcms_conventions_are_three() -> None:
    """The same vectors, three answers; the drawn queries among everything give the least mAP (PROTOCOLS 2.3)."""
    images = tree(4, 30, {"VIS": range(1, 10), "NIR": (1, 2, 4, 5, 6, 7, 8, 9)}, 4, 0.3)
    generator = np.random.default_rng(4)
    people = generator.standard_normal((31, 32))
    vectors = np.array([people[int(one[1])] for one in images]) + 1.6 * generator.standard_normal((len(images), 32))
    rows = rows_of(images)
    uses = ("llcm_deen_paper", "llcm_testpy_v2i", "llcm_idkl_full")
    found = {
        use: evaluate_benchmark(benchmark(use=use), rows, vectors.astype(np.float32), everything(rows)) for use in uses
    }
    maps = {use: outcomes[0].of("map").mean() for use, outcomes in found.items()}
    assert min(abs(a - b) for a in maps.values() for b in maps.values() if a != b) > 0.01
    assert maps["llcm_testpy_v2i"] < maps["llcm_deen_paper"] - 0.05
    labels = {outcomes[0].protocol for outcomes in found.values()}
    assert len(labels) == 3


@pytest.mark.parametrize("seed", [0, 1])
def test_market_equals_the_page(seed: int) -> None:
    images = tree(seed, 10, {"VIS": range(1, 7)}, 4, 0.3)
    images += [(f"x/{n}.jpg", "-1" if n % 2 else "0000", "VIS", 1 + n % 6) for n in range(20)]
    generator = np.random.default_rng(seed)
    query = generator.random(len(images)) < 0.3
    query[-20:] = False
    sessions = np.where(query, "query", "bounding_box_test").tolist()
    vectors = tied_vectors(seed, len(images))
    rows, moved = shuffled(seed, rows_of(images, sessions), vectors)
    (found,) = evaluate_benchmark(benchmark(use="market"), rows, moved, everything(rows))
    order = sorted(range(len(images)), key=lambda n: (int(images[n][1]), images[n][3], images[n][0]))
    queries = [n for n in order if query[n]]
    gallery = [n for n in order if not query[n] and images[n][1] != "-1"]
    assert_equal(found, [loop(images, vectors, kept_by_llcm, dedupe=False)(queries, gallery)])
    assert found.left_out == {"junk": 10}
    assert found.gallery_images.tolist() == [len(gallery)]


def test_average_precision_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import average_precision_score

    images = tree(6, 8, {"VIS": (1,), "LWIR": (2,)}, 6, 0)
    vectors = np.random.default_rng(6).standard_normal((len(images), 24)).astype(np.float32)
    rows = rows_of(images)
    found = evaluate_benchmark(benchmark(use="regdb"), rows, vectors, everything(rows))[0]
    probes, gallery = places(images, "LWIR"), places(images, "VIS")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = [
        average_precision_score([images[g][1] == images[p][1] for g in gallery], unit[gallery] @ unit[p])
        for p in probes
    ]
    np.testing.assert_allclose(found.precision[0], expected, atol=1e-7)


# -- vectors


def test_euclidean_is_of_vectors_as_they_are() -> None:
    images = tree(7, 12, {"VIS": VISIBLE, "NIR": INFRARED}, 4, 0.2)
    generator = np.random.default_rng(7)
    vectors = generator.standard_normal((len(images), 8)) * generator.uniform(0.2, 3, (len(images), 1)) + 5
    rows = rows_of(images)
    asked = benchmark(use="sysu", galleries="seeded")
    found = [
        evaluate_benchmark(asked, rows, vectors.astype(np.float32), everything(rows), measure)[0]
        for measure in ("euclidean", "cosine")
    ]
    queries = places(images, "NIR")
    pid, cam = ([one[k] for one in images] for k in (1, 3))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for one, points in zip(found, (vectors, unit), strict=True):
        answers = []
        for trial in range(10):
            g = seeded(images, VISIBLE, 1, trial)
            dist = ((points[queries][:, None] - points[g][None]) ** 2).sum(axis=2)
            sides = ([pid[n] for n in queries], [pid[n] for n in g], [cam[n] for n in queries], [cam[n] for n in g])
            answers.append(literal(dist, *sides, kept_by_sysu, dedupe=True))
        assert_equal(one, answers)
    assert [one.measure for one in found] == ["euclidean", "cosine"]
    assert found[0].of("map").tolist() != found[1].of("map").tolist()


@pytest.mark.parametrize("use", ["sysu", "regdb", "market"])
def test_images_without_a_vector(use: str) -> None:
    """A query that does not decode misses, a gallery image that does not is absent; who is valid stays."""
    domains: dict[str, Sequence[int]] = {"VIS": VISIBLE, "LWIR" if use == "regdb" else "NIR": INFRARED}
    images = tree(9, 12, domains, 4, 0.2)
    if use == "market":
        images = [one for one in images if one[2] == "VIS"]
    sessions = ["query" if n % 3 == 0 else "bounding_box_test" for n in range(len(images))]
    vectors = tied_vectors(9, len(images))
    lost = set(np.random.default_rng(9).choice(len(images), len(images) // 4, replace=False).tolist())
    rows = rows_of(images, sessions)
    usable = np.array([n not in lost for n in range(len(images))])
    settings = {"sysu": {"galleries": "seeded"}}.get(use, {})
    broken = np.where(usable[:, None], vectors, np.nan)
    found = evaluate_benchmark(benchmark(use=use, **settings), rows, broken, usable)[0]
    rule = {"sysu": kept_by_sysu, "regdb": kept_always, "market": kept_by_llcm}[use]
    expected = loop(images, vectors, rule, dedupe=use == "sysu", lost=lost)
    queries, gallery = places(images, "LWIR" if use == "regdb" else "NIR"), places(images, "VIS")
    if use == "market":
        queries = [n for n in gallery if n % 3 == 0]
        gallery = [n for n in gallery if n % 3]
    trials = [seeded(images, VISIBLE, 1, trial) for trial in range(10)] if use == "sysu" else [gallery]
    assert_equal(found, [expected(queries, trial) for trial in trials])
    whole = evaluate_benchmark(benchmark(use=use, **settings), rows, vectors, everything(rows))[0]
    assert found.n.tolist() == whole.n.tolist()
    assert found.failed_queries == len(lost & set(queries)) > 0
    assert found.failed_gallery == len(lost & {n for trial in trials for n in trial}) > 0
    assert (whole.failed_queries, whole.failed_gallery) == (0, 0)


def test_reranked_before_any_camera_is_left_out() -> None:
    images = tree(11, 14, {"VIS": VISIBLE, "NIR": INFRARED}, 3, 0.2)
    generator = np.random.default_rng(11)
    people = generator.standard_normal((15, 12))
    vectors = np.array([people[int(one[1])] for one in images]) + 0.8 * generator.standard_normal((len(images), 12))
    rows, asked = rows_of(images), benchmark(use="sysu", galleries="seeded", trials=3)
    rerank = Rerank(k1=7, k2=3)
    usable = everything(rows)
    lost = {places(images, "NIR")[3], seeded(images, VISIBLE, 1, 0)[2]}
    usable[list(lost)] = False
    (found,) = evaluate_benchmark(asked, rows, vectors.astype(np.float32), usable, rerank=rerank)
    (plain,) = evaluate_benchmark(asked, rows, vectors.astype(np.float32), usable)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    answers = []
    for trial in range(3):
        queries, gallery = places(images, "NIR"), seeded(images, VISIBLE, 1, trial)
        has = [[n for n in side if n not in lost] for side in (queries, gallery)]
        both = unit[has[0] + has[1]]
        squared = 2 - 2 * both @ both.T
        np.fill_diagonal(squared, 0)
        dist = np.zeros((len(queries), len(gallery)))
        made = literal_rerank(squared, len(has[0]), 7, 3, 0.3)
        dist[np.ix_([n not in lost for n in queries], [n not in lost for n in gallery])] = made
        sides = [[images[n][k] for n in rows] for k in (1, 3) for rows in (queries, gallery)]
        absent, gone = ([k for k, n in enumerate(side) if n in lost] for side in (gallery, queries))
        answers.append(literal(dist, *sides, kept_by_sysu, dedupe=True, absent=absent, lost=gone))
    assert_equal(found, answers)
    assert (found.rerank, plain.rerank) == ("k1 7, k2 3, lambda 0.3", "off")
    assert found.of("map").tolist() != plain.of("map").tolist()
