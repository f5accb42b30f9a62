"""KeptSpans: the spans of a video that detect has finished, kept in the run folder until the video is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdfpipe.errors import MdfError
from mdfpipe.store.files import write_atomically
from mdfpipe.store.hashing import fingerprint
from mdfpipe.store.naming import file_name
from mdfpipe.store.owner import temporary
from mdfpipe.store.parquet import read_metadata, read_table, write_table
from mdfpipe.store.run import Run
from mdfpipe.store.tables import BODIES
from mdfpipe.video.spans import Span

FOLDER: Final = "detect/.spans"
_KEY: Final = b"mdfpipe.span"
Window: TypeAlias = tuple[float, float] | None


@dataclass(frozen=True)
class SpanFacts:
    """What a finished span tells besides its rows.

    ends: digests of the first and the last frame given, "" without one. size: width and height, (0, 0) without a frame.
    """

    first: int
    end: int
    duplicates: int
    ends: tuple[str, str]
    size: tuple[int, int]
    deep: bool


@dataclass(frozen=True, eq=False)
class FinishedSpan:
    """The rows of BODIES of one span, and its facts."""

    rows: pa.Table
    facts: SpanFacts


class KeptSpans:
    """The finished spans of one video. made_from: all that decides their rows; those of anything else do not count."""

    def __init__(self, run: Run, key: str, made_from: Any) -> None:
        self.run, self.name, self.made_from = run, f"{FOLDER}/{file_name(key)}", fingerprint(made_from)

    def place(self, span: Span) -> Path:
        """Where a span is kept."""
        return self.run.place("detect", f"{self.name}/{span.number:05d}.parquet", change=True)

    def get(self, span: Span) -> FinishedSpan | None:
        """A finished span; None where it is not there, or damaged, or made from something else."""
        place = self.place(span)
        with suppress(OSError, pa.ArrowException, ValueError, KeyError, TypeError, MdfError):
            known = json.loads(read_metadata(place)[0][_KEY])
            if known.pop("made_from") != self.made_from or (known["first"], known["end"]) != (span.first, span.end):
                return None
            known |= {"ends": tuple(known["ends"]), "size": tuple(known["size"])}
            return FinishedSpan(read_table(place).cast(BODIES), SpanFacts(**known))
        return None

    def put(self, span: Span, found: FinishedSpan) -> None:
        """Keep a finished span. Raises StoreError where it cannot be written."""
        place = self.place(span)
        self.run.check_lock()
        place.parent.mkdir(parents=True, exist_ok=True)
        note = json.dumps({"made_from": self.made_from, **asdict(found.facts)}).encode()
        unfinished = temporary(place)
        write_table(unfinished, found.rows, {_KEY: note})
        unfinished.replace(place)

    def window(self, find: Callable[[], Window]) -> Window:
        """The values that are black and white: those kept, else what `find` gives, which is kept."""
        place = self.run.place("detect", f"{self.name}/window.json", change=True)
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(place.read_bytes())
            if known["made_from"] == self.made_from:
                low, high = known["window"]
                return float(low), float(high)
        found = find()
        if found is not None:
            self.run.check_lock()
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, json.dumps({"made_from": self.made_from, "window": found}).encode())
        return found

    def all(self) -> tuple[Path, ...]:
        """Everything that is kept of the video: files, then the folders that may then be empty."""
        folder = self.run.place("detect", self.name, change=True)
        return (*sorted(folder.iterdir()), folder, folder.parent) if folder.is_dir() else ()


def tidy(run: Run) -> None:
    """Remove what a kill left of videos whose part was committed after their spans."""
    home = run.place("detect", FOLDER, change=True)
    if not home.is_dir():
        return
    for folder in home.iterdir():
        with suppress(OSError):
            part = run.path / "detect" / f"{folder.name}.parquet"
            files = list(folder.iterdir())
            if part.is_file() and all(file.stat().st_mtime <= part.stat().st_mtime for file in files):
                for file in files:
                    file.unlink(missing_ok=True)
                folder.rmdir()
    with suppress(OSError):
        home.rmdir()


def digest_of(pixels: NDArray[Any] | None) -> str:
    """A digest of a frame; "" of none."""
    return "" if pixels is None else fingerprint([pixels.shape, str(pixels.dtype), _digest(pixels)])


def _digest(pixels: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def joined(parts: list[FinishedSpan]) -> FinishedSpan | None:
    """The spans of a video as one, in their order; None where frames are of several sizes, or spans do not add up."""
    sizes = {part.facts.size for part in parts if part.facts.size != (0, 0)}
    if len(sizes) > 1 or any(a.facts.end != b.facts.first for a, b in pairwise(parts)):
        return None
    duplicates, last = 0, ""
    for part in parts:
        first, following = part.facts.ends
        duplicates += part.facts.duplicates + (first != "" and first == last)
        last = following or last
    facts = SpanFacts(
        parts[0].facts.first,
        parts[-1].facts.end,
        duplicates,
        (parts[0].facts.ends[0], last),
        next(iter(sizes), (0, 0)),
        any(part.facts.deep for part in parts),
    )
    return FinishedSpan(pa.concat_tables([part.rows for part in parts]), facts)
