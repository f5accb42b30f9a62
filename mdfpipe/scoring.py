"""Scoring: numbers of vectors that were made elsewhere, by the same tables as a study's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdfpipe.config import set_dotted, validate
from mdfpipe.domains import Domain
from mdfpipe.errors import ConfigError, DataError, one_line
from mdfpipe.evaluation import study
from mdfpipe.pipeline import SHIPPED
from mdfpipe.protocol import Protocol, read_protocol
from mdfpipe.stages.evaluate import KEY, Evaluate, ScoreFiles, Tables, metrics_table, write_beside
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.run import Receipt, Run, fingerprint

NEEDED = ("subject_id", "domain")
DEFAULTS: dict[str, Any] = {
    "modality": "body",
    "template_id": None,
    "session_id": None,
    "frame": 0,
    "box_height_px": None,
}


@dataclass(frozen=True)
class Scored:
    """What was written, and what it says: the rows of its tables, and the facts of its receipt."""

    folder: Path
    metrics: list[dict[str, Any]]
    comparisons: list[dict[str, Any]]
    facts: dict[str, Any]


def score(file: Path, protocol: str, out: Path, settings: list[str] | None = None) -> Scored:
    """Evaluate the vectors of a Parquet or NPZ file under a protocol; write `out`/evaluate as a run has it.

    The file has a row for each crop or template: subject_id, domain, vector, and, where it knows, video_id (else each
    row is a video of its own), modality, template_id, session_id, frame, system (several in one file). settings:
    NAME=VALUE of tables, such as tables.recognition.pooling=media_mean. Raises ConfigError, DataError, ProtocolError.
    """
    asked: dict[str, Any] = {}
    for assignment in settings or []:
        set_dotted(asked, assignment)
    tables = validate(Tables, asked, "--set")
    known = validate(Protocol, read_protocol(protocol, [SHIPPED / "manifests"]), protocol)
    rows, vectors = read_vectors(file)
    splits = [known.subjects.get(s, known.unlisted) for s in rows["subject_id"].to_pylist()]
    if "refuse" in splits:
        who = rows["subject_id"].to_pylist()[splits.index("refuse")]
        raise ConfigError(
            f"protocol {known.name}: subject {who} of {file} is in no list of subjects; name them in the protocol's "
            "`subjects`, or set its `unlisted` to test"
        )
    test = [split == "test" for split in splits]
    roles = [known.role(d) if t else "none" for d, t in zip(rows["domain"].to_pylist(), test, strict=True)]
    rows = rows.append_column("split", pa.array(splits)).append_column("role", pa.array(roles))
    systems = [_system(name, rows, vectors) for name in _names(rows, file.stem)]
    run = Run(out)
    place = partial(run.scratch, Evaluate.name)
    with run.lock():
        with ScoreFiles(place) as scores:
            found = study.evaluate(tables.tables, systems, rows, known, keep=scores.keep)
        files = write_beside(found, scores, place)
        facts = {"none": found.nothing, "tables": found.tables, "missing": []}
        upstream = {"embeddings": file_sha256(file), "protocol": fingerprint(known.model_dump(mode="json"))}
        asked = tables.model_dump(mode="json")
        receipt = Receipt(Evaluate.name, Evaluate.version, KEY, asked, upstream, facts=facts)
        run.commit(receipt, metrics_table(found), files)
    return Scored(out, found.metrics, found.comparisons, facts)


def read_vectors(file: Path) -> tuple[pa.Table, np.ndarray[Any, np.dtype[np.float32]]]:
    """The rows of a file of vectors, every column of a manifest's that a table may ask for, and (N, D) float32."""
    if not file.is_file():
        raise DataError(f"{file}: expected a Parquet or NPZ file of vectors, found no such file")
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as held:
                columns = {name: held[name] for name in held.files}
            vectors = columns.pop("vector", np.zeros(0))
            table = pa.table({name: pa.array(values.tolist()) for name, values in columns.items()})
        else:
            table = pq.read_table(file)
            vectors = _stacked(table, file)
    except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
        raise DataError(f"{file}: expected a Parquet or NPZ file of vectors: {one_line(error)}") from None
    missing = [name for name in NEEDED if name not in table.column_names]
    if missing or vectors.ndim != 2 or len(vectors) != table.num_rows:
        raise DataError(
            f"{file}: expected {', '.join(NEEDED)} and vector (N, D), a row each; got "
            f"{', '.join(table.column_names)} and vector {vectors.shape}"
        )
    if not np.isfinite(vectors).all():
        at = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise DataError(f"{file}: row {at}: expected numbers, got NaN or infinity; embed it again")
    if not vectors.any(axis=1).all():
        at = int(np.flatnonzero(~vectors.any(axis=1))[0])
        raise DataError(f"{file}: row {at}: the vector is zero and has no direction; leave it out, or embed it again")
    count = table.num_rows
    made = {name: table[name].cast(pa.string()) for name in NEEDED}
    made["domain"] = pa.chunked_array([[str(Domain.parse(name)) for name in made["domain"].to_pylist()]])
    made["crop_id"] = pa.chunked_array([[f"{n:09d}" for n in range(count)]])
    made["video_id"] = table["video_id"].cast(pa.string()) if "video_id" in table.column_names else made["crop_id"]
    for name, default in DEFAULTS.items():
        there = name in table.column_names
        made[name] = table[name] if there else pa.chunked_array([pa.array([default] * count)])
    if "system" in table.column_names:
        made["system"] = table["system"].cast(pa.string())
    return pa.table(made), vectors.astype(np.float32)


def _stacked(table: pa.Table, file: Path) -> np.ndarray[Any, Any]:
    if "vector" not in table.column_names:
        raise DataError(f"{file}: expected a column vector, got {', '.join(table.column_names)}")
    column = table["vector"].combine_chunks()
    if column.null_count:
        at = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{file}: row {at} has no vector; leave the row out")
    lengths = set(pc.list_value_length(column).unique().to_pylist())
    if len(lengths) != 1:
        raise DataError(f"{file}: expected vectors of one width, got {sorted(lengths)[:4]}")
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(len(column), -1)


def _names(rows: pa.Table, stem: str) -> list[str]:
    return sorted(set(rows["system"].to_pylist())) if "system" in rows.column_names else [stem]


def _system(name: str, rows: pa.Table, vectors: np.ndarray[Any, np.dtype[np.float32]]) -> study.System:
    chosen = np.ones(rows.num_rows, bool)
    if "system" in rows.column_names:
        chosen = pc.equal(rows["system"], name).to_numpy()
    own, table = vectors[chosen], rows.filter(pa.array(chosen))
    modalities = sorted(set(table["modality"].to_pylist()))
    if len(modalities) != 1:
        raise DataError(
            f"{name}: expected vectors of one modality, got {', '.join(modalities)}; name a system for each"
        )
    return study.System(name, modalities[0], "cosine", table, np.ones(len(own), bool), lambda: iter([own]))
