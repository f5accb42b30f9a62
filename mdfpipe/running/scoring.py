"""Scoring: numbers of vectors that were made elsewhere, by the same tables as a study's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mdfpipe.config import set_dotted, texts_of, validate
from mdfpipe.domains import Domain
from mdfpipe.errors import ConfigError, DataError, MdfError, counted, one_line
from mdfpipe.evaluation import study
from mdfpipe.evaluation.benchmarks import Benchmark
from mdfpipe.evaluation.comparing import Measure
from mdfpipe.evaluation.vectors import MEDIA_KNOWN, Evaluated, SystemVectors
from mdfpipe.protocol import Protocol, read_protocol
from mdfpipe.stages.evaluate import Evaluate, ScoreFiles, Tables, metrics_table, tables_beside, write_beside
from mdfpipe.store.files import given_path, refuse_folder
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.limits import refuse_large_archive, refuse_large_table, refuse_large_texts, refuse_larger
from mdfpipe.store.naming import LONGEST_NAME, LONGEST_PATH, is_name
from mdfpipe.store.parquet import open_table
from mdfpipe.store.results import KEY
from mdfpipe.store.run import Receipt, Run, fingerprint
from mdfpipe.store.shipped import SHIPPED
from mdfpipe.store.subjects import SubjectNames
from mdfpipe.store.templates import B8, F32

if TYPE_CHECKING:
    import pandas as pd

_ANY_NAME = SubjectNames()
_BYTES_OF_OBJECT = 40  # of a number or a short text as Python has it, and the reference to it
NEEDED = ("subject_id", "domain")
DEFAULTS: dict[str, tuple[Any, pa.DataType]] = {
    "modality": ("body", pa.string()),
    "template_id": (None, pa.string()),
    "session_id": (None, pa.string()),
    "camera_id": (None, pa.string()),
    "track": (None, pa.int32()),
    "frame": (0, pa.int64()),
    "box_height_px": (None, pa.float64()),
}
COMPONENTS: dict[str, tuple[Any, pa.DataType]] = {name: (None, pa.float64()) for name in ("sharpness", "score")}
ACCEPTED = {
    "subject_id": "who it is; needed",
    "domain": "`BAND` or `BAND-RANGE`, such as `VIS-500m`; needed",
    "vector": "list of D numbers (NPZ: an array (N, D)); needed; a benchmark may leave it out of a row (Parquet only)",
    "video_id": "video that it is from. Without it the row counts as a video of its own, and every output carries the "
    "stamp `media unknown`: it is not checked that gallery and probe are of different videos",
    "session_id": "session of the recording; for `apart` and `sighting`; of Market-1501 the session",
    "camera_id": "camera; for `apart` and `sighting`; a benchmark needs it, as a number such as `3` or `cam3`",
    "track": "number of its track within the video; for `sighting: track`",
    "modality": "`body` (default), `face` or another; one for each system",
    "template_id": "template of the data set; for `by: template_id`",
    "frame": "number of the frame, default 0; for `pairs: thirds`",
    "box_height_px": "height of the person in the video, px; for `pooling: quality_weighted` and `quality_aware`",
    "sharpness": "sharpness of the crop; read for `pooling: quality_aware` only",
    "score": "confidence of the detector, 0..1; read for `pooling: quality_aware` only",
    "system": "system that the vector is from, where a file holds several; default the file's name",
    "file": "path of the image in the data set, or `crop_id`; needed for a benchmark alone",
}
"""Columns of vectors that were made elsewhere, and their meaning. Others are not read."""


@dataclass(frozen=True)
class Scored:
    """What was written, and what it says: the rows of its tables, and the facts of its receipt."""

    folder: Path
    metrics: list[dict[str, Any]]
    comparisons: list[dict[str, Any]]
    facts: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Numbers of vectors. Each table is a `pyarrow.Table`: `.to_pandas()` gives a DataFrame.

    metrics: a row for each number. comparisons: a row for each difference of two systems. curves: points of CMC, DET
    and ROC. searches: a row for each probe. notes: what a reader of the numbers should know. stamps: what to write with
    every number, such as that media are unknown.
    """

    metrics: pa.Table
    comparisons: pa.Table
    curves: pa.Table
    searches: pa.Table
    notes: list[str]
    stamps: list[str]

    def __repr__(self) -> str:
        return f"Evaluation({counted(self.metrics.num_rows, 'number')} of {counted(self.searches.num_rows, 'search')})"


