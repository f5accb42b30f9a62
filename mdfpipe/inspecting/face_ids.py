"""Ids of faces that a detector found, and signs that they are wrong: two ids of one person, one id of two people.

Signs are of places and sizes in the table alone; no picture is compared. So they find neither one person in two videos
nor someone who comes back elsewhere. For these, vectors of a face network rank pairs of ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdfpipe.datasets.reading import found_faces
from mdfpipe.drawing.pixels import XYXY
from mdfpipe.errors import counted
from mdfpipe.inspecting.samples import spread

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

LONGEST_PAUSE: Final = 4.0  # seconds between two tracks that may be one person
MOST_STEP: Final = 1.0  # sizes of a face that it may move: in a pause, for each second and one more; in a track, beyond
USUAL_STEPS, USUAL_GROWTHS = 3.0, 6.0  # this many of the track's usual changes of place and size are no jump
MOST_GROWTH: Final = 1.25  # of two heights of a face of one track, one behind the other
MOST_RATIO: Final = 1.5  # of two heights of a face, before and after a pause
ASSUMED_FPS: Final = 25.0
_BEFORE: Final = 5  # faces that give the speed at the end of a track


@dataclass(frozen=True)
class Face:
    """A face of the table. path: of its video, as the table has it."""

    path: str
    frame: int
    score: float
    xyxy: XYXY


@dataclass(frozen=True)
class FaceId:
    """One id: its counts, its median score, and some faces, evenly over all of them."""

    name: str
    faces: int
    tracks: int
    videos: int
    score: float
    doubts: int
    shown: list[Face]


@dataclass(frozen=True)
class VideoIds:
    """Some ids of a video: name, the face of the highest score, in how many videos it is. left: how many others."""

    path: str
    ids: list[tuple[str, Face, int]]
    left: int


@dataclass(frozen=True)
class Doubt:
    """A sign that ids are wrong. sides: faces before and after; by the words of each. mend: options of `mdfpipe faces`
    that would mend it. ids: those in doubt.
    """

    ids: tuple[str, ...]
    words: str
    mend: tuple[str, ...]
    sides: tuple[tuple[str, list[Face]], ...]


class FaceIds:
    """The ids of a face table. fps: frames a second, by the path of a video. Raises DataError."""

    def __init__(self, table: Path, fps: Mapping[str, float] | None = None) -> None:
        rows = found_faces.read(table)
        (self.path, self.paths), (self.who, self.names), (found, self.found_names) = (
            _coded(rows[name]) for name in ("FILENAME", "SUBJECT_ID", "FOUND_ID")
        )
        self.frame: I64 = rows["FRAME_NUM"].to_numpy()
        left, top, width, height = (rows[f"FACE_{side}"].to_numpy() for side in ("X", "Y", "WIDTH", "HEIGHT"))
        self.xyxy: F64 = np.stack([left, top, left + width, top + height], axis=1)
        self.centre: F64 = np.stack([left + width / 2, top + height / 2], axis=1)
        self.height: F64 = np.maximum(height, 1.0)
        self.score: F64 = rows["SCORE"].to_numpy()
        self.found = found
        self.fps = np.array([(fps or {}).get(path) or ASSUMED_FPS for path in self.paths])
        self.span = int(self.frame.max(initial=0)) + 1
        named = [name != "" for name in self.names]
        self.is_named = np.array(named, np.bool_)[self.who] if len(self.who) else np.zeros(0, np.bool_)

    @property
    def nameless(self) -> int:
        """Faces without an id."""
        return int((~self.is_named).sum())

    @cached_property
    def _by_id(self) -> tuple[I64, I64, I64]:
        """Rows with an id by id, video and frame; the ids; the first place of each."""
        rows = np.flatnonzero(self.is_named)
        rows = rows[np.lexsort((self.frame[rows], self.path[rows], self.who[rows]))]
        ids, starts = np.unique(self.who[rows], return_index=True)
        return rows, ids, starts

    def _rows_of(self, who: int) -> I64:
        rows, ids, starts = self._by_id
        place = int(np.searchsorted(ids, who))
        end = starts[place + 1] if place + 1 < len(ids) else len(rows)
        return rows[starts[place] : end]

    @property
    def count(self) -> int:
        """How many ids there are."""
        return len(self._by_id[1])

    def ids(self, most: int, each: int, doubts: Iterable[Doubt]) -> list[FaceId]:
        """At most `most` ids with `each` faces: those in doubt first, then those of many faces."""
        doubted: dict[str, int] = {}
        for doubt in doubts:
            for name in doubt.ids:
                doubted[name] = doubted.get(name, 0) + 1
        rows, ids, starts = self._by_id
        sizes = np.diff(starts, append=len(rows))
        in_doubt = np.array([self.names[who] in doubted for who in ids.tolist()], np.bool_)
        order = np.lexsort((ids, -sizes, ~in_doubt))[:most]
        made = []
        for who in ids[order].tolist():
            own, name = self._rows_of(who), self.names[who]
            tracks, videos = len(np.unique(self.found[own])), len(np.unique(self.path[own]))
            shown = [self.face(row) for row in spread(own.tolist(), each)]
            score = float(np.median(self.score[own]))
            made.append(FaceId(name, len(own), tracks, videos, score, doubted.get(name, 0), shown))
        return made

    @cached_property
    def _videos_of(self) -> dict[int, list[int]]:
        """The videos of each id, by its place in `names`."""
        found: dict[int, list[int]] = {}
        rows = self._by_id[0]
        pairs = np.unique(self.who[rows] * len(self.paths) + self.path[rows]) if len(rows) else rows
        for pair in pairs.tolist():
            found.setdefault(pair // len(self.paths), []).append(pair % len(self.paths))
        return found

    @property
    def shared(self) -> int:
        """How many ids are in several videos."""
        return sum(len(videos) > 1 for videos in self._videos_of.values())

    @property
    def videos(self) -> int:
        """How many videos have ids."""
        return len({video for videos in self._videos_of.values() for video in videos})

    def by_video(self, most: int, each: int, reach: int) -> list[VideoIds]:
        """At most `each` ids of at most `most` videos, those of many faces first. The face of an id is one before frame
        `reach` where there is one. Nothing of a table with one video.
        """
        if self.videos < 2:
            return []
        rows = self._by_id[0]
        order = rows[np.lexsort((-self.score[rows], self.frame[rows] >= reach, self.who[rows], self.path[rows]))]
        _, starts, counts = np.unique(
            self.path[order] * len(self.names) + self.who[order], return_index=True, return_counts=True
        )
        own: dict[int, list[tuple[int, int]]] = {}
        for row, count in zip(order[starts].tolist(), counts.tolist(), strict=True):
            own.setdefault(int(self.path[row]), []).append((-count, row))
        made = []
        for video in sorted(own, key=lambda video: self.paths[video])[:most]:
            best = [row for _, row in sorted(own[video])[:each]]
            ids = [
                (self.names[self.who[row]], self.face(row), len(self._videos_of[int(self.who[row])])) for row in best
            ]
            made.append(VideoIds(self.paths[video], ids, len(own[video]) - len(best)))
        return made

    def alike(self, people: Sequence[FaceId], vectors: Mapping[str, F64], most: int) -> list[Doubt]:
        """Pairs of these ids that are in several videos together, the most similar first. Left out are pairs that are
        one by pairs before them, and those that would then have two faces in a frame. vectors: of length 1, by the name
        of an id.
        """
        known = [one for one in people if one.name in vectors]
        if len(known) < 2:
            return []
        every = np.stack([vectors[one.name] for one in known])
        similar, code = every @ every.T, {name: number for number, name in enumerate(self.names)}
        rows = [self._rows_of(code[one.name]) for one in known]
        group = [set((self.path[own] * self.span + self.frame[own]).tolist()) for own in rows]  # of ids that are one
        a, b = np.triu_indices(len(known), 1)
        found: list[Doubt] = []
        for pair in np.argsort(-similar[a, b], kind="stable").tolist():
            places = int(a[pair]), int(b[pair])
            one, two = pair_of = [known[place] for place in places]
            in_videos = {video for each in pair_of for video in self._videos_of[code[each.name]]}
            first, second = (group[place] for place in places)
            if len(found) == most or len(in_videos) < 2 or not first.isdisjoint(second):
                continue
            both = first | second
            group = [both if own is first or own is second else own for own in group]
            keep, gone = sorted(pair_of, key=lambda each: -each.faces)
            words = f"ids {one.name} and {two.name} have the similarity {similar[places]:.2f}"
            sides = tuple((each.name, spread(each.shown, 3)) for each in pair_of)
            found.append(Doubt((one.name, two.name), words, ("--merge", f"{keep.name}={gone.name}"), sides))
        return found

    def face(self, row: int) -> Face:
        """One face of the table."""
        x1, y1, x2, y2 = self.xyxy[row].tolist()
        return Face(self.paths[self.path[row]], int(self.frame[row]), float(self.score[row]), (x1, y1, x2, y2))

    # -- pieces of tracks

    @cached_property
    def _pieces(self) -> tuple[I64, I64]:
        """Rows with an id by piece and frame, and the first place of each piece: faces of one track with one id."""
        traced = np.array([name != "" for name in self.found_names], np.bool_)
        rows = np.flatnonzero(self.is_named & traced[self.found]) if len(self.found) else np.zeros(0, np.int64)
        rows = rows[np.lexsort((self.frame[rows], self.who[rows], self.found[rows], self.path[rows]))]
        new = np.zeros(len(rows), np.bool_)
        for column in (self.path, self.found, self.who):
            new |= np.diff(column[rows], prepend=-1) != 0
        return rows, np.flatnonzero(new)

    def _piece(self, number: int) -> I64:
        rows, starts = self._pieces
        return rows[starts[number] : starts[number + 1] if number + 1 < len(starts) else len(rows)]

    # -- two ids of one person

    def doubles(self) -> list[Doubt]:
        """Pairs of ids whose faces continue each other and that share no frame; the closest first."""
        rows, starts = self._pieces
        if not len(rows):
            return []
        ends = np.append(starts[1:], len(rows)) - 1
        first, last = rows[starts], rows[ends]
        begins = self.path[first] * self.span + self.frame[first]
        order = np.argsort(begins, kind="stable")
        reach = np.floor(self.fps[self.path[last]] * LONGEST_PAUSE).astype(np.int64)
        after = self.path[last] * self.span + self.frame[last]
        stop = np.minimum(after + reach, (self.path[last] + 1) * self.span - 1)
        low, high = (np.searchsorted(begins[order], at, "right") for at in (after, stop))
        many = high - low
        a = np.repeat(np.arange(len(starts)), many)
        b = order[np.repeat(low - np.cumsum(many) + many, many) + np.arange(many.sum())]
        cost = self._cost(ends, first, rows, starts, a, b)
        good = np.flatnonzero(np.isfinite(cost))
        found: dict[tuple[int, int], Doubt] = {}
        used: tuple[set[int], set[int]] = set(), set()
        for pair in good[np.argsort(cost[good], kind="stable")].tolist():
            one, two = int(a[pair]), int(b[pair])
            who = int(self.who[first[one]]), int(self.who[first[two]])
            if one in used[0] or two in used[1] or self._meet(*who):
                continue
            used[0].add(one)
            used[1].add(two)
            if who not in found and who[::-1] not in found:
                found[who] = self._double(one, two)
        return list(found.values())

    def _cost(self, ends: I64, first: I64, rows: I64, starts: I64, a: I64, b: I64) -> F64:
        """How badly piece b continues piece a, 0..2; infinite where it does not."""
        end, begin = rows[ends[a]], first[b]
        earlier = rows[np.maximum(ends[a] - _BEFORE, starts[a])]
        frames = np.maximum(self.frame[end] - self.frame[earlier], 1)
        gap = self.frame[begin] - self.frame[end]
        speed = (self.centre[end] - self.centre[earlier]) / frames[:, None]
        size = (self.height[end] + self.height[begin]) / 2
        moved = self.centre[begin] - self.centre[end]
        apart = np.minimum(_length(moved), _length(moved - speed * gap[:, None])) / size
        seconds = gap / self.fps[self.path[end]]
        share = apart / (MOST_STEP * (1 + seconds))
        ratio = self.height[begin] / self.height[end]
        other = (self.who[end] != self.who[begin]) & (self.found[end] != self.found[begin])
        good = other & (share <= 1) & (np.maximum(ratio, 1 / ratio) <= MOST_RATIO)
        return np.where(good, share + seconds / LONGEST_PAUSE, np.inf)

    def _meet(self, one: int, two: int) -> bool:
        """Whether two ids share a frame."""
        a, b = (self.path[rows] * self.span + self.frame[rows] for rows in (self._rows_of(one), self._rows_of(two)))
        return bool(np.isin(a, b).any())

    def _double(self, one: int, two: int) -> Doubt:
        before, after = self._piece(one), self._piece(two)
        end, begin = int(before[-1]), int(after[0])
        a, b = self.names[self.who[end]], self.names[self.who[begin]]
        gap = int(self.frame[begin] - self.frame[end])
        apart = float(_length(self.centre[begin] - self.centre[end])) / float(self.height[[end, begin]].mean())
        words = (
            f"id {a} ends at frame {self.frame[end]}, id {b} begins {counted(gap, 'frame')} later, {apart:.1f} face "
            "heights from there; they share no frame"
        )
        keep, other = (a, b) if len(self._rows_of(self.who[end])) >= len(self._rows_of(self.who[begin])) else (b, a)
        sides = ((a, self._until(before)), (b, self._from(after)))
        return Doubt((a, b), words, ("--merge", f"{keep}={other}"), sides)

    # -- one id of two people

    def mixtures(self) -> list[Doubt]:
        """Tracks whose faces jump in place or size, the greatest jump first: one a track with one id."""
        rows, starts = self._pieces
        if len(rows) < 2:
            return []
        apart = _length(np.diff(self.centre[rows], axis=0)) / ((self.height[rows[1:]] + self.height[rows[:-1]]) / 2)
        growth = np.abs(np.diff(np.log(self.height[rows])))
        gap = np.maximum(np.diff(self.frame[rows]), 1)
        piece = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(rows)))[1:]
        within = np.ones(len(piece), np.bool_)
        within[starts[1:] - 1] = False
        may = within & ((apart > MOST_STEP) | (growth > np.log(MOST_GROWTH)))
        found = []
        for one in np.unique(piece[may]).tolist():
            steps = np.arange(starts[one], starts[one] + len(self._piece(one)) - 1)
            usual = [float(np.median(values[steps] / gap[steps])) for values in (apart, growth)]
            moved = apart[steps] / (MOST_STEP + USUAL_STEPS * usual[0] * gap[steps])
            grown = growth[steps] / np.maximum(np.log(MOST_GROWTH), USUAL_GROWTHS * usual[1] * gap[steps])
            strength = np.maximum(moved, grown)
            at = int(strength.argmax())
            if strength[at] > 1:
                found.append((float(strength[at]), one, at + 1, usual[0]))
        return [self._mixture(one, place, usual) for _, one, place, usual in sorted(found, key=lambda m: (-m[0], m[1]))]

    def _mixture(self, piece: int, place: int, usual: float) -> Doubt:
        """The doubt of a piece that jumps to its face number `place`. usual: its median step, heights a frame."""
        whole = self._piece(piece)
        before, after = int(whole[place - 1]), int(whole[place])
        name, frame = self.names[self.who[after]], int(self.frame[after])
        apart = float(_length(self.centre[after] - self.centre[before]) / self.height[[before, after]].mean())
        words = (
            f"id {name} moves {apart:.1f} face heights from frame {self.frame[before]} to frame {frame} (usual: "
            f"{usual:.2f} a frame) and is {self.height[after] / self.height[before]:.2f} times as high"
        )
        sides = (
            (f"to frame {self.frame[before]}", self._until(whole[:place])),
            (f"from frame {frame} on", self._from(whole[place:])),
        )
        return Doubt((name,), words, ("--split", f"{self.found_names[self.found[after]]}@{frame}"), sides)

    def _until(self, rows: I64) -> list[Face]:
        """Some faces of these, and the last of them."""
        return [self.face(row) for row in (*spread(rows[:-1].tolist(), 2), int(rows[-1]))]

    def _from(self, rows: I64) -> list[Face]:
        """The first of these faces, and some others."""
        return [self.face(row) for row in (int(rows[0]), *spread(rows[1:].tolist(), 2))]


def _coded(column: pa.ChunkedArray) -> tuple[I64, list[str]]:
    """Codes (n,) of a column of names, and the names."""
    values: Any = column.combine_chunks()
    values = values if isinstance(values, pa.DictionaryArray) else values.chunk(0)
    return values.indices.to_numpy().astype(np.int64), values.dictionary.to_pylist()


def _length(vectors: F64) -> F64:
    return np.hypot(vectors[..., 0], vectors[..., 1])
