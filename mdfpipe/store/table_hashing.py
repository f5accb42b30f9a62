"""Content hashes of tables, however they are chunked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def table_sha256(table: pa.Table) -> str:
    """The sha256 of a table's columns: names, types and values, in their order, to the last bit.

    How it is chunked, what its buffers hold where a value is null, the order of a dictionary and the metadata of the
    schema do not enter.

    >>> a = pa.table({"x": pa.array(["b", None, "a"]).dictionary_encode()})
    >>> table_sha256(a) == table_sha256(pa.concat_tables([a[:1], a[1:]]))
    True
    """
    digest = hashlib.sha256(f"{table.num_rows}\n".encode())
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{len(name)}:{name}:{_words(column.type)}:".encode())
        digest.update(_column(column.chunks, column.type))
    return digest.hexdigest()


def _words(kind: pa.DataType) -> str:
    """A type in words; of a list without the name of its field, which Parquet changes."""
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.list_size} of {_words(kind.value_type)}"
    return f"list of {_words(kind.value_type)}" if pa.types.is_nested(kind) else str(kind)


def _column(chunks: Sequence[pa.Array], kind: pa.DataType) -> bytes:
    """The digest of the values of a column, given in any number of chunks."""
    if pa.types.is_dictionary(kind):
        return _column([chunk.dictionary_decode() for chunk in chunks], kind.value_type)
    present, sizes, values = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for chunk in chunks:
        present.update(chunk.is_valid().to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        for chunk in chunks:
            sizes.update(pc.list_value_length(chunk).fill_null(0).cast(pa.int64()).to_numpy().tobytes())
        values.update(_column([chunk.flatten() for chunk in chunks], kind.value_type))  # leaves out those that are null
    elif kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        for chunk in chunks:
            text = (chunk.fill_null(pa.scalar(b"").cast(kind)) if chunk.null_count else chunk).cast(pa.large_binary())
            ends = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
            sizes.update(np.diff(ends).tobytes())
            if len(text) and ends[-1] > ends[0]:
                values.update(memoryview(text.buffers()[2])[ends[0] : ends[-1]])
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        for chunk in chunks:
            known = chunk.fill_null(False if pa.types.is_boolean(kind) else 0) if chunk.null_count else chunk
            values.update(np.ascontiguousarray(known.to_numpy(zero_copy_only=False)).tobytes())
    else:
        raise TypeError(f"a column of {kind} has no content hash yet; add it here")
    return b"".join(part.digest() for part in (present, sizes, values))