def evaluate(
    vectors: pd.DataFrame | pa.Table | str | PathLike[str],
    protocol: str | PathLike[str] | Protocol,
    *,
    settings: Sequence[str] = (),
    data: str | PathLike[str] | None = None,
    distance: Measure = "cosine",
) -> Evaluation:
    """Evaluate vectors under a protocol. Nothing is written; `score` writes a folder for `report`.

    vectors: a DataFrame, a table, or a Parquet or NPZ file. Columns, protocol, settings and errors as for `score`.
    """
    asked = _asked(protocol, settings)
    source = Path(vectors) if isinstance(vectors, str | PathLike) else vectors
    rows = read_vectors(
        source, images=asked.of_images, names=asked.protocol.names, components=asked.tables.weigh_by_quality
    )
    name = source.stem if isinstance(source, Path) else "vectors"
    found = _evaluated(asked, *rows, name, distance, given_path("data", data) if data is not None else None, None)
    beside = tables_beside(found)
    said = {
        kind: list(dict.fromkeys(line for entry in found.tables.values() for line in entry[kind]))
        for kind in ("notes", "stamps")
    }
    return Evaluation(metrics_table(found), **beside, **said)


def score(
    file: str | PathLike[str],
    protocol: str | PathLike[str] | Protocol,
    out: str | PathLike[str],
    settings: Sequence[str] | None = None,
    *,
    data: str | PathLike[str] | None = None,
    distance: Measure = "cosine",
) -> Scored:
    """Evaluate the vectors of a Parquet or NPZ file under a protocol; write `out`/evaluate as a run has it.

    The file has a row for each crop or template, with the columns of ACCEPTED.

    protocol: of manifests/, a YAML file, a Protocol, or a benchmark (sysu-all, sysu-indoor, regdb, llcm_deen_paper,
    llcm_testpy_v2i, llcm_idkl_full, market). The file of a benchmark has a row for each image, with its path as `file`
    (or crop_id) and camera_id (market also session_id), and may lack vectors. data: the folder of the official
    galleries. settings: NAME=VALUE of tables, such as tables.recognition.pooling=media_mean, or of the protocol:
    protocol.unlisted=test. Raises ConfigError, DataError, ProtocolError.
    """
    file = given_path("file (`mdfpipe.evaluate` takes a DataFrame)", file)
    out, data = given_path("out", out), given_path("data", data) if data is not None else None
    refuse_folder(out)
    asked = _asked(protocol, settings)
    weighed = asked.tables.weigh_by_quality
    rows = read_vectors(file, images=asked.of_images, names=asked.protocol.names, components=weighed)
    run = Run(out)
    place = partial(run.scratch, Evaluate.name)
    with run.lock():
        with ScoreFiles(place) as scores:
            found = _evaluated(asked, *rows, file.stem, distance, data, scores.keep)
        files = write_beside(found, scores, place)
        facts = {"none": found.nothing, "tables": found.tables, "missing": []}
        upstream = {"embeddings": file_sha256(file), "protocol": fingerprint(asked.protocol.model_dump(mode="json"))}
        receipt = Receipt(
            Evaluate.name, Evaluate.version, KEY, asked.tables.model_dump(mode="json"), upstream, facts=facts
        )
        run.commit(receipt, metrics_table(found), files)
    return Scored(out, found.metrics, found.comparisons, facts)


