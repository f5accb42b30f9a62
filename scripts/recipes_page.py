"""The numbers and the cost of every recipe, as lines of recipes.md."""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any, Final

import yaml
from recipe_cost import cost

from mdfpipe.evaluation import published
from mdfpipe.learning.recipes import Recipe

ABOUT = """\
The published numbers come from the papers' tables (`benchmarks/published.yaml`). Numbers that users measured with this
code are in `benchmarks/reached.yaml`: `mdfpipe reached RUN` enters a run, `mdfpipe reached` shows both.

*Parameters* are those of the embedding network: without classifiers and parts for training only, with a visible and an
infrared stream if the recipe has streams. *G MAC* are 10^9 multiply-accumulates, of convolutions and matrix products
only: a multiplication with its addition counts as one. They are given for one image, and for a visible and an infrared
image together. Table 2 of DFW calls the latter FLOPs; its 10.301 and 15.150 G are 10.260 and 15.101 G here, because it
adds two for each value of a norm. Both are computed from the defaults.

*A step* is one training step with the defaults, measured on two cores of an AMD EPYC in bf16 (`scripts/bench step
--precision bf16`): forward, losses, backward and optimiser for a batch of that many images, with its peak memory.
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
    for choice in Recipe.methods():
        first: dict[str, published.PublishedRow] = {}
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
        f"The embedding network has {parameters} M parameters: {image} G multiply-accumulates per image, {pair} G "
        "per pair.",
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
    found = cost(Recipe.variant(choice)())
    return f"{found.parameters / 1e6:.2f}", f"{found.image / 1e9:.3f}", f"{found.pair / 1e9:.3f}"


def _figures(row: published.PublishedRow) -> str:
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
