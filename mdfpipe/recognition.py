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

from mdfpipe.evaluation.comparing import Measure
from mdfpipe.evaluation.recognition import Hits, identify, templates_of
from mdfpipe.evaluation.templates import Templates
from mdfpipe.pipeline import Pipeline
from mdfpipe.protocol import Protocol
from mdfpipe.stages.embed import Embed
from mdfpipe.store.run import Receipt, Run
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
    """Every system of the study that has vectors, in the study's order; nothing without a protocol with roles.

    Only vectors of the study's settings and of the weights and crops that lie there now are taken; a note says how many
    videos have none. Vectors are read video by video, and none is kept. Raises StoreError, DataError.
    """
    protocol = pipeline.manifest.protocol
    if not protocol.has_roles or run.receipt("manifest", "manifest") is None:
        return []
    table = run.table("manifest", "manifest", _COLUMNS)
    table = table.filter(pc.equal(table["split"].cast(pa.string()), "test"))
    table = table.sort_by([("video_id", "ascending"), ("crop_id", "ascending")])
    crops = {video_id: run.receipt("crop", video_id) for video_id in table["video_id"].unique().to_pylist()}
    found = []
    for name, system in pipeline.systems.items():
        training = run.receipt(f"train/{name}", "training")
        rows = table.filter(pc.equal(table["modality"].cast(pa.string()), system.recipe.modality))
        if training is None:
            continue
        vectors = _Vectors.of(run, Embed(system=name, settings=system), training, crops, rows)
        if not vectors.rows.num_rows:
            continue
        templates = templates_of(vectors.rows, vectors.blocks(), vectors.usable)
        hits, between = _searched(templates, protocol, system.recipe.distance)
        notes = (*training.facts.get("notes", ()), *vectors.notes)
        crops_in = int(vectors.usable.sum())
        found.append(Recognised(name, system.recipe.modality, crops_in, tuple(hits), tuple(between), notes))
    return found


def _searched(templates: Templates, protocol: Protocol, distance: Measure) -> tuple[list[Hits], list[Hits]]:
    """From the gallery domains to the probe domains, and between probe domains."""
    probes = protocol.probe_domains
    hits = [h for gallery in protocol.gallery_domains for h in identify(templates, gallery, probes, distance)]
    between = [
        h
        for n, gallery in enumerate(probes)
        for h in identify(templates, gallery, probes[n + 1 :], distance)
        if h.probe in probes
    ]
    return hits, between


@dataclass(frozen=True, eq=False)
class _Vectors:
    """The vectors of one system that lie in a run folder. videos: name -> places in `part` of its rows, in their order;
    rows: of the manifest, of these videos; usable: whether each has a vector; notes: what is not there.
    """

    run: Run
    stage: str
    videos: dict[str, pa.Array]
    rows: pa.Table
    usable: NDArray[np.bool_]
    notes: list[str]

    @classmethod
    def of(
        cls, run: Run, stage: Embed, training: Receipt, crops: dict[str, Receipt | None], rows: pa.Table
    ) -> _Vectors:
        """What of `rows` (by video) is embedded under the stage's settings. crops: video -> receipt of its crops."""
        wanted = (stage.decisive(), stage.slice_of(training, run, ""))
        names = rows["video_id"].to_numpy(zero_copy_only=False).astype(str)
        starts = np.flatnonzero(np.append(True, names[1:] != names[:-1])[: len(names)]).tolist()
        videos: dict[str, pa.Array] = {}
        parts, usable, never = [rows.slice(0, 0)], [np.zeros(0, bool)], 0
        for start, end in zip(starts, [*starts[1:], len(names)], strict=False):
            name, own = str(names[start]), rows.slice(start, end - start)
            receipt, crop = run.receipt(stage.name, name), crops[name]
            if receipt is None or crop is None or receipt.upstream.get("crop") != crop.fingerprint:
                continue
            if wanted != (receipt.settings, receipt.upstream.get(training.stage)):
                continue
            part = run.table(stage.name, name, ["crop_id", "status"])
            at = pc.index_in(own["crop_id"], value_set=part["crop_id"].combine_chunks()).combine_chunks()
            never += at.null_count
            own, at = own.filter(at.is_valid()), at.drop_null()
            videos[name] = at
            parts.append(own)
            usable.append(pc.equal(part["status"].cast(pa.string()).take(at), EmbedStatus.OK.value).to_numpy())
        other = len(starts) - len(videos)
        notes = [f"{other} of {len(starts)} test videos have no vectors of these weights and settings"] if other else []
        notes += [f"{never} test crops were never embedded"] if never else []
        return cls(run, stage.name, videos, pa.concat_tables(parts), np.concatenate(usable), notes)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """(n, D) of each video, in the order of the rows; zeros where there is no vector."""
        for name, at in self.videos.items():
            column = self.run.table(self.stage, name, ["vector"])["vector"].combine_chunks().take(at)
            width = column.type.list_size
            vectors = np.zeros((len(column), width), np.float32)
            vectors[column.is_valid().to_numpy(zero_copy_only=False)] = (
                column.drop_null().flatten().to_numpy().reshape(-1, width)
            )
            yield vectors


def recognition_lines(found: list[Recognised]) -> list[str]:
    """The same as a table of text."""
    wide = max([len(one.system) for one in found] + [len("system")]) + 2
    head = f"{'system':{wide}}{'modality':10}{'gallery':10}{'probes':10}{'rank-1':>9}{'':8}{'95 %':>15}"
    lines = [f"{head}{'chance':>9}{'unmated':>9}"]
    for one in found:
        for h in (*one.hits, *one.between):
            share = f"{100 * h.k / h.n:.1f} %" if h.n else "-"
            bounds = f"{100 * h.low:.1f}..{100 * h.high:.1f} %" if h.n else "-"
            chance = f"{100 * h.chance:.1f} %" if h.enrolled else "-"
            lines.append(
                f"{one.system:{wide}}{one.modality:10}{h.gallery:10}{h.probe:10}{f'{h.k}/{h.n}':>9}{share:>8}"
                f"{bounds:>15}{chance:>9}{h.unmated:>9}"
            )
        lines += [f"{one.system:{wide}}note: {note}" for note in one.notes]
    return lines