@dataclass(frozen=True)
class _Asked:
    """Which numbers are asked for, by which rules."""

    tables: Tables
    protocol: Protocol
    of_images: bool


def _asked(given: str | PathLike[str] | Protocol, settings: Sequence[str] | None) -> _Asked:
    """Raises ConfigError."""
    protocol = given.name if isinstance(given, Protocol) else str(given_path("protocol", given))
    benchmark = None if isinstance(given, Protocol) else benchmark_of(protocol)
    asked: dict[str, Any] = {} if benchmark is None else {"tables": {"recognition": {"benchmark": benchmark}}}
    for assignment in texts_of("settings", settings, "tables.recognition.pairs=all"):
        set_dotted(asked, assignment)
    of_protocol = asked.pop("protocol", {})
    if not isinstance(of_protocol, dict):
        raise ConfigError("--set protocol: expected a setting of it, such as protocol.unlisted=test")
    if of_protocol and benchmark is not None:
        raise ConfigError(f"--set protocol.{next(iter(of_protocol))}: the protocol of a benchmark has no settings")
    tables = validate(Tables, asked, "--set")
    if benchmark is not None:
        return _Asked(tables, Protocol(name=protocol, unlisted="test"), True)
    names = ", ".join([*("sysu-all", "sysu-indoor"), *(n for n in Benchmark.choices() if n != "sysu")])
    if isinstance(given, Protocol):
        found = given.model_dump()
    else:
        found = read_protocol(protocol, [SHIPPED / "manifests"], also=f"; benchmarks: {names}")
    more = f" with --set {', '.join(f'protocol.{key}' for key in of_protocol)}" if of_protocol else ""
    return _Asked(tables, validate(Protocol, found | of_protocol, f"{protocol}{more}"), False)


def _evaluated(
    asked: _Asked,
    rows: pa.Table,
    vectors: F32,
    usable: B8,
    name: str,
    distance: Measure,
    data: Path | None,
    keep: study.Keep | None,
) -> Evaluated:
    """The numbers of all systems of `rows`; name: of the only one, where no column names several."""
    known = asked.protocol
    domains = rows["domain"].to_pylist()
    pairs = zip(rows["subject_id"].to_pylist(), domains, strict=True)
    splits = [known.subjects.get(s, known.unlisted) if known.uses(d) else "unused" for s, d in pairs]
    if "refuse" in splits:
        who = rows["subject_id"].to_pylist()[splits.index("refuse")]
        raise ConfigError(
            f"protocol {known.name}: subject {who} of {name} is in no list of subjects"
            + (", and vectors do not tell the galleries of a data set" if known.galleries else "")
            + "; protocol.unlisted=test (--set) tests all who are not named, or list them in `subjects` of a protocol"
        )
    roles = [known.role(d) if s == "test" else "none" for s, d in zip(splits, domains, strict=True)]
    rows = rows.append_column("split", pa.array(splits)).append_column("role", pa.array(roles))
    systems = [_system(one, rows, vectors, usable, distance) for one in _names(rows, name)]
    found = study.evaluate(asked.tables.tables, systems, rows, known, data=data, keep=keep)
    outside = Counter(domain for domain in domains if not known.uses(domain))
    for entry in found.tables.values():
        entry["notes"] += [
            f"{d}: {counted(n, 'row')} outside protocol {known.name}, unused" for d, n in sorted(outside.items())
        ]
    return found


def benchmark_of(protocol: str) -> dict[str, Any] | None:
    """The settings of the benchmark of this name; none where it is no benchmark's.

    >>> benchmark_of("sysu-indoor"), benchmark_of("market"), benchmark_of("ijbmdf-vis500-to-ir30")
    ({'use': 'sysu', 'search': 'indoor'}, {'use': 'market'}, None)
    """
    if protocol in ("sysu-all", "sysu-indoor"):
        return {"use": "sysu", "search": protocol.removeprefix("sysu-")}
    return {"use": protocol} if protocol in Benchmark.choices() else None


