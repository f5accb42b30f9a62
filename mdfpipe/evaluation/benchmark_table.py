"""A table under a published protocol: what each system reaches as rows of METRICS, CURVES and COMPARISONS.

A number is the mean over the trials; `spread` is their standard deviation, which says how much the draw of the gallery
decides. Its interval says something else, how much the people decide: a bootstrap over the queries' subjects, of all
trials together, in the galleries as they were drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdfpipe.errors import ProtocolError
from mdfpipe.evaluation.benchmark import DEPTH, BenchmarkOutcome, evaluate_benchmark, mean_and_spread
from mdfpipe.evaluation.case import generator_of
from mdfpipe.evaluation.comparing import F64, Array
from mdfpipe.evaluation.expected import chosen_rows, refuse_trained
from mdfpipe.evaluation.measures.differences import difference
from mdfpipe.evaluation.measures.intervals import bootstrap, mean_of, subject_codes
from mdfpipe.evaluation.table import Table

if TYPE_CHECKING:
    from mdfpipe.evaluation.vectors import Evaluated, SystemVectors

ALL = "all"


def measure_benchmark(
    name: str, table: Table, systems: Sequence[SystemVectors], found: Evaluated, data: Path | None
) -> None:
    """Every system under the benchmark of a table; the rows go to `found`. data: the data root, for the galleries.

    Raises ProtocolError where the rows do not fit, or somebody who is tested was learned from; DataError, ConfigError.
    """
    assert table.benchmark is not None
    outcomes: dict[str, list[BenchmarkOutcome]] = {}
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
        for one in made:
            about = {"table": name, "system": system.name}
            seed = f"{name}/{one.gallery_domain} > {one.probe_domain}"
            rows_of = numbers(table, system.name, one, seed)
            found.metrics += [about | {"modality": system.modality} | row for row in rows_of]
            found.curves += [about | row for row in curve(one)]
            found.tables[name]["coverage"].append(coverage(system.name, one))
        outcomes[system.name] = made
    found.comparisons += [{"table": name} | row for row in comparisons(table, outcomes, name)]


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
        low = high = interval = None
        if people > 1:
            bounds = bootstrap(mean_of(values, codes, people), people, generator_of(f"{seed}/{metric}"))
            low, high, interval = bounds.low, bounds.high, "bootstrap"
        paper = table.paper(system, found.gallery_domain, found.probe_domain, metric)
        bounded = {"low": low, "high": high, "interval": interval, "published": paper}
        yield about | {"metric": metric, "value": value, "spread": spread} | bounded


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
    table: Table, outcomes: Mapping[str, Sequence[BenchmarkOutcome]], seed: str
) -> Iterator[dict[str, Any]]:
    """Each system against each after it, on the queries of all trials: a paired bootstrap over subjects."""
    names = list(outcomes)
    for n, first in enumerate(names):
        for second in names[n + 1 :]:
            for a, b in zip(outcomes[first], outcomes[second], strict=True):
                if not (np.array_equal(a.subject, b.subject) and np.array_equal(a.valid, b.valid)):
                    continue  # of another modality, with other images
                for metric in table.metrics:
                    (va, subjects), (vb, _) = _counted(a, metric), _counted(b, metric)
                    generator = generator_of(f"{seed}/{a.gallery_domain} > {a.probe_domain}/{metric}")
                    row = difference("mean", [va], [vb], [subjects], generator)
                    about = {**place_of(a), "metric": metric, "first": first, "second": second}
                    yield about | row | {"n": round(float(a.n.mean()))}


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
    words += [f"{count} rows {why} left out" for why, count in found.left_out.items()]
    return "; ".join(words)


def _range(values: Array) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"
