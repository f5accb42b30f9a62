"""Tables as users have them, by the command line: boxes of another picture, names of nobody, files that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mdfpipe.video.placement import place

from . import runs

Box = tuple[float, ...]


@pytest.fixture
def data(tmp_path: Path, clip: Path) -> runs.DataSet:
    return runs.DataSet(tmp_path / "data").copies(clip, "a.mp4", "b.mp4", "c.mp4")


def rewrite(data: runs.DataSet, which: str, change: Callable[[Box], Box], *videos: str) -> None:
    """Change the boxes of faces (x, y, width, height) or bodies (x1, y1, x2, y2) of these videos."""
    rows = data.faces if which == "faces" else data.boxes
    name, start = (1, 3) if which == "faces" else (0, 2)
    for row in rows:
        if Path(row[name]).stem in videos:
            row[start : start + 4] = [f"{v:.5f}" for v in change(tuple(map(float, row[start : start + 4])))]


def scaled(factor: float) -> Callable[[Box], Box]:
    return lambda box: tuple(side * factor for side in box)


def run(data: runs.DataSet, *more: str, **settings: object) -> runs.Said:
    data.write(label={"check_alignment": False}, **settings)
    return runs.run(data.root, data.root.parent / "run", "--until", "manifest", *more).calm()


def text(said: runs.Said) -> str:
    return " ".join((said.out + said.err).split())


WRONG = {
    "0..1": (scaled(1 / 96), "lie within 0..1: relative coordinates? multiply x by 96 and y by 64"),
    "4 times": (scaled(4), "lie mostly outside the picture of 96x64: they reach x="),
    "below 2 px": (
        lambda b: (*b[:2], *((1, 1) if b[2] == 12 else (b[0] + 1, b[1] + 1))),
        "have a side below 2 px in a picture of 96x64",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("which", ["faces", "bodies"])
def test_boxes_that_cannot_be_of_their_picture(data: runs.DataSet, which: str, kind: str) -> None:
    change, words = WRONG[kind]
    rewrite(data, which, change, "b")
    said = run(data, "--json")
    assert said.code == 3, said
    assert words in said.failures["detect/videos/b"]
    assert "check_boxes=false" in said.failures["detect/videos/b"]
    assert said.tally("ran")["crop"] == 2
    rewrite(data, which, change, "a", "c")
    said = run(data, "--json")
    if which == "faces":  # of most videos: the table is wrong, and nothing is begun
        assert said.code == 2, said
        assert "videos/a and 2 of 3 videos more: faces: " in said.err
        assert words in said.err
    else:
        assert said.code == 3, said
        assert len([key for key in said.failures if key.startswith("detect/")]) == 3


def test_the_factor_that_would_fit_is_said(data: runs.DataSet) -> None:
    rewrite(data, "bodies", scaled(4), "a")
    message = run(data, "--json").failures["detect/videos/a"]
    assert "on a picture about 4 times the size (384x256): another resolution? divide them by 4;" in message


@pytest.mark.parametrize(
    ("size", "factor", "said"), [((640, 480), 2, "2"), ((1920, 1080), 2, "2"), ((1024, 576), 1.875, "1.875")]
)
def test_the_factor_is_a_plausible_one(size: tuple[int, int], factor: float, said: str) -> None:
    """Boxes seldom reach the very edge of the picture that they are of."""
    width, height = size
    boxes = np.array([[x, x, x + 0.05, x + 0.06] for x in np.linspace(0.6, 0.88, 9)]) * ([width, height] * 2)
    found = place((boxes * factor).astype(np.float32), width, height)
    assert str(found.wrong).endswith(f"divide them by {said}")


def test_stray_boxes_are_counted_with_an_example(data: runs.DataSet) -> None:
    data.faces.append(["s2", "videos/a.mp4", 0, 500, 10, 12, 12])
    data.faces.append(["s2", "videos/a.mp4", 1, 90, 10, 12, 12])
    data.faces.append(["s2", "videos/a.mp4", 2, 90, 10, 1, 12])
    said = run(data)
    assert said.code == 0, said
    assert "1 below_two_pixels, " in text(said)
    assert "1 outside_the_picture" in text(said)
    rows = pq.read_table(data.root.parent / "run/index/anomalies.parquet").to_pylist()
    examples = {row["kind"]: row["example"] for row in rows}
    assert examples["outside_the_picture"] == "videos/a frame 0 subject s2 box 500 10 512 22 of a picture of 96x64"


@pytest.mark.parametrize(
    ("box", "columns", "change", "words"),
    [
        ("xywh", "x y width height", lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]), "right and bottom edges"),
        ("xyxy", "x1 y1 x2 y2", lambda b: (b[0] + 14, b[1] + 14, b[2], b[3]), "are the last two width and"),
    ],
)
def test_sizes_and_edges_taken_for_each_other(
    data: runs.DataSet, box: str, columns: str, change: Callable[[Box], Box], words: str
) -> None:
    rewrite(data, "faces", change, "a", "b", "c")
    names = dict(zip(columns.split(), ("FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT"), strict=True))
    names |= {"subject": "SUBJECT_ID", "file": "FILENAME", "frame": "FRAME_NUM"}
    said = run(data, dataset={"preset": "custom", "box": box, "columns": names})
    assert said.code == 2, said
    assert words in said.err
    assert run(data, dataset={"preset": "custom", "box": box, "columns": names, "check_boxes": False}).code != 2


def test_a_video_with_faces_and_no_labelled_body_is_named(data: runs.DataSet) -> None:
    rewrite(data, "faces", scaled(0.5), "b")
    said = run(data)
    assert said.code == 0, said
    assert "label: videos/b: 12 faces and no labelled body (bodies: " in text(said)
    assert (
        "12 of 12 bodies would be labelled by faces times 2: are faces annotated on a picture 0.5 times the size, or "
        "bodies on one 2 times?"
    ) in text(said)
    assert "videos/a: 12 annotated" not in text(said)


def test_a_boxes_file_of_other_names_says_which_it_has(data: runs.DataSet) -> None:
    for row in data.boxes:
        row[0] = row[0].replace("videos/", "Video/")
    said = run(data)
    assert said.code != 0, said
    assert "does not name 3 videos (videos/a, videos/b, videos/c)" in text(said)
    assert "boxes.csv names 3: 'Video/a', 'Video/b', 'Video/c'; videos/a may be 'Video/a' (another" in text(said)


def test_stand_ins_and_names_that_nearly_are(data: runs.DataSet) -> None:
    data.video("a.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid x\nsize 4711\n")
    data.video("b.mp4").write_text("<!DOCTYPE html><title>Please sign in</title>")
    data.video("c.mp4").rename(data.video("C.MP4"))
    said = run(data, "--json", dataset={"videos": []})
    assert said.code == 3, said
    assert "got a Git LFS pointer of a file of 4,711 bytes" in said.failures["detect/videos/a"]
    assert "got a web page ('Please sign in')" in said.failures["detect/videos/b"]
    assert "no such file; 'videos/C.MP4' is there (letter case differs)" in said.failures["detect/videos/c"]
    data.video("C.MP4").rename(data.video("c.MP4"))  # found itself, too, by the pattern `videos`
    said = run(data, "--json", dataset={"videos": ["videos/*"]})
    assert "no such file; 'videos/c.MP4' is there (letter case differs)" in said.failures["detect/videos/c.mp4"], said
    data.write(dataset={"faces": ["Faces.csv"]})
    line = runs.run(data.root, data.root.parent / "other").line()
    assert "Faces.csv names no file" in line
    assert "'faces.csv' is there (letter case differs)" in line