def read_vectors(
    source: pd.DataFrame | pa.Table | Path,
    *,
    images: bool = False,
    names: SubjectNames = _ANY_NAME,
    components: bool = False,
) -> tuple[pa.Table, F32, B8]:
    """Rows with all columns that a table may ask for; vectors (N, D); and which rows have one (N,). Raises DataError.

    source: a DataFrame, a table, or a Parquet or NPZ file. images: each row is an image of a benchmark, has a unique
    name, and may lack a vector (zeros). names: how cells name subjects. components: whether the columns for
    quality-aware pooling are read.
    """
    file = source if isinstance(source, Path) else Path("vectors")  # what messages call it
    if isinstance(source, Path) and not source.is_file():
        raise DataError(f"{file}: expected a Parquet or NPZ file of vectors, found no such file")
    if not isinstance(source, Path | pa.Table) and not hasattr(source, "columns"):
        kinds = "a DataFrame, a pyarrow.Table or the path of a Parquet or NPZ file"
        raise DataError(f"{file}: expected {kinds}, got {type(source).__name__}")
    if not isinstance(source, Path) and not len(source):
        raise DataError(f"{file}: expected a row a vector, found no row")
    words = ("a DataFrame whose columns have one type each", "a Parquet or NPZ file of vectors")
    try:
        if isinstance(source, Path):
            table, vectors, usable = _opened(source, images)
        else:
            table = source if isinstance(source, pa.Table) else pa.Table.from_pandas(source, preserve_index=False)
            vectors, usable = _stacked(table, file, images)
    except (MdfError, MemoryError):  # Arrow's own lack of memory is one, too
        raise
    except Exception as error:  # the parsers answer damage with whatever they stumble over
        raise DataError(f"{file}: expected {words[isinstance(source, Path)]}: {one_line(error)}") from None
    columns = DEFAULTS | (COMPONENTS if components else {})
    return _checked(table, vectors, usable, file, images, names, columns)


def _checked(
    table: pa.Table,
    vectors: np.ndarray[Any, Any],
    usable: B8,
    file: Path,
    images: bool,
    names: SubjectNames,
    columns: Mapping[str, tuple[Any, pa.DataType]],
) -> tuple[pa.Table, F32, B8]:
    """The rows with every column that a table may ask for, and the vectors as float32. Raises DataError.

    columns: those that may be missing, with their defaults and kinds.
    """
    missing = [name for name in NEEDED if name not in table.column_names]
    if missing or vectors.ndim != 2 or len(vectors) != table.num_rows:
        raise DataError(
            f"{file}: expected {', '.join(NEEDED)} and vector (N, D), a row each; got "
            f"{', '.join(table.column_names)} and vector {vectors.shape}"
        )
    if vectors.dtype.kind not in "fiu":
        raise DataError(f"{file}: vector: expected real numbers, got {vectors.dtype}")
    with np.errstate(over="ignore"):
        vectors = vectors.astype(np.float32)
    if not np.isfinite(vectors).all():
        at = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise DataError(f"{file}: row {at}: expected numbers that float32 holds, got NaN or infinity; embed it again")
    zero = usable & ~vectors.any(axis=1)
    if zero.any():
        at = int(np.flatnonzero(zero)[0])
        raise DataError(f"{file}: row {at}: the vector is zero and has no direction; leave it out, or embed it again")
    count = table.num_rows
    if not count:
        raise DataError(f"{file}: expected a row a vector, found no row")
    made = {name: _named(table, name, file) for name in NEEDED}
    made["subject_id"] = _subjects(made["subject_id"].to_pylist(), file, names)
    made["domain"] = _domains(made["domain"].to_pylist(), file)
    made["crop_id"] = pa.chunked_array([[f"{n:09d}" for n in range(count)]])
    if images:
        made |= _of_images(table, file)
    videos = pa.chunked_array([pa.nulls(count, pa.string())])
    if "video_id" in table.column_names:
        videos = _column(table, "video_id", pa.string(), file)
        videos = pc.if_else(pc.equal(videos, ""), None, videos)
    made["video_id"] = pc.coalesce(videos, pc.binary_join_element_wise("row ", made["crop_id"], ""))
    made[MEDIA_KNOWN] = pc.is_valid(videos)
    for name, one in columns.items():
        default = pa.chunked_array([pa.repeat(pa.scalar(*one), count)])
        there = name in table.column_names
        made[name] = _column(table, name, default.type, file) if there else default
    made |= {name: _named(table, name, file) for name in ("modality", "system") if name in table.column_names}
    for name in ("subject_id", "modality", "system", "template_id", "session_id", "video_id", "crop_id", "camera_id"):
        if name in made:
            _check_text(made[name], name, file)
    return pa.table(made), vectors, usable


