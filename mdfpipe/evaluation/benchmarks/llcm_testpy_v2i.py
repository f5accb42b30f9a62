"""llcm_testpy_v2i: LLCM as the branch of DEEN's test.py that is called VIS to IR computes it (PROTOCOLS 2.3)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mdfpipe.domains import Band
from mdfpipe.evaluation.benchmarks import SAME_CAMERA, Benchmark, BenchmarkImages, Direction, Trial
from mdfpipe.evaluation.benchmarks._between import NIR_CAMERAS, both_ways, llcm_cameras, one_shot


class LlcmTestpyV2i(Benchmark):
    """LLCM with the sides swapped: drawn near-infrared images, one a person and camera, among all visible ones.

    What is printed as visible to infrared is thus infrared to visible. The rules are those of `llcm_deen_paper`.
    """

    trials: int = Field(10, ge=1, description="draws of the queries that are averaged")

    removal = SAME_CAMERA

    @property
    def label(self) -> str:
        """With what is searched among what."""
        return f"llcm_testpy_v2i, seeded single-shot NIR among all VIS images, {self.trials} trials"

    def directions(self, images: BenchmarkImages, data: Path | None) -> list[Direction]:
        """Near-infrared among visible, alone."""
        llcm_cameras(images, "llcm_testpy_v2i")
        return both_ways(
            images,
            Band.NIR,
            "llcm_testpy_v2i",
            lambda queries, rows, _: [Trial(one, rows) for one in one_shot(images, queries, NIR_CAMERAS, self.trials)],
        )[:1]
