"""The files of the studies of the visible-infrared benchmarks: what they are called, and each as it is loaded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mdfpipe.datasets import Dataset
from mdfpipe.study.study import Study

PIPELINES = Path(__file__).parents[1] / "pipelines"
BENCHMARKS = {name: Dataset.variant(name).published_name for name in ("sysu", "regdb", "llcm")}
STUDIES = [f"{folder}/{path.stem}" for folder in BENCHMARKS for path in sorted((PIPELINES / folder).glob("*.yaml"))]
STUDIES.append("ijbmdf/table-2")
WEIGHTS = {True: "resnet50-0676ba61.pth", False: "pass_vit_base_full.pth"}


def load(name: str, *overrides: str) -> Study:
    return Study.load(PIPELINES / f"{name}.yaml", list(overrides))


@cache
def every_study() -> dict[str, Study]:
    """Loaded once, for all that only look at them."""
    return {name: load(name) for name in STUDIES}