def _opened(file: Path, may_lack: bool) -> tuple[pa.Table, np.ndarray[Any, Any], B8]:
    """The columns of a file, its vectors as they are, and which rows have one."""
    if file.suffix != ".npz":
        table = _read_table(file)
        return table, *_stacked(table, file, may_lack)
    refuse_large_archive(file)
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held:  # which leaves a damaged file open
        columns = {name: np.atleast_1d(held[name]) for name in held.files}
    vectors = columns.pop("vector", np.zeros(0))
    as_objects = sum(each.size for each in columns.values()) * _BYTES_OF_OBJECT
    refuse_larger(as_objects, file.stat().st_size, f"{file}, of {as_objects // _BYTES_OF_OBJECT} values")
    return (
        pa.table({name: pa.array(each.tolist()) for name, each in columns.items()}),
        vectors,
        np.ones(len(vectors), bool),
    )


def _read_table(file: Path) -> pa.Table:
    """The rows of a Parquet file; texts as they are stored, each once."""
    with open_table(file) as known:
        names = [field.name for field in known.schema_arrow if _is_text(field.type)]
        refuse_large_table(known, file)
    with open_table(file, read_dictionary=names) as opened:
        table = opened.read()
    table.validate(full=True)  # texts that are not UTF-8
    for name in names:
        refuse_large_texts(table[name], file)
        if pa.types.is_dictionary(table[name].type):
            at = table.column_names.index(name)
            table = table.set_column(at, name, table[name].cast(table[name].type.value_type))
    return table


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _column(table: pa.Table, name: str, kind: pa.DataType, file: Path) -> pa.ChunkedArray:
    """A column as values of a kind. Raises DataError."""
    try:
        return table[name].cast(kind)
    except MemoryError:  # Arrow's is one of its errors, too
        raise
    except pa.ArrowException:
        raise DataError(f"{file}: column {name}: expected {kind}, got {table[name].type}") from None


def _named(table: pa.Table, name: str, file: Path) -> pa.ChunkedArray:
    """A column of names, one in every row. Raises DataError."""
    column = _column(table, name, pa.string(), file)
    without = pc.index(pc.fill_null(pc.equal(column, ""), True), True).as_py()
    if without >= 0:
        raise DataError(f"{file}: row {without} has no {name}; leave the row out, or say it")
    return column


def _subjects(cells: list[str], file: Path, names: SubjectNames) -> pa.ChunkedArray:
    """The subjects that the cells name. Raises DataError for a cell that means a missing name."""
    known = {text: names.subject_id(text.strip()) for text in dict.fromkeys(cells)}
    nobody = next((text for text, subject in known.items() if subject is None), None)
    if nobody is not None:
        raise DataError(
            f"{file}: row {cells.index(nobody)}: expected a subject_id, got '{one_line(nobody, 40)}', which means a "
            "missing name; leave the row out, or list it in subject_names_kept of the protocol if it is a real name"
        )
    return pa.chunked_array([[known[text] for text in cells]])


