"""Are annotation and video in step? The frame base of a face table is checked, not trusted.

For one video, each body that a face named is compared with the face of the same subject d = -1, 0, +1
frames away. Offset d = +1 means: the annotation that was read as frame f + 1 fits the delivered frame f,
so the table counts from a base one higher than the reader thought (1-based, read as 0-based).

Two measures, because each is blind where the other sees:

* *overlap*: the study's own measure, mean over the pairs. It is what labelling depends on, but `ioa_face`
  saturates: it says 1 for every offset while the face stays inside the body, however fast both move.
* *detrended*: the face is predicted from the body box by the median relative position and size of the
  track's segment *at that offset*, and compared with the annotation by IoU. Constant velocity, or a head
  that leads the body, moves every frame's face alike: the median takes it up, and all offsets come out
  equal. What is left is unsteady motion (gait, turning, camera shake), in which face and body agree only
  when they are of the same frame.

A win is clear when the mean advantage over both other offsets is at least 0.02, and at least 4 standard errors.
Neighbouring frames say much the same, so the standard error is that of batch means: differences are added up over
blocks of 10 frames (all subjects together, since a camera shakes them all), and blocks count as independent.
Either measure may decide; where both win clearly and disagree, there is no verdict.

Known limit: a face that sticks out in front of a body which moves at perfectly constant velocity appears to the
overlap like an offset of -1, and no geometry can tell the two apart. Unsteady motion does, by contradiction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from mdfpipe.video.geometry import MEASURES, MeasureName, iou

OFFSETS: Final = (-1, 0, 1)
MIN_PAIRS: Final = 30
MIN_ADVANTAGE: Final = 0.02
MIN_STANDARD_ERRORS: Final = 4.0
BATCH_FRAMES: Final = 10
MIN_BATCHES: Final = 3
SEGMENT_FRAMES: Final = 40  # a second or two: over a longer stretch velocity is not constant
MIN_SEGMENT_PAIRS: Final = 8  # fewer pairs than this fit their own median too well
MAX_GAP_FRAMES: Final = 10  # a longer pause ends a segment

Verdict = Literal["aligned", "offset_-1", "offset_+1", "too_slow", "too_few"]
VERDICTS: Final[dict[int | None, Verdict]] = {None: "too_slow", 0: "aligned", -1: "offset_-1", 1: "offset_+1"}
I64 = NDArray[np.int64]
Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Alignment:
    """Whether the annotation of one video is in step with its frames.

    n_pairs: bodies whose subject has exactly one face in the frames f-1, f and f+1. mean: the study's measure by
    offset, and detrended: the detrended one, over those pairs (empty where there are none). offset: 0, -1 or +1, None
    without a verdict: *too_few*, fewer than 30 pairs; *too_slow*, no clear win, or the two measures disagree.
    """

    n_pairs: int
    mean: dict[int, float]
    verdict: Verdict
    offset: int | None
    detrended: dict[int, float] = field(default_factory=dict)


def frame_offset_overlap(
    body_frame: I64,
    body_xyxy: Array,
    body_subject: I64,
    face_frame: I64,
    face_xyxy: Array,
    face_subject: I64,
    *,
    measure: MeasureName = "ioa_face",
) -> Alignment:
    """Measure one video's labelled bodies against the faces of the same subject one frame before and after.

    body_frame: (p,) and body_xyxy: (p, 4) pixels, of the *labelled* bodies; body_subject: (p,) the code that each
    was given. face_frame: (m,), face_xyxy: (m, 4), face_subject: (m,) all faces of the video, -1 for unnamed ones.
    """
    faces, usable = _same_subject(body_frame, body_subject, face_frame, face_subject)
    faces = faces[:, usable]
    n_pairs = faces.shape[1]
    if n_pairs == 0:
        return Alignment(0, {}, "too_few", None)
    frame, subject = body_frame[usable], body_subject[usable]
    body = np.asarray(body_xyxy, np.float64)[usable]
    face = np.asarray(face_xyxy, np.float64)[faces]  # (3, p, 4)
    overlap = MEASURES[measure](body[None], face)  # (3, p)
    steady, kept = _detrended(frame, subject, body, face)
    mean, detrended = _means(overlap), _means(steady)
    if n_pairs < MIN_PAIRS:
        return Alignment(n_pairs, mean, "too_few", None, detrended)
    found = [_clear_win(overlap, frame), _clear_win(steady, frame[kept]) if kept.sum() >= MIN_PAIRS else None]
    wins = {win for win in found if win is not None}
    offset = wins.pop() if len(wins) == 1 else None
    return Alignment(n_pairs, mean, VERDICTS[offset], offset, detrended)


def advice(offset: int, frame_base: int) -> str:
    """What to set when the annotation is `offset` frames from the video, read with `dataset.frame_base` as given.

    >>> advice(+1, 0)
    'annotation number 1 fits the first delivered frame: set dataset.frame_base=1 (now 0)'
    """
    if offset == 0:
        return f"annotation and video are in step: keep dataset.frame_base={frame_base}"
    fits = frame_base + offset
    found = f"annotation number {fits} fits the first delivered frame"
    if fits in (0, 1):
        return f"{found}: set dataset.frame_base={fits} (now {frame_base})"
    more = "has a frame in front that the annotation does not count" if offset < 0 else "lacks its first frame"
    return (
        f"{found}, so that no dataset.frame_base (now {frame_base}) is right: the video {more}, or lost frames in "
        "decoding"
    )


def _means(values: Array) -> dict[int, float]:
    return dict(zip(OFFSETS, values.mean(axis=1).tolist(), strict=True)) if values.size else {}


def _same_subject(
    body_frame: I64, body_subject: I64, face_frame: I64, face_subject: I64
) -> tuple[I64, NDArray[np.bool_]]:
    """Row of the one face of each body's subject at each offset, (3, p), and where all three exist, (p,)."""
    named = np.flatnonzero(np.asarray(face_subject) >= 0)
    codes = int(max(np.max(face_subject, initial=0), np.max(body_subject, initial=0))) + 1
    key = np.asarray(face_frame, np.int64)[named] * codes + np.asarray(face_subject, np.int64)[named]
    keys, at, count = np.unique(key, return_index=True, return_counts=True)
    wanted = (np.asarray(body_frame, np.int64) + np.array(OFFSETS)[:, None]) * codes + body_subject  # (3, p)
    if not len(keys):
        return np.zeros(wanted.shape, np.int64), np.zeros(wanted.shape[1], np.bool_)
    slot = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found = (keys[slot] == wanted) & (count[slot] == 1)
    usable = found.all(axis=0) & (np.asarray(body_subject) >= 0)
    return named[at[slot]], usable


