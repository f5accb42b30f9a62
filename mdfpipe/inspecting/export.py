"""A table as CSV, for everything that does not read Parquet."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from mdfpipe.errors import DataError, one_line, unobeyed
from mdfpipe.store.files import is_standard_output, writing
from mdfpipe.store.parquet import open_table
from mdfpipe.store.run import refuse_damaged

_FORMULA, _QUOTED = r"\A([=+\-@\t\r])", r"'\1"


@contextlib.contextmanager
def reading(table: Path) -> Iterator[None]:
    """Within, a Parquet file that does not read is damage of its run, or a DataError of one line."""
    try:
        yield
    except MemoryError:  # Arrow's is one of its errors, too
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        refuse_damaged(table)
        got = f"got a file that does not read as one: {one_line(error, 120)}"
        raise DataError(f"{table}: expected a Parquet table, {got}") from None


def to_csv(table: Path, out: Path) -> int:
    """Write any Parquet table as CSV, batch by batch; return the number of rows. Null is an empty cell, text is quoted.

    Columns of lists and structs are written as JSON. Text (no number) that begins with = + - @, a tab or a carriage
    return gets a single quote before it, as do such names of columns: spreadsheets would take it for a formula.
    Raises DataError, StoreError.
    """
    with reading(table), open_table(table) as file:
        schema = pa.schema([(f.name, _plain_type(f.type)) for f in file.schema_arrow])
        heads = [unobeyed(re.sub(_FORMULA, _QUOTED, name)) for name in schema.names]
        written = pa.schema(list(zip(heads, schema.types, strict=True)))
        with writing(out, table) as raw, pacsv.CSVWriter(raw, written) as writer:
            for batch in file.iter_batches(batch_size=1 << 15):
                columns = [_plain(column, kind) for column, kind in zip(batch.columns, schema.types, strict=True)]
                if is_standard_output(out):  # a file holds the data as they are
                    columns = [_printable(column) for column in columns]
                writer.write_batch(pa.record_batch(columns, schema=written))
        return int(file.metadata.num_rows)


def _plain_type(kind: Any) -> Any:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.string() if pa.types.is_nested(kind) or pa.types.is_binary(kind) else kind


def _printable(column: Any) -> Any:
    """A column of which a terminal obeys nothing."""
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        return column
    return pa.array([None if text is None else unobeyed(text) for text in column.to_pylist()], column.type)


def _plain(column: Any, kind: Any) -> Any:
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return pa.array([None if v is None else json.dumps(v, default=repr) for v in column.to_pylist()], pa.string())
    plain = column.cast(kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pc.replace_substring_regex(plain, _FORMULA, _QUOTED)
    return plain
