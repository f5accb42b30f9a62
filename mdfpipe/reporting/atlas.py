"""A map of the embeddings: t-SNE of templates in two dimensions, a colour a subject, a shape a domain."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import counted, not_loaded
from mdfpipe.inspecting.samples import spread
from mdfpipe.reporting.similarity import enrolled_domains
from mdfpipe.store.naming import natural_key
from mdfpipe.store.templates import Templates, unit

MOST_POINTS: Final = 320
LEAST_POINTS: Final = 8
SEED: Final = 0
SIDE: Final = 400  # of the map, in its own units
_GOLDEN: Final = 0.61803398875

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class MapPoint:
    """A template on the map: a path around its place, its colour, and what it is."""

    path: str
    colour: str
    title: str


@dataclass(frozen=True)
class Map:
    """The map of one system. shapes: (domain, path around the origin) for the legend; of: templates that there are."""

    system: str
    points: list[MapPoint]
    shapes: list[tuple[str, str]]
    subjects: int
    of: int
    source: str


def atlas(system: str, templates: Templates, file: str) -> Map | None:
    """The map of a system's enrolled templates; None for fewer than LEAST_POINTS. Many are thinned out evenly."""
    enrolled, people = np.flatnonzero(templates.enrolled), templates.subject.tolist()
    if len(enrolled) < LEAST_POINTS:
        return None
    names = sorted({people[n] for n in enrolled.tolist()}, key=natural_key)
    each = max(len(enrolled) / len(names), 1)
    chosen = spread(names, max(int(MOST_POINTS / each), 2))
    hue = {name: (n * _GOLDEN) % 1 for n, name in enumerate(chosen)}
    rows = [n for n in enrolled.tolist() if people[n] in hue][:MOST_POINTS]
    if len(rows) < LEAST_POINTS:
        return None
    places = project(unit(templates.vectors[rows]))
    domains = enrolled_domains(templates)
    points = [
        MapPoint(
            shape(domains.index(templates.domain[n]), x, y),
            _colour(hue[people[n]]),
            f"{templates.name[n]}, {counted(int(templates.crops[n]), 'crop')}; {file}",
        )
        for n, (x, y) in zip(rows, places.tolist(), strict=True)
    ]
    shapes = [(domain, shape(n, 8, 8)) for n, domain in enumerate(domains)]
    return Map(system, points, shapes, len({people[n] for n in rows}), len(enrolled), file)


def project(vectors: NDArray[np.float32]) -> F64:
    """Places (n, 2) in 0..SIDE of vectors (n, D) of length 1: t-SNE by cosine, the same each time."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise not_loaded(error, "sklearn", "the map of templates", extra="maps") from None
    from threadpoolctl import threadpool_limits

    perplexity = float(min(20.0, max((len(vectors) - 1) / 3, 1.0)))
    with threadpool_limits(1):  # sums in another order give another map
        found = TSNE(
            metric="cosine", init="random", perplexity=perplexity, random_state=SEED, method="exact", max_iter=500
        ).fit_transform(vectors.astype(np.float64))
    low, high = found.min(axis=0), found.max(axis=0)
    placed: F64 = 12 + (SIDE - 24) * (found - low) / np.maximum(high - low, 1e-12)
    return np.round(placed, 1)


def _colour(hue: float) -> str:
    """A colour that shows on light and on dark ground."""
    red, green, blue = (round(255 * v) for v in colorsys.hls_to_rgb(hue, 0.52, 0.62))
    return f"#{red:02x}{green:02x}{blue:02x}"


def shape(place: int, x: float, y: float, size: float = 5.0) -> str:
    """The outline of the place-th shape around a point: square, triangle, circle, diamond, cross, pentagon, and on.

    >>> shape(0, 10, 10, 2)
    'M8.0 8.0L12.0 8.0L12.0 12.0L8.0 12.0Z'
    """
    if place == 2:
        r = size
        return f"M{x - r:.1f} {y:.1f}a{r:g} {r:g} 0 1 0 {2 * r:g} 0a{r:g} {r:g} 0 1 0 {-2 * r:g} 0Z"
    if place == 4:
        a, b = size * 1.1, size * 0.4
        corners = [(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b), (b, a), (-b, a), (-b, b), (-a, b), (-a, -b)]
        corners.append((-b, -b))
    elif place == 0:
        corners = [(-size, -size), (size, -size), (size, size), (-size, size)]
    else:
        sides = {1: 3, 3: 4}.get(place, place)
        turn = [2 * math.pi * n / sides - math.pi / 2 for n in range(sides)]
        corners = [(1.25 * size * math.cos(t), 1.25 * size * math.sin(t)) for t in turn]
    return "M" + "L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners) + "Z"
