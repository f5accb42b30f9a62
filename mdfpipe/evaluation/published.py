"""What the papers of the recipes print: the rows of `benchmarks/published.yaml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mdfpipe.config import Config, read_yaml, validate
from mdfpipe.store.shipped import SHIPPED

FILE = Path("benchmarks") / "published.yaml"
Percent = Annotated[float, Field(ge=0, le=100)]


class PublishedRow(Config):
    """A row of a paper: the numbers that a run on the benchmark itself is compared with."""

    recipe: str = Field(description="the method's recipe here")
    benchmark: str = Field(description="the data set, as the paper calls it")
    protocol: str = Field(description="how it was measured, as far as the paper says")
    table: str = Field(description="table or tables of the paper with this row")
    row: str = Field(description="what it is, and what else it needs: who is trained on, what is tested")
    settings: dict[str, Any] = Field(
        default={}, description="settings of the recipe, other than its defaults, that give the row"
    )
    figures: dict[str, Percent] = Field(description="a measure, or a measure and a domain, in per cent")


class _Rows(Config):
    rows: list[PublishedRow]


@cache
def rows() -> tuple[PublishedRow, ...]:
    """All rows, those of a recipe together. Raises ConfigError where the file is not as it should be."""
    place = SHIPPED / FILE
    return tuple(validate(_Rows, read_yaml(place), str(place)).rows)


def of(recipe: str) -> list[PublishedRow]:
    """The rows of a recipe, the published method on each benchmark first.

    >>> row = of("dfw")[0]
    >>> row.benchmark, row.figures["Rank-1"], row.figures["mAP"]
    ('SYSU-MM01', 64.24, 62.04)
    """
    return [row for row in rows() if row.recipe == recipe]
