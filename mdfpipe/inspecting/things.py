"""Descriptions of tables, shards, weight files and run folders, as plain data: `mdfpipe inspect` prints them."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdfpipe.errors import Damaged, DataError, counted, one_line
from mdfpipe.inspecting.export import reading
from mdfpipe.inspecting.weights import describe_weights
from mdfpipe.running.plan import standing
from mdfpipe.running.survey import CHAIN, EMBED, TRAIN, Survey, anomalies, survey
from mdfpipe.store import tables
from mdfpipe.store.files import opened
from mdfpipe.store.left_out import CROPS_LEFT_OUT
from mdfpipe.store.parquet import open_table
from mdfpipe.store.results import KEY as METRICS
from mdfpipe.store.results import STAGE as EVALUATE
from mdfpipe.store.run import Receipt, read_receipt, refuse_damaged
from mdfpipe.store.shards import AGAIN, CHECKSUM, UNVERIFIED, Spoilt, read_stored
from mdfpipe.store.tables import as_ours

Kind = Literal["run", "table", "manifest", "shard", "video", "weights"]

COUNTED: Final = (
    "domain",
    "band",
    "modality",
    "subject_id",
    "gallery",
    "split",
    "role",
    "mated",
    "status",
    "codec",
    "kind",
    "figure",
    "table",
    "system",
    "metric",
)
"""The columns whose values are counted, in this order."""
MOST_VALUES: Final = 10_000  # distinct values of a column that are counted

OURS: Final = {
    **{name.lower(): schema for name, schema in vars(tables).items() if isinstance(schema, pa.Schema)},
    "embeddings": tables.embeddings(1),
}


@dataclass(frozen=True)
class Column:
    """A column of a table: its type, its meaning, and the statistics of the footer."""

    name: str
    type: str
    meaning: str = ""
    nulls: int | None = None
    least: str | None = None
    greatest: str | None = None


@dataclass
class Description:
    """What a thing is.

    facts: its few figures. observed: facts in the receipt of its stage. counts: column -> value -> rows, the greatest
    first. funnel: of a run, one row a domain; of a manifest, one row by split, role, domain and modality. columns,
    receipt: of a table. failures: stage, key, kind, reason. notes: what a reader should know.
    """

    kind: Kind
    path: str
    what: str
    facts: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    funnel: list[dict[str, Any]] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    receipt: dict[str, Any] | None = None
    observed: dict[str, Any] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# -- tables


def describe_table(path: Path) -> Description:
    """Describe a Parquet file, of mdfpipe or not; its rows are streamed. Raises DataError."""
    with reading(path), open_table(path) as file:
        columns = _columns(file)
        name = next((name for name, ours in OURS.items() if ours.names == file.schema_arrow.names), None)
        rows, groups = file.metadata.num_rows, file.metadata.num_row_groups
        counts, notes = _count_values(file)
        weights = (file.schema_arrow.metadata or {}).get(b"mdfpipe.weights")
    receipt = read_receipt(path)
    kind: Kind = "manifest" if name == "manifest" else "table"
    what = f"the table {name} of mdfpipe" if name else "a Parquet table that mdfpipe did not write"
    if name is None and weights:
        what = f"vectors of images, which `mdfpipe embed` wrote: {one_line(weights.decode('utf-8', 'replace'), 400)}"
    facts: dict[str, Any] = {"rows": rows, "columns": len(columns), "row groups": groups, "bytes": path.stat().st_size}
    found = Description(kind, str(path), what, facts, counts, columns=columns, notes=notes)
    if receipt is not None:
        found.receipt = _receipt(receipt)
        found.what += f", made by the stage {receipt.stage} for {receipt.key}"
        found.observed = dict(receipt.facts)
        if kind == "manifest":
            found.funnel = found.observed.pop("counts", [])
    elif name and name not in ("faces", "images", "subjects", "anomalies"):
        found.notes.append("it carries no receipt: it was not written by a run, or by another version")
    found.notes += _damage(path)
    return found


def _damage(path: Path) -> list[str]:
    """A line if a file of a run is not what was made; that is recorded for `mdfpipe run`."""
    try:
        refuse_damaged(path)
    except Damaged as error:
        return [str(error)]
    return []


def _columns(file: pq.ParquetFile) -> list[Column]:
    """The columns, with nulls, least and greatest value from the footer; None where it does not say."""
    metadata = file.metadata
    statistics: dict[str, tuple[int, str | None, str | None]] = {}
    for place in range(metadata.num_columns):
        every = [metadata.row_group(n).column(place).statistics for n in range(metadata.num_row_groups)]
        if all(one is not None and one.has_null_count for one in every):
            bounded = [one for one in every if one.has_min_max]
            least, greatest = (
                min((one.min for one in bounded), default=None),
                max((one.max for one in bounded), default=None),
            )
            nulls = sum(one.null_count for one in every)
            statistics[metadata.schema.column(place).path] = nulls, _value(least), _value(greatest)
    found = []
    for one in file.schema_arrow:
        meaning = (one.metadata or {}).get(b"meaning", b"").decode("utf-8", "replace")
        kind = "string (few values)" if pa.types.is_dictionary(one.type) else str(one.type)
        found.append(Column(one.name, kind, meaning, *statistics.get(one.name, (None, None, None))))
    return found


def _value(value: Any) -> str | None:
    if value is None:
        return None
    return f"{value + 0.0:.6g}" if isinstance(value, float) else one_line(value, 60)


def _count_values(file: pq.ParquetFile) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Rows by value of the columns that are worth counting, batch by batch."""
    schema = file.schema_arrow
    at = {name: schema.get_field_index(name) for name in COUNTED}  # -1: there is none, or several
    wanted = [name for name, index in at.items() if index >= 0 and _is_countable(schema.field(index).type)]
    counts: dict[str, Counter[str]] = {name: Counter() for name in wanted}
    for batch in file.iter_batches(batch_size=1 << 17, columns=wanted) if wanted else ():
        for name in wanted:
            if len(counts[name]) <= MOST_VALUES:
                for entry in pc.value_counts(batch.column(name).cast(pa.string())).to_pylist():
                    value = "(null)" if entry["values"] is None else one_line(entry["values"], 120)
                    counts[name][value] += entry["counts"]
    too_many = [name for name in wanted if len(counts[name]) > MOST_VALUES]
    notes = [f"{name} has more than {MOST_VALUES} values, which are not counted" for name in too_many]
    kept = {name: counts[name] for name in wanted if name not in too_many}
    return {name: dict(sorted(c.items(), key=lambda vc: (-vc[1], vc[0]))) for name, c in kept.items()}, notes


