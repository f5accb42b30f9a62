"""Protocols of the public re-identification benchmarks, each by the name of its file (PROTOCOLS 2).

A benchmark chooses, among the rows of a test split, the queries and the gallery of each trial, and says which pairs are
left out and what a rank counts. Numbers of two protocols say nothing about each other: `label` has every choice.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from mdfpipe.config import Plugin
from mdfpipe.domains import Band, Domain
from mdfpipe.errors import ProtocolError
from mdfpipe.evaluation.comparing import I64, Flags, Removal

FILE_ADVICE = "It comes with the data set's evaluation code; without it set the benchmark's galleries to seeded"
SAME_CAMERA = Removal("same person and camera", "mates")


@dataclass(frozen=True, eq=False)
class BenchmarkImages:
    """Rows as arrays. person: (N,) places in the sorted subjects; camera: (N,) numbers, -1 where a row has none.

    order: the rows by person, camera and name of the file, in which galleries are drawn and ties are broken.
    """

    subject: np.ndarray[Any, Any]
    person: I64
    camera: I64
    domain: np.ndarray[Any, Any]
    band: np.ndarray[Any, Any]
    session: np.ndarray[Any, Any]
    order: I64

    @classmethod
    def of(cls, rows: pa.Table) -> BenchmarkImages:
        """From subject_id, domain, crop_id and, where there are, camera_id and session_id. Raises ProtocolError."""
        missing = [name for name in ("subject_id", "domain", "crop_id") if name not in rows.column_names]
        if missing or not rows.num_rows:
            raise ProtocolError(
                f"benchmark: expected rows with subject_id, domain and crop_id, got {rows.num_rows} rows of "
                + ", ".join(rows.column_names)
            )
        columns = {name: rows[name].to_pylist() for name in ("subject_id", "domain", "crop_id")}
        none = [None] * rows.num_rows
        cameras, sessions = (
            rows[name].to_pylist() if name in rows.column_names else none for name in ("camera_id", "session_id")
        )
        subjects = [str(one) for one in columns["subject_id"]]
        numbered = all(re.fullmatch(r"-?\d+", one) for one in set(subjects))
        known = sorted(set(subjects), key=(lambda one: (int(one), one)) if numbered else None)
        place = {one: n for n, one in enumerate(known)}
        person = np.array([place[one] for one in subjects], np.int64)
        number = {one: _camera(one) for one in set(cameras)}
        camera = np.array([number[one] for one in cameras], np.int64)
        names = np.array([str(one) for one in columns["crop_id"]])
        bands = {name: Domain.parse(name).band for name in set(columns["domain"])}
        return cls(
            np.array(subjects),
            person,
            camera,
            np.array(columns["domain"]),
            np.array([str(bands[name]) for name in columns["domain"]]),
            np.array([one or "" for one in sessions]),
            np.lexsort((names, camera, person)).astype(np.int64),
        )

    def chosen(self, which: Flags) -> I64:
        """The rows for which it holds, in `order`."""
        return self.order[which[self.order]]

    def of_band(self, band: Band, benchmark: str) -> Flags:
        """Which rows are of a band, all of one domain. Raises ProtocolError."""
        found: Flags = self.band == str(band)
        if not found.any():
            bands = ", ".join(sorted(set(self.band.tolist())))
            raise ProtocolError(f"{benchmark}: expected rows of band {band}, got {bands} only")
        domains = sorted(set(self.domain[found].tolist()))
        if len(domains) > 1:
            raise ProtocolError(f"{benchmark}: expected one domain of band {band}, got {', '.join(domains)}")
        return found

    def need_cameras(self, which: Flags, benchmark: str) -> None:
        """Raise ProtocolError where a row has no camera."""
        without = which & (self.camera < 0)
        if without.any():
            who = self.subject[np.flatnonzero(without)[0]]
            raise ProtocolError(
                f"{benchmark}: expected camera_id of every row, as a number; {int(without.sum())} of "
                f"{int(which.sum())} have none (such as one of subject {who})"
            )


def _camera(name: object) -> int:
    """The number of a camera: 3, "3", "cam3" or "c3"; -1 of None. Raises ProtocolError."""
    if name is None:
        return -1
    found = re.fullmatch(r"(?:cam|c)?(\d{1,9})", str(name).strip().lower())
    if found is None:
        raise ProtocolError(f"camera_id: expected a number such as 3 or cam3, got {name!r:.40}")
    return int(found[1])


@dataclass(frozen=True, eq=False)
class Trial:
    """queries: (Q,) rows. gallery: (G,) rows, of which of two with one score the first is the better."""

    queries: I64
    gallery: I64


@dataclass(frozen=True, eq=False)
class Direction:
    """From one domain's queries to another one's gallery: the trials. left_out: why -> how many rows."""

    gallery_domain: str
    probe_domain: str
    trials: Sequence[Trial]
    left_out: Mapping[str, int] = field(default_factory=dict)


class Benchmark(Plugin):
    """One published way to evaluate."""

    removal: ClassVar[Removal | None] = None
    """The pairs that are in no query's list."""
    distinct: ClassVar[bool] = True
    """Whether a rank counts identities, each once, at its first image; or images."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The protocol's name with every choice, as it is printed with every number."""

    @property
    def published_as(self) -> tuple[str, ...]:
        """Labels of published numbers that may be compared with its own."""
        return (self.label,)

    @abstractmethod
    def directions(self, images: BenchmarkImages, data: Path | None) -> list[Direction]:
        """Queries and gallery of each direction. data: the data root, for files of the protocol.

        Raises ProtocolError where the rows do not fit, ConfigError where a file is not found.
        """

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it reads, relative to the data root."""
        return ()


# -- for the variants


Shelves = dict[tuple[int, int], list[int]]
"""(person, camera) -> its rows, by name; persons in their order."""


def drawn(shelves: Shelves, cameras: Iterable[int], shots: int, trial: int) -> I64:
    """The seeded gallery of the common Python code: for each person and camera in turn, `shots` of the sorted files.

    One stream of random numbers runs through them all, so that order and listing matter (PROTOCOLS 2.1).
    """
    random, found = Random(trial), list[int]()  # noqa: S311 - what everybody draws
    wanted = list(cameras)
    for person in dict.fromkeys(person for person, _ in shelves):
        for camera in wanted:
            files = shelves.get((person, camera))
            if files is None:
                continue
            found += [random.choice(files)] if shots == 1 else random.sample(files, min(shots, len(files)))
    return np.array(found, np.int64)


def shelved(images: BenchmarkImages, rows: I64) -> Shelves:
    """Rows by person and camera. rows: in the order of `images.order`."""
    if not len(rows):
        return {}
    person, camera = images.person[rows], images.camera[rows]
    starts = np.flatnonzero(np.append(True, (person[1:] != person[:-1]) | (camera[1:] != camera[:-1])))
    keys = zip(person[starts].tolist(), camera[starts].tolist(), strict=True)
    return {key: part.tolist() for key, part in zip(keys, np.split(rows, starts[1:]), strict=True)}


def others(images: BenchmarkImages, known: Flags) -> dict[str, int]:
    """Rows of no band of the protocol, by band."""
    bands, counts = np.unique(images.band[~known], return_counts=True)
    return {f"of band {band}": int(count) for band, count in zip(bands.tolist(), counts.tolist(), strict=True)}
