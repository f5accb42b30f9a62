"""What is unusual about the rows and files of a data set: counted by kind, the first of each kept as an example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdfpipe.datasets import Anomaly
from mdfpipe.errors import one_line


class AnomalyKind(StrEnum):
    """What can be unusual about an annotation row. A closed set; the comment says what becomes of the row."""

    MISSING_FILE = "missing_file"  # names no file: left out
    STILL_IMAGE = "still_image"  # names a picture, not a video: left out
    NOT_A_FRAME_IMAGE = "not_a_frame_image"  # frames_in: folder, and the file is no image: left out
    NOT_A_NUMBER = "not_a_number"  # text where a finite number belongs: left out
    MISSING_BOX = "missing_box"  # none of the four box fields: left out
    PARTIAL_BOX = "partial_box"  # some of them: left out
    NEGATIVE_SIZE = "negative_size"  # width or height below zero: left out
    ZERO_SIZE = "zero_size"  # width or height zero: left out
    MISSING_FRAME = "missing_frame"  # no frame number: left out
    NON_INTEGER_FRAME = "non_integer_frame"  # such as 3.5: left out
    NEGATIVE_FRAME = "negative_frame"  # below frame_base: left out
    MISSING_FRAME_FILE = "missing_frame_file"  # the folder holds no such frame: left out
    DUPLICATE_ROW = "duplicate_row"  # same video, frame, subject and box as an earlier row: left out
    MISSING_SUBJECT = "missing_subject"  # empty, NA, None, ...: kept, subject_id null
    SUBJECT_PERHAPS_NOBODY = "subject_perhaps_nobody"  # unknown, -1, ...: kept, under that name
    SUBJECTS_ALIKE = "subjects_alike"  # names that differ in letter case, in what one does not see, in zeros: kept
    GALLERY_ROW_WITHOUT_SUBJECT = "gallery_row_without_subject"  # a row of a gallery table has no name: left out
    SUBJECT_AS_FLOAT = "subject_as_float"  # `12.0`, as pandas writes an integer column with gaps: kept, as `12`
    SAME_BOX_TWO_SUBJECTS = "same_box_two_subjects"  # kept
    SAME_SUBJECT_TWICE_IN_FRAME = "same_subject_twice_in_frame"  # kept
    VIDEO_MISSING_ON_DISK = "video_missing_on_disk"  # the video stays listed and fails later


@dataclass
class AnomalyTally:
    """Counts what is anomalous by kind and keeps the first as an example."""

    counts: Counter[StrEnum] = field(default_factory=Counter)
    examples: dict[StrEnum, str] = field(default_factory=dict)

    def note(self, kind: StrEnum, example: str, count: int = 1) -> None:
        """Count something."""
        self.counts[kind] += count
        self.examples.setdefault(kind, one_line(example))

    def add(self, kind: StrEnum, mask: NDArray[np.bool_], example: Callable[[int], str]) -> None:
        """Count the rows of `mask`, (n,) bool; `example` describes a row by its position in the mask."""
        count = int(np.count_nonzero(mask))
        if count:
            self.note(kind, self.examples.get(kind) or example(int(np.argmax(mask))), count)

    def anomalies(self) -> list[Anomaly]:
        """What was counted, by kind."""
        return [Anomaly(kind.value, self.counts[kind], self.examples[kind]) for kind in sorted(self.counts)]


@dataclass
class Names:
    """Gives each distinct text a number, in the order of its first appearance."""

    number: dict[str, int] = field(default_factory=dict)

    def codes(self, cells: Any, rename: Callable[[str], str | None] = lambda text: text) -> NDArray[np.int32]:
        """DictionaryArray of (n,) texts -> (n,) int32; -1 where `rename` gives None."""
        names = [rename(text) for text in cells.dictionary.to_pylist()]
        table = [-1 if n is None else self.number.setdefault(n, len(self.number)) for n in names]
        codes: NDArray[np.int32] = np.array(table, np.int32)[cells.indices.to_numpy(zero_copy_only=False)]
        return codes

    def texts(self) -> list[str]:
        """The texts, by number."""
        return list(self.number)
