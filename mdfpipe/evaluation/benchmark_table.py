"""A table under a published protocol: what each system reaches as rows of METRICS, CURVES and COMPARISONS.

A number is the mean over the trials; `spread` is their standard deviation, which says how much the draw of the gallery
decides. Its interval says something else, how much the people decide: a bootstrap over the queries' subjects, of all
trials together, in the galleries as they were drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mdfpipe.errors import ProtocolError, counted
from mdfpipe.evaluation.benchmark import DEPTH, BenchmarkOutcome, evaluate_benchmark, mean_and_spread
from mdfpipe.evaluation.case import generator_of
from mdfpipe.evaluation.comparing import F32, F64, Array, Flags
from mdfpipe.evaluation.expected import chosen_rows, refuse_trained
from mdfpipe.evaluation.listing import MOST_VALUES, images_as_templates
from mdfpipe.evaluation.measures.differences import Counted, difference
from mdfpipe.evaluation.measures.intervals import mean_of, over_subjects, subject_codes
from mdfpipe.evaluation.seeds import Seeds, lines_of, mean_bounds, mean_curves, mean_row, with_bounds
from mdfpipe.evaluation.table import Table, depth_of
from mdfpipe.store.tables import NumberNote

if TYPE_CHECKING:
    from mdfpipe.evaluation.vectors import Evaluated, SystemVectors

ALL = "all"


def measure_benchmark(
    name: str, table: Table, systems: Sequence[SystemVectors], found: Evaluated, data: Path | None, seeds: Seeds
) -> None:
    """Every system under the benchmark of a table; the rows go to `found`. data: the data root, for the galleries.
    seeds: systems that are the mean of several trainings.

    Raises ProtocolError where the rows do not fit, or somebody who is tested was learned from; DataError, ConfigError.
    """
    assert table.benchmark is not None
    outcomes: dict[str, list[BenchmarkOutcome]] = {}
    rows_of: dict[str, list[dict[str, Any]]] = {}
    curves_of: dict[str, list[dict[str, Any]]] = {}
    for system in systems:
        inside = np.isin(system.rows["split"].to_pylist(), table.splits)
        rows = system.rows.filter(inside)
        if not rows.num_rows:
            raise ProtocolError(f"{system.name} has no vectors of split {', '.join(table.splits)}: embed it")
        if not table.allow_trained_subjects:
            refuse_trained(system.name, rows["subject_id"].unique().to_pylist(), system.trained)
        vectors = np.concatenate(list(chosen_rows(system.blocks(), inside)))
        made = evaluate_benchmark(
            table.benchmark, rows, vectors, system.usable[inside], system.measure, data=data, rerank=table.rerank
        )
        about = {"table": name, "system": system.name, "modality": system.modality}
        rows_of[system.name] = [
            about | row for one in made for row in numbers(table, system.name, one, _seed(name, one))
        ]
        curves_of[system.name] = [{"table": name, "system": system.name} | row for one in made for row in curve(one)]
        found.tables[name]["coverage"] += [coverage(system.name, one) for one in made]
        _keep(name, system, rows, vectors, system.usable[inside], made, found)
        outcomes[system.name] = made
    lines = lines_of(outcomes, seeds)
    for line, trainings in lines.items():
        if len(trainings) > 1:
            found.metrics += _of_seeds(
                name, table, line, [rows_of[one] for one in trainings], [outcomes[one] for one in trainings]
            )
            found.curves += mean_curves(line, [curves_of[one] for one in trainings])
        found.metrics += [
            row | {"seed_of": line if len(trainings) > 1 else None} for one in trainings for row in rows_of[one]
        ]
        found.curves += [row for one in trainings for row in curves_of[one]]
    of_lines = {line: [outcomes[one] for one in trainings] for line, trainings in lines.items()}
    found.comparisons += [{"table": name} | row for row in comparisons(table, of_lines, name)]


def _keep(
    table: str,
    system: SystemVectors,
    rows: pa.Table,
    vectors: F32,
    usable: Flags,
    outcomes: Sequence[BenchmarkOutcome],
    found: Evaluated,
) -> None:
    """Keep every image as a template, and the lists of each first trial: none of both where images are too many."""
    images = images_as_templates(rows, vectors, usable, system.modality)
    if vectors.size > MOST_VALUES:
        found.tables[table]["notes"].append(
            f"{system.name}: no templates and no lists are kept, as {len(vectors)} vectors of {vectors.shape[1]} are "
            f"above {MOST_VALUES} values"
        )
        return
    kept = found.templates.setdefault(system.name, images)
    if not np.isin(images.name, kept.name).all():
        found.tables[table]["notes"].append(
            f"{system.name}: no lists are kept, as another table has other templates of it"
        )
        return
    for one in outcomes:
        place = {"table": table, "system": system.name, **place_of(one)}
        first = one.rank[0], one.precision[0], one.penalty[0], one.valid[0]
        found.lists += one.listing.rows(images, first, place)


def _seed(table: str, one: BenchmarkOutcome) -> str:
    return f"{table}/{one.gallery_domain} > {one.probe_domain}"


def _of_seeds(
    name: str,
    table: Table,
    line: str,
    rows: Sequence[Sequence[dict[str, Any]]],
    outcomes: Sequence[Sequence[BenchmarkOutcome]],
) -> Iterator[dict[str, Any]]:
    """Rows of METRICS of a system's trainings together. rows, outcomes: of each training."""
    by_place = {(o[0].gallery_domain, o[0].probe_domain): o for o in zip(*outcomes, strict=True)}
    for of_metric in zip(*rows, strict=True):
        metric, place = of_metric[0]["metric"], (of_metric[0]["gallery_domain"], of_metric[0]["probe_domain"])
        made = mean_row(line, of_metric, table.paper(line, *place, metric))
        if all(row["low"] is not None for row in of_metric):
            values, subjects = _stacked(by_place[place], metric)
            counted = Counted([], subjects, {metric: values})
            made = with_bounds(made, mean_bounds(metric, [counted], _seed(name, by_place[place][0])))
        yield made


