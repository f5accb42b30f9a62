"""Naming bodies by faces: the kernel of the `label` stage. Arrays in, arrays out, a whole video at once.

The rule ("Multi-Domain Biometric Recognition using Body Embeddings", IV-A, read as containment): a body takes the
name of the face that overlaps it most, unless faces of two people lie in it or the best overlaps too little. Every
detection gets a status; none disappears.

A body needs only the faces of its own frame, so bodies are grouped by *how many* faces their frame has.
With f faces the pairs of k such bodies are a dense (f, k) block without padding, and the Python loops run
over the few distinct f and over blocks that fit the cache, never over frames or bodies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from pydantic import Field

from mdfpipe.config import Config
from mdfpipe.errors import ConfigError, DataError, one_line
from mdfpipe.store.tables import LabelStatus
from mdfpipe.video.frames import ArrayError
from mdfpipe.video.geometry import MEASURES, MeasureName, head_distance, iou

STATUSES: Final = tuple(LabelStatus)
"""The status of a code: `STATUSES[code]`. Also the dictionary of the `status` column."""
CODE: Final = {status: code for code, status in enumerate(STATUSES)}

BLOCK_PAIRS: Final = 1 << 16  # pairs in one dense block: a float32 plane of 256 kB stays in the L2 cache
LARGEST_PX: Final = 1 << 20  # no frame is a million pixels wide: beyond is damage, and would overflow an area

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]


class LabelRules(Config):
    """How faces name bodies. The defaults read the paper's rule as containment.

    Read as IoU its filter could not fire: two faces that each overlap one body by more than 0.75 IoU overlap each
    other by more than half, which the faces of two people do not.
    """

    measure: MeasureName = Field("ioa_face", description="overlap measure that chooses the face of a body")
    min_overlap: float = Field(
        0.5,
        ge=0,
        le=1,
        description="least overlap that names a body; 0: any overlap above 0 ('maximum overlap'). The default suits "
        "ioa_face, iomin and center_in; a right pair has an iou of about 0.03 and a head_iou of about 0.15",
    )
    ambiguity_measure: MeasureName = Field(
        "ioa_face", description="overlap measure that decides whether a face is inside a body"
    )
    ambiguity_threshold: float = Field(
        0.75, ge=0, le=1, description="faces of two subjects strictly above it make a body ambiguous; 1: never"
    )
    assignment: Literal["per_detection", "mutual_best", "hungarian"] = Field(
        "per_detection",
        description="when several bodies claim one face: per_detection: all get it (the paper); mutual_best: the "
        "best overlap keeps it; hungarian: the frame's pairs are chosen for the greatest total overlap",
    )


@dataclass(frozen=True, eq=False)
class Labels:
    """Face and status of each body, in the order of the bodies.

    face: (n,) int64, row of the face with the greatest overlap, -1 where no face overlaps. Under
        `hungarian` a labelled body has the face that it was assigned, which may be its second best.
    overlap: (n,) float32 with that face. runner_up: (n,) float32, the greatest overlap with a face of
        any other subject (an unnamed face is a person of its own).
    status: (n,) int8, position in STATUSES.
    """

    face: I64
    overlap: F32
    runner_up: F32
    status: NDArray[np.int8]

    def where(self, status: LabelStatus) -> Mask:
        """Mask (n,) of the bodies with this status. Raises ConfigError for what is no status."""
        return np.equal(self.status, _code("where", status))

    def counts(self) -> dict[LabelStatus, int]:
        """How many bodies have each status, every status listed."""
        return dict(zip(STATUSES, np.bincount(self.status, minlength=len(STATUSES)).tolist(), strict=True))


def label_bodies(
    body_frame: ArrayLike,
    body_xyxy: ArrayLike,
    face_frame: ArrayLike,
    face_xyxy: ArrayLike,
    face_subject: ArrayLike,
    *,
    rules: LabelRules,
    body_score: ArrayLike | None = None,
    excluded: Mapping[LabelStatus, Mask] | None = None,
) -> Labels:
    """Return the face and the status of every body of one video.

    body_frame: (n,) integer; body_xyxy: (n, 4) pixels; face_frame: (m,); face_xyxy: (m, 4), clipped to the
    frame by the caller (`geometry.clip_to_frame`); face_subject: (m,) codes, -1 for an unnamed face; body_score:
    (n,), breaks ties of assignment. Rows in any order. excluded: masks (n,) of bodies that take no part, by the
    status that they get (too_small, off_frame). Boxes are compared as float32. A face without area never matches.

    The status is the first that applies: what `excluded` says; *ambiguous*: two or more subjects have a face
    with more than `ambiguity_threshold` of `ambiguity_measure`; *no_face*: the greatest overlap is 0;
    *below_min_overlap*; *lost_assignment*: another body has the better claim (only those not yet out compete,
    and they compete for unnamed faces too); *unnamed_face*; *labelled*.

    Equal overlaps: the larger IoU, then the face's centre nearer to the body's top centre, then the lower row.

    >>> bodies, faces = [[0, 0, 10, 30], [20, 0, 30, 30]], [[3, 1, 6, 5], [28, 1, 32, 5]]
    >>> labels = label_bodies([0, 0], bodies, [0, 0], faces, [7, -1], rules=LabelRules())
    >>> labels.face, labels.overlap, [STATUSES[code].value for code in labels.status]
    (array([0, 1]), array([1. , 0.5], dtype=float32), ['labelled', 'unnamed_face'])

    Raises ArrayError, which is a DataError and a ValueError, for arrays of a wrong shape or type, DataError for a
    coordinate that is no pixel, ConfigError for other rules and an unknown status.
    """
    if not isinstance(rules, LabelRules):
        raise ConfigError(f"rules: expected LabelRules, such as LabelRules(), got {one_line(repr(rules), 60)}")
    if excluded is not None and not isinstance(excluded, Mapping):
        raise ConfigError(f"excluded: expected masks by status, got {one_line(repr(excluded), 60)}")
    scene = _scene(body_frame, body_xyxy, face_frame, face_xyxy, face_subject, body_score, excluded or {})
    face, overlap, runner_up, ambiguous = _best_faces(scene, rules)
    status = scene.decided  # -1 where open
    for applies, verdict in (
        (ambiguous, LabelStatus.AMBIGUOUS),
        (face < 0, LabelStatus.NO_FACE),
        (overlap < rules.min_overlap, LabelStatus.BELOW_MIN_OVERLAP),
    ):
        status[(status < 0) & applies] = CODE[verdict]
    _assign(scene, rules, face, overlap, runner_up, status)
    rows = np.flatnonzero(status < 0)
    unnamed = scene.unnamed[face[rows]]
    status[rows] = np.where(unnamed, CODE[LabelStatus.UNNAMED_FACE], CODE[LabelStatus.LABELLED])
    if scene.order is not None:
        face = np.where(face >= 0, scene.order[face], -1)
    return Labels(face, overlap, runner_up, status)


def first_of_frame(frame: ArrayLike, merit: ArrayLike, open_: Mask) -> Mask:
    """Mask (n,) of the one body of each frame that has the greatest merit among the open ones; the lower row if equal.

    frame: (n,) integer; merit: (n,); open_: mask (n,) of the bodies that may be chosen.

    >>> first_of_frame([0, 0, 1], [3.0, 5.0, 1.0], np.array([True, True, False])).tolist()
    [False, True, False]
    """
    rows = np.flatnonzero(open_)
    at, worth = np.asarray(frame)[rows], np.asarray(merit, np.float64)[rows]
    order = np.lexsort((rows, -worth, at))
    chosen = np.zeros(len(open_), np.bool_)
    chosen[rows[order[np.flatnonzero(np.diff(at[order], prepend=-1))]]] = True
    return chosen


def silent_filter(rules: LabelRules, counts: Mapping[LabelStatus, int]) -> str | None:
    """A warning where the ambiguity filter measures IoU and never fired, with the reason; else None.

    counts: bodies by status, of a video or of a whole run.

    >>> silent_filter(LabelRules(), {LabelStatus.LABELLED: 10}) is None
    True
    """
    if rules.ambiguity_measure != "iou" or not sum(counts.values()) or counts.get(LabelStatus.AMBIGUOUS, 0):
        return None
    t = rules.ambiguity_threshold
    overlap = f", and two faces above {t:g} would overlap each other by more than {2 * t - 1:g}" if t > 0.5 else ""
    return (
        f"label: the ambiguity filter (ambiguity_measure: iou, ambiguity_threshold: {t:g}) never fired. A face is a "
        f"small part of a body, so that their IoU is about 0.04{overlap}; two people never do. To drop "
        "bodies that hold two faces set label.ambiguity_measure=ioa_face"
    )


@dataclass(frozen=True, eq=False)
class _Scene:
    """The arrays of `label_bodies`, checked, with faces in the order of their frames and boxes as planes."""

    body: F32  # (4, n): planes x1, y1, x2, y2, so that a gathered coordinate is contiguous
    face: F32  # (4, m), sorted by frame
    person: I64  # (m,) subject code; a code of its own for every unnamed face
    unnamed: Mask  # (m,)
    first: I64  # (n,) first face of the body's frame
    count: I64  # (n,) faces in the body's frame; 0 for an excluded body
    order: I64 | None  # (m,) row of each sorted face as given; None where they came sorted
    score: F32  # (n,)
    decided: NDArray[np.int8]  # (n,) status of the excluded bodies, else -1


def _scene(
    body_frame: ArrayLike,
    body_xyxy: ArrayLike,
    face_frame: ArrayLike,
    face_xyxy: ArrayLike,
    face_subject: ArrayLike,
    body_score: ArrayLike | None,
    excluded: Mapping[LabelStatus, Mask],
) -> _Scene:
    body, face = _planes("body_xyxy", body_xyxy), _planes("face_xyxy", face_xyxy)
    n, m = body.shape[1], face.shape[1]
    at_body, at_face = _integers("body_frame", body_frame, n), _integers("face_frame", face_frame, m)
    person = _integers("face_subject", face_subject, m)
    score = np.zeros(n, np.float32) if body_score is None else _array("body_score", body_score, np.float32)
    if score.shape != (n,):
        raise ArrayError(f"body_score: expected ({n},), got {score.shape}")
    if m and person.min() < -1:
        raise ArrayError(f"face_subject: expected codes from 0, or -1 for unnamed, got {person.min()}")
    order = None
    if np.any(at_face[1:] < at_face[:-1]):
        order = np.argsort(at_face, kind="stable")  # stable: the lower row comes first
        at_face, person, face = at_face[order], person[order], face[:, order]
    unnamed = person < 0
    if unnamed.any():
        person = np.where(unnamed, person.max() + 1 + np.arange(m), person)
    first, behind = np.searchsorted(at_face, at_body), np.searchsorted(at_face, at_body, side="right")
    count = behind - first
    decided = np.full(n, -1, np.int8)
    for status, mask in excluded.items():
        code, taken = _code("excluded", status), _array(f"excluded[{status}]", mask)
        if taken.shape != (n,) or (n and taken.dtype != np.bool_):  # of [0, 1] nobody knows whether it is a mask
            raise ArrayError(f"excluded[{status}]: expected ({n},) booleans, got {taken.shape} {taken.dtype}")
        decided[(decided < 0) & taken.astype(np.bool_)] = code
    count[decided >= 0] = 0
    return _Scene(body, face, person, unnamed, first, count, order, score, decided)


def _code(where: str, status: Any) -> int:
    try:
        return CODE[LabelStatus(status)]
    except ValueError:
        known, got = ", ".join(STATUSES), one_line(repr(status), 40)
        raise ConfigError(f"{where}: expected a status, one of {known}, got {got}") from None


def _array(name: str, values: ArrayLike, dtype: DTypeLike | None = None) -> NDArray[Any]:
    try:
        return np.asarray(values, dtype)
    except (TypeError, ValueError):  # lists of different lengths, texts
        raise ArrayError(f"{name}: expected numbers, got {one_line(repr(values), 60)}") from None


def _planes(name: str, boxes: ArrayLike) -> F32:
    array = _array(name, boxes)
    if array.size == 0:
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ArrayError(f"{name}: expected (n, 4), got {array.shape}")
    planes = np.ascontiguousarray(_array(name, array.T, np.float32))
    good = (planes >= -LARGEST_PX) & (planes <= LARGEST_PX)  # False for NaN
    if not good.all():
        rows = np.flatnonzero(~good.all(axis=0))
        raise DataError(
            f"{name}: expected pixels within ±{LARGEST_PX}, got {array[rows[0]].tolist()} in row {rows[0]}"
            f" ({len(rows)} such rows): check the table that the boxes come from"
        )
    return planes


def _integers(name: str, values: ArrayLike, n: int) -> I64:
    array = _array(name, values)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.shape != (n,) or not np.issubdtype(array.dtype, np.integer):
        raise ArrayError(f"{name}: expected ({n},) integers, got {array.shape} {array.dtype}")
    return array.astype(np.int64, copy=False)


def _blocks(count: I64) -> Iterator[tuple[int, I64]]:
    """(f, rows): bodies whose frame has f faces, at most BLOCK_PAIRS pairs at a time."""
    for f in np.flatnonzero(np.bincount(count)).tolist():
        if f:
            rows, step = np.flatnonzero(count == f), max(1, BLOCK_PAIRS // f)
            for at in range(0, len(rows), step):
                yield f, rows[at : at + step]


def _best_faces(scene: _Scene, rules: LabelRules) -> tuple[I64, F32, F32, Mask]:
    """Best face (sorted order, -1 for none), its overlap, the runner-up's, and ambiguity: four times (n,)."""
    n = scene.body.shape[1]
    face, ambiguous = np.full(n, -1, np.int64), np.zeros(n, np.bool_)
    overlap, runner_up = np.zeros(n, np.float32), np.zeros(n, np.float32)
    for f, rows in _blocks(scene.count):
        first = scene.first[rows]
        pairs = first + np.arange(f)[:, None]  # (f, k)
        body = np.moveaxis(scene.body[:, None, rows], 0, -1)  # (1, k, 4), a view
        faces = np.moveaxis(scene.face[:, pairs], 0, -1)  # (f, k, 4)
        overlaps = MEASURES[rules.measure](body, faces)  # (f, k)
        same = rules.ambiguity_measure == rules.measure
        within = overlaps if same else MEASURES[rules.ambiguity_measure](body, faces)
        best = overlaps.max(axis=0)
        chosen = _choose(overlaps, best, body, faces)
        ambiguous[rows], runner_up[rows] = _others(
            overlaps, chosen, within > rules.ambiguity_threshold, scene.person[pairs]
        )
        overlap[rows] = best
        face[rows] = np.where(best > 0, first + chosen, -1)
    return face, overlap, runner_up, ambiguous


