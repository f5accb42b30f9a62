"""evaluate: the vectors of every system to the study's tables of numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from mdfpipe.config import NAME, Config, find_file
from mdfpipe.errors import ConfigError, StoreError, cannot_write
from mdfpipe.evaluation.benchmarks import FILE_ADVICE
from mdfpipe.evaluation.table import Table
from mdfpipe.learning.system import System
from mdfpipe.protocol import Protocol
from mdfpipe.stages import Context, Inputs, Made, Review, Stage
from mdfpipe.stages.index import Index
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.left_out import of_training, of_unreadable
from mdfpipe.store.parquet import TableWriter
from mdfpipe.store.results import KEY, STAGE, results_of, score_file, template_file
from mdfpipe.store.run import fingerprint, write_table
from mdfpipe.store.tables import (
    COMPARISONS,
    CURVES,
    FACE_SOURCES,
    METRICS,
    SCORES,
    SEARCHES,
    SUBJECTS,
    EmbedStatus,
    NamedBy,
    NumberNote,
    chosen,
    places,
)
from mdfpipe.store.templates import F32, table_of

if TYPE_CHECKING:
    from mdfpipe.evaluation.case import Case, Searched
    from mdfpipe.evaluation.comparing import I64
    from mdfpipe.evaluation.vectors import Evaluated, SystemVectors


MINED: Final = {
    "pos_other": "hardest positives from another domain than their anchor",
    "neg_same": "hardest negatives from their anchor's domain",
}
"""Meaning of the shares of hard mining, by figure."""


class Tables(Config):
    """The tables of a study."""

    tables: dict[Annotated[str, Field(pattern=NAME)], Table] = Field(
        default={"recognition": Table()}, min_length=1, description="tables, by name"
    )

    @property
    def weigh_by_quality(self) -> bool:
        """Whether a table learns weights of crops from their quality."""
        return any(table.pooling == "quality_aware" for table in self.tables.values())

    @model_validator(mode="after")
    def _files_differ(self) -> Tables:
        lowered = [name.lower() for name in self.tables]
        if len(set(lowered)) < len(lowered):
            raise ValueError("tables: two names differ in nothing but capitals; their files would be one")
        return self


class Evaluate(Stage):
    """Every number of the study."""

    name: ClassVar[str] = STAGE
    version: ClassVar[int] = 10
    schema: ClassVar[pa.Schema] = METRICS
    per: ClassVar[Literal["video", "run"]] = "run"
    unit: ClassVar[str] = "pairs of domains"

    settings: Tables = Field(description="the tables")
    systems: dict[str, System] = Field(description="the systems whose vectors there are")
    protocol: Protocol = Field(description="whose splits and roles the manifest holds")
    seeds: dict[str, list[str]] = Field(default={}, description="trainings of systems and fusions with several seeds")
    reads_boxes: bool = Field(False, description="whether a detector's confidence weighs crops (`quality_aware`)")

    @property
    def key(self) -> str:
        """The part's name."""
        return KEY

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Who is who, and what each system made of it; boxes only where their confidence is asked for."""
        boxes = ["detect"] if self.reads_boxes else []
        made = (f"{kind}/{name}" for name in self.systems for kind in ("train", "embed"))
        return ("catalogue", "manifest", *boxes, *made)

    def decisive(self) -> dict[str, Any]:
        """The tables, and the systems by name only: see `identity`."""
        asked = {"tables": self.settings.model_dump(mode="json")["tables"], "systems": list(self.systems)}
        return asked | ({"seeds": self.seeds} if self.seeds else {})

    def identity(self, data: Path, key: str) -> dict[str, str]:
        """The content of a benchmark's files; the protocol; of each system, what its vectors do not show."""
        benchmarks = {name: table.benchmark for name, table in self.settings.tables.items() if table.benchmark}
        files = {
            f"galleries/{name}/{n}": file_sha256(find_file(file, data, "galleries", FILE_ADVICE))
            for name, benchmark in benchmarks.items()
            for n, file in enumerate(benchmark.files)
        }
        asked = {
            f"systems/{name}": fingerprint([one.recipe.modality, one.recipe.distance, one.recipe.features, one.splits])
            for name, one in self.systems.items()
        }
        return files | asked | {"protocol": fingerprint(self.protocol.model_dump(mode="json"))}

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Search, measure and compare; write the numbers, and what they came from."""
        from mdfpipe.evaluation.score_fusion import MOST_PAIRS
        from mdfpipe.evaluation.study import evaluate

        run = inputs.run
        manifest = run.table("manifest", "manifest")
        manifest = manifest.sort_by([("video_id", "ascending"), ("crop_id", "ascending")])
        vectors = {name: self._vectors(inputs, name, manifest) for name in self.systems}
        systems = [self._system(inputs, name, vectors[name]) for name in self.systems]
        listed = inputs.of_index(Index.subjects_file, SUBJECTS).to_pylist()
        galleries: dict[str, list[str]] = {}
        for row in listed:
            galleries.setdefault(row["subject_id"], []).append(row["gallery"])
        catalogue = inputs.table("index", Index.table).to_pylist()
        media = {row["video_id"]: row["sha256"] for row in catalogue if row["sha256"]}
        with ScoreFiles(context.scratch) as scores:
            found = evaluate(
                self.settings.tables,
                systems,
                manifest,
                self.protocol,
                galleries=galleries,
                media=media,
                data=context.data,
                seeds=self.seeds,
                keep=scores.keep,
                progress=context.progress,
            )
        if by_detected := _named_by_detected_faces(inputs, manifest):
            without = {name for name, one in self.systems.items() if one.recipe.modality not in by_detected}
            without |= {name for name, trainings in self.seeds.items() if without.issuperset(trainings)}
            for row in found.metrics:
                if row["system"] not in without:  # a fusion is of several modalities
                    row["notes"] = [*(row["notes"] or []), NumberNote.DETECTED_FACES]
        trainings = {name: inputs.facts(f"train/{name}", "training") for name in self.systems}
        notes = {name: [*(told.get("notes") or []), *of_training(told)] for name, told in trainings.items()}
        failed = inputs.facts("manifest", "manifest").get("failed") or []
        for name, entry in found.tables.items():
            table = self.settings.tables[name]
            entry["notes"] += _failures(failed, table.splits) if table.benchmark else []
            trained = [own for name in entry["systems"] for own in entry["seeds"].get(name, [name])]
            entry["notes"] += [line for one in _parts_of(trained, table) for line in vectors[one].lost(table.splits)]
            entry["notes"] += [f"{s}: {line}" for s in trained for line in notes.get(s, [])]
            for line, published in table.published_mining.items():
                entry["notes"] += [_mined(inputs, own, published) for own in entry["seeds"].get(line, [line])]
            entry["notes"] += [f"scores are not kept, above {MOST_PAIRS} pairs: {name}" for name in scores.left_out]
        files = write_beside(found, scores, context.scratch)
        facts = {"none": found.nothing, "tables": found.tables, "missing": list(inputs.missing)}
        return Made(metrics_table(found), facts, files)

    def _vectors(self, inputs: Inputs, name: str, manifest: pa.Table) -> _Vectors:
        """What the embed parts of a run hold of one system."""
        system = self.systems[name]
        rows = chosen(manifest, system.recipe.modality, system.splits)
        return _Vectors(inputs, f"embed/{name}", rows, system.recipe.features)

    def _system(self, inputs: Inputs, name: str, vectors: _Vectors) -> SystemVectors:
        """One system, as the tables know it."""
        from mdfpipe.evaluation.vectors import SystemVectors

        said = inputs.facts(f"train/{name}", "training").get("subjects")  # of it, and of what it starts from
        known = None if said is None else frozenset(said)
        recipe, rows = self.systems[name].recipe, vectors.rows
        if self.reads_boxes and recipe.modality == "body":
            rows = rows.append_column("score", _scores(inputs, rows))
        return SystemVectors(name, recipe.modality, recipe.distance, rows, vectors.usable, vectors.blocks, known)

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Say why there is no number, and what to know of those that there are."""
        notes, said = list[str](), set[str]()
        for found in facts.values():
            for name, entry in found["tables"].items():
                notes += [f"evaluate: {name}: {line}" for line in entry["notes"] if line not in said]
                said.update(entry["notes"])
        return Review(notes=notes)


