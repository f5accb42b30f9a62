"""llcm_deen_paper: LLCM as the table of DEEN's paper has it (PROTOCOLS 2.3)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mdfpipe.domains import Band
from mdfpipe.evaluation.benchmarks import SAME_CAMERA, Benchmark, BenchmarkImages, Direction, Trial
from mdfpipe.evaluation.benchmarks._between import both_ways, llcm_cameras, one_shot


class LlcmDeenPaper(Benchmark):
    """LLCM: all images of one band among one drawn image of each person and camera of the other.

    Images of one person by one camera, whose numbers the bands share, are not compared. A rank counts identities.
    """

    trials: int = Field(10, ge=1, description="galleries that are averaged")

    removal = SAME_CAMERA

    @property
    def label(self) -> str:
        """With what is searched among what."""
        return f"llcm_deen_paper, all images among seeded single-shot galleries, {self.trials} trials"

    def directions(self, images: BenchmarkImages, data: Path | None) -> list[Direction]:
        """Both ways."""
        llcm_cameras(images, "llcm_deen_paper")
        return both_ways(
            images,
            Band.NIR,
            "llcm_deen_paper",
            lambda queries, rows, cameras: [
                Trial(queries, gallery) for gallery in one_shot(images, rows, cameras, self.trials)
            ],
        )
