"""A run folder in Python, read-only: tables, crops, frames and numbers."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.running.plan import current
from mdfpipe.stages import INDEX
from mdfpipe.store.files import given_path
from mdfpipe.store.naming import inside
from mdfpipe.store.results import KEY, STAGE
from mdfpipe.store.run import Run
from mdfpipe.store.shards import CHECKSUM
from mdfpipe.study.study import Study, open_run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BY = ("subject_id", "domain", "modality", "split", "role", "video_id")


class RunView:
    """A run folder, opened for reading. Every table is a `pyarrow.Table`: `.to_pandas()` gives a DataFrame.

    path: of the run folder. study, data: its settings and data root as they were when it was opened; tables and crops
    are those of now.
    Raises DataError where `path` is not a run folder.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        study, run, data = open_run(Path(os.path.abspath(given_path("run", path))))  # noqa: PTH100 - links as given
        self.path: Path = run.path
        self.study: Study = study
        self.data: Path = data
        self._run: Run = run
        self._known: tuple[object, dict[str, tuple[str, int, int, int | None]]] | None = None

    def __repr__(self) -> str:
        made = ", ".join(self.tables) or "nothing yet"
        return f"RunView({str(self.path)!r}, study {self.study.name!r}: {made})"

    @property
    def tables(self) -> list[str]:
        """Names of the stages that have made a table, in the order they run: what `table` takes."""
        names = dict.fromkeys(stage.name for stage in self.study.stages)
        return [name for name in names if any((self.path / name).glob("*.parquet"))]

    def table(self, stage: str) -> pa.Table:
        """Return all rows that a stage made, of every video: `table("detect")`, `table("embed/body")`.

        Raises ConfigError where the study has no such stage, DataError where it has made nothing, or is damaged.
        """
        stages = {one.name: one for one in self.study.stages}
        if not isinstance(stage, str) or stage not in stages:
            raise ConfigError(
                f"{self.path}: table {stage!r}: expected a stage of the study; there are {', '.join(stages)}"
            )
        asked = stages[stage]
        if stage == INDEX[0]:
            keys = [INDEX[1]]
        else:
            keys = [asked.key] if asked.per == "run" else self.videos["video_id"].to_pylist()
        made = [self._run.table(stage, key) for key in keys if self._run.part(stage, key).exists()]
        if not made:
            raise DataError(f"{self.path}: {stage} has made nothing yet; `mdfpipe status {self.path}` says what is due")
        return pa.concat_tables(made)

    @property
    def videos(self) -> pa.Table:
        """The videos, a row each: path, domain, frames, size, content."""
        return self.table("index")

    @property
    def manifest(self) -> pa.Table:
        """The crops that take part, a row each: subject, domain, split, role, and where the pixels are stored."""
        return self.table("manifest")

    @property
    def metrics(self) -> pa.Table:
        """The numbers of the evaluation, a row each. Raises DataError where they are out of date.

        `table("evaluate")` gives them as they are.
        """
        found = self.table(STAGE)
        current(self.path, STAGE, KEY, allow_stale=None)
        return found

    def crops(
        self,
        *,
        subject_id: str | None = None,
        domain: str | None = None,
        modality: str | None = None,
        split: str | None = None,
        role: str | None = None,
        video_id: str | None = None,
    ) -> pa.Table:
        """Return the rows of the manifest with these values; without any, all of them.

        Raises DataError for a value that no row of the manifest has. Values that never meet in a row give no rows.
        """
        asked = dict(zip(_BY, (subject_id, domain, modality, split, role, video_id), strict=True))
        found = self.manifest
        for name, value in asked.items():
            if value is not None:
                if not isinstance(value, str):
                    raise ConfigError(
                        f"{name}: expected one text, got {type(value).__name__}; filter the table for several values"
                    )
                known = pc.unique(self.manifest[name]).drop_null().to_pylist()
                if value not in known:
                    some = ", ".join(map(str, sorted(known)[:8])) + ", ..." * (len(known) > 8)
                    raise DataError(
                        f"{self.path}: {name} {value!r}: expected one of its manifest: {some or 'no crops'}"
                    )
                found = found.filter(pc.equal(found[name], value))
        return found

    def _places(self) -> dict[str, tuple[str, int, int, int | None]]:
        """By crop: shard, offset, size and checksum; of the manifest that is there now, read once."""
        state = self._run.state("manifest", "manifest")
        if self._known is None or self._known[0] != state:
            self._known = (state, self._read_places())
        return self._known[1]

    def _read_places(self) -> dict[str, tuple[str, int, int, int | None]]:
        found = self.manifest
        names = ["shard", "offset", "size", *([CHECKSUM] if CHECKSUM in found.column_names else [])]
        rows = zip(*(found[name].to_pylist() for name in names), strict=True)
        places = ((*row, None)[:4] for row in rows)
        return dict(zip(found["crop_id"].to_pylist(), places, strict=True))

    def crop_image(self, crop_id: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Return the pixels of a crop, (H, W, 3) uint8 RGB, or (H, W, 1 or 3) uint16 of a source above 8 bits.

        Raises DataError where the manifest has no such crop, or its bytes are damaged.
        """
        from mdfpipe.store.images import decode
        from mdfpipe.store.shards import read_crop

        if not isinstance(crop_id, str):
            raise ConfigError(
                f"crop_id: expected a text, as `crops()['crop_id'][0].as_py()` gives, got {type(crop_id).__name__}"
            )
        places = self._places()
        if crop_id not in places:
            raise DataError(f"{self.path}: no crop {crop_id!r} in its manifest; `crops()` gives those that there are")
        shard, offset, size, crc32 = places[crop_id]
        return decode(read_crop(inside(self.path, shard, f"crop {crop_id}"), offset, size, crc32), crop_id)

    def frame(self, video_id: str, frame: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Return the pixels of a frame as the detector received them, (H, W, C); frame numbers begin at 0.

        The video is decoded from its start. Raises DataError where the video is not there or has no such frame.
        """
        from mdfpipe.inspecting.pictures import decoded_frame

        return decoded_frame(self.path, video_id, frame)


def open(path: str | PathLike[str]) -> RunView:
    """Open a run folder for reading. Raises DataError if `path` is no run folder."""
    return RunView(path)