def _clear_win(values: Array, frame: I64) -> int | None:
    """The offset that beats both others clearly, if one does. values: (3, p); frame: (p,)."""
    best = int(np.argmax(values.mean(axis=1)))
    if all(_clearly_above(values[best] - values[other], frame) for other in range(len(OFFSETS)) if other != best):
        return OFFSETS[best]
    return None


def _clearly_above(difference: Array, frame: I64) -> bool:
    """Whether the mean of paired differences (p,) is large, and large against its standard error by batches."""
    mean = difference.mean()
    _, batch = np.unique(frame // BATCH_FRAMES, return_inverse=True)
    sums = np.bincount(batch, difference - mean)  # one number for each block of frames
    n = len(sums)
    if n < MIN_BATCHES:
        return False
    error = np.sqrt(np.sum(sums**2) * n / (n - 1)) / len(difference)
    return bool(mean >= MIN_ADVANTAGE and mean >= MIN_STANDARD_ERRORS * error)


def _detrended(frame: I64, subject: I64, body: Array, face: Array) -> tuple[Array, NDArray[np.bool_]]:
    """IoU of predicted and annotated face, (3, q), and which of the p pairs these are, (p,).

    body: (p, 4), face: (3, p, 4). The face's centre and size are taken relative to the body's top centre in
    units of the body's height, which arms and legs do not change as they do its width.
    """
    segment = _segments(frame, subject)
    kept = np.bincount(segment)[segment] >= MIN_SEGMENT_PAIRS
    kept &= body[:, 3] > body[:, 1]
    body, face, segment = body[kept], face[:, kept], segment[kept]
    height = (body[:, 3] - body[:, 1])[:, None]
    top = np.stack([(body[:, 0] + body[:, 2]) / 2, body[:, 1]], axis=1)
    half = (face[..., 2:] - face[..., :2]) / 2
    centre = face[..., :2] + half
    where = _segment_medians((centre - top) / height, segment) * height + top
    size = _segment_medians(half / height, segment) * height
    return iou(np.concatenate([where - size, where + size], axis=-1), face), kept


def _segments(frame: I64, subject: I64) -> I64:
    """Number of the segment that each pair belongs to: (p,). A segment is a second or two of one subject's track."""
    order = np.lexsort((frame, subject))
    f, s = frame[order], subject[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(s) != 0) | (np.diff(f) > MAX_GAP_FRAMES)])
    length = np.diff(np.r_[starts, len(f)])
    run = np.repeat(np.arange(len(starts)), length)
    span = f[starts + length - 1] - f[starts] + 1
    parts = np.maximum(1, np.rint(span / SEGMENT_FRAMES).astype(np.int64))  # equal parts, no short rest
    segment = np.empty(len(f), np.int64)
    segment[order] = (np.cumsum(parts) - parts)[run] + (f - f[starts][run]) * parts[run] // span[run]
    return segment


def _segment_medians(values: Array, segment: I64) -> Array:
    """Median of each segment, given back to its pairs: (3, p, 2), (p,) -> (3, p, 2)."""
    import pandas as pd

    medians = pd.DataFrame(np.concatenate(values, axis=1)).groupby(segment).transform("median").to_numpy()
    return np.stack(np.split(medians, len(values), axis=1))
