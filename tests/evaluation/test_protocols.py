"""The published protocols: against the loops of PROTOCOLS 2, and against what is known of the published data sets."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError, DataError, ProtocolError
from mdfpipe.evaluation.benchmark import Outcome, evaluate_benchmark, mean_and_spread
from mdfpipe.evaluation.protocols import Benchmark, Images
from mdfpipe.evaluation.rerank import Rerank
from tests.datasets.made_benchmarks import official_sysu_rows
from tests.evaluation.hdf5 import read_hdf5
from tests.evaluation.published_loops import (
    Answer,
    kept_always,
    kept_by_llcm,
    kept_by_sysu,
    literal,
    literal_rerank,
)
from tests.real import ASSETS, needs_assets

INDEX = ASSETS / "index"
VISIBLE, INFRARED = (1, 2, 4, 5), (3, 6)
Tree = list[tuple[str, str, str, int]]
"""crop_id, subject, domain, camera of each image."""


def benchmark(**settings: Any) -> Benchmark:
    return validate(Benchmark, settings, "test")


def tree(seed: int, subjects: int, cameras: dict[str, Sequence[int]], most: int = 4, absent: float = 0.2) -> Tree:
    """Images of subjects under the cameras of each domain; some were not seen by some."""
    generator = np.random.default_rng(seed)
    found: Tree = []
    for subject in range(1, subjects + 1):
        for domain, numbers in cameras.items():
            for camera in numbers:
                if generator.random() >= absent:
                    count = int(generator.integers(1, most + 1))
                    folder = f"{domain.lower()}/cam{camera}/{subject:04d}"
                    found += [(f"{folder}/{n:04d}.jpg", f"{subject:04d}", domain, camera) for n in range(1, count + 1)]
    return found


def rows_of(images: Tree, sessions: Sequence[str] | None = None) -> pa.Table:
    crop, subject, domain, camera = zip(*images, strict=True)
    return pa.table(
        {
            "crop_id": list(crop),
            "subject_id": list(subject),
            "domain": list(domain),
            "camera_id": [str(one) for one in camera],
            "session_id": pa.array(sessions or [None] * len(images), pa.string()),
        }
    )


def tied_vectors(seed: int, count: int) -> Any:
    """Of +1 and -1: all of one length, and their products small whole numbers, so that many are equal."""
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), (count, 16))


def shuffled(seed: int, rows: pa.Table, vectors: Any) -> tuple[pa.Table, Any]:
    order = np.random.default_rng(seed).permutation(rows.num_rows)
    return rows.take(pa.array(order)), vectors[order]


def everything(rows: pa.Table) -> Any:
    return np.ones(rows.num_rows, bool)


Loop = Callable[[list[int], list[int]], Answer]
"""Places of queries and of gallery images in a tree -> what the page's loop gives."""


def loop(images: Tree, vectors: Any, keep: Any, *, dedupe: bool, **more: Any) -> Loop:
    def answer(queries: list[int], gallery: list[int]) -> Answer:
        dist = -(vectors[queries] @ vectors[gallery].T)
        side = [[images[n] for n in rows] for rows in (queries, gallery)]
        pids, cams = ([[image[k] for image in rows] for rows in side] for k in (1, 3))
        places = {name: {rows.index(n) for n in lost if n in rows} for name, (rows, lost) in more_of(queries, gallery)}
        return literal(dist, *pids, *cams, keep, dedupe=dedupe, **places)

    def more_of(queries: list[int], gallery: list[int]) -> list[tuple[str, tuple[list[int], Any]]]:
        lost = more.get("lost", ())
        return [("lost", (queries, lost)), ("absent", (gallery, lost))]

    return answer


def assert_equal(found: Outcome, answers: list[Answer]) -> None:
    assert found.n.tolist() == [answer.valid for answer in answers]
    np.testing.assert_allclose(found.cmc, [answer.cmc for answer in answers], rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.of("map"), [answer.map for answer in answers], rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.of("minp"), [answer.minp for answer in answers], rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.of("rank-5"), found.cmc[:, 4])