def _choose(overlaps: F32, best: F32, body: F32, faces: F32) -> I64:
    """Position 0..f-1 of each body's face, ties broken: (k,)."""
    at_best = overlaps == best  # (f, k)
    tied = np.flatnonzero((np.add.reduce(at_best, axis=0, dtype=np.int32) > 1) & (best > 0))
    if len(tied):
        left, body, faces = at_best[:, tied], body[:, tied], faces[:, tied]
        for merit in (iou(body, faces), -head_distance(body, faces)):
            merit = np.where(left, merit, -np.inf)
            left &= merit == merit.max(axis=0)
        at_best[:, tied] = left
    first: I64 = np.argmax(at_best, axis=0)  # of those left: the lower row
    return first


def _others(overlaps: F32, chosen: I64, inside: Mask, person: I64) -> tuple[Mask, F32]:
    """Whether faces of two people lie in the body, and the best overlap with a person not chosen: (k,), (k,)."""
    if len(overlaps) == 1:
        return np.zeros(len(chosen), np.bool_), np.zeros(len(chosen), np.float32)
    least = np.where(inside, person, np.iinfo(np.int64).max).min(axis=0)
    greatest = np.where(inside, person, -1).max(axis=0)
    own = person == np.take_along_axis(person, chosen[None], axis=0)
    return greatest > least, np.where(own, np.float32(0), overlaps).max(axis=0)


