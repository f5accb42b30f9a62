"""Ledger: the receipts of the parts of a run folder, read once, with an index file for each stage.

`RUN/.receipts/STAGE.index` holds what the footers of a stage's parts say, with size, times and inode of each part. A
part that is as it was then is not opened again; the footer of any other part is read. So the answers are the same with
and without the file, which may be deleted at any time. It is written whole and renamed into place, by the process that
holds the run folder. It is no result: no receipt names it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Collection
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, TypeAlias

import pyarrow as pa

from mdfpipe.errors import MdfError
from mdfpipe.store import parquet
from mdfpipe.store.naming import file_name
from mdfpipe.store.owner import temporary
from mdfpipe.store.receipts import Receipt, from_index
from mdfpipe.store.run import Run, read_receipt
from mdfpipe.store.tables import as_ours

FOLDER: Final = ".receipts"
_OF_RUN: Final = ("index", "manifest", "train", "evaluate")  # stages of one part: its footer is read each time
_SETTLED_SECONDS: Final = 2.0  # a part that changed later than this before the writing is not kept: clocks are coarse
_SCHEMA: Final = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("size", "mtime_ns", "ctime_ns", "inode")),
        *(pa.field(name, pa.string(), nullable=False) for name in ("settings", "rest")),
    ]
)

_State: TypeAlias = tuple[int, int, int, int]  # size, mtime_ns, ctime_ns, inode
_Parts: TypeAlias = dict[str, tuple[_State, Receipt | None]]  # by the name of the file


class Ledger:
    """The receipts of a run folder, as they were when a stage was first asked for; `forget` what has changed since."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._stages: dict[str, _Parts] = {}

    def __call__(self, stage: str, key: str) -> Receipt | None:
        """The receipt of a part, as `Run.receipt` gives it."""
        if stage.partition("/")[0] in _OF_RUN:
            return self.run.receipt(stage, key)
        if stage not in self._stages:
            self._stages[stage] = self._read(stage)
        _, found = self._stages[stage].get(f"{file_name(key)}.parquet", (None, None))
        return self.run.own(found, stage, key)

    def forget(self, *stages: str) -> None:
        """Look again at these stages when they are next asked for."""
        for stage in stages:
            self._stages.pop(stage, None)

    def _read(self, stage: str) -> _Parts:
        """The parts of a stage; those that are as the index has them are not opened."""
        there = _scan(self.run, stage)
        texts = _load(self.run, stage) if there else {}
        known: _Parts = {}
        for name, (state, *written) in texts.items():
            receipt = from_index(*written) if there.get(name) == state else None
            if receipt is not None:
                known[name] = state, receipt
        found = dict(known)
        for name in there.keys() - known.keys():
            found[name] = there[name], read_receipt(self.run.path / stage / name)
        if self.run.lease is not None:
            _save(self.run, stage, found, known.keys() if len(known) == len(texts) else ())
        return found


def _scan(run: Run, stage: str) -> dict[str, _State]:
    """Size, times and inode of the files that may be parts of a stage, by one listing of its folder."""
    found: dict[str, _State] = {}
    with contextlib.suppress(OSError), os.scandir(run.path / stage) as entries:
        for entry in entries:
            if entry.name.endswith(".parquet") and not entry.name.startswith("."):
                with contextlib.suppress(OSError):  # a link that leads nowhere
                    stat = entry.stat()
                    found[entry.name] = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
    return found


def _load(run: Run, stage: str) -> dict[str, tuple[_State, str, str]]:
    """Part -> its state, the settings of its receipt, and the rest, by the index file of a stage.

    Nothing where there is no such file, or it is damaged or of another version.
    """
    try:
        path = run.place(FOLDER, _name(stage))
        if not path.is_file():
            return {}
        columns = as_ours(parquet.read_table(path), _SCHEMA)
    except (MdfError, OSError, ValueError):
        return {}
    values = [columns[name].to_pylist() for name in _SCHEMA.names]
    rows = zip(*values, strict=True)
    return {name: ((size, m, c, inode), settings, rest) for name, size, m, c, inode, settings, rest in rows}


def _save(run: Run, stage: str, parts: _Parts, known: Collection[str]) -> None:
    """Write the index file of a stage, unless it has these parts (known). What cannot be written is read next time."""
    settled = time.time_ns() - int(_SETTLED_SECONDS * 1e9)
    kept = {n: (s, r) for n, (s, r) in parts.items() if r is not None and max(s[1], s[2]) < settled}
    if kept.keys() == set(known):
        return
    with contextlib.suppress(MdfError, OSError):
        place = run.place(FOLDER, _name(stage), change=True)
        place.parent.mkdir(exist_ok=True)
        unfinished = temporary(place)
        try:
            parquet.write_table(unfinished, _table(kept))
            unfinished.replace(place)
        finally:
            unfinished.unlink(missing_ok=True)


def _table(parts: dict[str, tuple[_State, Receipt]]) -> pa.Table:
    rows = [(name, *state, *_texts(receipt)) for name, (state, receipt) in sorted(parts.items())]
    columns = [list(map(itemgetter(n), rows)) for n in range(len(_SCHEMA))]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)


def _texts(receipt: Receipt) -> tuple[str, str]:
    """The settings of a receipt, which many share, and all the rest of it."""
    rest: dict[str, Any] = json.loads(receipt.to_bytes())
    settings = rest.pop("settings")
    return json.dumps(settings, sort_keys=True), json.dumps(rest, sort_keys=True)


@lru_cache(maxsize=1024)
def _name(stage: str) -> str:
    return f"{FOLDER}/{file_name(stage)}.index"