def _mined(inputs: Inputs, system: str, published: Mapping[Any, tuple[float, float]]) -> str:
    """What hard mining chose in a training's first and last epoch, with the published shares."""
    rows = inputs.table(f"train/{system}", "training", ["epoch", "figure", "value", "anchor_domain"])
    rows = rows.filter(pc.is_null(rows["anchor_domain"])).sort_by("epoch").to_pylist()
    told = []
    for name, (first, last) in published.items():
        own = [100 * row["value"] for row in rows if row["figure"] == f"mining/{name}"]
        shown = f"{own[0]:.1f} and {own[-1]:.1f} %" if own else "unknown"
        told.append(f"{MINED[name]} {shown} (published {first:g} and {last:g} %)")
    return f"{system}: hard mining, first and last epoch: {', '.join(told)}"


def _parts_of(systems: Sequence[str], table: Table) -> list[str]:
    """The systems of a table, and those that its fusions are made of."""
    found = [part for name in systems for part in (table.fusions[name].systems if name in table.fusions else [name])]
    return list(dict.fromkeys(found))


def _failures(failed: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> list[str]:
    """What a benchmark's table says of images that its manifest has no row of."""
    return [
        f"{one['rows']} {one['domain']} images of split {one['split']} are {one['status']}: they are neither queries "
        "nor in a gallery, so these are not numbers of the whole data set"
        for one in failed
        if one["split"] in splits
    ]


# -- vectors


class _Vectors:
    """What the embed parts of a run hold of `rows`, which are sorted by video. usable: (N,) whether there is a vector.

    A video without a part was left out by --allow-missing: its crops have no vector.
    """

    def __init__(self, inputs: Inputs, stage: str, rows: pa.Table, width: int) -> None:
        self.run, self.stage, self.width, self.rows = inputs.run, stage, width, rows
        self.unreadable = np.zeros(rows.num_rows, bool)
        self.usable = np.zeros(rows.num_rows, bool)
        self._places: list[tuple[str, I64 | None, int]] = []
        for video, start, end in _by_video(rows):
            at = None
            if inputs.is_done(stage, video):
                part = self.run.table(stage, video, ["crop_id", "status"])
                own = rows["crop_id"].slice(start, end - start)
                at = places(part["crop_id"], own, self.run.part(stage, video), "the manifest")
                ok = pc.equal(part["status"].cast(pa.string()), EmbedStatus.OK.value).to_numpy()
                self.usable[start:end] = ok[at]
                self.unreadable[start:end] = ~ok[at]
            self._places.append((video, at, end - start))

    def lost(self, splits: Sequence[str]) -> list[str]:
        """A line for the crops of some splits that do not decode, if there are any."""
        inside = pc.is_in(self.rows["split"].cast(pa.string()), pa.array(splits)).to_numpy()
        crops = self.rows["crop_id"].filter(pa.array(inside & self.unreadable)).to_pylist()
        rest = f"the numbers rest on the other {inside.sum() - len(crops)}"
        return of_unreadable(self.stage, dict.fromkeys(crops, rest), ", left without a vector")

    def blocks(self) -> Iterator[F32]:
        """(n, D) of each video, in the order of the rows; zeros where there is no vector."""
        for video, at, count in self._places:
            if at is None:
                yield np.zeros((count, self.width), np.float32)
                continue
            column = self.run.table(self.stage, video, ["vector"])["vector"].combine_chunks()
            vectors = np.zeros((len(column), self.width), np.float32)
            there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
            vectors[there] = column.drop_null().flatten().to_numpy().reshape(-1, self.width)
            yield vectors[at]


def _scores(inputs: Inputs, rows: pa.Table) -> pa.ChunkedArray:
    """(N,) the detector's confidence in the body of each row; null in a video that is left out. rows: by video."""
    found = [pa.array([], pa.float32())]
    for video, start, end in _by_video(rows):
        if not inputs.is_done("detect", video):
            found.append(pa.nulls(end - start, pa.float32()))
            continue
        boxes = inputs.table("detect", video, ["body_id", "score"])
        own = rows["crop_id"].slice(start, end - start)
        at = places(boxes["body_id"], own, inputs.run.part("detect", video), "the manifest", others=True)
        found += boxes["score"].take(pa.array(at)).chunks
    return pa.chunked_array(found, pa.float32())


def _by_video(rows: pa.Table) -> Iterator[tuple[str, int, int]]:
    """Each video of rows that are sorted by video, its first row, and the one behind its last."""
    videos = rows["video_id"].to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.append(True, videos[1:] != videos[:-1])[: len(videos)]).tolist()
    for start, end in zip(starts, [*starts[1:], len(videos)], strict=False):
        yield str(videos[start]), start, end


