"""SYSU-MM01: people in visible and near-infrared light, by six cameras (Wu et al., ICCV 2017).

    cam1/0001/0001.jpg ... cam6/0533/0020.jpg      visible: 1, 2, 4, 5; near-infrared: 3, 6
    exp/train_id.txt, val_id.txt, test_id.txt      one line of identities between commas; or the same as .mat
    exp/rand_perm_cam.mat                          the official galleries of the evaluation (else `galleries: seeded`)

Galleries `train`, `val` and `test` by identity.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from mdfpipe.datasets import Listing
from mdfpipe.datasets.reading.images import (
    ImageAnomaly,
    ImageDataset,
    ImageUnit,
    first_of,
    needed,
    read_ids,
    subject_of,
)
from mdfpipe.domains import Band

BANDS = {1: Band.VIS, 2: Band.VIS, 3: Band.NIR, 4: Band.VIS, 5: Band.VIS, 6: Band.NIR}
PUBLISHED_IDS = {"train": 296, "val": 99, "test": 96}  # PROTOCOLS 2.1
PUBLISHED = {  # the same; 6,775: the lengths of the official permutations of the test identities
    "training and validation": {Band.VIS: 22_258, Band.NIR: 11_909},
    "test": {Band.VIS: 6_775, Band.NIR: 3_803},
}


class Sysu(ImageDataset):
    """SYSU-MM01 as it is published: `cam1` to `cam6` and `exp` under the data root."""

    published_name: ClassVar[str] = "SYSU-MM01"
    folders: ClassVar[tuple[str, ...]] = tuple(f"cam{number}" for number in BANDS)

    def index_files(self, root: Path) -> list[str]:
        """Train and test identities, and those to validate, where they are there."""
        names = {part: _places(part) for part in PUBLISHED_IDS}
        found = [needed(root, names[part], f"the {part} identities") for part in ("train", "test")]
        val = first_of(root, names["val"])
        return [*found, *([val] if val else [])]

    def read(self, root: Path) -> Listing:
        """Every image of `cam1` to `cam6`; who is in no list is in no gallery."""
        self.present(root)
        found = self.gathering(root)
        lists: dict[str, list[str]] = {}
        self.index_files(root)
        for part in PUBLISHED_IDS:
            name = first_of(root, _places(part))
            if name is None:
                found.tally.note(ImageAnomaly.INDEX_FILE_MISSING, _places(part)[0])
            lists[part] = [f"{number:04d}" for number in read_ids(root, name)] if name else []
        for number, band in BANDS.items():
            unit = ImageUnit(f"cam{number}", f"cam{number}", band, str(number))
            for path in found.files(unit.folder, 1):
                found.take(unit, path, subject_of(path))
        people = {"training and validation": {*lists["train"], *lists["val"]}, "test": set(lists["test"])}
        images = {
            f"{band} {part} images": (n, found.number(band=band)(people[part]))
            for part, by_band in PUBLISHED.items()
            for band, n in by_band.items()
        }
        return found.listing(lists, PUBLISHED_IDS, images)


def _places(part: str) -> list[str]:
    return [f"exp/{part}_id.txt", f"exp/{part}_id.mat"]
