"""What the protocols between visible and infrared images share: both directions, all images or drawn ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mdfpipe.domains import Band
from mdfpipe.errors import ProtocolError
from mdfpipe.evaluation.benchmarks import BenchmarkImages, Direction, Trial, drawn, others, shelved
from mdfpipe.evaluation.comparing import I64

VIS_CAMERAS, NIR_CAMERAS = tuple(range(1, 10)), (1, 2, 4, 5, 6, 7, 8, 9)
"""Cameras of LLCM's test tree, in the order in which its galleries are drawn."""
CAMERAS = {Band.VIS: VIS_CAMERAS, Band.NIR: NIR_CAMERAS}

Drawing = Callable[[I64, I64, Iterable[int]], Sequence[Trial]]
"""Queries' rows, gallery's rows and the gallery's cameras -> the trials."""


def both_ways(images: BenchmarkImages, infrared: Band, name: str, trials: Drawing) -> list[Direction]:
    """Infrared queries among visible images, and the other way. Raises ProtocolError."""
    visible, other = images.of_band(Band.VIS, name), images.of_band(infrared, name)
    vis, ir = images.chosen(visible), images.chosen(other)
    left_out = others(images, visible | other)
    names = str(images.domain[vis[0]]), str(images.domain[ir[0]])
    return [
        Direction(names[0], names[1], trials(ir, vis, VIS_CAMERAS), left_out),
        Direction(names[1], names[0], trials(vis, ir, NIR_CAMERAS), left_out),
    ]


def llcm_cameras(images: BenchmarkImages, name: str) -> None:
    """Raise ProtocolError where a row has no camera, or one that LLCM has not: its images would never be drawn."""
    sides = {band: images.band == band for band in CAMERAS}
    images.need_cameras(sides[Band.VIS] | sides[Band.NIR], name)
    for band, which in sides.items():
        wrong = sorted(set(images.camera[which].tolist()) - set(CAMERAS[band]))
        if wrong:
            raise ProtocolError(f"{name}: camera {wrong[0]} has {band} rows; expected cameras {CAMERAS[band]} only")


def one_shot(images: BenchmarkImages, rows: I64, cameras: Iterable[int], trials: int) -> list[I64]:
    """One image of each person and camera, by each trial's seed."""
    shelves = shelved(images, rows)
    return [drawn(shelves, cameras, 1, trial) for trial in range(trials)]
