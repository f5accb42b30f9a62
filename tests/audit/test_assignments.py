"""Named bodies against known ids, for each assignment, with and without tracks: streets like MOT17's, and a real clip.

The streets have true boxes with visibility, detections of a detector that errs, and faces of those who look at the
camera. The tables of docs/results.md are printed here (`pytest -s`).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mdfpipe.audit.truth import ASSIGNMENTS, Assignment, assignment_lines, assignments
from mdfpipe.store.run import Run
from mdfpipe.store.tables import boxes_of
from tests import clips
from tests.inline import runner
from tests.real import ASSETS, needs_assets
from tests.runs import FACES, write_rows, write_study

Boxes = NDArray[np.float64]
WIDTH, HEIGHT, FPS, FRAMES = 320, 180, 25, 100
TRUE = "video_id,frame,subject_id,x1,y1,x2,y2,visible,crowded"
TRACKS: dict[str, Any] = {"track": {"use": "bytetrack"}, "label": {"tracks": "carry", "check_alignment": False}}
STREETS = {
    ("all", "per_detection", False): (997, 70, 212),
    ("all", "mutual_best", False): (933, 25, 0),
    ("all", "per_detection", True): (1097, 75, 212),
    ("all", "mutual_best", True): (1033, 30, 0),
    ("crowded", "per_detection", False): (634, 68, 182),
    ("crowded", "mutual_best", False): (584, 24, 0),
    ("crowded", "per_detection", True): (679, 73, 182),
    ("crowded", "mutual_best", True): (629, 29, 0),
}
"""(right, wrong, twice in a frame) by scenes, assignment, and whether names are carried along tracks. One body a face
gives a third of the wrong names and none twice; tracks name a tenth more, few of them wrongly."""


@dataclass(frozen=True)
class Street:
    """One frame of a street. body, face: (n, 4) of n people; visible: (n,) shares; faces: (n,) whether annotated."""

    body: Boxes
    visible: NDArray[np.float64]
    face: Boxes
    faces: NDArray[np.bool_]


def street(people: int, chance: np.random.Generator) -> list[Street]:
    """People who cross a street at several distances; some come nearer, some turn round, who is nearer is in front."""
    depth = chance.uniform(0.35, 0.9, people)
    across = chance.uniform(0, WIDTH, people)
    aside, ahead = chance.normal(0, 0.75, people), chance.normal(0, 0.002, people)
    turns = np.where(chance.random(people) < 0.5, chance.integers(30, 70, people), FRAMES)
    frames = []
    for number in range(FRAMES):
        way = np.where(number < turns, 1, -1)
        across, depth = (across + aside * way * depth) % WIDTH, np.clip(depth + ahead * way, 0.3, 1)
        height, ground = 75 * depth, 60 + 110 * depth
        body = np.stack([across - 0.2 * height, ground - height, across + 0.2 * height, ground], axis=1)
        top, half = ground - 0.97 * height, 0.06 * height
        face = np.stack([across - half, top, across + half, top + 2.4 * half], axis=1)
        looks = (ahead * way > 0) & (chance.random(people) < 0.95)
        frames.append(Street(body, _visible(body, ground, body), face, looks & (_visible(face, ground, body) > 0.8)))
    return frames


def _visible(boxes: Boxes, ground: NDArray[np.float64], bodies: Boxes) -> NDArray[np.float64]:
    """Share (n,) of each box that no nearer body hides, at 12 x 12 points."""
    at = (np.arange(12) + 0.5) / 12
    x = boxes[:, 0, None, None] + (boxes[:, 2] - boxes[:, 0])[:, None, None] * at[None, :, None]
    y = boxes[:, 1, None, None] + (boxes[:, 3] - boxes[:, 1])[:, None, None] * at[None, None, :]
    x1, y1, x2, y2 = bodies.T[:, :, None, None, None]
    inside = (x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)  # (hiding, n, 12, 12)
    hidden = (inside & (ground[:, None] > ground[None, :])[:, :, None, None]).any(axis=0)
    share: NDArray[np.float64] = 1 - hidden.mean(axis=(1, 2))
    return share


def detected(one: Street, chance: np.random.Generator) -> list[tuple[float, ...]]:
    """(x1, y1, x2, y2, score) of a detector that misses some, finds some twice, and sees some where nobody is."""
    rows = []
    for box, visible in zip(one.body, one.visible, strict=True):
        if visible < 0.35 or chance.random() < 0.05:
            continue
        err = 0.02 * (box[3] - box[1])
        rows.append((*(box + chance.normal(0, err, 4)), min(0.5 + 0.45 * visible, 0.95)))
        if chance.random() < 0.06:
            rows.append((*(box + np.array([-4, -2, 4, 2]) * err), 0.5))
    for _ in range(chance.poisson(0.2)):
        x, y = chance.uniform([0, 30], [WIDTH - 20, HEIGHT - 50])
        rows.append((x, y, x + 18, y + 45, 0.55))
    return rows


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, Path]:
    """A run over a quiet street and a crowded one, its data, and the table of the truth."""
    data = tmp_path_factory.mktemp("streets")
    (data / "videos").mkdir()
    chance = np.random.default_rng(17)
    faces: list[list[Any]] = []
    true: list[list[Any]] = []
    for name, people in (("quiet", 6), ("crowd", 24)):
        clips.write_video(data / "videos" / f"{name}.mp4", FRAMES, size=(WIDTH, HEIGHT), fps=FPS)
        found = []
        for number, one in enumerate(street(people, chance)):
            ids = [f"{name}-{who}" for who in range(people)]
            true += [
                [f"videos/{name}", number, *row, people > 9]
                for row in zip(ids, *one.body.T.tolist(), one.visible.tolist(), strict=True)
            ]
            for who in np.flatnonzero(one.faces).tolist():
                x1, y1, x2, y2 = one.face[who].tolist()
                faces.append([ids[who], f"videos/{name}.mp4", number, x1, y1, x2 - x1, y2 - y1])
            found += [
                f"{number + 1},-1,{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},{score:.3f}"
                for x1, y1, x2, y2, score in detected(one, chance)
            ]
        (data / f"videos__{name}.txt").write_text("\n".join(found) + "\n")
    write_rows(data / "faces.csv", FACES, faces)
    write_rows(data / "truth.csv", TRUE, true)
    detector = {"use": "mot", "boxes": "{video_id}.txt", "check_boxes": False}
    study = write_study(data / "study.yaml", detect={"detector": detector}, **TRACKS)
    make, _ = runner(data, data / "run", study=study)
    outcome = make.execute(last="label")
    assert outcome.complete, outcome.failures
    return Run(data / "run"), data, data / "truth.csv"


def counts(rows: list[Assignment]) -> dict[tuple[str, str, bool], tuple[int, int, int]]:
    """(right, wrong, twice in a frame) by scenes, assignment, and whether names are carried along tracks."""
    return {(r.scenes, r.assignment, r.tracks): (r.names.k, r.wrong.k, r.shared) for r in rows}


def test_streets_like_those_of_mot17(streets: tuple[Run, Path, Path]) -> None:
    rows = assignments(*streets)
    print("\n" + "\n".join(assignment_lines(rows)))
    found = counts(rows)
    assert {key: value for key, value in found.items() if key[1] != "hungarian"} == STREETS
    for (scenes, name, carry), value in found.items():
        assert name != "hungarian" or value == found[scenes, "mutual_best", carry]


@needs_assets
def test_the_real_walkers(tmp_path: Path) -> None:
    """Faces of the first 12 frames; the truth: each body by the nearest face of the whole annotation."""
    data = tmp_path / "data"
    (data / "videos").mkdir(parents=True)
    clip = ASSETS / "real-walk" / "videos" / "face-demographics-walking.gif"
    (data / "videos" / clip.name).write_bytes(clip.read_bytes())
    with (ASSETS / "real-walk" / "faces.csv").open(newline="") as file:
        every = [row for row in csv.DictReader(file) if row["FILENAME"].endswith(clip.name)]
    with (data / "faces.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, every[0].keys())
        writer.writeheader()
        writer.writerows(row for row in every if int(row["FRAME_NUM"]) < 12)
    weights = str(ASSETS / "weights" / "yolox_nano_416.onnx")
    study = write_study(data / "study.yaml", detect={"detector": {"use": "onnx", "weights": weights}}, **TRACKS)
    make, _ = runner(data, tmp_path / "run", study=study)
    assert make.execute(last="label").complete
    run, video = Run(tmp_path / "run"), f"videos/{clip.stem}"
    bodies = run.table("detect", video)
    true = []
    for number, box in zip(bodies["frame"].to_pylist(), boxes_of(bodies).tolist(), strict=True):
        faces = {r["SUBJECT_ID"]: float(r["FACE_X"]) for r in every if int(r["FRAME_NUM"]) == number}
        who = min(faces, key=lambda name: abs(faces[name] - (box[0] + box[2]) / 2))
        true.append([video, number, who, *box, 1, False])
    write_rows(tmp_path / "truth.csv", TRUE, true)
    rows = assignments(run, data, tmp_path / "truth.csv")
    print("\n" + "\n".join(assignment_lines(rows)))
    found = {key: value for key, value in counts(rows).items() if key[0] == "all"}
    assert found == {
        ("all", name, carry): (70 if carry else 24, 0, 0) for name in ASSIGNMENTS for carry in (False, True)
    }
