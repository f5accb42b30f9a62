"""What a published protocol refuses or leaves out: damaged permutations, other cameras, distractors, one person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdfpipe.errors import ConfigError, ProtocolError
from mdfpipe.evaluation.benchmark import evaluate_benchmark
from mdfpipe.evaluation.protocols import Images
from tests.evaluation.test_protocols import (
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
            benchmark(use="sysu").directions(Images.of(rows), tmp_path)
        assert str(no.value).isprintable()
    path.write_bytes(whole["whole"])
    assert len(benchmark(use="sysu").directions(Images.of(rows), tmp_path)[0].trials) == 10


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
            benchmark(use=use).directions(Images.of(rows), None)
    assert benchmark(use=use).directions(Images.of(rows_of(images)), None)
    assert benchmark(use="llcm_idkl_full").directions(Images.of(rows), None)  # draws nothing, looks at no camera


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
