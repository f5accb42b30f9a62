"""Made-up trees in the layouts of the published image benchmarks: SYSU-MM01, RegDB, LLCM, Market-1501.

Every image is tiny, shows its subject as a pattern of its own under another light in each domain, and is the same for
the same path and whatever else the tree holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdfpipe.store.tables import MANIFEST

WIDTH, HEIGHT = 16, 32  # pixels of a made-up image
SYSU_BANDS = {1: "VIS", 2: "VIS", 3: "NIR", 4: "VIS", 5: "VIS", 6: "NIR"}


class Ids(NamedTuple):
    """Who is in which part of SYSU-MM01, as plain numbers."""

    train: list[int]
    val: list[int]
    test: list[int]


def write_sysu(
    root: Path,
    *,
    train: int = 4,
    val: int = 2,
    test: int = 4,
    images: int = 3,
    cameras: Sequence[int] = (1, 2, 3, 4, 5, 6),
    absent: Callable[[int, int], bool] = lambda camera, subject: False,
    lists: str = "txt",
) -> Ids:
    """`cam1..cam6/0001/0001.jpg` and `exp/{train,val,test}_id.{txt,mat}`; ids 1, 2, ... in this order of parts.

    absent: of (camera, id), whether the person was not seen there.
    """
    ids = list(range(1, train + val + test + 1))
    parts = Ids(ids[:train], ids[train : train + val], ids[train + val :])
    for camera in cameras:
        for subject in ids:
            for number in range(1, 0 if absent(camera, subject) else images + 1):
                path = f"cam{camera}/{subject:04d}/{number:04d}.jpg"
                _write(root / path, picture(f"sysu {subject}", SYSU_BANDS[camera], path))
    write_sysu_ids(root, parts, lists)
    return parts


def write_sysu_ids(root: Path, parts: Ids, kind: str = "txt") -> None:
    """`exp/train_id.txt` and so on: one line of ids between commas; or the same as .mat."""
    for name, ids in parts._asdict().items():
        if kind == "mat":
            _save_mat(root / f"exp/{name}_id.mat", {"id": np.array([ids], np.uint16)})
        else:
            _write(root / f"exp/{name}_id.txt", ",".join(map(str, ids)).encode())


def official_sysu(assets: Path) -> tuple[Ids, dict[tuple[int, int], int]]:
    """Who is in which part, and how many images each (camera, id) has: as long as its published permutation is.

    The assets hold no list of validation ids. They are those of nobody's list who were seen in both bands: 99, as
    published, and with the training ids they have the published 22,258 visible and 11,909 infrared images.
    """
    from scipy.io import loadmat

    train, test = (loadmat(assets / f"index/sysu_{name}_id.mat")["id"].ravel().tolist() for name in ("train", "test"))
    cameras = loadmat(assets / "index/sysu_rand_perm_cam.mat")["rand_perm_cam"]
    counts = {
        (camera, subject): permutations.shape[-1]
        for camera in SYSU_BANDS
        for subject, permutations in enumerate(cameras[camera - 1, 0].ravel(), start=1)
        if permutations.size
    }
    seen = {band: {subject for camera, subject in counts if SYSU_BANDS[camera] == band} for band in ("VIS", "NIR")}
    val = sorted((seen["VIS"] & seen["NIR"]) - set(train) - set(test))
    return Ids(train, val, test), counts


def write_official_sysu(root: Path, assets: Path, *, everybody: bool = False) -> Ids:
    """A tree of the test ids (or of everybody) with as many images as the official permutations are long.

    All images are one and the same tiny JPEG. The permutations lie where they are published: exp/rand_perm_cam.mat.
    """
    parts, counts = official_sysu(assets)
    data = picture("anyone", "VIS", "anything")
    for (camera, subject), images in counts.items():
        if everybody or subject in parts.test:
            folder = root / f"cam{camera}/{subject:04d}"
            folder.mkdir(parents=True)
            for number in range(1, images + 1):
                (folder / f"{number:04d}.jpg").write_bytes(data)
    write_sysu_ids(root, parts)
    _write(root / "exp/rand_perm_cam.mat", (assets / "index/sysu_rand_perm_cam.mat").read_bytes())
    return parts


def official_sysu_rows(assets: Path) -> pa.Table:
    """The rows of MANIFEST of all 491 published ids, train and val as train; no file behind them: shard is null."""
    parts, counts = official_sysu(assets)
    split = dict.fromkeys(parts.train + parts.val, "train") | dict.fromkeys(parts.test, "test")
    rows = [
        (f"cam{camera}/{subject:04d}/{number:04d}.jpg", f"{subject:04d}", camera, split[subject])
        for (camera, subject), images in sorted(counts.items())
        if subject in split
        for number in range(1, images + 1)
    ]
    return manifest_rows(
        (path, subject, SYSU_BANDS[camera], str(camera), None, of) for path, subject, camera, of in rows
    )


def manifest_rows(rows: Iterator[tuple[str, str, str, str, str | None, str]]) -> pa.Table:
    """Rows of MANIFEST from (crop_id, subject_id, domain, camera_id, session_id, split); VIS is gallery."""
    crop_id, subject, domain, camera, session, split = zip(*rows, strict=True)
    folders = [path.split("/")[0] for path in crop_id]
    videos = [f if f.startswith("cam") else f"{f}/c{number}" for f, number in zip(folders, camera, strict=True)]
    role = [
        "none" if part != "test" else "gallery" if band == "VIS" else "probe"
        for part, band in zip(split, domain, strict=True)
    ]
    n = len(crop_id)
    told: dict[str, Any] = {
        "crop_id": crop_id,
        "subject_id": subject,
        "domain": domain,
        "band": domain,
        "modality": ["body"] * n,
        "video_id": videos,
        "session_id": session,
        "camera_id": camera,
        "frame": list(range(n)),
        "split": split,
        "role": role,
        "mated": [True if one == "probe" else None for one in role],
    }
    box = {"x1": 0.0, "y1": 0.0, "x2": float(WIDTH), "y2": float(HEIGHT), "box_height_px": float(HEIGHT)}
    columns = []
    for field in MANIFEST:
        values = told.get(field.name, [box.get(field.name)] * n)
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        column = pa.array(values, kind)
        columns.append(column.dictionary_encode().cast(field.type) if kind != field.type else column)
    return pa.table(columns, schema=MANIFEST)


def write_regdb(
    root: Path, *, subjects: int = 8, images: int = 3, splits: Sequence[int] = (1, 2), lists: str = "txt"
) -> dict[int, list[int]]:
    """`{Visible,Thermal}/ID/NAME.bmp` and `idx/{train,test}_{visible,thermal}_N.txt`, or `RegDB_split.mat` of ten.

    Gives the train ids of each split: half of all.
    """
    names: dict[tuple[str, int], list[str]] = {}
    for folder, band in (("Visible", "VIS"), ("Thermal", "LWIR")):
        for subject in range(1, subjects + 1):
            letter = folder[0].lower()
            named = names[folder, subject] = [
                f"{folder}/{subject}/male_front_{letter}_{11 * n + subject:05d}_{subject}.bmp"
                for n in range(1, images + 1)
            ]
            for path in named:
                _write(root / path, picture(f"regdb {subject}", band, path, ".bmp"))
    drawn = {
        split: np.random.default_rng(split).permutation(np.arange(1, subjects + 1)).tolist() for split in range(1, 11)
    }
    half = subjects // 2
    if lists == "mat":
        both = np.array([drawn[split] for split in drawn], np.uint16)
        _save_mat(root / "RegDB_split.mat", {"TrainIdx": both[:, :half], "TestIdx": both[:, half:]})
    for split in splits if lists == "txt" else ():
        for part, ids in (("train", drawn[split][:half]), ("test", drawn[split][half:])):
            for folder in ("Visible", "Thermal"):
                lines = [f"{path} {label}" for label, s in enumerate(sorted(ids)) for path in names[folder, s]]
                _write(root / f"idx/{part}_{folder.lower()}_{split}.txt", "\n".join(lines).encode() + b"\n")
    return {split: sorted(ids[:half]) for split, ids in drawn.items()}


def write_llcm(
    root: Path,
    *,
    train: int = 4,
    test: int = 3,
    images: int = 2,
    cameras: Sequence[int] = (1, 2, 3, 6),
    test_lists: bool = False,
) -> Ids:
    """`{vis,nir}/0001/0001_c06_s000011_f0001_vis.jpg` to train, `test_{vis,nir}/cam6/0005/...jpg`, and `idx/`.

    As published, no near-infrared camera 3 in the test tree. Ids 1, 2, ... train first.
    """
    parts = Ids(list(range(1, train + 1)), [], list(range(train + 1, train + test + 1)))
    for kind, band in (("vis", "VIS"), ("nir", "NIR")):
        training, testing = [], []
        for label, subject in enumerate(parts.train):
            for camera in cameras:
                found = [f"{kind}/{subject:04d}/{n}" for n in _llcm_names(subject, camera, kind, images)]
                training += [(path, label) for path in found]
        for subject in parts.test:
            for camera in cameras:
                found = [
                    f"test_{kind}/cam{camera}/{subject:04d}/{n}" for n in _llcm_names(subject, camera, kind, images)
                ]
                testing += [(path, subject) for path in found if (kind, camera) != ("nir", 3)]
        for path, _ in training + testing:
            _write(root / path, picture(f"llcm {path.split('/')[-2]}", band, path))
        for name, rows in (("train", training), *((("test", testing),) if test_lists else ())):
            lines = "".join(f"{path} {label}\n" for path, label in rows)
            _write(root / f"idx/{name}_{kind}.txt", lines.encode())
    _write(root / "idx/test_id.txt", ",".join(map(str, parts.test)).encode())
    return parts


def _llcm_names(subject: int, camera: int, kind: str, images: int) -> list[str]:
    return [f"{subject:04d}_c{camera:02d}_s{100 * n + 11:06d}_f{n:04d}_{kind}.jpg" for n in range(1, images + 1)]


def write_market(
    root: Path,
    *,
    train: int = 4,
    test: int = 4,
    images: int = 2,
    cameras: Sequence[int] = (1, 2, 3),
    distractors: int = 2,
    junk: int = 2,
) -> Ids:
    """`bounding_box_train`, `query` (one image of each test id and camera), `bounding_box_test`.

    distractors: images of 0000, junk: images of -1, both in bounding_box_test. Even ids train, odd ones test.
    """
    parts = Ids([2 * n for n in range(1, train + 1)], [], [2 * n - 1 for n in range(1, test + 1)])
    found = [("bounding_box_train", f"{s:04d}", c, n) for s in parts.train for c in cameras for n in range(images)]
    found += [("bounding_box_test", f"{s:04d}", c, n) for s in parts.test for c in cameras for n in range(images)]
    found += [("query", f"{s:04d}", c, images) for s in parts.test for c in cameras]
    found += [("bounding_box_test", "0000", cameras[n % len(cameras)], n) for n in range(distractors)]
    found += [("bounding_box_test", "-1", cameras[n % len(cameras)], n) for n in range(junk)]
    for folder, subject, camera, number in found:
        path = f"{folder}/{subject}_c{camera}s1_{25 * number + 76:06d}_{number:02d}.jpg"
        _write(root / path, picture(f"market {subject}", "VIS", path))
    return parts


def picture(subject: str, band: str, path: str, suffix: str = ".jpg") -> bytes:
    """An encoded image (32, 16): the subject's pattern, in colour in VIS, grey elsewhere, inverted in LWIR; noise.

    band: VIS, NIR or LWIR.
    """
    pattern = _random(subject).integers(30, 225, (8, 4, 3)).astype(np.float32)
    if band != "VIS":
        grey = pattern.mean(axis=2, keepdims=True)
        pattern = np.repeat(255 - grey if band == "LWIR" else 0.7 * grey + 60, 3, axis=2)
    large = np.kron(pattern, np.ones((HEIGHT // 8, WIDTH // 4, 1), np.float32))
    noisy = large + _random(path).normal(0, 8, large.shape)
    good, data = cv2.imencode(suffix, noisy.clip(0, 255).astype(np.uint8))
    assert good
    return data.tobytes()


def _random(name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _save_mat(path: Path, values: dict[str, NDArray[Any]]) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, values)
