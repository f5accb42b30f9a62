"""Recognition: what each system of a run recognises in the test split, domain by domain, beside chance.

A first look, from the vectors of `embed`: one mean template a subject and domain, Rank-1, closed set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.evaluation.recognition import Hits, identify, templates_of
from mdfpipe.pipeline import Pipeline
from mdfpipe.store.run import Run
from mdfpipe.store.tables import EmbedStatus

_COLUMNS = ["crop_id", "subject_id", "domain", "modality", "split", "role", "video_id"]


@dataclass(frozen=True)
class Recognised:
    """What one system recognises. hits: of each probe domain from the gallery, and pooled; between: each pair of probe
    domains, the first as gallery. crops: embedded test crops; notes: what to know of its numbers.
    """

    system: str
    modality: str
    crops: int
    hits: tuple[Hits, ...]
    between: tuple[Hits, ...]
    notes: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        parts = {name: [h.plain() for h in getattr(self, name)] for name in ("hits", "between")}
        return vars(self) | parts


def recognise(run: Run, pipeline: Pipeline) -> list[Recognised]:
    """Every system of the study that has vectors, in the study's order; nothing without a protocol with roles."""
    protocol = pipeline.manifest.protocol
    if not protocol.has_roles or run.receipt("manifest", "manifest") is None:
        return []
    table = run.table("manifest", "manifest", _COLUMNS)
    table = table.filter(pc.equal(table["split"].cast(pa.string()), "test")).sort_by("video_id")
    found = []
    for name, system in pipeline.systems.items():
        training = run.receipt(f"train/{name}", "training")
        rows = table.filter(pc.equal(table["modality"].cast(pa.string()), system.recipe.modality))
        parts = list(_parts(run, name, rows))
        if training is None or not parts:
            continue
        rows = pa.concat_tables([part for part, _, _ in parts])
        usable = np.concatenate([usable for _, usable, _ in parts])
        templates = templates_of(rows, (vectors for _, _, vectors in parts), usable)
        distance = system.recipe.distance
        hits = [
            h
            for gallery in protocol.gallery_domains
            for h in identify(templates, gallery, protocol.probe_domains, distance)
        ]
        probes = protocol.probe_domains
        between = [
            h
            for n, gallery in enumerate(probes)
            for h in identify(templates, gallery, probes[n + 1 :], distance)
            if h.probe in probes
        ]
        notes = tuple(training.facts.get("notes", ()))
        found.append(Recognised(name, system.recipe.modality, int(usable.sum()), tuple(hits), tuple(between), notes))
    return found


def _parts(run: Run, system: str, rows: pa.Table) -> Iterator[tuple[pa.Table, NDArray[np.bool_], NDArray[np.float32]]]:
    """Of each video that is embedded: its rows, whether each has a vector, and the vectors."""
    videos = rows["video_id"].to_numpy(zero_copy_only=False).astype(str)
    names, first = np.unique(videos, return_index=True)
    for name, start, end in zip(names.tolist(), first, [*first[1:], len(videos)], strict=True):
        if run.receipt(f"embed/{system}", name) is None:
            continue
        part = run.table(f"embed/{system}", name)
        own = rows.slice(start, end - start)
        at = pc.index_in(own["crop_id"], value_set=part["crop_id"].combine_chunks())
        there = at.is_valid().to_numpy(zero_copy_only=False)
        if not there.all():
            own, at = own.filter(at.is_valid()), at.drop_null()
        part = part.take(at)
        usable = pc.equal(part["status"].cast(pa.string()), EmbedStatus.OK.value).to_numpy(zero_copy_only=False)
        column = part["vector"].combine_chunks()
        width = column.type.list_size
        vectors = np.zeros((len(column), width), np.float32)
        vectors[usable] = column.drop_null().flatten().to_numpy().reshape(-1, width)
        yield own, usable, vectors


def recognition_lines(found: list[Recognised]) -> list[str]:
    """The same as a table of text."""
    head = f"{'system':22}{'modality':10}{'gallery':10}{'probes':10}{'rank-1':>9}{'':8}{'95 %':>15}"
    lines = [f"{head}{'chance':>9}{'unmated':>9}"]
    for one in found:
        for h in (*one.hits, *one.between):
            share = f"{100 * h.k / h.n:.1f} %" if h.n else "-"
            lines.append(
                f"{one.system:22}{one.modality:10}{h.gallery:10}{h.probe:10}{f'{h.k}/{h.n}':>9}{share:>8}"
                f"{f'{100 * h.low:.1f}..{100 * h.high:.1f} %':>15}{f'{100 * h.chance:.1f} %':>9}{h.unmated:>9}"
            )
        lines += [f"{one.system:22}note: {note}" for note in one.notes]
    return lines
