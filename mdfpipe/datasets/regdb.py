"""RegDB: people in visible and thermal light, ten images of each (Nguyen et al., Sensors 2017).

    Visible/1/NAME.bmp, Thermal/1/NAME.bmp
    idx/train_visible_1.txt, train_thermal_1.txt, test_visible_1.txt, test_thermal_1.txt   lines of `PATH LABEL`,
    and so on to split 10; or RegDB_split.mat (in idx or beside it): TrainIdx and TestIdx, a row a split, from 1

Galleries `train` and `test` by identity, of one of the ten splits: ten studies, since each is a model of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from mdfpipe.datasets import Listing
from mdfpipe.datasets.reading.images import (
    Gathering,
    ImageAnomaly,
    ImageDataset,
    ImageUnit,
    first_of,
    read_mat,
    subject_of,
)
from mdfpipe.domains import Band
from mdfpipe.errors import DataError

SIDES = {"Visible": Band.VIS, "Thermal": Band.LWIR}
CAMERAS = {"Visible": "1", "Thermal": "2"}
PARTS = ("train", "test")
PUBLISHED_IDS, PUBLISHED_IMAGES = 206, 2_060  # of each part, and of each part and domain (PROTOCOLS 2.2)
MAT = ("idx/RegDB_split.mat", "RegDB_split.mat")


class Regdb(ImageDataset):
    """RegDB as it is published: `Visible`, `Thermal` and `idx` under the data root."""

    published_name: ClassVar[str] = "RegDB"
    folders: ClassVar[tuple[str, ...]] = tuple(SIDES)

    split: int = Field(default=1, ge=1, le=10, description="which of the ten published splits")

    def index_files(self, root: Path) -> list[str]:
        """The four lists of the split, or the file with all splits."""
        lists = [self._list(part, side) for part in PARTS for side in SIDES]
        absent = [name for name in lists if not (root / name).is_file()]
        if not absent:
            return lists
        mat = first_of(root, MAT)
        if mat is None or len(absent) < len(lists):
            raise DataError(f"{root}: expected {', '.join(lists)}, or {MAT[1]} and none of these; found no {absent[0]}")
        return [mat]

    def _list(self, part: str, side: str) -> str:
        return f"idx/{part}_{side.lower()}_{self.split}.txt"

    def read(self, root: Path) -> Listing:
        """The images that the split's lists name; with RegDB_split.mat all there are."""
        self.present(root)
        found = self.gathering(root)
        names = self.index_files(root)
        parts: dict[str, set[str]] = {part: set() for part in PARTS}
        by_list = len(names) > 1
        if not by_list:
            parts = self._parts_of_mat(root, names[0])
        for side, band in SIDES.items():
            unit, there = ImageUnit(side, side, band, CAMERAS[side]), list(found.files(side, 1))
            listed = self._listed(side, parts, found) if by_list else set(there)
            for path in there:
                if path in listed:
                    found.take(unit, path, subject_of(path))
            found.note_all(ImageAnomaly.LISTED_IMAGE_MISSING, listed - set(there), "{}")
            found.note_all(ImageAnomaly.IMAGE_IN_NO_LIST, set(there) - listed, "{}")
        images = {
            f"{band} {part} images": (PUBLISHED_IMAGES, found.number(band=band)(parts[part]))
            for part in PARTS
            for band in SIDES.values()
        }
        return found.listing(parts, dict.fromkeys(PARTS, PUBLISHED_IDS), images)

    def _listed(self, side: str, parts: dict[str, set[str]], found: Gathering) -> set[str]:
        """The paths that the lists of one side name; who they show goes into `parts`."""
        listed: set[str] = set()
        for part in PARTS:
            named = found.listed(self._list(part, side))
            parts[part].update(named.values())
            listed.update(named)
        return listed

    def _parts_of_mat(self, root: Path, name: str) -> dict[str, set[str]]:
        """part -> the folders of its identities. Raises DataError."""
        values, parts = read_mat(root, name), {}
        folders = {p.name for side in SIDES if (root / side).is_dir() for p in (root / side).iterdir() if p.is_dir()}
        number = {int(name): name for name in sorted(folders) if name.isascii() and name.isdigit()}
        for part in PARTS:
            key = f"{part.capitalize()}Idx"
            shapes = ", ".join(f"{n} {found.shape}" for n, found in values.items()) or "no numbers"
            if key not in values or values[key].ndim != 2 or len(values[key]) < self.split:
                raise DataError(f"{name}: expected {key}, a row for each of ten splits, found {shapes}")
            parts[part] = {number.get(i, str(i)) for i in values[key][self.split - 1].tolist()}
        return parts
