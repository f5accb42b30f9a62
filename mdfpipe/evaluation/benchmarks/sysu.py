"""sysu: SYSU-MM01, near-infrared queries among visible images (PROTOCOLS 2.1)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import Field

from mdfpipe.config import find_file
from mdfpipe.domains import Band
from mdfpipe.errors import ConfigError, DataError, ProtocolError
from mdfpipe.evaluation.benchmarks import (
    FILE_ADVICE,
    Benchmark,
    BenchmarkImages,
    Direction,
    Shelves,
    Trial,
    drawn,
    others,
    shelved,
)
from mdfpipe.evaluation.comparing import I64, Array, Removal
from mdfpipe.store.matlab import read_matlab

CAMERAS: Final = {Band.VIS: (1, 2, 4, 5), Band.NIR: (3, 6)}
INDOOR: Final = (1, 2)


class Sysu(Benchmark):
    """SYSU-MM01: every infrared image of a test identity is searched among drawn visible images of all of them.

    Images of camera 2 are in no list of camera 3's: both are at the same location. A rank counts identities. A query
    whose person is in no gallery (indoor: never in camera 1 or 2) is not counted.
    """

    search: Literal["all", "indoor"] = Field("all", description="visible cameras: 1, 2, 4, 5; indoor: 1, 2")
    shots: Literal[1, 10] = Field(1, description="gallery images of a person and camera")
    galleries: Literal["official", "seeded"] = Field(
        "official",
        description="drawn as the data set's permutations say, or as the common Python code does (random.seed(trial))",
    )
    permutations: str = Field("exp/rand_perm_cam.mat", description="the official ones, under the data root")
    trials: int = Field(10, ge=1, le=10, description="galleries that are averaged")

    removal = Removal("camera 3 never searches camera 2", "everyone", ((3, 2),))

    @property
    def label(self) -> str:
        """Such as `sysu all-search single-shot, official galleries, 10 trials`."""
        shots = "single-shot" if self.shots == 1 else f"multi-shot ({self.shots})"
        return f"sysu {self.search}-search {shots}, {self.galleries} galleries, {self.trials} trials"

    @property
    def files(self) -> tuple[str, ...]:
        """The official permutations, where they are used."""
        return (self.permutations,) if self.galleries == "official" else ()

    def directions(self, images: BenchmarkImages, data: Path | None) -> list[Direction]:
        """Near-infrared among visible."""
        sides = {band: images.of_band(band, "sysu") for band in CAMERAS}
        images.need_cameras(sides[Band.VIS] | sides[Band.NIR], "sysu")
        for band, which in sides.items():
            wrong = sorted(set(images.camera[which].tolist()) - set(CAMERAS[band]))
            if wrong:
                raise ProtocolError(f"sysu: camera {wrong[0]} has {band} rows; expected cameras {CAMERAS[band]} only")
        cameras = CAMERAS[Band.VIS] if self.search == "all" else INDOOR
        queries = images.chosen(sides[Band.NIR])
        rows = images.chosen(sides[Band.VIS] & np.isin(images.camera, cameras))
        if not len(rows):
            raise ProtocolError(f"sysu: no visible image of the cameras {cameras}, so the gallery is empty")
        shelves = shelved(images, rows)
        if self.galleries == "official":
            path = find_file(self.permutations, data or Path(), "galleries", FILE_ADVICE)
            galleries = self._official(images, shelves, path)
        else:
            galleries = [drawn(shelves, cameras, self.shots, trial) for trial in range(self.trials)]
        left_out = others(images, sides[Band.VIS] | sides[Band.NIR])
        domains = images.domain[rows[0]], images.domain[queries[0]]
        return [Direction(str(domains[0]), str(domains[1]), [Trial(queries, one) for one in galleries], left_out)]

    def _official(self, images: BenchmarkImages, shelves: Shelves, path: Path) -> list[I64]:
        """The images that each trial's permutation has first, of each person and camera."""
        permutations = read_permutations(path)
        found: list[I64] = []
        for (_, camera), files in shelves.items():
            name = str(images.subject[files[0]])
            order = permutations.get((camera, int(name))) if name.isdecimal() else None
            if order is None or order.ndim != 2 or order.shape[1] != len(files) or len(order) < self.trials:
                there = "none" if order is None else f"{len(order)} of {order.shape[-1]} images"
                raise ProtocolError(
                    f"sysu: subject {name}, camera {camera}: {len(files)} images, but {path.name} has permutations: "
                    f"{there}; the official galleries need the whole data set, `galleries: seeded` draws from what "
                    "there is"
                )
            if not (np.sort(order, axis=1) == np.arange(1, len(files) + 1)).all():
                raise ConfigError(f"{path}: subject {name}, camera {camera}: expected each image once in a permutation")
            found.append(np.array(files)[order[: self.trials, : self.shots].astype(np.int64) - 1])
        return list(np.concatenate(found, axis=1))


def read_permutations(path: Path) -> dict[tuple[int, int], Array]:
    """(camera, identity) -> (trials, images) places of images, from 1, of `rand_perm_cam.mat`. Raises ConfigError."""
    try:
        cells = read_matlab(path, "expected the published rand_perm_cam.mat").get("rand_perm_cam")
    except DataError as error:
        raise ConfigError(f"{path}: {error}") from None
    found = {
        (camera, identity): order
        for camera, cell in enumerate(_cells(cells), start=1)
        for identity, order in enumerate(_cells(cell), start=1)
        if order is not None and order.size and order.dtype != object
    }
    if not found:
        raise ConfigError(f"{path}: expected the published rand_perm_cam.mat, found no cells of permutations in it")
    return found


def _cells(values: Array | None) -> Iterable[Array | None]:
    return values.ravel(order="F") if values is not None and values.dtype == object else ()
