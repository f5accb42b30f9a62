"""Damage: which part of a run a file is, or belongs to, and whether it is still what was made.

Who finds that a file does not read asks here. Where the file is of a run and no longer what its receipt says, that is
recorded next to the part, which `mdfpipe run` then makes again; where it is what was made, nothing would change it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mdfpipe.store.parquet import is_whole
from mdfpipe.store.run import Run, read_receipt

_OF_RUN: Final = {"index": "videos", "evaluate": "metrics"}  # stages that make one part, with files beside it
_DEEPEST: Final = 4  # folders between a file and its run folder: evaluate/scores/NAME.parquet has two


def refuse_damaged(path: Path) -> None:
    """Raise Damaged, after noting it, where `path` is a file of a run folder and not what was made.

    Hashed once for each state of the file. Nothing happens where no receipt names it.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - keeps symbolic links
    for run, part in _parts(path):
        receipt = read_receipt(part)
        if receipt is None or run.part(receipt.stage, receipt.key) != part:
            continue
        name = path.relative_to(run.path).as_posix()
        if part != path and name in receipt.files:
            run.beside(receipt.stage, receipt.key, name, receipt.files[name][1])
            return
        if part == path:
            if is_whole(path) is False:
                raise run.damage(receipt.stage, receipt.key, f"{path}: is not what was made: its content changed")
            return


def _parts(path: Path) -> Iterator[tuple[Run, Path]]:
    """The parts that a file may be, or belong to, each with its run folder."""
    for root in path.parents[1:_DEEPEST]:
        words, run = path.relative_to(root).parts, Run(root)
        if words[0] in _OF_RUN:
            yield run, root / words[0] / f"{_OF_RUN[words[0]]}.parquet"
        elif words[0] == "train" and len(words) == 3:
            yield run, root / "train" / words[1] / "training.parquet"
        elif words[0] == "crop" and path.suffix == ".tar":
            yield run, path.with_name(path.name.removesuffix(".tar").rpartition(".")[0] + ".parquet")
        if path.suffix == ".parquet":
            yield run, path
