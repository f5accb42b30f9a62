"""What a published protocol refuses or leaves out: damaged permutations, other cameras, distractors, one person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mdfpipe.errors import ConfigError, DataError, ProtocolError
from mdfpipe.evaluation.benchmark import evaluate_benchmark, mean_and_spread
from mdfpipe.evaluation.benchmarks import Benchmark, BenchmarkImages
from tests.evaluation.made_images import (
    INFRARED,
    VISIBLE,
    benchmark,
    everything,
    permutations,
    rows_of,
    tied_vectors,
    tree,
)


def cells(of: dict[tuple[int, str], Any], shape: tuple[int, ...] = (6, 1)) -> Any:
    """Cells of cells, as rand_perm_cam.mat has them, of permutations by (camera, subject)."""
    found = np.empty(shape, object)
    for camera in range(found.size):
        found.flat[camera] = own = np.empty((4, 1), object)
        for n in range(len(own)):
            own[n, 0] = of.get((camera + 1, f"{n + 1:04d}"), np.zeros((0, 0)))
    return found


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda order: order * 0, "each image once in a permutation"),
        (lambda order: order + 1, "each image once in a permutation"),
        (lambda order: np.where(order == 1, 2, order), "each image once in a permutation"),
        (lambda order: order + 0.5, "each image once in a permutation"),
        (lambda order: order[0, :1], r"subject 0001, camera 1: .* permutations: 1 of 1 images"),
        (lambda order: order[:4], r"subject 0001, camera 1: .* permutations: 4 of \d images"),
        (lambda order: "words", r"permutations: none"),
        (lambda order: np.array([[{"a": 1}]], object), r"permutations: none"),
    ],
)
def test_permutations_that_are_none(tmp_path: Path, spoil: Callable[[Any], Any], message: str) -> None:
    """A place twice, none, or beyond the images would draw another gallery than the official one."""
    from scipy.io import savemat

    images = tree(0, 4, {"VIS": VISIBLE, "NIR": INFRARED}, absent=0)
    images = [one for one in images if one[1:] != ("0001", "VIS", 1)]
    images += [(f"vis/cam1/0001/{n:04d}.jpg", "0001", "VIS", 1) for n in range(1, 4)]
    path = tmp_path / "exp/rand_perm_cam.mat"
    orders = permutations(path, images)
    savemat(path, {"rand_perm_cam": cells(orders | {(1, "0001"): spoil(orders[1, "0001"])})})
    rows = rows_of(images)
    with pytest.raises((ConfigError, ProtocolError), match=message) as caught:
        evaluate_benchmark(benchmark(use="sysu"), rows, tied_vectors(0, rows.num_rows), everything(rows), data=tmp_path)
    assert str(caught.value).isprintable()


def test_a_damaged_file_of_permutations_is_one_line(tmp_path: Path) -> None:
    """Compressed, as the published one is: what inflates it has an error of its own."""
    from scipy.io import savemat

    images = tree(0, 4, {"VIS": VISIBLE, "NIR": INFRARED}, absent=0)
    path = tmp_path / "exp/rand_perm_cam.mat"
    orders = permutations(path, images)
    whole = {}
    for name, values in {"whole": cells(orders), "plain": np.array([[1, 2]]), "empty": cells({})}.items():
        savemat(path, {"rand_perm_cam": values}, do_compression=True)
        whole[name] = path.read_bytes()
    middle = len(whole["whole"]) // 2
    damaged = bytearray(whole["whole"])
    damaged[middle : middle + 8] = bytes(8)
    rows = rows_of(images)
    for content in (damaged, whole["whole"][:middle], whole["plain"], whole["empty"], b""):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"rand_perm_cam.mat: expected the published rand_perm_cam.mat") as no:
            benchmark(use="sysu").directions(BenchmarkImages.of(rows), tmp_path)
        assert str(no.value).isprintable()
    path.write_bytes(whole["whole"])
    assert len(benchmark(use="sysu").directions(BenchmarkImages.of(rows), tmp_path)[0].trials) == 10


@pytest.mark.parametrize("use", ["llcm_deen_paper", "llcm_testpy_v2i"])
def test_llcms_cameras_are_nine(use: str) -> None:
    """Images of another camera would never be drawn, and nobody would know: near-infrared has no camera 3."""
    images = tree(0, 4, {"VIS": (1, 3), "NIR": (1, 2)}, absent=0)
    for more, message in (
        (("nir/cam3/0001/0001.jpg", "0001", "NIR", 3), r"camera 3 has NIR rows; expected cameras \(1, 2, 4, 5, 6, 7"),
        (("vis/cam12/0001/0001.jpg", "0001", "VIS", 12), r"camera 12 has VIS rows; expected cameras \(1, 2, 3, 4, "),
    ):
        rows = rows_of([*images, more])
        with pytest.raises(ProtocolError, match=f"{use}: {message}"):
            benchmark(use=use).directions(BenchmarkImages.of(rows), None)
    assert benchmark(use=use).directions(BenchmarkImages.of(rows_of(images)), None)
    assert benchmark(use="llcm_idkl_full").directions(
        BenchmarkImages.of(rows), None
    )  # draws nothing, looks at no camera


def test_distractors_are_not_searched_for() -> None:
    images = [
        (f"{n:02d}.jpg", s, "VIS", c) for n, (s, c) in enumerate((s, c) for s in ("0000", "1", "2") for c in (1, 2))
    ]
    images += [(f"q{n}.jpg", s, "VIS", 3) for n, s in enumerate(("0000", "0", "1", "2", "-1"))]
    rows = rows_of(images, ["bounding_box_test"] * 6 + ["query"] * 5)
    vectors = np.random.default_rng(0).standard_normal((len(images), 8)).astype(np.float32)
    (found,) = evaluate_benchmark(benchmark(use="market"), rows, vectors, everything(rows))
    assert sorted(found.subject.tolist()) == ["1", "2"]
    assert (found.n.tolist(), found.gallery_images.tolist(), found.gallery_identities.tolist()) == ([2], [6], [3])
    assert found.left_out == {"junk": 1, "of distractors among the queries": 2}


def test_a_gallery_of_one_person_is_refused_by_name() -> None:
    images = [(f"{d}/{n}.jpg", "0017", d, n) for d in ("VIS", "LWIR") for n in range(3)]
    rows = rows_of(images)
    with pytest.raises(
        ProtocolError, match=r"regdb split 1 .*: expected two people or more in the gallery, got 0017 a"
    ):
        evaluate_benchmark(benchmark(use="regdb"), rows, tied_vectors(0, len(images)), everything(rows))


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
