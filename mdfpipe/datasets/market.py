"""Market-1501, and folders in its manner: visible light only (Zheng et al., ICCV 2015).

    bounding_box_train/0002_c1s1_000451_03.jpg, query/..., bounding_box_test/...     subject, camera, sequence, frame

Galleries `train` and `test` by folder. The folder is the session of a row, so that an evaluation can tell query from
gallery. Subject 0000 are distractors: detections that are in no list; they are in the gallery and never searched.
Subject -1 is junk, which the published evaluation passes over: left out, and counted.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import ClassVar

from mdfpipe.datasets import Listing
from mdfpipe.datasets.reading.images import ImageAnomaly, ImageDataset, ImageUnit
from mdfpipe.domains import Band

TRAIN, QUERY, TEST = "bounding_box_train", "query", "bounding_box_test"
DISTRACTOR, JUNK = "0000", "-1"
PUBLISHED_IDS = {TRAIN: 751, QUERY: 750}
PUBLISHED = {TRAIN: 12_936, QUERY: 3_368, TEST: 13_115}  # the vectors of the published evaluation, by testID > 0
PUBLISHED_DISTRACTORS, PUBLISHED_JUNK = 2_798, 3_819  # the same, testID 0 and -1: 19,732 files in all

_NAME = re.compile(r"(-1|[0-9]{1,9})_c([0-9]{1,9})(?![0-9])")


class Market(ImageDataset):
    """Market-1501 as it is published: three folders of images under the data root, named by subject and camera."""

    published_name: ClassVar[str] = "Market-1501"
    folders: ClassVar[tuple[str, ...]] = (TRAIN, QUERY, TEST)

    def index_files(self, root: Path) -> list[str]:
        """None: names and folders say it all."""
        return []

    def read(self, root: Path) -> Listing:
        """Every image whose name says whose it is, but junk."""
        self.present(root)
        found = self.gathering(root)
        seen: dict[str, set[str]] = {folder: set() for folder in self.folders}
        for folder in self.folders:
            for path in found.files(folder, 0):
                said = _NAME.match(PurePosixPath(path).name)
                if said is None:
                    found.tally.note(ImageAnomaly.MISPLACED, f"{path}: expected a name such as 0002_c1s1_000451_03.jpg")
                elif said[1] == JUNK:
                    found.tally.note(ImageAnomaly.JUNK, path)
                else:
                    unit = ImageUnit(f"{folder}/c{said[2]}", folder, Band.VIS, said[2], folder)
                    found.take(unit, path, said[1])
                    seen[folder].add(said[1])
        parts = {"train": seen[TRAIN], "test": seen[QUERY] | seen[TEST]}
        named = {folder: seen[folder] - {DISTRACTOR} for folder in self.folders}
        published = {f"subjects in {folder}": (n, len(named[folder])) for folder, n in PUBLISHED_IDS.items()}
        published |= {
            f"images in {folder} of named subjects": (n, found.number(folder=folder)(named[folder]))
            for folder, n in PUBLISHED.items()
        }
        published |= {
            f"distractors ({DISTRACTOR})": (PUBLISHED_DISTRACTORS, found.number(folder=TEST)([DISTRACTOR])),
            f"junk images ({JUNK})": (PUBLISHED_JUNK, found.tally.counts[ImageAnomaly.JUNK]),
        }
        return found.listing(parts, {}, published)