def places(images: Tree, domain: str, cameras: Sequence[int] | None = None) -> list[int]:
    return [n for n, one in enumerate(images) if one[2] == domain and (cameras is None or one[3] in cameras)]


# -- SYSU-MM01


def seeded(images: Tree, cameras: Sequence[int], shots: int, trial: int, domain: str = "VIS") -> list[int]:
    """PROTOCOLS 2.1, as the page says it, with the module's own generator."""
    random.seed(trial)
    found = []
    for subject in sorted({one[1] for one in images}):
        for camera in cameras:
            files = sorted(one[0] for one in images if one[1:] == (subject, domain, camera))
            if not files:
                continue
            drawn = [random.choice(files)] if shots == 1 else random.sample(files, min(shots, len(files)))
            found += [next(n for n, one in enumerate(images) if one[0] == name) for name in drawn]
    return found


def permutations(path: Path, images: Tree, trials: int = 10) -> dict[tuple[int, str], Any]:
    """Write a rand_perm_cam.mat for a tree, in the published structure."""
    from scipy.io import savemat

    generator = np.random.default_rng(8)
    subjects = sorted({one[1] for one in images})
    orders: dict[tuple[int, str], Any] = {}
    cells = np.empty((6, 1), object)
    for camera in range(1, 7):
        own = np.empty((int(subjects[-1]), 1), object)
        for n in range(len(own)):
            count = sum(one[1] == f"{n + 1:04d}" and one[3] == camera for one in images)
            own[n, 0] = np.array([generator.permutation(count) + 1 for _ in range(trials)], np.uint8)
            orders[camera, f"{n + 1:04d}"] = own[n, 0]
        cells[camera - 1, 0] = own
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"rand_perm_cam": cells})
    return orders


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
    (direction,) = asked.directions(Images.of(rows), None)
    names = rows["crop_id"].to_pylist()
    lists = [[names[n] for n in trial.gallery] for trial in direction.trials]
    assert lists == [[images[n][0] for n in seeded(images, VISIBLE, 1, trial)] for trial in range(10)]
    two = [(f"vis/cam1/0001/{n:04d}.jpg", "0001", "VIS", 1) for n in range(1, 9)]
    two += [(f"vis/cam{c}/0002/{n:04d}.jpg", "0002", "VIS", c) for c in (1, 4) for n in range(1, 9)]
    two += [("nir/cam3/0001/0001.jpg", "0001", "NIR", 3)]
    (direction,) = asked.directions(Images.of(rows_of(two)), None)
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
    (direction,) = benchmark(use="sysu", galleries="seeded").directions(Images.of(rows_of(images)), None)
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


# -- refusals


def test_refusals() -> None:
    images = tree(0, 4, {"VIS": VISIBLE, "NIR": INFRARED}, absent=0)
    rows, asked = rows_of(images), benchmark(use="sysu", galleries="seeded")
    vectors, usable = tied_vectors(0, len(images)), everything(rows)
    blind = rows.drop_columns("camera_id")
    with pytest.raises(ProtocolError, match=r"sysu: expected camera_id of every row.*have none \(such as one of"):
        evaluate_benchmark(asked, blind, vectors, usable)
    visible = rows.filter(pc.equal(rows["domain"], "VIS"))
    with pytest.raises(ProtocolError, match="sysu: expected rows of band NIR, got VIS only"):
        evaluate_benchmark(asked, visible, vectors[: visible.num_rows], usable[: visible.num_rows])
    with pytest.raises(ProtocolError, match="regdb: expected rows of band LWIR, got NIR, VIS only"):
        evaluate_benchmark(benchmark(use="regdb"), rows, vectors, usable)
    with pytest.raises(ProtocolError, match="market: expected rows of session_id query and bounding_box_test"):
        evaluate_benchmark(benchmark(use="market"), rows, vectors, usable)
    with pytest.raises(ProtocolError, match="benchmark: expected rows with subject_id, domain and crop_id"):
        evaluate_benchmark(asked, rows.drop_columns("crop_id"), vectors, usable)
    swapped = rows.set_column(3, "camera_id", pa.array(["3"] * rows.num_rows))
    with pytest.raises(ProtocolError, match="sysu: camera 3 has VIS rows"):
        evaluate_benchmark(asked, swapped, vectors, usable)
    with pytest.raises(ProtocolError, match="camera_id: expected a number such as 3 or cam3, got 'left'"):
        evaluate_benchmark(asked, rows.set_column(3, "camera_id", pa.array(["left"] * rows.num_rows)), vectors, usable)
    far = rows.set_column(
        2, "domain", pa.array(["VIS-5m" if n == 0 else d for n, d in enumerate(rows["domain"].to_pylist())])
    )
    with pytest.raises(ProtocolError, match="sysu: expected one domain of band VIS, got VIS, VIS-5m"):
        evaluate_benchmark(asked, far, vectors, usable)
    with pytest.raises(DataError, match="1 are zero and have no cosine"):
        evaluate_benchmark(asked, rows, np.where(np.arange(len(vectors))[:, None] == 0, 0, vectors), usable)
    with pytest.raises(DataError, match="expected lengths whose squares are below"):
        evaluate_benchmark(asked, rows, np.full_like(vectors, np.nan), usable)
    with pytest.raises(DataError, match="benchmark: expected"):
        evaluate_benchmark(asked, rows, vectors[1:], usable)


