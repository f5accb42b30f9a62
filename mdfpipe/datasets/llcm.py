"""LLCM: people in the dark, in visible and near-infrared light, by nine cameras (Zhang and Wang, 2023).

    vis/0351/NAME.jpg, nir/0351/0351_c06_s200656_f4830_nir.jpg       to train: the camera is in the name
    test_vis/cam1/0007/NAME.jpg ... test_nir/cam9/0007/NAME.jpg      to test: the camera is a folder
    idx/train_vis.txt, train_nir.txt                                 lines of `PATH LABEL`
    idx/test_id.txt                                                  one line of identities between commas
    idx/test_vis.txt, test_nir.txt                                   not in every copy; compared with what is there

A camera number is one place in both bands. Galleries `train` and `test` by identity.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import ClassVar

from mdfpipe.datasets import Listing
from mdfpipe.datasets.reading.images import (
    Gathering,
    ImageAnomaly,
    ImageDataset,
    ImageUnit,
    needed,
    read_ids,
    read_list,
    subject_of,
)
from mdfpipe.domains import Band

SIDES = {"vis": Band.VIS, "nir": Band.NIR}
PUBLISHED_IDS = {"train": 713, "test": 351}  # PROTOCOLS 2.3
PUBLISHED_TRAIN = {Band.VIS: 16_946, Band.NIR: 13_975}  # the same
PUBLISHED_TEST = 15_846  # of all 46,767 images those that are not to train

_CAMERA_IN_NAME = re.compile(r"_c0*([0-9]{1,9})_")
_CAMERA_FOLDER = re.compile(r"cam0*([0-9]{1,9})")


class Llcm(ImageDataset):
    """LLCM as it is published: `vis`, `nir`, `test_vis`, `test_nir` and `idx` under the data root."""

    published_name: ClassVar[str] = "LLCM"
    folders: ClassVar[tuple[str, ...]] = (*SIDES, *(f"test_{side}" for side in SIDES))

    def index_files(self, root: Path) -> list[str]:
        """The training lists, the test identities, and the test lists where they are there."""
        found = [needed(root, [f"idx/train_{side}.txt"], "the list of training images") for side in SIDES]
        found.append(needed(root, ["idx/test_id.txt"], "the test identities"))
        return found + [name for side in SIDES if (root / (name := f"idx/test_{side}.txt")).is_file()]

    def read(self, root: Path) -> Listing:
        """The training images that the lists name, and every test image."""
        self.present(root)
        names = self.index_files(root)
        found = self.gathering(root)
        train: set[str] = set()
        for side, band in SIDES.items():
            train |= _take_train(side, band, found)
            _take_test(side, band, names, found)
        test = {f"{number:04d}" for number in read_ids(root, "idx/test_id.txt")}
        images = {f"{b} training images": (n, found.number(band=b)(train)) for b, n in PUBLISHED_TRAIN.items()}
        images |= {"test images": (PUBLISHED_TEST, found.number()(test))}
        return found.listing({"train": train, "test": test}, PUBLISHED_IDS, images)


def _take_train(side: str, band: Band, found: Gathering) -> set[str]:
    """Take the images of one training list that are there; who they show."""
    name = f"idx/train_{side}.txt"
    listed, there = found.listed(name), set(found.files(side, 1))
    for path, subject in listed.items():
        camera = _CAMERA_IN_NAME.search(PurePosixPath(path).name)
        if path in there and camera is None:
            found.tally.note(ImageAnomaly.MISPLACED, f"{path}: expected a camera in its name, such as _c06_")
        elif path in there and camera is not None:
            found.take(ImageUnit(f"{side}/c{int(camera[1]):02d}", side, band, camera[1]), path, subject)
    found.note_all(ImageAnomaly.LISTED_IMAGE_MISSING, listed.keys() - there, f"{{}} of {name}")
    found.note_all(ImageAnomaly.IMAGE_IN_NO_LIST, there - listed.keys(), "{}")
    return set(listed.values())


def _take_test(side: str, band: Band, names: list[str], found: Gathering) -> None:
    """Take the images of one test folder; count what its list, where there is one, says otherwise."""
    folder, name = f"test_{side}", f"idx/test_{side}.txt"
    there = set(found.files(folder, 2))
    for path in sorted(there):
        camera = _CAMERA_FOLDER.fullmatch(path.split("/")[1])
        if camera is None:
            found.tally.note(ImageAnomaly.MISPLACED, f"{path}: expected a folder such as cam1 in {folder}")
        else:
            found.take(ImageUnit(f"{folder}/c{int(camera[1]):02d}", folder, band, camera[1]), path, subject_of(path))
    if name in names:
        listed = read_list(found.root, name).keys()
        found.note_all(ImageAnomaly.LISTED_IMAGE_MISSING, listed - there, f"{{}} of {name}")
        found.note_all(ImageAnomaly.TEST_IMAGE_IN_NO_LIST, there - listed, f"{{}} is not in {name}")
