"""Scores as text, for the tools of bob.

One comparison a line, its columns set apart by one blank: claimed_id real_id probe_label score (four), or claimed_id
model_label real_id probe_label score (five). claimed_id: the gallery template's subject; real_id: the probe's; where
the two are equal, it is a mate. model_label, probe_label: the templates.

**Names.** A blank within a name would be read as the end of a column. Blanks, control characters, `#` and `%` are
written as in a URL (`%20`), in every column alike: different names stay different, and equal ones equal.

**One search a file.** These columns do not say in which gallery a probe was searched, and what reads them takes all
lines of a probe for one search. A file in which a probe has two galleries is refused; `where` chooses one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from mdfpipe.errors import DataError, one_line
from mdfpipe.running.plan import current
from mdfpipe.store.files import writing
from mdfpipe.store.parquet import open_table
from mdfpipe.store.results import KEY, STAGE
from mdfpipe.store.run import refuse_damaged
from mdfpipe.store.tables import SCORES, as_ours

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

PAIR: Final = ("gallery_domain", "probe_domain", "gallery")
COLUMNS: Final = {
    4: ("gallery_subject", "probe_subject", "probe", "score"),
    5: ("gallery_subject", "gallery_template", "probe_subject", "probe", "score"),
}
ROWS: Final = 1 << 15  # at a time

_NOT_PLAIN = re.compile(r"[\s#%\x00-\x1f\x7f]")


def to_bob(table: Path, out: Path, columns: Literal[4, 5] = 5, where: Mapping[str, str] | None = None) -> int:
    """Write a table of scores as bob's text, batch by batch; gives the number of lines.

    where: values of gallery_domain, probe_domain, gallery; others are left out. A score has as many digits as float32
    needs to be read back. Scores of a run that are out of date are refused. Raises DataError, StoreError.
    """
    import pyarrow as pa

    wanted = dict(where or {})
    folder = table.resolve().parent
    if (folder.parent.name, folder.name) == (STAGE, "scores"):
        current(folder.parent.parent, STAGE, KEY, allow_stale=None)
    if columns not in COLUMNS or wanted.keys() - set(PAIR):
        raise DataError(f"scores: expected 4 or 5 columns and a choice of {', '.join(PAIR)}, got {columns}, {wanted}")
    if not table.is_file():
        raise DataError(f"{table}: expected a table of scores, RUN/evaluate/scores/*.parquet, found no such file")
    lines = 0
    try:
        with open_table(table) as file:
            as_ours(file.schema_arrow.empty_table(), SCORES)
            _refuse_two_searches(table, file, wanted)
            with writing(out, table) as text:
                for batch in file.iter_batches(batch_size=ROWS, columns=[*PAIR, *COLUMNS[columns]]):
                    rows = _chosen(as_ours(pa.Table.from_batches([batch]), SCORES, batch.schema.names), wanted)
                    lines += rows.num_rows
                    text.write(_lines(rows, COLUMNS[columns]))
    except MemoryError:  # Arrow's is one of its errors, too
        raise
    except (OSError, pa.ArrowException) as error:
        refuse_damaged(table)
        raise DataError(f"{table}: expected a table of scores, got one that does not read: {one_line(error)}") from None
    except ValueError as error:
        raise DataError(f"{table}: expected a table of scores, got another one: {one_line(error)}") from None
    return lines


def plain(name: str) -> str:
    """A name as one column. Raises DataError for none.

    >>> plain("walk 3/VIS-500m"), plain("100%")
    ('walk%203/VIS-500m', '100%25')
    """
    if not name:
        raise DataError("scores: expected names of subjects and templates, got an empty one, which is no column")
    return _NOT_PLAIN.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), name)


def _refuse_two_searches(table: Path, file: pq.ParquetFile, wanted: Mapping[str, str]) -> None:
    """Raise DataError where nothing is chosen, or probes of one domain with two galleries."""
    import pyarrow as pa

    pairs: set[tuple[str, ...]] = set()
    for batch in file.iter_batches(batch_size=ROWS, columns=list(PAIR)):
        rows = pa.Table.from_batches([batch]).group_by(list(PAIR)).aggregate([])
        pairs.update(tuple(str(row[name]) for name in PAIR) for row in rows.to_pylist())
    chosen = sorted(p for p in pairs if all(p[PAIR.index(name)] == value for name, value in wanted.items()))
    listed = ", ".join(f"{a} > {b} (gallery {c})" for a, b, c in sorted(pairs)) or "nothing"
    if not chosen:
        raise DataError(f"{table}: no scores of {wanted or 'any pair'}; it holds {listed}")
    if len({probe for _, probe, _ in chosen}) < len(chosen):
        raise DataError(
            f"{table}: its probes have several galleries, and bob's columns do not name them: choose one by "
            f"gallery_domain, probe_domain or gallery; it holds {listed}"
        )


def _chosen(rows: pa.Table, wanted: Mapping[str, str]) -> pa.Table:
    import pyarrow.compute as pc

    for name, value in wanted.items():
        rows = rows.filter(pc.equal(rows[name], value))
    return rows


def _lines(rows: pa.Table, columns: tuple[str, ...]) -> bytes:
    """The text of some rows: their columns joined by blanks, each with its end of line."""
    import pyarrow.compute as pc

    cells = [_cells(rows[name].combine_chunks()) for name in columns]
    lines: list[str] = pc.binary_join_element_wise(*cells, " ").to_pylist()
    return "".join(f"{line}\n" for line in lines).encode()


def _cells(column: pa.Array) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_floating(column.type):
        return column.cast(pa.string())
    coded = column.dictionary_encode()
    names = pa.array([plain(name) for name in coded.dictionary.to_pylist()], pa.string())
    return names.take(coded.indices)
