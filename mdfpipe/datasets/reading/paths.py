"""The file column of an annotation: refuse what is hostile, tell pictures from videos, find a frame's position."""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.errors import DataError, one_line
from mdfpipe.store.frames import frame_files, frame_numbers
from mdfpipe.store.naming import IMAGE_SUFFIXES, OTHER_PICTURE_SUFFIXES, VIDEO_SUFFIXES, Links, inside, safe_relative
from mdfpipe.store.subjects import NOBODY
from mdfpipe.store.text_tables import Block, first_row
from mdfpipe.store.tiff import has_pages

# Whatever is not plainly harmless goes to safe_relative, which decides.
_SUSPICIOUS = r"[^\x20-\x7e]|\\|:|^/|/$|//|(^|/)\.{1,2}(/|$)"
_OTHER_PICTURES = OTHER_PICTURE_SUFFIXES - VIDEO_SUFFIXES  # no video, and no frame that is read
_LONGEST_NUMBER = 10**15  # fits int64


def _ending(suffixes: Set[str]) -> str:
    return r"(?i)\.(" + "|".join(sorted(s[1:] for s in suffixes)) + ")$"


_FRAME, _STILL = _ending(IMAGE_SUFFIXES), _ending(IMAGE_SUFFIXES | _OTHER_PICTURES)


@dataclass(frozen=True, eq=False)
class PathColumn:
    """The distinct paths of a block and which row has which.

    paths: StringArray (u,), under the data root; "" where the row belongs to no video. which: (n,) int row -> path.
    missing, image: (n,) bool, of the cell as written; image: a frame that can be read, or, outside a folder of frames,
    any picture that is no video.
    """

    paths: Any
    which: NDArray[np.int32]
    missing: NDArray[np.bool_]
    image: NDArray[np.bool_]


def path_column(
    block: Block, folder: str, frames_in_folder: bool, root: Path, videos: Collection[str] = ()
) -> PathColumn:
    """The file column of a block. Raises DataError, with table, row and header, for a path that could lead elsewhere.

    folder: what the cells are relative to, under the data root. frames_in_folder: the cells name frame images. Else a
    picture is a video only where `videos` names it, or where it is a TIFF of many pages.
    """
    cells = block.cells["file"]
    texts, which = cells.dictionary, cells.indices.to_numpy(zero_copy_only=False)
    missing = pc.is_in(pc.ascii_lower(texts), value_set=pa.array(NOBODY))
    odd = pc.filter(texts, pc.and_not(pc.match_substring_regex(texts, _SUSPICIOUS), missing)).to_pylist()
    plain = {text: safe_relative(text, first_row(block, "file", text)) for text in odd}
    if any(text != path for text, path in plain.items()):
        texts = pa.array([plain.get(text, text) for text in texts.to_pylist()], pa.string())
    image = pc.match_substring_regex(texts, _FRAME if frames_in_folder else _STILL)
    paths = pc.binary_join_element_wise(folder, texts, "/") if folder else texts
    if not frames_in_folder:
        pictures = pc.filter(paths, image).to_pylist()
        films = [path for path in pictures if path in videos or has_pages(root / path)]
        image = pc.and_not(image, pc.is_in(paths, value_set=pa.array(films, pa.string())))
    belongs = pc.and_not(image if frames_in_folder else pc.invert(image), missing)
    paths = pc.if_else(belongs, paths, "")
    absent, picture = (m.to_numpy(zero_copy_only=False)[which] for m in (missing, image))
    return PathColumn(paths, which, absent, picture)


def folders_of(column: PathColumn, block: Block) -> Any:
    """The folder of each row's frame image: DictionaryArray (n,), "" where the row has none. Raises DataError."""
    bare = pc.and_not(pc.invert(pc.match_substring(column.paths, "/")), pc.equal(column.paths, ""))
    at = pc.index(bare, True).as_py()
    if at >= 0:
        row = block.first_row + int(np.argmax(column.which == at))
        raise DataError(
            f"{block.table} row {row}: the frame '{one_line(column.paths[at].as_py(), 60)}' is in no folder; with "
            "frames_in: folder the folder is the video"
        )
    folders = pc.replace_substring_regex(column.paths, r"/[^/]*$", "").dictionary_encode()
    return pa.DictionaryArray.from_arrays(folders.indices.take(pa.array(column.which)), folders.dictionary)


@dataclass
class FramePlaces:
    """Positions of frame images in their folders, each folder listed once."""

    root: Path
    links: Links = Links.INSIDE
    _paths: dict[str, Any] = field(default_factory=dict)

    def exists(self, folder: str) -> bool:
        """Whether the folder is there. Raises DataError where a symlink leads out of the root."""
        return inside(self.root, folder, "video", self.links).is_dir()

    def positions(self, column: PathColumn, folders: list[str]) -> NDArray[np.int64]:
        """The index of each row's frame, (n,) int64: its file's position in its folder; -1 where it is not there."""
        known = [self._files(folder) for folder in folders if folder and self.exists(folder)]
        if not known:
            return np.full(len(column.which), -1, np.int64)
        place = np.concatenate([np.arange(len(k), dtype=np.int64) for k in known])
        found = pc.index_in(column.paths, value_set=pa.concat_arrays(known))
        index = pc.fill_null(found, -1).to_numpy(zero_copy_only=False)
        positions: NDArray[np.int64] = np.where(index >= 0, np.append(place, -1)[index], -1)[column.which]
        return positions

    def _files(self, folder: str) -> Any:
        if folder not in self._paths:
            names = frame_files(self.root / folder, self.root, self.links)
            self._paths[folder] = pa.array([f"{folder}/{name}" for name in names], pa.string())
        return self._paths[folder]

    def numbers(self, folder: str) -> NDArray[np.int64]:
        """The number in each frame's file name (see `frame_numbers`), by position: (n,) int64. Raises DataError."""
        names = frame_files(self.root / folder, self.root, self.links)
        found = frame_numbers(names)
        if found is None or max(found, default=0) >= _LONGEST_NUMBER:
            shown = f"{folder}/{names[0]}" if names else folder
            raise DataError(
                f"{shown}: frame_number: file_number expects a number that counts the frames in every frame's file "
                "name; with time stamps, name the files themselves (frames_in: folder) or count the frames "
                "(frame_number: index)"
            )
        return np.array(found, np.int64)