def _assign(scene: _Scene, rules: LabelRules, face: I64, overlap: F32, runner_up: F32, status: NDArray[Any]) -> None:
    """Settle faces that several bodies claim, in place; per_detection leaves them to all."""
    open_rows = np.flatnonzero(status < 0)
    claims = np.bincount(face[open_rows], minlength=scene.face.shape[1])
    contested = open_rows[claims[face[open_rows]] > 1]
    if rules.assignment == "per_detection" or not len(contested):
        return
    if rules.assignment == "mutual_best":
        status[contested[~_best_claims(scene, contested, face, overlap)]] = CODE[LabelStatus.LOST_ASSIGNMENT]
        return
    rows = open_rows[np.isin(scene.first[open_rows], scene.first[contested])]  # a frame is known by its first face
    rows = rows[np.lexsort((rows, -scene.score[rows], scene.first[rows]))]
    for group in np.split(rows, np.flatnonzero(np.diff(scene.first[rows])) + 1):
        _assign_frame(scene, rules, group, face, overlap, runner_up, status)


def _best_claims(scene: _Scene, rows: I64, face: I64, overlap: F32) -> Mask:
    """Bodies with the best claim to a face: overlap, IoU, score, lower row. (r,)."""
    claimed = face[rows]
    pair_iou = iou(scene.body[:, rows].T, scene.face[:, claimed].T)
    by_claim = np.lexsort((rows, -scene.score[rows], -pair_iou, -overlap[rows], claimed))
    best = np.zeros(len(rows), np.bool_)
    best[by_claim[np.flatnonzero(np.diff(claimed[by_claim], prepend=-1))]] = True
    return best


