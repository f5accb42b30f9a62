"""The numbers and the cost of every recipe, as lines of recipes.md."""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any, Final

import yaml

from mdfpipe.evaluation import published
from mdfpipe.learning import cost
from mdfpipe.learning.recipes import Recipe

ABOUT = """\
The published numbers are those of the papers' tables, `benchmarks/published.yaml`. What users measured with this code
is in `benchmarks/reached.yaml`: `mdfpipe reached RUN` enters a run, `mdfpipe reached` shows both. Parameters are
those of what embeds, without classifiers and what serves training only, with a visible and an infrared stream where a
recipe has streams. G MAC are 10^9 multiply-accumulates: a multiplication with its addition counts as one, and
convolutions and matrix products alone are counted; of one image, and of a visible and an infrared one together, which
is what Table 2 of DFW calls FLOPs (its 10.301 and 15.150 G are 10.260 and 15.101 G here, for it adds two for each
value that a norm gives). Parameters and G MAC are computed from the defaults. *A step* is one of training with the
defaults, measured on two cores of an AMD EPYC in bf16 (`scripts/bench step --precision bf16`): forward, losses,
backward and optimiser of a batch of so many images, and the memory that it takes.
"""

STEP: Final = {
    "body": (64, 36.6, 6.8),
    "dfw": (72, 21.7, 6.1),
    "di2l": (96, 18.7, 6.7),
    "face": (64, 19.3, 7.4),
    "idkl": (120, 54.9, 12.3),
    "lccrf": (48, 12.7, 4.6),
}
"""Images of a batch, seconds a step, peak memory in GB: what the benchmark printed."""


def overview() -> list[str]:
    """A row a recipe and benchmark: what its paper reached there, and what it costs."""
    columns = "recipe|paper|benchmark|protocol|published, %|parameters, M|G MAC, image|G MAC, pair|a step"
    lines = ["## Overview", "", ABOUT, *_head(columns)]
    for choice in Recipe.choices():
        first: dict[str, published.Row] = {}
        for row in published.of(choice):
            first.setdefault(row.benchmark, row)
        for row in first.values():
            place = [f"[{choice}](#{choice})", _paper(choice), row.benchmark, row.protocol]
            lines.append(_line(*place, _figures(row), *_cost(choice), _step(choice)))
    return lines


def numbers(choice: str) -> list[str]:
    """The cost of a recipe, and the rows of its paper with the settings that make them."""
    parameters, image, pair = _cost(choice)
    columns = "table|benchmark|protocol|row|settings other than the defaults|published, %"
    return [
        f"What embeds has {parameters} M parameters and does {image} G multiply-accumulates an image, {pair} G a pair.",
        "",
        *_head(columns),
        *(
            _line(row.table, row.benchmark, row.protocol, row.row, _flow(row.settings), _figures(row))
            for row in published.of(choice)
        ),
    ]


def docstring(choice: str) -> str:
    """What the recipe's file declares."""
    return inspect.cleandoc(sys.modules[Recipe.variant(choice).__module__].__doc__ or "")


def _paper(choice: str) -> str:
    """The title that the recipe's file quotes first."""
    return " ".join(docstring(choice).split()).split('"')[1]


@functools.cache
def _cost(choice: str) -> tuple[str, str, str]:
    """Parameters in millions, multiply-accumulates of an image and of a pair in thousands of millions."""
    found = cost.cost(Recipe.variant(choice)())
    return f"{found.parameters / 1e6:.2f}", f"{found.image / 1e9:.3f}", f"{found.pair / 1e9:.3f}"


def _figures(row: published.Row) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in row.figures.items())


def _step(choice: str) -> str:
    images, seconds, memory = STEP[choice]
    return f"{images} images, {seconds:g} s, {memory:g} GB"


def _flow(settings: Any) -> str:
    return f"`{yaml.safe_dump(dict(settings), default_flow_style=True, width=1000).strip()}`" if settings else ""


def _head(columns: str) -> list[str]:
    names = columns.split("|")
    return [_line(*names), "|---" * len(names) + "|"]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