def _named_by_detected_faces(inputs: Inputs, manifest: pa.Table) -> set[str]:
    """Modalities with a used crop whose subject is from faces, in a video where a detector found some."""
    if Index.sources_file not in inputs.annotated:
        return set()
    videos = inputs.of_index(Index.sources_file, FACE_SOURCES, ["video_id"])["video_id"].combine_chunks()
    named, split, modality = (manifest[name].cast(pa.string()) for name in ("named_by", "split", "modality"))
    there = pc.and_(pc.is_in(manifest["video_id"], videos), pc.not_equal(split, "unused"))
    by_face = pc.is_in(named, pa.array([NamedBy.FACE, NamedBy.TRACK], pa.string()))
    return set(modality.filter(pc.and_(there, by_face)).to_pylist())


# -- what is written


class ScoreFiles:
    """The scores of each table and system, a Parquet file each; paths: by file name. left_out: what was too large."""

    def __init__(self, place: Callable[[str], Path]) -> None:
        self.place, self.paths = place, dict[str, Path]()
        self.left_out: list[str] = []
        self._open: dict[str, TableWriter] = {}
        self._of: dict[str, tuple[str, str]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> ScoreFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def keep(self, table: str, system: str, case: Case, found: Searched) -> None:
        """Add the scores of a case."""
        from mdfpipe.evaluation.score_fusion import MOST_PAIRS

        name = score_file(table, system)
        if self._of.setdefault(name.lower(), (table, system)) != (table, system):
            one, other = (" of ".join(pair[::-1]) for pair in (self._of[name.lower()], (table, system)))
            raise ConfigError(
                f"evaluate: the scores of {one} and of {other} would be one file, {name.rpartition('/')[2]}; rename one"
            )
        if len(found.gallery) * len(found.probes) > MOST_PAIRS:
            self.left_out.append(f"{table}, {system}, {case}")
            return
        if name not in self._open:
            self.paths[name] = self.place(name.removeprefix(f"{STAGE}/").replace("/", "-"))
            self._open[name] = self._stack.enter_context(TableWriter(self.paths[name], SCORES))
        scorer = found.scorer
        scores = scorer.matrix(found.gallery, found.probes).astype(np.float32)
        n_probes, n_gallery = scores.shape

        def named(values: list[str], places: np.ndarray[Any, Any], each: bool) -> pa.Array:
            codes = np.repeat(places, n_gallery) if each else np.tile(places, n_probes)
            return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(values)).cast(pa.string())

        columns = {
            **{n: pa.repeat(pa.scalar(v), scores.size) for n, v in case.columns.items()},
            "probe": named(scorer.probes.name, found.probes, True),
            "probe_subject": named(scorer.probes.subject.tolist(), found.probes, True),
            "gallery_template": named(scorer.gallery.name, found.gallery, False),
            "gallery_subject": named(scorer.gallery.subject.tolist(), found.gallery, False),
            "score": pa.array(scores.ravel()),
        }
        made = pa.table([columns[n] for n in SCORES.names], schema=SCORES)
        if scorer.sessions:
            made = made.filter(pa.array(scorer.compared(found.gallery, found.probes).ravel()))
        self._open[name].write(made)


