"""market: Market-1501 and data sets in its layout (PROTOCOLS 2.4)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdfpipe.domains import Band
from mdfpipe.errors import ProtocolError
from mdfpipe.evaluation.benchmarks import SAME_CAMERA, Benchmark, BenchmarkImages, Direction, Trial, others

QUERY, GALLERY, JUNK = "query", "bounding_box_test", "-1"
DISTRACTORS = ("0000", "0")  # as the files name them, and as the published lists of numbers do


class Market(Benchmark):
    """Market-1501: the images of `query` among those of `bounding_box_test`, as session_id says.

    Images of one person by one camera are not compared, and junk (subject -1) is in no list; distractors (0000) are in
    the gallery's, and are not searched for.
    A rank counts images.
    """

    removal = SAME_CAMERA
    distinct = False

    @property
    def label(self) -> str:
        """With what is searched among what."""
        return "market, query among bounding_box_test, 1 trial"

    def directions(self, images: BenchmarkImages, data: Path | None) -> list[Direction]:
        """Visible among visible."""
        visible = images.of_band(Band.VIS, "market")
        images.need_cameras(visible, "market")
        junk = images.subject == JUNK
        nobody = (images.session == QUERY) & np.isin(images.subject, DISTRACTORS)
        sides = [images.chosen(visible & ~junk & ~nobody & (images.session == name)) for name in (QUERY, GALLERY)]
        if not all(len(side) for side in sides):
            names = ", ".join(sorted(set(images.session.tolist()))) or "none"
            raise ProtocolError(f"market: expected rows of session_id {QUERY} and {GALLERY}, got {names}")
        elsewhere = visible & ~junk & ~np.isin(images.session, (QUERY, GALLERY))
        counts = {
            "junk": int((visible & junk).sum()),
            "of distractors among the queries": int((visible & nobody).sum()),
            "of another folder": int(elsewhere.sum()),
        }
        left_out = others(images, visible) | {why: count for why, count in counts.items() if count}
        domain = str(images.domain[sides[0][0]])
        return [Direction(domain, domain, [Trial(*sides)], left_out)]
