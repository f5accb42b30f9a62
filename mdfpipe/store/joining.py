"""Joining: rows of two parts that speak of the same things are brought together by their ids, never by their place."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.errors import DataError

Column: TypeAlias = pa.Array | pa.ChunkedArray


def joined(table: pa.Table, ids: Column, by: str, part: Path, of: str, *, others: bool = False) -> pa.Table:
    """The rows of `table` for each of `ids`, in their order; as `places`, `by` being the column that holds its ids."""
    if _whole(table[by]).equals(_whole(ids)):
        _refuse_twice(_whole(ids), str(part), part)
        return table
    return table.take(pa.array(places(table[by], ids, part, of, others=others)))


def places(known: Column, ids: Column, part: Path, of: str, *, others: bool = False) -> NDArray[np.int64]:
    """(n,) the position in `known`, the ids of a part, of each of n `ids`, those of what it is joined with.

    part: where it lies. of: what `ids` are of, for people. others: whether it may hold further ids. Raises DataError
    where an id is missing, unknown, or is listed twice: values would go to another's row.
    """
    known, ids = _whole(known), _whole(ids)
    _refuse_twice(known, str(part), part)
    _refuse_twice(ids, f"{part}: {of}", part)
    found = pc.index_in(ids, value_set=known)
    missing = ids.filter(found.is_null())
    unknown = known.filter(pc.invert(pc.is_in(known, value_set=ids))) if not others else known[:0]
    if len(missing) or len(unknown):
        got = [f"none for {len(missing)} of them ({missing[0]})"] if len(missing) else []
        got += [f"{len(unknown)} that these do not have ({unknown[0]})"] if len(unknown) else []
        raise DataError(
            f"{part}: expected a row for each of the {len(ids)} ids of {of}, got {' and '.join(got)}; {_advice(part)}"
        )
    at: NDArray[np.int64] = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return at


def _whole(column: Column) -> pa.Array:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _refuse_twice(ids: pa.Array, where: str, part: Path) -> None:
    if pc.count_distinct(ids, mode="all").as_py() < len(ids):
        counted = ids.value_counts()
        twice = counted.field("values").filter(pc.greater(counted.field("counts"), 1))[0]
        raise DataError(f"{where}: expected each id once, got {twice} several times; {_advice(part)}")


def _advice(part: Path) -> str:
    return f"the two were not made of each other: remove {part.name} and give the same command again"