def _check_text(column: pa.ChunkedArray, name: str, file: Path) -> None:
    """Raise DataError where a name is no text that a terminal, a page or a file name may hold."""
    longest = LONGEST_PATH if name in ("video_id", "crop_id") else LONGEST_NAME
    for text in pc.unique(column.cast(pa.string())).to_pylist():
        if text is not None and not is_name(text, longest):
            at = pc.index(column.cast(pa.string()), text).as_py()
            raise DataError(
                f"{file}: row {at}: {name}: expected printable text of at most {longest} characters, got "
                f"'{one_line(text, 80)}' ({len(text)} characters); rename it"
            )


def _domains(names: list[str], file: Path) -> pa.ChunkedArray:
    """The domains as they are written elsewhere. Raises DataError."""
    known: dict[str, str] = {}
    for row, name in enumerate(names):
        if name not in known:
            try:
                known[name] = str(Domain.parse(name))
            except DataError as error:
                raise DataError(f"{file}: row {row}: {error}") from None
    return pa.chunked_array([[known[name] for name in names]])


def _of_images(table: pa.Table, file: Path) -> dict[str, Any]:
    """crop_id and camera_id of a file of images."""
    named = next((name for name in ("file", "crop_id") if name in table.column_names), None)
    if named is None:
        raise DataError(
            f"{file}: a benchmark needs the path of each image, as a column file or crop_id: in what order images are "
            f"listed decides which are drawn; got {', '.join(table.column_names)}"
        )
    keys = {name: _named(table, name, file) for name in ("system", named) if name in table.column_names}
    seen: set[tuple[str, ...]] = set()
    for row, key in enumerate(zip(*(names.to_pylist() for names in keys.values()), strict=True)):
        if key in seen:
            raise DataError(f"{file}: row {row}: expected each {named} once a system, got {key[-1]!r:.80} twice")
        seen.add(key)
    return {"crop_id": keys[named]}


def _stacked(table: pa.Table, file: Path, may_lack: bool) -> tuple[np.ndarray[Any, Any], B8]:
    if "vector" not in table.column_names:
        raise DataError(f"{file}: expected a column vector, got {', '.join(table.column_names)}")
    column = table["vector"].combine_chunks()
    if not isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        raise DataError(f"{file}: column vector: expected a list of numbers in each row, got {column.type}")
    usable = column.is_valid().to_numpy(zero_copy_only=False)
    if column.null_count and not may_lack:
        at = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{file}: row {at} has no vector; leave the row out")
    column = column.drop_null()
    if not len(column):
        raise DataError(f"{file}: expected vectors, no row of {table.num_rows} has one")
    lengths = set(pc.list_value_length(column).unique().to_pylist())
    if len(lengths) != 1:
        raise DataError(f"{file}: expected vectors of one width, got {sorted(lengths)[:4]}")
    there = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    vectors = np.zeros((len(usable), there.shape[1]), there.dtype)
    vectors[usable] = there
    return vectors, usable


def _names(rows: pa.Table, stem: str) -> list[str]:
    return sorted(set(rows["system"].to_pylist())) if "system" in rows.column_names else [stem]


def _system(name: str, rows: pa.Table, vectors: F32, usable: B8, distance: Measure) -> SystemVectors:
    chosen = np.ones(rows.num_rows, bool)
    if "system" in rows.column_names:
        chosen = pc.equal(rows["system"], name).to_numpy()
    own, table = vectors[chosen], rows.filter(pa.array(chosen))
    modalities = sorted(set(table["modality"].to_pylist()))
    if len(modalities) != 1:
        raise DataError(
            f"{name}: expected vectors of one modality, got {', '.join(modalities)}; name a system for each"
        )
    return SystemVectors(name, modalities[0], distance, table, usable[chosen], lambda: iter([own]))