def _assign_frame(
    scene: _Scene, rules: LabelRules, rows: I64, face: I64, overlap: F32, runner_up: F32, status: NDArray[Any]
) -> None:
    """`hungarian` for one frame, in place. rows: its bodies still open, the higher score first."""
    faces = scene.first[rows[0]] + np.arange(scene.count[rows[0]])
    body, candidates = scene.body[:, rows].T[:, None], scene.face[:, faces].T[None]
    overlaps = np.asarray(MEASURES[rules.measure](body, candidates), np.float32)  # (b, f)
    column = _greatest_total(overlaps, iou(body, candidates), rules.min_overlap)
    status[rows[column < 0]] = CODE[LabelStatus.LOST_ASSIGNMENT]
    pairs, chosen = np.flatnonzero(column >= 0), column[column >= 0]
    took = rows[pairs]
    face[took], overlap[took] = faces[chosen], overlaps[pairs, chosen]
    other = scene.person[faces] != scene.person[faces[chosen]][:, None]
    runner_up[took] = np.where(other, overlaps[pairs], np.float32(0)).max(axis=1)


def _greatest_total(overlaps: F32, pair_iou: F32, min_overlap: float) -> I64:
    """The face of each body, -1 for none, so that the overlaps add up to the most: (b, f), (b, f) -> (b,).

    Among equal totals, the greater total IoU wins. Both go into one weight: the overlap in steps of 2^-24
    above (totals closer than such steps count as they round), the IoU below, with room for the sums, so that
    float64 adds them exactly.
    """
    from scipy.optimize import linear_sum_assignment

    room = int(np.ceil(np.log2(min(overlaps.shape) + 1)))  # bits that a sum over the frame may add
    iou_bits = max(1, min(24, 53 - 24 - 2 * room))
    high = np.maximum(np.rint(overlaps.astype(np.float64) * 2.0**24), 1)
    weight = high * 2.0 ** (iou_bits + room) + np.rint(pair_iou.astype(np.float64) * 2.0**iou_bits)
    weight = np.where((overlaps > 0) & (overlaps >= min_overlap), weight, 0)
    row, column = linear_sum_assignment(weight, maximize=True)
    chosen = np.full(len(weight), -1, np.int64)
    chosen[row] = np.where(weight[row, column] > 0, column, -1)
    _, kind, count = np.unique(weight, axis=0, return_inverse=True, return_counts=True)
    for one in np.flatnonzero(count > 1):  # duplicate boxes: the earlier body is served first
        same = np.flatnonzero(kind == one)
        chosen[same] = sorted(chosen[same], key=lambda c: (c < 0, c))
    return chosen
