"""regdb: RegDB, all visible against all thermal images of a split, and the other way (PROTOCOLS 2.2)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mdfpipe.domains import Band
from mdfpipe.evaluation.benchmarks import Benchmark, BenchmarkImages, Direction, Trial
from mdfpipe.evaluation.benchmarks._between import both_ways


class Regdb(Benchmark):
    """RegDB: every image of a test identity among all images of the other band; a rank counts images.

    Its ten trials are ten splits of the people: ten trainings, each a study of its own. `mdfpipe eval --average` sets
    them together.
    """

    split: int = Field(1, ge=1, le=10, description="which of the ten splits the test rows are of")

    distinct = False

    @property
    def label(self) -> str:
        """Such as `regdb split 3 of 10, all images`."""
        return f"regdb split {self.split} of 10, all images"

    @property
    def published_as(self) -> tuple[str, ...]:
        """Papers give the mean of the ten splits."""
        return self.label, "regdb mean of 10 splits, all images"

    def directions(self, images: BenchmarkImages, data: Path | None) -> list[Direction]:
        """Thermal among visible ("thermal to visible"), visible among thermal ("visible to thermal")."""
        return both_ways(images, Band.LWIR, "regdb", lambda queries, gallery, _: [Trial(queries, gallery)])