def _stacked(outcomes: Sequence[BenchmarkOutcome], metric: str) -> tuple[F64, Array]:
    """What every valid query adds in every trial, (trainings, n); and whose it is."""
    values = [_counted(one, metric) for one in outcomes]
    return np.stack([one for one, _ in values]), values[0][1]


def place_of(found: BenchmarkOutcome) -> dict[str, Any]:
    """Which pair of domains."""
    return {"gallery_domain": found.gallery_domain, "probe_domain": found.probe_domain, "gallery": ALL}


def numbers(table: Table, system: str, found: BenchmarkOutcome, seed: str) -> Iterator[dict[str, Any]]:
    """A row for each metric of the table, but for the table's and the system's own columns."""
    assert table.benchmark is not None
    removal = table.benchmark.removal
    about = {
        "protocol": table.protocol,
        **place_of(found),
        "k": None,
        "n": round(float(found.n.mean())),
        "n_gallery": round(float(found.gallery_images.mean())),
        "n_subjects": round(float(found.gallery_identities.mean())),
        "n_probes": len(found.subject),
        "failed_gallery": found.failed_gallery,
        "failed_probes": found.failed_queries,
        "failure": "miss",
        "n_unmated": len(found.subject) - round(float(found.n.mean())),
        "unmated": "exclude",
        "n_left_out": 0,
        "templates": "image",
        "pooling": "none",
        "distance": found.measure,
        "rule": removal.name if removal else "none",
        "rerank": found.rerank,
        "trials": len(found.rank),
        **dict.fromkeys(("chance", "threshold", "k_false", "n_false")),
    }
    for metric in table.metrics:
        value, spread = mean_and_spread(found.of(metric))
        values, subjects = _counted(found, metric)
        (codes,), people = subject_codes(subjects)
        bounds = over_subjects(mean_of(values, codes, people), people, generator_of(f"{seed}/{metric}"))
        paper = table.paper(system, found.gallery_domain, found.probe_domain, metric)
        places = about["n_subjects"] if table.benchmark.distinct else about["n_gallery"]
        bounds["notes"] += [NumberNote.TRIVIAL] * ((depth_of(metric) or 0) >= places)
        yield about | {"metric": metric, "value": value, "spread": spread, "published": paper} | bounds


def _counted(found: BenchmarkOutcome, metric: str) -> tuple[F64, Array]:
    """What every valid query adds in every trial, and whose it is."""
    return found.per_query(metric)[found.valid], np.tile(found.subject, (len(found.rank), 1))[found.valid]


def curve(found: BenchmarkOutcome) -> Iterator[dict[str, Any]]:
    """The mean CMC; its bounds are the least and the greatest of the trials."""
    for rank, shares in zip(range(1, DEPTH + 1), found.cmc.T, strict=True):
        low, high = float(shares.min()), float(shares.max())
        y = min(max(float(shares.mean()), low), high)
        yield {**place_of(found), "curve": "cmc", "x": float(rank), "y": y, "low": low, "high": high}


def comparisons(
    table: Table, outcomes: Mapping[str, Sequence[Sequence[BenchmarkOutcome]]], seed: str
) -> Iterator[dict[str, Any]]:
    """Each system against each after it, on the queries of all trials: a paired bootstrap over subjects, and over
    trainings where there are several. outcomes: of each training.
    """
    for first, second in combinations(outcomes, 2):
        for a, b in zip(zip(*outcomes[first], strict=True), zip(*outcomes[second], strict=True), strict=True):
            one = a[0]
            if not all(np.array_equal(one.subject, x.subject) and np.array_equal(one.valid, x.valid) for x in (*a, *b)):
                continue  # of another modality, with other images
            for metric in table.metrics:
                (va, subjects), (vb, _) = _stacked(a, metric), _stacked(b, metric)
                row = difference("mean", [va], [vb], [subjects], generator_of(f"{_seed(seed, one)}/{metric}"))
                about = {**place_of(one), "metric": metric, "first": first, "second": second}
                yield about | row | {"n": round(float(one.n.mean()))}


def coverage(system: str, found: BenchmarkOutcome) -> str:
    """What was searched among what, and what failed, in one line."""
    images, valid = _range(found.gallery_images), _range(found.n)
    words = [
        f"{found.gallery_domain} > {found.probe_domain}: {system}: {valid} of {len(found.subject)} queries have a mate "
        f"among {images} gallery images of {_range(found.gallery_identities)} people, {len(found.rank)} trials"
    ]
    if found.failed_queries or found.failed_gallery:
        words.append(
            f"{found.failed_queries} queries (misses) and {found.failed_gallery} gallery images (absent) have no vector"
        )
    words += [f"{counted(count, 'row')} {why} left out" for why, count in found.left_out.items()]
    return "; ".join(words)


def _range(values: Array) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"
