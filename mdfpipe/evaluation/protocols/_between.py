"""What the protocols between visible and infrared images share: both directions, all images or drawn ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mdfpipe.domains import Band
from mdfpipe.evaluation.comparing import I64
from mdfpipe.evaluation.protocols import Direction, Images, Trial, drawn, others, shelved

VIS_CAMERAS, NIR_CAMERAS = range(1, 10), (1, 2, 4, 5, 6, 7, 8, 9)
"""Of LLCM's test tree, in the order that its galleries are drawn in."""

Drawing = Callable[[I64, I64, Iterable[int]], Sequence[Trial]]
"""Queries' rows, gallery's rows and the gallery's cameras -> the trials."""


def both_ways(images: Images, infrared: Band, name: str, trials: Drawing) -> list[Direction]:
    """Infrared queries among visible images, and the other way. Raises ProtocolError."""
    visible, other = images.of_band(Band.VIS, name), images.of_band(infrared, name)
    vis, ir = images.chosen(visible), images.chosen(other)
    left_out = others(images, visible | other)
    names = str(images.domain[vis[0]]), str(images.domain[ir[0]])
    return [
        Direction(names[0], names[1], trials(ir, vis, VIS_CAMERAS), left_out),
        Direction(names[1], names[0], trials(vis, ir, NIR_CAMERAS), left_out),
    ]


def llcm_cameras(images: Images, name: str) -> None:
    """Raise ProtocolError where a row has no camera."""
    images.need_cameras((images.band == Band.VIS) | (images.band == Band.NIR), name)


def one_shot(images: Images, rows: I64, cameras: Iterable[int], trials: int) -> list[I64]:
    """One image of each person and camera, by each trial's seed."""
    shelves = shelved(images, rows)
    return [drawn(shelves, cameras, 1, trial) for trial in range(trials)]