def _is_countable(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_integer)
    return any(test(kind) for test in tests)


def _receipt(receipt: Receipt) -> dict[str, Any]:
    return {
        "stage": receipt.stage,
        "version": receipt.version,
        "key": receipt.key,
        "fingerprint": receipt.fingerprint,
        "content": receipt.content or "not noted: an earlier version made it",
        "settings": receipt.settings,
        "made from": receipt.upstream,
        "files": {name: size for name, (size, _) in receipt.files.items()},
    }


# -- shards


def describe_shard(path: Path) -> Description:
    """Describe a tar of crops by its headers, and compare it with its table. Raises DataError."""
    files: Counter[str] = Counter()
    first = ""
    offsets: dict[int, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                first = first or one_line(member.name, 120)
                files[PurePosixPath(member.name).suffix.lstrip(".") or "no suffix"] += 1
                offsets[member.offset_data] = member.size
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        refuse_damaged(path)
        raise DataError(
            f"{path}: expected an uncompressed tar of crops, got a damaged file ({one_line(error, 80)}); delete it and "
            "run crop again"
        ) from None
    facts: dict[str, Any] = {"crops": files.total(), "bytes": path.stat().st_size}
    facts |= {"bytes of images": sum(offsets.values()), "first": first}
    found = Description("shard", str(path), "a shard: encoded crops in an uncompressed tar", facts)
    found.counts["suffix"] = dict(files.most_common(20))
    _compare_with_table(found, path, offsets)
    found.notes += _damage(path)
    return found


def _compare_with_table(found: Description, path: Path, offsets: dict[int, int]) -> None:
    """The counts of the crops table that points into the shard, and every row that points wrong."""
    table = path.with_name(path.name.rpartition(".tar")[0].rpartition(".")[0] + ".parquet")
    if not table.is_file():
        found.notes.append("there is no crops table next to it, so the subjects of these crops are unknown")
        return
    wrong = rows = unverified = 0
    spoilt: list[str] = []
    counts: dict[str, Counter[str]] = {"subject_id": Counter(), "modality": Counter()}
    with opened(path) as shard:
        for row in _rows_pointing_into(table, path):
            rows += 1
            wrong += offsets.get(row["offset"]) != row["size"]
            unverified += row.get(CHECKSUM) is None
            try:
                read_stored(shard.fileno(), row["offset"], row["size"], row.get(CHECKSUM))
            except Spoilt:
                spoilt.append(row["crop_id"])
            for name, tally in counts.items():
                tally[str(row[name])] += 1
    found.facts |= {"table": str(table), "rows that point here": rows}
    found.counts |= {name: dict(tally.most_common()) for name, tally in counts.items()}
    if wrong or rows != len(offsets):
        found.notes.append(
            f"{table.name} does not fit: {rows} rows for {len(offsets)} crops, {wrong} point wrong; delete the shard "
            "and run crop again"
        )
    if spoilt:
        found.notes.append(
            f"{len(spoilt)} of {rows} crops are damaged: their bytes are not those that were stored (first "
            f"{one_line(spoilt[0], 120)}); {AGAIN}"
        )
    if unverified:
        found.notes.append(f"{unverified} of {rows} crops have no checksum: {UNVERIFIED}")


_POINTING = ["crop_id", "shard", "offset", "size", CHECKSUM, "subject_id", "modality"]


def _rows_pointing_into(table: Path, shard: Path) -> Iterator[dict[str, Any]]:
    try:
        with open_table(table) as file:
            as_ours(file.schema_arrow.empty_table(), tables.CROPS)
            for batch in file.iter_batches(columns=_POINTING):
                as_ours(pa.Table.from_batches([batch]), tables.CROPS, _POINTING)
                yield from (row for row in batch.to_pylist() if row["shard"] and Path(row["shard"]).name == shard.name)
    except MemoryError:  # Arrow's is one of its errors, too
        raise
    except (OSError, pa.ArrowException, ValueError) as error:
        refuse_damaged(table)
        raise DataError(
            f"{table}: expected the crops table of {shard.name}: {one_line(error, 120)}; delete the shard and run "
            "crop again"
        ) from None


# -- weights and runs


def describe_weight_file(path: Path) -> Description:
    """Describe a weight file. Raises DataError."""
    facts, notes = describe_weights(path)
    return Description("weights", str(path), "a weight file; it enters a run by its sha256", facts, notes=notes)


def describe_run(path: Path, found: Survey | None = None) -> Description:
    """Describe a run folder, from its receipts. Raises DataError, StoreError."""
    run = found or survey(path)
    facts: dict[str, Any] = {"folders by camera" if run.of_images else "videos": len(run.videos)}
    facts["domains"] = len(run.domains)
    for name in ("finished", "failed", "frames", *(() if run.of_images else ("faces", "bodies"))):
        facts["images" if run.of_images and name == "frames" else name] = run.total(name)
    facts["subjects" if run.of_images else "subjects with bodies"] = len(run.subjects())
    for stage in CHAIN[-1:] if run.of_images else CHAIN:
        parts = sum(stage in video.receipts for video in run.videos)
        if parts or stage != "track":  # which a study need not have
            facts[f"{stage}: parts"] = parts
    if run.run.receipt(EVALUATE, METRICS) is not None:
        facts["numbers"] = standing(path, EVALUATE, METRICS).words
    if run.manifest is not None:
        facts["protocol"] = run.manifest.facts.get("protocol", "")
    facts |= {f"system {name}": _system(run, name) for name in run.systems}
    counts: dict[str, dict[str, int]] = {
        "bodies by status": dict(run.statuses().most_common()),
        "crops by subject" if run.of_images else "labelled bodies by subject": dict(run.subjects().most_common()),
        "crops": dict(sum((d.crops for d in run.domains.values()), Counter()).most_common()),
        "crops by split": dict(sum((d.splits for d in run.domains.values()), Counter()).most_common()),
    }
    remarks = (f"{video.video_id}: {one}" for video in run.videos for one in video.remarks[len(video.failures) :])
    notes = [*run.notes, *remarks]
    for odd in anomalies(run.run):
        rows = f"{odd['count']} {'files' if run.of_images else 'rows'}"
        of_annotation = f"annotation: {rows} {odd['kind']}, such as {one_line(odd['example'], 160)}"
        notes.append(f"counts: {odd['example']}" if odd["kind"] == tables.NOT_AS_PUBLISHED else of_annotation)
    return Description(
        "run",
        str(path),
        "a run folder",
        facts,
        {name: values for name, values in counts.items() if values},
        funnel=[funnel_row(domain) for domain in run.domains.values()],
        failures=[{"stage": f.stage, "key": f.key, "kind": f.kind, "reason": f.message} for f in run.failures],
        notes=notes,
    )


def _system(run: Survey, name: str) -> str:
    """The state of a system: its training, and the videos with vectors."""
    training = run.trained.get(name)
    steps = training.facts.get("steps", 0) if training else 0
    trained = f"trained for {steps} steps" if steps else "loaded, not trained"
    if training is None:
        place = (f"{TRAIN}/{name}", "training")
        trained = "failed" if run.run.failure(*place) else "out of date" if run.run.receipt(*place) else "not trained"
    embedded = [v.facts(f"{EMBED}/{name}") for v in run.videos if f"{EMBED}/{name}" in v.receipts]
    vectors = sum(facts.get("rows", {}).get("ok", 0) for facts in embedded)
    return f"{trained}; {counted(vectors, 'vector')} in {len(embedded)} of {len(run.videos)} videos"


def funnel_row(domain: Any) -> dict[str, Any]:
    """The counts of one domain in the order of the work."""
    splits = {f"{split} crops": n for split, n in sorted(domain.splits.items())}
    if domain.of_images:
        named = {"domain": domain.domain, "folders by camera": domain.videos, "failed": domain.failed}
        crops = {"crops": domain.crops.get("body ok", 0), "unreadable": domain.crops.get("body unreadable", 0)}
        return {**named, "images": domain.frames, **crops, **splits}
    left_out = sum(n for name, n in domain.crops.items() if name.rpartition(" ")[2] in CROPS_LEFT_OUT)
    by_track = domain.by_status.get("labelled_by_track", 0)
    return {
        "domain": domain.domain,
        "videos": domain.videos,
        "failed": domain.failed,
        "frames": domain.frames,
        "with a face": domain.annotated,
        "faces": domain.faces,
        "bodies": domain.bodies,
        "labelled": domain.by_status.get("labelled", 0),
        **({"by track": by_track} if by_track else {}),
        "body crops": domain.crops.get("body ok", 0),
        "face crops": domain.crops.get("face ok", 0),
        **({"crops left out": left_out} if left_out else {}),
        **splits,
    }