def metrics_table(found: Evaluated) -> pa.Table:
    """Rows of METRICS."""
    return pa.Table.from_pylist(found.metrics, schema=METRICS)


def write_beside(found: Evaluated, scores: ScoreFiles, place: Callable[[str], Path]) -> dict[str, Path]:
    """Write what belongs to the numbers; place: a file for a name. Gives each file by its name in the run folder."""
    files = dict(scores.paths)
    for name, made in _beside(found).items():
        path = files[name] = place(name.removeprefix(f"{STAGE}/").replace("/", "-"))
        if isinstance(made, bytes):
            try:
                path.write_bytes(made)
            except OSError as error:
                raise StoreError(cannot_write(path, error)) from error
        else:
            write_table(path, made)
    return files


def tables_beside(found: Evaluated) -> dict[str, pa.Table]:
    """Tables besides the numbers, by name."""
    return {
        "comparisons": pa.Table.from_pylist(found.comparisons, schema=COMPARISONS),
        "curves": pa.Table.from_pylist(found.curves, schema=CURVES),
        "searches": pa.Table.from_pylist(found.searches, schema=SEARCHES),
        **({"lists": pa.Table.from_pylist(found.lists, schema=SEARCHES)} if found.lists else {}),
    }


def _beside(found: Evaluated) -> dict[str, pa.Table | bytes]:
    """Files written with the numbers, by name under the run folder."""
    document = results_of(found.tables, found.metrics, found.comparisons).document()
    return {
        f"{STAGE}/metrics.json": json.dumps(document, indent=1).encode(),
        **{f"{STAGE}/{name}.parquet": table for name, table in tables_beside(found).items()},
        **{template_file(name): table_of(made) for name, made in found.templates.items()},
    }
