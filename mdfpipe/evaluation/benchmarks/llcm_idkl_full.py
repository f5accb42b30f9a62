"""llcm_idkl_full: LLCM as IDKL's code evaluates it (PROTOCOLS 2.3)."""

from __future__ import annotations

from pathlib import Path

from mdfpipe.domains import Band
from mdfpipe.evaluation.benchmarks import Benchmark, BenchmarkImages, Direction, Trial
from mdfpipe.evaluation.benchmarks._between import both_ways


class LlcmIdklFull(Benchmark):
    """LLCM: all images of one band among all of the other, nothing left out, once. A rank counts identities."""

    @property
    def label(self) -> str:
        """With what is searched among what."""
        return "llcm_idkl_full, all images among all images, nothing left out, 1 trial"

    def directions(self, images: BenchmarkImages, data: Path | None) -> list[Direction]:
        """Both ways."""
        return both_ways(images, Band.NIR, "llcm_idkl_full", lambda queries, gallery, _: [Trial(queries, gallery)])
