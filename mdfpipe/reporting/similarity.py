"""How alike templates are: heat maps of subjects by subjects for each pair of domains, and distributions of scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.domains import by_wavelength
from mdfpipe.drawing.pixels import ramped
from mdfpipe.drawing.plots import PALETTE, Bars, Picture, histograms, shares
from mdfpipe.errors import StoreError, one_line
from mdfpipe.inspecting.samples import spread
from mdfpipe.store.naming import natural_key
from mdfpipe.store.parquet import open_table
from mdfpipe.store.results import Results
from mdfpipe.store.tables import SCORES, as_ours
from mdfpipe.store.templates import Templates, unit

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

MOST_SUBJECTS, MOST_DOMAINS, MOST_SYSTEMS = 60, 6, 8  # on the heat maps of one page
BINS: Final = 60


def enrolled_domains(templates: Templates) -> list[str]:
    """Domains with an enrolled template, by wavelength."""
    return sorted(set(templates.domain[templates.enrolled].tolist()), key=by_wavelength)


# -- heat maps


@dataclass(frozen=True, eq=False)
class Panel:
    """Similarities (S, S) of gallery subjects (rows) and probe subjects (columns), NaN where one is not there."""

    gallery: str
    probe: str
    values: F64

    @property
    def same(self) -> float | None:
        """The mean over pairs of one subject; none where there is none, or a template would meet itself."""
        found = np.diagonal(self.values)
        return None if self.gallery == self.probe or np.isnan(found).all() else float(np.nanmean(found))

    @property
    def other(self) -> float | None:
        """The mean over pairs of two subjects."""
        apart = self.values[~np.eye(len(self.values), dtype=bool)]
        return None if not apart.size or np.isnan(apart).all() else float(np.nanmean(apart))


@dataclass(frozen=True)
class HeatMap:
    """The panels of one system, a row for each gallery domain. low, high: the similarities at the ramp's ends."""

    system: str
    modality: str
    domains: list[str]
    subjects: list[str]
    of: int
    panels: list[list[Panel]]
    low: float
    high: float
    source: str


def heat_map(system: str, templates: Templates, file: str) -> HeatMap | None:
    """Cosine similarity of subjects, the same subjects in the same order in every panel; None without a template.

    A subject with several templates in a domain is represented there by their mean. Subjects with every domain come
    first; of many, some are chosen evenly by name.
    """
    domains = enrolled_domains(templates)[:MOST_DOMAINS]
    if not domains:
        return None
    there: dict[str, dict[str, list[int]]] = {}
    people, places, vectors = templates.subject.tolist(), templates.domain.tolist(), unit(templates.vectors)
    for n in np.flatnonzero(templates.enrolled).tolist():
        there.setdefault(people[n], {}).setdefault(places[n], []).append(n)
    whole = [name for name, seen in there.items() if all(domain in seen for domain in domains)]
    subjects = spread(sorted(whole or there, key=natural_key), MOST_SUBJECTS)
    means = np.full((len(domains), len(subjects), vectors.shape[1]), np.nan)
    for d, domain in enumerate(domains):
        for s, subject in enumerate(subjects):
            rows = there[subject].get(domain, [])
            if rows:
                mean = vectors[rows].astype(np.float64).mean(axis=0)
                means[d, s] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    panels = [
        [Panel(a, b, np.round(means[i] @ means[j].T, 4)) for j, b in enumerate(domains)] for i, a in enumerate(domains)
    ]
    apart = ~np.eye(len(subjects), dtype=bool)
    values = np.concatenate(
        [
            (panel.values[apart] if panel.gallery == panel.probe else panel.values.ravel())
            for row in panels
            for panel in row
        ]
    )
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    modality = str(templates.modality[0])
    return HeatMap(system, modality, domains, subjects, len(there), panels, low, max(high, low + 1e-6), file)


def painted(panel: Panel, low: float, high: float) -> NDArray[np.uint8]:
    """The panel as a picture (S, S, 3): dark is the least similar, grey where there is no subject."""
    known = np.isfinite(panel.values)
    picture = ramped(np.where(known, (panel.values - low) / (high - low), 0.0))
    picture[~known] = 128
    return picture


# -- distributions


def score_pictures(results: Results, table: str, systems: Sequence[str]) -> list[Picture]:
    """Mated and non-mated scores: a drawing for each pair of domains, a row a system. Raises StoreError."""
    cases: dict[tuple[str, str, str], list[tuple[Bars, str]]] = {}
    for system in systems:
        path = results.score_files.get((table, system))
        if path is None:
            continue
        for case, bars in _histograms(system, path).items():
            cases.setdefault(case, []).append((bars, results.relative(path)))
    found = []
    for (gallery_domain, probe_domain, gallery), rows in sorted(cases.items(), key=_by_wavelength):
        title = f"{gallery_domain} → {probe_domain}" + ("" if gallery == "all" else f", gallery {gallery}")
        svg = histograms(f"scores/{table}/{title}", [bars for bars, _ in rows], "similarity")
        files = [file for _, file in rows]
        whole = f"{len(files)} files evaluate/scores/{table}.SYSTEM.parquet" if len(files) > 2 else "; ".join(files)
        found.append(Picture(title, svg, whole))
    return found


def _by_wavelength(item: tuple[tuple[str, str, str], Any]) -> tuple[Any, ...]:
    gallery_domain, probe_domain, gallery = item[0]
    return by_wavelength(gallery_domain), by_wavelength(probe_domain), gallery


def _histograms(system: str, path: Path) -> dict[tuple[str, str, str], Bars]:
    """By gallery domain, probe domain and gallery; streamed, so that memory does not grow with the pairs."""
    low, high = np.inf, -np.inf
    for scores in _batches(path, ["score"]):
        values = scores["score"].to_numpy()
        finite = values[np.isfinite(values)]
        if len(finite):
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if not np.isfinite(low):
        return {}
    edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
    counts: dict[tuple[str, str, str], NDArray[np.int64]] = {}
    columns = ["gallery_domain", "probe_domain", "gallery", "probe_subject", "gallery_subject", "score"]
    for batch in _batches(path, columns):
        mated = pc.equal(batch["probe_subject"], batch["gallery_subject"]).to_numpy(zero_copy_only=False)
        values = batch["score"].to_numpy().astype(np.float64)
        keys = list(zip(*(batch[name].to_pylist() for name in columns[:3]), strict=True))
        for key in dict.fromkeys(keys):
            here = np.fromiter((k == key for k in keys), bool, len(keys)) & np.isfinite(values)
            both = counts.setdefault(key, np.zeros((2, BINS), np.int64))
            for n, which in enumerate((mated, ~mated)):
                both[n] += np.histogram(values[here & which], edges)[0]
    return {
        key: Bars(system, edges, ((shares(nonmated), PALETTE[1]), (shares(mated), PALETTE[0])))
        for key, (mated, nonmated) in counts.items()
    }


def _batches(path: Path, columns: list[str]) -> Iterator[Any]:
    try:
        with open_table(path) as file:
            as_ours(file.schema_arrow.empty_table(), SCORES)
            for batch in file.iter_batches(1 << 17, columns=columns):
                as_ours(pa.Table.from_batches([batch]), SCORES, columns)
                yield batch
    except MemoryError:  # Arrow's is one of its errors, too
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"{path}: cannot be read as a table of scores: {one_line(error, 160)}") from None
