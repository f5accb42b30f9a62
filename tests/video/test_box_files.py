"""Boxes and ids in the forms of MOTChallenge and of COCO: conventions, what is left out, and bad files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.errors import DataError
from mdfpipe.video.box_files import BoxFile
from mdfpipe.video.detectors.coco import Coco
from mdfpipe.video.detectors.mot import Mot
from mdfpipe.video.frames import Boxes

from .networks import plain

GT = "1,7,10,20,5,6,1,1,0.8\n1,8,1,1,4,4,1,1,1\n3,7,11,20,5,6,1,1,1\n2,9,1,1,3,3,0,1,1\n2,4,1,1,3,3,1,3,1\n"
VIDEO = "MOT17-02/img1"


def look_up(detector: BoxFile, folder: Path, video: str = VIDEO, n: int = 4) -> list[Boxes]:
    return detector.open(folder, video, device="cpu", threads=1)(plain(n))


def mot(folder: Path, text: str = GT, **settings: Any) -> Mot:
    (folder / "MOT17-02/gt").mkdir(parents=True, exist_ok=True)
    (folder / "MOT17-02/gt/gt.txt").write_text(text, encoding="latin-1")
    return Mot(**({"boxes": "{folder}/gt/gt.txt"} | settings))


def coco(folder: Path, change: dict[str, Any] | None = None, **settings: Any) -> Coco:
    """Of two videos: one by its own number of frames, one of a folder of frames; a car, a crowd, a polygon."""
    base = {"category_id": 3}
    document: dict[str, Any] = {
        "videos": [{"id": 5, "name": "clips/a.mp4"}],
        "images": [
            {"id": 1, "video_id": 5, "frame_id": 2, "width": 8, "height": 8},
            {"id": 2, "file_name": "cam1/walk/img_000001.jpg", "width": 64, "height": 48},
        ],
        "annotations": [
            {**base, "image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5, "track_id": 7},
            {**base, "image_id": 1, "bbox": [0, 0, 9, 9], "attributes": {"track_id": 12}},
            {**base, "image_id": 1, "category_id": 9, "bbox": [0, 0, 9, 9]},
            {**base, "image_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1, "segmentation": {"counts": [1]}},
            {**base, "image_id": 2, "segmentation": [[1, 1, 5, 1, 5, 9]]},
        ],
        "categories": [{"id": 3, "name": "person"}, {"id": 9, "name": "car"}],
    }
    (folder / "instances.json").write_text(json.dumps({**document, **(change or {})}))
    return Coco(**({"boxes": "instances.json"} | settings))


def test_truth_of_motchallenge(tmp_path: Path) -> None:
    detector = mot(tmp_path)
    found = look_up(detector, tmp_path)
    assert [len(boxes) for boxes in found] == [2, 0, 1, 0]  # a gap in the frames of an id is none of the boxes
    assert dict(zip(found[0].subject_id.tolist(), found[0].xyxy.tolist(), strict=True)) == {
        "MOT17-02__img1:7": [10, 20, 15, 26],
        "MOT17-02__img1:8": [1, 1, 5, 5],
    }
    assert detector.left_out(tmp_path, VIDEO) == {"not to be counted (confidence 0)": 1, "of class 3": 1}
    every = mot(tmp_path, classes=[], ids="dataset")
    assert look_up(every, tmp_path)[1].subject_id.tolist() == ["4"]
    assert look_up(mot(tmp_path, ids="none"), tmp_path)[0].subject_id is None
    assert [len(b) for b in look_up(mot(tmp_path, frame_base=0), tmp_path)] == [0, 2, 0, 1]


def test_detections_of_motchallenge(tmp_path: Path) -> None:
    text = "1,-1,10,20,5,6,0.25,-1,-1,-1\n1,-1,1,1,4,4,0.75,-1,-1,-1\n"
    found = look_up(mot(tmp_path, text, min_score=0.5), tmp_path)
    assert (found[0].score.tolist(), found[0].subject_id) == ([0.75], None)
    with pytest.raises(DataError, match=r"gt\.txt: row 1: expected a confidence in 0\.\.1, got 12 .*confidence=false"):
        look_up(mot(tmp_path, text.replace("0.25", "12")), tmp_path)
    unsure = look_up(mot(tmp_path, text.replace("0.25", "0")), tmp_path)  # without an id, 0 is a score
    assert unsure[0].score.tolist() == [0.75, 0]
    assert look_up(mot(tmp_path, text.replace("0.25", "12"), confidence=False), tmp_path)[0].score.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            GT + "1,7,1,1,2,2,1,1,1\n",
            r"rows 1 and 6: expected one box a person and frame, .*:7' in frame 1; .*ids=none",
        ),
        (
            "0,7,10,20,5,6,1,1,1\n",
            r"row 1, column frame: expected 1 or more \(frame_base is 1\), got '0'; .*detector\.frame_base=0",
        ),
        (GT.encode("utf-16").decode("latin-1"), "as text in UTF-8, got UTF-16"),
        ("1,7,10,20,5\n", "expected frame, id, left, top, width and height"),
        ("1,7,10,20,0,6,1,1,1\n", "width: expected more than 0"),
        ("1,7,10,20,5,6,1,1.5,1\n", "class: expected a whole number, got '1.5'"),
    ],
)
def test_bad_files_of_motchallenge_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        look_up(mot(tmp_path, text), tmp_path)


@pytest.mark.parametrize(
    ("pictures", "frames", "expected", "beyond"),
    [
        ([1, 11, 21], [1, 2, 11, 21, 30], [[1], [11], [21]], 2),
        ([100, 101, 102], [100, 102], [[100], [], [102]], 0),
        ([0, 1, 2], [1, 2, 3, 4], [[1], [2], [3]], 1),  # places, as ever
        ([1, 11, 21], [1, 2], [[1], [2], []], 0),
    ],
)
def test_frames_of_motchallenge_may_be_numbers_of_pictures(
    tmp_path: Path, pictures: list[int], frames: list[int], expected: list[list[int]], beyond: int
) -> None:
    detector = mot(tmp_path, "".join(f"{frame},7,0,0,{frame},9,1,1,1\n" for frame in frames))
    (tmp_path / VIDEO).mkdir()
    for number in pictures:
        (tmp_path / VIDEO / f"{number:06d}.jpg").touch()
    assert [boxes.xyxy[:, 2].tolist() for boxes in look_up(detector, tmp_path, n=3)] == expected
    assert detector.beyond(tmp_path, VIDEO, 3) == beyond
    assert ("frames" in detector.identity(tmp_path, VIDEO)) == (len(pictures) < max(frames) and pictures[0] > 0)


def test_the_pictures_of_a_sequence_have_its_size(tmp_path: Path) -> None:
    detector = mot(tmp_path)
    assert detector.picture_size(tmp_path, VIDEO) is None
    place = tmp_path / "MOT17-02/seqinfo.ini"
    place.write_text("[Sequence]\nname=MOT17-02\nimWidth=1920\nimHeight=1080\n")
    assert detector.picture_size(tmp_path, VIDEO) == (1920, 1080)
    place.write_text("[Sequence]\n")
    with pytest.raises(DataError, match=r"seqinfo\.ini: expected imWidth and imHeight"):
        detector.picture_size(tmp_path, VIDEO)


def test_a_file_of_motchallenge_is_of_one_video() -> None:
    with pytest.raises(ValueError, match=r"expected \{video_id\}, \{folder\} or \{name\}"):
        Mot(boxes="gt.txt")


def test_boxes_of_coco(tmp_path: Path) -> None:
    detector = coco(tmp_path)
    found = look_up(detector, tmp_path, "clips/a")
    assert [len(boxes) for boxes in found] == [0, 0, 2, 0]
    assert found[2].xyxy.tolist() == [[0, 0, 9, 9], [1, 2, 4, 6]]
    assert found[2].score.tolist() == [1, 0.5]
    assert found[2].subject_id.tolist() == ["clips__a.mp4:12", "clips__a.mp4:7"]
    assert detector.left_out(tmp_path, "clips/a") == {"of another category": 1, "of a crowd (iscrowd)": 1}
    assert detector.picture_size(tmp_path, "cam1/walk") == (64, 48)
    walk = look_up(coco(tmp_path, frame_base=1), tmp_path, "cam1/walk")
    assert walk[0].xyxy.tolist() == [[1, 1, 5, 9]]  # around its polygon
    assert walk[0].subject_id.tolist() == [None]
    assert detector.beyond(tmp_path, "clips/b", 4) is None
    assert coco(tmp_path, {"annotations": []}).beyond(tmp_path, "clips/a", 4) == 0  # named, without a person
    assert "instances.json names 2: " in detector.unnamed(tmp_path, "clips/b")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"categories": [{"id": 3, "name": "human"}]},
            r"expected the category 'person', got human; .*detector\.category",
        ),
        ({"annotations": "x"}, "expected a list of objects 'annotations', got 'x'"),
        ({"images": []}, "annotation 1: expected the id of an image, got 1"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}]}, r"image 'a\.jpg': expected a video and a frame"),
        (
            {"annotations": [{"image_id": 1, "category_id": 3, "segmentation": {"counts": "x"}}]},
            r"annotation 1: expected bbox: .*, got a mask \(RLE\)",
        ),
        (
            {"annotations": [{"image_id": 1, "category_id": 3, "segmentation": [[1, 1, 5]]}]},
            r"annotation 1: expected bbox: .*, got \[\[1, 1, 5\]\]; write",
        ),
        (
            {"images": [{"id": 1, "file_name": "7.jpg", "video_id": 6}]},
            "expected a video and a frame, .* got the video_id 6, which `videos` does not hold",
        ),
        (
            {"annotations": [{"image_id": 1, "category_id": 3, "bbox": [1, 1, "x", 2]}]},
            r"annotation 1, column width: expected a number, got .*1, 1, 'x', 2",
        ),
        (
            {"annotations": [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 2, 2], "track_id": 1}] * 2},
            "annotations 1 and 2: expected one box a person and frame",
        ),
        (
            {"images": [{"id": i, "file_name": f"v/{i}.jpg", "width": i, "height": 2} for i in (1, 2)]},
            "images of v: expected one size, got 1x2 and 2x2",
        ),
        ({"images": [{"id": 1, "file_name": f"{name}/1.jpg"} for name in "vw"]}, "image 2: expected an id .* 1 again"),
        ({"images": [{"id": [1], "file_name": "v/1.jpg"}]}, "image 1: expected an id of its own, got none"),
        (
            {"images": [{"id": n, "file_name": f"clips/a/{'9' * 5000}.jpg"} for n in (1, 2)]},
            "annotation 1, column frame: expected a number, got 'inf'",
        ),
        (
            {"images": [{"id": n, "file_name": f"clips/a/{'ab'[n]}_7.jpg"} for n in (0, 1)]}
            | {"annotations": [{"image_id": n, "category_id": 3, "bbox": [1, 1, 2, 2]} for n in (0, 1)]},
            r"expected one picture a frame of a video, got a_7\.jpg and b_7\.jpg of frame 7",
        ),
        (
            {"images": [{"id": n, "video_id": 5, "frame_id": 2} for n in (1, 2)]},
            r"image 2: expected one image a frame of a video, got frame 2 of clips/a\.mp4 again",
        ),
        (
            {"annotations": [{"image_id": 1, "category_id": 3, "segmentation": [[1, 1, float("nan"), 1, 5, 9]]}]},
            "annotation 1, column x: expected a number, got .*nan",
        ),
        ({"videos": ["clips/a.mp4"]}, "expected a list of objects 'videos'"),
        ({"annotations": [{"image_id": [1], "category_id": 3}]}, "annotation 1: expected the id of an image"),
        (
            {"annotations": [{"image_id": 1, "category_id": 3, "bbox": [10**400, 1, 2, 2]}]},
            "annotation 1, column x: expected a number",
        ),
        (
            {"annotations": [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 2, 2], "score": "0.5"}]},
            "annotation 1, column score: expected a number, got '0.5'",
        ),
        (
            {"annotations": [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 2, 2], "subject_id": "a\x1b[31m"}]},
            "ids of boxes: expected names of at most 200 printable characters",
        ),
    ],
)
def test_bad_files_of_coco_are_one_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        look_up(coco(tmp_path, change), tmp_path, "clips/a")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"track_id": 2**40 + 1}, "v:1099511627777"),
        ({"track_id": 7.0}, "v:7"),
        ({"track_id": "v1.0"}, "v:v1.0"),
        ({"track_id": -1}, None),
        ({"track_id": "NA"}, None),
        ({"subject_id": 12}, "12"),
        ({"subject_id": " anna "}, "anna"),
        ({"subject_id": "NA"}, None),
        ({"subject_id": ""}, None),
    ],
)
def test_who_a_box_of_coco_is(tmp_path: Path, given: dict[str, Any], name: str | None) -> None:
    """Ids of images and categories may be text, and two categories may have one name."""
    change = {
        "images": [{"id": "a", "file_name": "v/0.jpg"}],
        "annotations": [
            {"image_id": "a", "category_id": "p", "bbox": [-1, -1, 4, 4], "subject_id": "other"},
            {"image_id": "a", "category_id": "q", "bbox": [0, 0, 2, 2], **given},
        ],
        "categories": [{"id": "p", "name": "person"}, {"id": "q", "name": "person"}],
    }
    found = look_up(coco(tmp_path, change), tmp_path, "v", 1)[0]
    assert found.xyxy.tolist() == [[-1, -1, 3, 3], [0, 0, 2, 2]]
    assert found.subject_id.tolist() == ["other", name]


def test_a_picture_of_coco_is_the_frame_that_its_file_is(tmp_path: Path) -> None:
    """In a folder of frames its place there, whatever its number; of a video the number in its name."""
    names = ["000005.jpg", "000010.jpg", "000030.jpg"]
    change = {
        "images": [{"id": n, "file_name": f"cam1\\walk\\{name}"} for n, name in enumerate([*names, "000040.jpg"])],
        "annotations": [{"image_id": n, "category_id": 3, "bbox": [0, 0, 2 + n, 2]} for n in range(4)],
    }
    detector = coco(tmp_path, change, frame_base=1)
    assert [len(boxes) for boxes in look_up(detector, tmp_path, "cam1/walk", 12)] == [0] * 4 + [1] + [0] * 4 + [1, 0, 0]
    identity = detector.identity(tmp_path, "cam1/walk")
    (tmp_path / "cam1/walk").mkdir(parents=True)
    for name in names:
        (tmp_path / "cam1/walk" / name).touch()
    found = look_up(detector, tmp_path, "cam1/walk")
    assert [boxes.xyxy[:, 2].tolist() for boxes in found] == [[2], [3], [4], [5]]
    assert detector.beyond(tmp_path, "cam1/walk", 3) == 1  # of 000040.jpg, which is not there
    assert detector.identity(tmp_path, "cam1/walk") != identity
    assert detector.identities(tmp_path)("cam1/walk") == detector.identity(tmp_path, "cam1/walk")


@pytest.mark.parametrize("text", ["[]", "{", "3"])
def test_what_is_no_coco_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(DataError, match=r"instances\.json: expected "):
        look_up(Coco(boxes="instances.json"), tmp_path)
