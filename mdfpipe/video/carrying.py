"""Names carried along tracks: bodies without a face take the name that faces give their track in other frames.

Arrays in, arrays out, a whole video at once, without a loop over bodies. Bodies that a face names are the *votes* of
their track, but for those that overlap another body: there, a face is more often given to the wrong one. A *stretch* is
a longest row of votes of one track, by frame, for one subject: a track whose votes agree is one stretch, a track whose
votes change has several. A body is named by the nearest vote, if the votes before and behind it are of one stretch.
Between two stretches the track may have changed over at any frame: no body is named there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from mdfpipe.config import Config
from mdfpipe.video.geometry import iou

I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]
NOBODY = -1
SECOND_BOX = 0.7
"""IoU with a body of a track above which a body without a track is a second box of that person."""


class CarryRules(Config):
    """How tracks name bodies."""

    tracks: Literal["none", "carry"] = Field(
        "none",
        description="carry: a track that faces name in some frames names its bodies in the other frames, too "
        "(labelled_by_track; needs the section `track`); none: only faces name bodies",
    )
    conflict: Literal["cut", "refuse"] = Field(
        "cut",
        description="for a track whose faces name several subjects. cut: each of its stretches with faces of one "
        "subject is named, no body between two stretches (track_conflict); refuse: none of its other bodies is named",
    )
    least_faces: int = Field(
        3, ge=1, description="least number of bodies with a face that name the others of their track, or of a stretch"
    )
    least_purity: float = Field(
        1.0,
        gt=0.5,
        le=1,
        description="share of a track's bodies with a face from which the most frequent subject names the whole track; "
        "below it `conflict` decides",
    )
    most_frames: int | None = Field(
        None, ge=1, description="most frames from a named body to the nearest face of its track; none: any number"
    )
    most_overlap: float = Field(
        0.2,
        ge=0,
        le=1,
        description="IoU with another body of the frame above which a track may change over: names are carried up to "
        "such a frame and not beyond, and its faces are not counted; 1: never. A box of no track on one of a track is "
        "a second box of that body, and no other",
    )
    most_gap: int | None = Field(
        None,
        ge=0,
        description="most frames between two boxes of a track over which names are carried, of those that "
        "detect visits; none: any number",
    )
    most_seconds: float | None = Field(
        None, gt=0, description="most seconds from a named body to the nearest face of its track; none: any number"
    )


@dataclass(frozen=True, eq=False)
class Carried:
    """What tracks name, for n bodies and t tracks.

    subject: (n,) int64, code of the carried name, else -1. distance: (n,) int64, frames to the nearest face of the
    track that names the body; 0 where a face of its own frame does; -1 without a name. conflict: (n,) bodies
    that have no name because their track has faces of several subjects, or because another body of the frame has the
    better claim to it. tracks: with at least one vote; changing: of these, with faces of several subjects.
    """

    subject: I64
    distance: I64
    conflict: Mask
    tracks: int
    changing: int

    @property
    def named(self) -> Mask:
        """(n,) whether a track names the body."""
        return np.asarray(self.subject >= 0, np.bool_)


@dataclass(frozen=True, eq=False)
class _Votes:
    """The votes that count, by track and frame. row: of the body; stretch: number, from 0. strong: (stretches,)."""

    row: I64
    track: I64
    frame: I64
    stretch: I64
    strong: Mask


def carry(
    frame: ArrayLike,
    track: ArrayLike,
    subject: ArrayLike,
    may: ArrayLike,
    score: ArrayLike,
    rules: CarryRules,
    seconds: ArrayLike | None = None,
    doubt: ArrayLike | None = None,
    stride: int = 1,
) -> Carried:
    """Return the names that tracks carry to the bodies of one video.

    frame: (n,) from 0; track: (n,), -1 where a body is of no track; subject: (n,) code of the subject that a face of
    the frame names, -1 elsewhere; may: (n,) the bodies that a track may name, if no face does; score: (n,), breaks
    ties; seconds: (n,) times of the frames, required by `most_seconds`; doubt: (n,) bodies at which a track may have
    changed over to another person: no name is carried to them, nor beyond, and they are no votes; stride: frames from
    one to the next. Rows in any order.

    In one frame a name is carried to one body at most, and to none where a face gives it to a body of the frame; there
    the track is of another subject, so that the name is not carried beyond that frame either. Among several bodies the
    one nearer to its face has it, then the higher score, then the lower row. The earlier of two faces at one distance
    counts. Raises ValueError for shapes that do not fit.

    >>> frame, faces = [0, 1, 2, 3, 4], [5, 5, 5, -1, -1]
    >>> found = carry(frame, [0] * 5, faces, [True] * 5, [1.0] * 5, CarryRules(tracks="carry"))
    >>> found.subject, found.distance
    (array([-1, -1, -1,  5,  5]), array([0, 0, 0, 1, 2]))
    """
    n = len(np.asarray(frame))
    at, of, who = (_whole(name, v, n) for name, v in (("frame", frame), ("track", track), ("subject", subject)))
    scores, free = np.asarray(score, np.float64), np.asarray(may, np.bool_)
    for name, found in (("score", scores), ("may", free)):
        if found.shape != (n,):
            raise ValueError(f"{name}: expected ({n},), got {found.shape}")
    unsure = np.zeros(n, np.bool_) if doubt is None else np.asarray(doubt, np.bool_)
    voting = (who >= 0) & (of >= 0) & ~unsure
    votes, changing, refused = _votes(np.flatnonzero(voting), at, of, who, rules)
    rows = np.flatnonzero(free & (who < 0) & (of >= 0))
    nearest, between = _nearest(votes, at, of, rows)
    conflict = np.zeros(n, np.bool_)
    conflict[rows] = between | np.isin(of[rows], refused)
    rows, nearest = rows[nearest >= 0], nearest[nearest >= 0]
    longest = None if rules.most_gap is None else stride * (rules.most_gap + 1)
    beyond = _beyond_others(at, of, who, rows, nearest, unsure, longest)
    conflict[rows[beyond]] = True
    rows, nearest = rows[~beyond], nearest[~beyond]
    if rules.most_frames is not None:
        near = np.abs(at[rows] - at[nearest]) <= rules.most_frames
        rows, nearest = rows[near], nearest[near]
    if rules.most_seconds is not None:
        times = np.asarray(seconds, np.float64)
        near = np.abs(times[rows] - times[nearest]) <= rules.most_seconds
        rows, nearest = rows[near], nearest[near]
    names, apart = who[nearest], np.abs(at[rows] - at[nearest])
    first = _first_of_frame(at, rows, names, apart, scores)
    conflict[rows[~first]] = True
    carried, distance = np.full(n, NOBODY, np.int64), np.where(who >= 0, 0, NOBODY)
    carried[rows[first]], distance[rows[first]] = names[first], apart[first]
    return Carried(carried, distance, conflict, len(np.unique(of[voting])), changing)


def meeting(frame: ArrayLike, track: ArrayLike, xyxy: ArrayLike, most: float) -> Mask:
    """(n,) whether the IoU with another body of the frame is above `most`; second boxes of a person are no other body.

    frame, track: (n,), -1 without a track; xyxy: (n, 4).

    >>> boxes = [[0, 0, 4, 9], [1, 0, 5, 9], [0, 0, 4, 9], [0, 0, 4, 8]]
    >>> meeting([0, 0, 1, 1], [7, 8, 7, -1], boxes, 0.5).tolist()
    [True, True, False, False]
    """
    at, of, boxes = np.asarray(frame), np.asarray(track), np.asarray(xyxy, np.float32)
    order = np.argsort(at, kind="stable")
    at, of, boxes = at[order], of[order], boxes[order]
    met = np.zeros(len(at), np.bool_)
    for step in range(1, len(at)):  # the n-th next body of every frame at once
        pairs = np.flatnonzero(at[step:] == at[:-step])
        if not len(pairs):
            break
        overlap = iou(boxes[pairs], boxes[pairs + step])
        second = ((of[pairs] < 0) != (of[pairs + step] < 0)) & (overlap > SECOND_BOX)
        near = pairs[(overlap > most) & ~second]
        met[near] = met[near + step] = True
    found = np.zeros(len(at), np.bool_)
    found[order] = met
    return found


def shared_names(frame: ArrayLike, subject: ArrayLike) -> Mask:
    """(n,) whether another body of the frame has the same name. frame: (n,); subject: (n,) codes, -1 without one.

    >>> shared_names([0, 0, 0, 1], [3, 3, 4, 3]).tolist()
    [True, True, False, False]
    """
    at, who = np.asarray(frame, np.int64), np.asarray(subject, np.int64)
    claim = at * (int(who.max(initial=0)) + 1) + who
    named = np.flatnonzero(who >= 0)
    _, place, count = np.unique(claim[named], return_inverse=True, return_counts=True)
    shared = np.zeros(len(at), np.bool_)
    shared[named] = count[place] > 1
    return shared


def _whole(name: str, values: ArrayLike, n: int) -> I64:
    array = np.asarray(values)
    if array.shape != (n,) or (n and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name}: expected ({n},) integers, got {array.shape} {array.dtype}")
    return array.astype(np.int64, copy=False)


def _votes(row: I64, frame: I64, track: I64, subject: I64, rules: CarryRules) -> tuple[_Votes, int, I64]:
    """The votes that count of these rows; how many tracks have votes for several subjects; and those refused."""
    row = row[np.lexsort((row, frame[row], track[row]))]
    tracks, number = np.unique(track[row], return_inverse=True)
    codes = int(subject.max(initial=0)) + 1
    pairs, pair, votes = np.unique(number * codes + subject[row], return_inverse=True, return_counts=True)
    most, total = np.zeros(len(tracks), np.int64), np.bincount(number, minlength=len(tracks))
    np.maximum.at(most, pairs // codes, votes)
    several = np.bincount(pairs // codes, minlength=len(tracks)) > 1
    pure = most >= rules.least_purity * total
    counts = votes[pair] == most[number]  # of a pure track: the votes for its subject; above a half there is one
    if rules.conflict == "cut":
        counts |= ~pure[number]
    else:
        counts &= pure[number]
    row = row[counts]
    new = (np.diff(track[row], prepend=-1) != 0) | (np.diff(subject[row], prepend=-1) != 0)
    stretch = np.cumsum(new) - 1
    refused = tracks[several & ~pure] if rules.conflict == "refuse" else tracks[:0]
    strong = np.bincount(stretch) >= rules.least_faces
    return _Votes(row, track[row], frame[row], stretch, strong), int(several.sum()), refused


def _nearest(votes: _Votes, frame: I64, track: I64, rows: I64) -> tuple[I64, Mask]:
    """The body of the nearest vote of each of these bodies, -1 where none names it; and whether it is in between two
    stretches. (r,), (r,).
    """
    m = len(votes.row)
    if not m:
        return np.full(len(rows), NOBODY, np.int64), np.zeros(len(rows), np.bool_)
    span = int(max(frame.max(), 0)) + 1
    behind = np.searchsorted(votes.track * span + votes.frame, track[rows] * span + frame[rows])
    before = behind - 1
    has_before = (before >= 0) & (votes.track[before] == track[rows])
    has_behind = (behind < m) & (votes.track[np.minimum(behind, m - 1)] == track[rows])
    before, behind = np.maximum(before, 0), np.minimum(behind, m - 1)
    between = has_before & has_behind & (votes.stretch[before] != votes.stretch[behind])
    back = frame[rows] - votes.frame[before]
    ahead = votes.frame[behind] - frame[rows]
    chosen = np.where(has_before & (~has_behind | (back <= ahead)), before, behind)
    good = (has_before | has_behind) & ~between & votes.strong[votes.stretch[chosen]]
    return np.where(good, votes.row[chosen], NOBODY), between


def _first_of_frame(frame: I64, rows: I64, names: I64, apart: I64, score: NDArray[np.float64]) -> Mask:
    """(r,) which of the bodies that are to take `names` have the best claim in their frame."""
    claim = frame[rows] * (int(names.max(initial=0)) + 1) + names
    order = np.lexsort((rows, -score[rows], apart, claim))
    first = np.zeros(len(rows), np.bool_)
    first[order] = np.diff(claim[order], prepend=-1) != 0
    return first


def _beyond_others(
    frame: I64, track: I64, subject: I64, rows: I64, nearest: I64, doubt: Mask, longest: int | None
) -> Mask:
    """(r,) bodies to which their vote does not reach: in their frame, or on the way to it, a face gives the name to
    another body, so that the track is of another subject there, or the track is in doubt, or has two boxes that are
    more than `longest` frames apart. nearest: (r,) body of the vote.
    """
    by_face = np.flatnonzero(subject >= 0)
    codes, span = int(subject.max(initial=0)) + 1, int(frame.max(initial=0)) + 1
    claim = frame[rows] * codes + subject[nearest]
    taken = rows[np.isin(claim, frame[by_face] * codes + subject[by_face])]
    key = 2 * (track * span + frame)  # even: in a frame; odd: before it
    barriers = [key[taken], key[doubt & (track >= 0)]]
    if longest is not None:
        order = np.lexsort((frame, track))
        apart = np.diff(frame[order], prepend=0) > longest
        barriers.append(key[order[apart & (np.diff(track[order], prepend=-1) == 0) & (track[order] >= 0)]] - 1)
    places = np.sort(np.concatenate(barriers))
    here, there = key[rows], key[nearest]
    ahead = np.searchsorted(places, here, "right") > np.searchsorted(places, there, "right")  # behind its vote
    back = np.searchsorted(places, there) > np.searchsorted(places, here)
    return np.where(here > there, ahead, back)