def test_official_galleries_need_the_whole_data_set(tmp_path: Path) -> None:
    images = tree(0, 4, {"VIS": VISIBLE, "NIR": INFRARED}, absent=0)
    permutations(tmp_path / "exp/rand_perm_cam.mat", images)
    rows = rows_of(images).slice(1)
    with pytest.raises(ProtocolError, match=r"sysu: subject 0001, camera 1: .* the official galleries need the whole"):
        evaluate_benchmark(benchmark(use="sysu"), rows, tied_vectors(0, rows.num_rows), everything(rows), data=tmp_path)
    with pytest.raises(ConfigError, match=r"galleries 'exp/rand_perm_cam.mat' not found"):
        evaluate_benchmark(benchmark(use="sysu"), rows, tied_vectors(0, rows.num_rows), everything(rows))
    (tmp_path / "exp/rand_perm_cam.mat").write_bytes(b"no matrix")
    with pytest.raises(ConfigError, match=r"expected the published rand_perm_cam.mat"):
        evaluate_benchmark(benchmark(use="sysu"), rows, tied_vectors(0, rows.num_rows), everything(rows), data=tmp_path)


def test_a_name_says_every_choice() -> None:
    labels = [
        benchmark(use="sysu").label,
        benchmark(use="sysu", search="indoor", shots=10, galleries="seeded", trials=3).label,
        benchmark(use="regdb", split=4).label,
    ]
    assert labels == [
        "sysu all-search single-shot, official galleries, 10 trials",
        "sysu indoor-search multi-shot (10), seeded galleries, 3 trials",
        "regdb split 4 of 10, all images",
    ]
    every = [benchmark(use=use).label for use in Benchmark.choices()]
    assert [label.split()[0].rstrip(",") for label in every] == Benchmark.choices()
    assert Benchmark.choices() == ["llcm_deen_paper", "llcm_idkl_full", "llcm_testpy_v2i", "market", "regdb", "sysu"]
    with pytest.raises(ConfigError, match=r"shots"):
        benchmark(use="sysu", shots=3)
    with pytest.raises(ConfigError, match="expected one of llcm_deen_paper, "):
        benchmark(use="sysu_mm01")


def test_spread() -> None:
    assert mean_and_spread([0.25]) == (0.25, None)
    mean, spread = mean_and_spread([0.1, 0.2, 0.6])
    assert (mean, spread) == (pytest.approx(0.3), pytest.approx(0.07**0.5))


# -- the published data sets


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
    assert f"{100 * curves[0].mean():.2f} {100 * maps.mean():.2f}" == "16.71 19.10"


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
    order = Images.of(rows).chosen(np.array(sessions) == "query").tolist()
    ours = [found.precision[0][order.index(n)] for n in some]
    np.testing.assert_allclose(ours, [answer.precision[n] for n in range(len(some))], atol=1e-7)
