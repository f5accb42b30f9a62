"""Names carried along tracks: worked by hand, and against a plain transcription of the rule."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdfpipe.video.carrying import SECOND_BOX, CarryRules, carry, meeting, shared_names
from mdfpipe.video.geometry import iou

DOUBT = 0.125  # the score by which these tests mark a body at which a track is in doubt
Row = tuple[int, int, int, bool, float]  # frame, track, subject by face, may be named, score


def rules(**given: Any) -> CarryRules:
    return CarryRules(tracks="carry", **{"least_faces": 2} | given)


def carried(rows: list[Row], how: CarryRules, fps: float = 2.0) -> tuple[list[int], list[int], list[bool], int, int]:
    columns = [np.array(column) for column in zip(*rows, strict=True)] if rows else [np.zeros(0, np.int64)] * 5
    found = carry(*columns, how, columns[0] / fps, columns[4] == DOUBT)
    return found.subject.tolist(), found.distance.tolist(), found.conflict.tolist(), found.tracks, found.changing


def one_track(names: str, how: CarryRules) -> str:
    """A track of one body a frame, named. names: a letter where a face names it, else `.`; `x` is a conflict."""
    rows = [(frame, 0, "AB".find(name), True, 1.0) for frame, name in enumerate(names)]
    subject, _, conflict, _, _ = carried(rows, how)
    after = zip(names, subject, conflict, strict=True)
    return "".join(name if name != "." else "x" if bad else ".ab"[code + 1] for name, code, bad in after)


@pytest.mark.parametrize(
    ("names", "how", "expected"),
    [
        ("..AA..A..", {}, "aaAAaaAaa"),
        ("..A......", {}, "..A......"),  # one face is too few
        ("..A......", {"least_faces": 1}, "aaAaaaaaa"),
        ("..AA.....", {"most_frames": 2}, "aaAAaa..."),
        ("..AA.....", {"most_seconds": 1.0}, "aaAAaa..."),
        (".AA..BB..", {}, "aAAxxBBbb"),
        (".AA..BB..", {"conflict": "refuse"}, "xAAxxBBxx"),
        (".AA..B...", {}, "aAAxxB..."),  # nobody behind the one face of B, but not A either
        (".AA.B.AA.", {}, "aAAxBxAAa"),
        (".AA.B.AA.", {"least_purity": 0.8}, "aAAaBaAAa"),
        (".AA.B.AA.", {"least_purity": 0.8, "conflict": "refuse"}, "aAAaBaAAa"),
        (".AA.B.AA.", {"least_purity": 0.81, "conflict": "refuse"}, "xAAxBxAAx"),
        (".........", {"least_faces": 1}, "........."),
    ],
)
def test_one_track(names: str, how: dict[str, Any], expected: str) -> None:
    assert one_track(names, rules(**how)) == expected


def test_a_name_is_carried_to_one_body_of_a_frame() -> None:
    faces = [(0, 0, 7, True, 1.0), (1, 0, 7, True, 1.0), (0, 1, 7, True, 1.0), (2, 1, 7, True, 1.0)]
    both = [(4, 0, -1, True, 0.9), (4, 1, -1, True, 0.1)]  # track 1 has the nearer face
    assert carried([*faces, *both], rules())[0][4:] == [-1, 7]
    assert carried([*faces, *both], rules())[2][4:] == [True, False]
    alike = [(1, 1, -1, True, 0.9), (9, 0, -1, True, 1.0), (9, 2, 7, True, 0.1)]  # a face of the frame has it
    assert carried([*faces, *alike], rules())[0][4:] == [-1, -1, -1]
    tied = [(3, 0, 7, True, 1.0), (3, 1, 7, True, 1.0), (4, 0, -1, True, 0.5), (4, 1, -1, True, 0.6)]
    assert carried([*faces, *tied], rules())[0][6:] == [-1, 7]  # the higher score


def test_a_face_where_a_track_is_in_doubt_is_no_vote() -> None:
    """Two wrong faces where two people meet named all that came after."""
    rows = [(0, 0, 7, True, 1.0), (1, 0, 7, True, 1.0), (2, 0, 8, True, DOUBT), (3, 0, 8, True, DOUBT)]
    after = [(4, 0, -1, True, 1.0)]
    assert carried([*rows, *after], rules()) == ([-1] * 5, [0, 0, 0, 0, -1], [False] * 4 + [True], 1, 0)
    sure = [(*row[:4], 1.0) for row in rows]
    assert carried([*sure, *after], rules())[0] == [-1, -1, -1, -1, 8]


def test_a_body_that_may_not_be_named_keeps_its_status() -> None:
    rows = [(0, 0, 7, True, 1.0), (1, 0, 7, True, 1.0), (2, 0, -1, False, 1.0), (3, -1, -1, True, 1.0)]
    assert carried(rows, rules())[:3] == ([-1] * 4, [0, 0, -1, -1], [False] * 4)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"track: expected \(2,\) integers"):
        carry([0, 1], [0], [1, 1], [True, True], [1.0, 1.0], rules())
    with pytest.raises(ValueError, match=r"score: expected \(1,\)"):
        carry([0], [0], [1], [True], [], rules())


def transcription(rows: list[Row], how: CarryRules, fps: float = 2.0) -> tuple[list[int], list[int], list[bool]]:
    """The rule as its settings tell it, body by body."""
    subject, distance = [-1] * len(rows), [0 if who >= 0 else -1 for _, _, who, _, _ in rows]
    conflict, wishes = [False] * len(rows), []
    taken = {(frame, who) for frame, _, who, _, _ in rows if who >= 0}
    for i, (frame, track, who, may, score) in enumerate(rows):
        if who >= 0 or track < 0 or not may:
            continue
        votes = sorted((f, j, w) for j, (f, t, w, _, s) in enumerate(rows) if t == track and w >= 0 and s != DOUBT)
        counts = Counter(w for _, _, w in votes)
        if not votes:
            continue
        leader, most = counts.most_common(1)[0]
        if most >= how.least_purity * len(votes):
            votes = [vote for vote in votes if vote[2] == leader]
        elif how.conflict == "refuse":
            conflict[i] = True
            continue
        stretches: list[list[tuple[int, int, int]]] = []
        for vote in votes:
            if not stretches or stretches[-1][-1][2] != vote[2]:
                stretches.append([])
            stretches[-1].append(vote)
        before = [(n, v) for n, stretch in enumerate(stretches) for v in stretch if v[0] < frame]
        behind = [(n, v) for n, stretch in enumerate(stretches) for v in stretch if v[0] >= frame]
        if before and behind and before[-1][0] != behind[0][0]:
            conflict[i] = True
            continue
        n, (at, _, name) = min(before[-1:] + behind[:1], key=lambda vote: abs(vote[1][0] - frame))
        apart = abs(at - frame)
        if len(stretches[n]) < how.least_faces:
            continue
        way = [row for row in rows if row[1] == track and min(at, frame) <= row[0] <= max(at, frame) and row[0] != at]
        others = any((row[0], name) in taken and row[2] < 0 and row[3] for row in way)
        frames = sorted({row[0] for row in way} | {at})
        gaps = [after - before - 1 for before, after in itertools.pairwise(frames)]
        if others or any(row[4] == DOUBT for row in way) or max(gaps) > (99 if how.most_gap is None else how.most_gap):
            conflict[i] = True
            continue
        if apart > (how.most_frames or 99):
            continue
        if apart / fps <= (how.most_seconds or 99):
            wishes.append((apart, -score, i, frame, name))
    for apart, _, i, frame, name in sorted(wishes):
        conflict[i] = (frame, name) in taken
        if not conflict[i]:
            taken.add((frame, name))
            subject[i], distance[i] = name, apart
    return subject, distance, conflict


@st.composite
def scenes(draw: st.DrawFn) -> list[Row]:
    """A track has one body a frame; a subject may have several."""
    places = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(-1, 3)), max_size=30))
    rows, seen = [], set()
    for place in places:
        if place in seen and place[1] >= 0:
            continue
        seen.add(place)
        who, may, score = draw(st.tuples(st.integers(-2, 2), st.integers(0, 4), st.sampled_from([DOUBT, 0.25, 0.5])))
        rows.append((*place, max(who, -1), may > 0, score))
    return rows


some_rules = st.builds(
    rules,
    conflict=st.sampled_from(["cut", "refuse"]),
    least_faces=st.integers(1, 3),
    least_purity=st.sampled_from([0.6, 0.75, 1.0]),
    most_frames=st.sampled_from([None, 1, 3]),
    most_seconds=st.sampled_from([None, 1.0, 1.5]),
    most_gap=st.sampled_from([None, 0, 2]),
)


@settings(max_examples=200, deadline=None)
@given(scenes(), some_rules)
def test_against_a_plain_transcription(rows: list[Row], how: CarryRules) -> None:
    found = carried(rows, how)
    assert found[:3] == transcription(rows, how)
    frame, names = [row[0] for row in rows], [max(row[2], name) for row, name in zip(rows, found[0], strict=True)]
    counts = Counter((f, name) for f, name in zip(frame, names, strict=True) if name >= 0)
    assert shared_names(frame, names).tolist() == [
        name >= 0 and counts[f, name] > 1 for f, name in zip(frame, names, strict=True)
    ]


def test_many_bodies_at_once() -> None:
    """A seeded video of crowds: the transcription again, in every frame."""
    rng = np.random.default_rng(3)
    rows = [
        (frame, track, int(who) if rng.random() < 0.3 else -1, bool(rng.random() < 0.9), float(rng.random()))
        for track in range(12)
        for who in [rng.integers(0, 9)]
        for frame in np.flatnonzero(rng.random(80) < 0.7).tolist()
    ]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    for how in (rules(), rules(conflict="refuse", least_purity=0.7, most_gap=1), rules(most_frames=4, least_faces=1)):
        assert carried(rows, how)[:3] == transcription(rows, how)


def test_bodies_that_meet_against_every_pair() -> None:
    rng = np.random.default_rng(5)
    frame, track, corner = rng.integers(0, 8, 60), rng.integers(-1, 2, 60), rng.uniform(0, 60, (60, 2))
    boxes = np.hstack([corner, corner + rng.uniform(5, 40, (60, 2))]).astype(np.float32)
    boxes[40:], frame[40:] = boxes[:20] + rng.uniform(-2, 2, (20, 4)), frame[:20]  # second boxes, or people behind
    overlap = iou(boxes[:, None], boxes[None]) * (frame[:, None] == frame) * ~np.eye(60, dtype=bool)
    second = ((track[:, None] < 0) != (track < 0)) & (overlap > SECOND_BOX)
    assert second.sum() > 4
    for most in (0.0, 0.1, 0.5, 1.0):
        assert meeting(frame, track, boxes, most).tolist() == ((overlap > most) & ~second).any(axis=1).tolist()
    assert meeting(frame[:0], track[:0], boxes[:0], 0.1).tolist() == []
