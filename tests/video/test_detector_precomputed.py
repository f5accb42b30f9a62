"""The detector precomputed: look-up, conventions, fingerprints, and bad files and cells."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.video.detectors.precomputed import Precomputed
from mdfpipe.video.frames import Frames

from .networks import plain

HEADER = "video_id,frame,x1,y1,x2,y2,score\n"


def look_up(folder, boxes="a.csv", video="v", n=4, **settings):
    detector = Precomputed(boxes=boxes, **settings)
    return detector.open(folder, video, device="cpu", threads=1)(plain(n))


def write(folder, text, name="a.csv"):
    (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("kind", ["csv", "parquet", "strings"])
def test_rows_are_looked_up_by_video_and_frame(tmp_path, kind):
    rows = [
        ("v", 2, 1.5, 2, 3, 4, 0.5),
        ("w", 2, 7, 7, 9, 9, 1),
        ("v", 0, 5, 5, 6, 6, 0.25),
        ("v", 2, 1, 1, 2, 2, 0.75),
    ]
    names = HEADER.strip().split(",")
    if kind == "csv":
        write(
            tmp_path,
            "\ufeffnote,score,y2,x2,y1,x1,frame,video_id\n"
            + "".join(f"?,{','.join(map(str, r[::-1]))}\n" for r in rows),
        )
    else:
        columns = [list(map(str, c)) if kind == "strings" else list(c) for c in zip(*rows, strict=True)]
        pq.write_table(pa.table(dict(zip(names, columns, strict=True))), tmp_path / "a.csv")
    found = look_up(tmp_path)
    assert [len(b) for b in found] == [1, 0, 2, 0]
    assert found[2].xyxy.tolist() == [[1, 1, 2, 2], [1.5, 2, 3, 4]]
    assert found[2].score.tolist() == [0.75, 0.5]
    assert [len(b) for b in look_up(tmp_path, min_score=0.5)] == [0, 0, 2, 0]


def test_a_stride_leaves_gaps(tmp_path):
    write(tmp_path, HEADER + "".join(f"v,{n},0,0,{n + 1},1,1\n" for n in range(9)))
    given = Frames(np.zeros((3, 8, 8, 3), np.uint8), np.array([1, 4, 7]), np.zeros(3))
    found = Precomputed(boxes="a.csv").open(tmp_path, "v", device="cpu", threads=1)(given)
    assert [b.xyxy[0, 2] for b in found] == [2, 5, 8]


def test_conventions(tmp_path):
    write(tmp_path, "video_id,frame,x,y,width,height\nv,1,10,20,5,6\n")
    found = look_up(tmp_path, box="xywh", frame_base=1)
    assert found[0].xyxy.tolist() == [[10, 20, 15, 26]]
    assert found[0].score.tolist() == [1.0]
    with pytest.raises(
        DataError, match=r"expected columns video_id, frame, x1.* x1 is missing .*set detector\.box \(xywh\)"
    ):
        look_up(tmp_path)


def test_one_file_per_video(tmp_path):
    (tmp_path / "b").mkdir()
    write(tmp_path, "frame,x1,y1,x2,y2\n1,1,2,3,4\n", "b/cam1__walk.csv")
    assert [len(b) for b in look_up(tmp_path, "b/{video_id}.csv", "cam1/walk")] == [0, 1, 0, 0]
    with pytest.raises(DataError, match=r"cam1/run: no boxes computed: .*cam1__run\.csv"):
        look_up(tmp_path, "b/{video_id}.csv", "cam1/run")
    with pytest.raises(ConfigError, match=r"detector\.boxes 'c\.csv' not found"):
        look_up(tmp_path, "c.csv")
    write(tmp_path, HEADER + "w,1,1,2,3,4,1\n", "b/v.csv")
    with pytest.raises(DataError, match="expected boxes of v only, got boxes of w too"):
        look_up(tmp_path, "b/{video_id}.csv")


def test_a_video_without_rows_and_rows_without_a_frame_are_told(tmp_path):
    write(tmp_path, HEADER + "w,1,1,2,3,4,1\nw,7,1,2,3,4,1\n")
    assert [len(b) for b in look_up(tmp_path)] == [0] * 4
    detector = Precomputed(boxes="a.csv")
    assert detector.beyond(tmp_path, "v", 4) is None
    assert detector.beyond(tmp_path, "w", 4) == 1
    assert detector.beyond(tmp_path, "w", 8) == 0
    write(tmp_path, HEADER, "b.csv")
    assert [len(b) for b in look_up(tmp_path, "b.csv")] == [0] * 4


def test_only_a_videos_own_rows_count(tmp_path):
    write(tmp_path, HEADER + "v,1,1,2,3,4,1\nw,1,1,2,3,4,1\nv,0,1,2,3,4,1\n")
    write(tmp_path, HEADER + "v,0,1.0,2,3,4,1\nw,1,1,2,3,5,1\nu,0,0,0,1,1,1\nv,1,1,2,3,4,1.0\n", "b.csv")
    first, second = Precomputed(boxes="a.csv"), Precomputed(boxes="b.csv")
    assert first.identity(tmp_path, "v") == second.identity(tmp_path, "v")
    assert first.identity(tmp_path, "w") != second.identity(tmp_path, "w")
    write(tmp_path, HEADER + "v,1,1,2,3,4.5,1\nw,1,1,2,3,4,1\nv,0,1,2,3,4,1\n")
    assert first.identity(tmp_path, "v") != second.identity(tmp_path, "v")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("v,1,nan,2,3,4,1", "column x1: expected a number, got 'nan'"),
        ("v,1,1,2,inf,4,1", "column x2: expected a number, got 'inf'"),
        ("v,1,1,,3,4,1", "column y1: expected a number, got ''"),
        ("v,1,1,two,3,4,1", "column y1: expected a number, got 'two'"),
        ("v,1,1,2,1,4,1", "column x2: expected more than x1, got '1'"),
        ("v,1,1,2,3,1,1", "column y2: expected more than y1, got '1'"),
        ("v,1,16777216.2,2,16777216.4,4,1", "column x1: expected a position in pixels"),
        ("v,-1,1,2,3,4,1", r"column frame: expected 0 or more \(frame_base is 0\), got '-1'"),
        ("v,1.5,1,2,3,4,1", "column frame: expected a whole number, got '1.5'"),
        ("v,1e30,1,2,3,4,1", "column frame: expected a frame number, got '1e30'"),
        ("v,1,1,2,3,4,1.5", r"column score: expected a score in 0\.\.1, got '1.5'"),
        ("v,1,1,2,3,4,\x1b[31m\x00", r"column score: expected a number, got '\\x1b"),
    ],
)
def test_bad_cells(tmp_path, row, message):
    write(tmp_path, HEADER + "w,1,1,2,3,4,1\n" + "v,0,1,2,3,4,1\n" + row + "\n")
    for ask in (look_up, lambda folder: Precomputed(boxes="a.csv").identity(folder, "v")):
        with pytest.raises(DataError, match=rf"a\.csv: data row 3, {message}") as caught:
            ask(tmp_path)
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()
    assert len(look_up(tmp_path, video="w")[1]) == 1  # other videos do not suffer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header line and rows, found a single line of 0 bytes"),
        (HEADER + "v,1,1,2,3,4," + "9" * 100_000 + "\n", "row 2: score holds 100000 characters"),
        ("1,-1,794.2,47.5,71.2,174.8,67.5\n", "the first row holds numbers: put a line with the columns' names above"),
        ("frame,x1,y1,x2,y2\n1,1,2,3,4\n", "video_id is missing"),
        ("video_id,frame,x1,x1,y1,x2,y2\nv,1,1,1,2,3,4\n", "x1 stands 2 times"),
        (HEADER + "v,1,1,2\n", "row 2: expected 7 fields as in the header, got 4"),
        (HEADER + "v,1,1,2,3,4,1\n,1,1,2,3,4,1\n", "data row 2, column video_id: expected a video, got nothing"),
        (HEADER + "v" * 10_000_000 + ",1,1,2,3,4,1\n", "row 2: video_id holds 10000000 characters"),
        ("PAR1 and no more", "cannot be read"),
        ("n" * 5000 + "\n", "frame is missing"),
        ("version https://git-lfs.github.com/spec/v1\noid x\nsize 9\n", "got a Git LFS pointer of a file of 9 bytes"),
        ("<!DOCTYPE html>\n<title>Log in</title>", r"got a web page \('Log in'\)"),
        ("BZh91AY&SY\n", "got a bzip2 archive; unpack it"),
        ("BZh,frame,x1,y1,x2,y2\nv,1,1,2,3,4\n", "video_id is missing"),
        ("PK\x03\x04xl/workbook.xml\n", "got an Excel workbook or another ZIP archive; save it as CSV"),
    ],
)
def test_bad_files(tmp_path, text, message):
    write(tmp_path, text)
    with pytest.raises(DataError, match=rf"a\.csv:? .*{message}") as caught:
        look_up(tmp_path)
    assert len(str(caught.value)) < 700
    assert str(caught.value).isprintable()


def test_nulls_and_odd_types_in_parquet(tmp_path):
    columns = {name: pa.array([1.0]) for name in ("x1", "y1")} | {
        "x2": pa.array([2.0]),
        "y2": pa.array([None], pa.float64()),
    }
    pq.write_table(pa.table({"video_id": ["v"], "frame": [0], **columns}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="data row 1, column y2: expected a number, got 'None'"):
        look_up(tmp_path, "a.parquet")
    columns["y2"] = pa.array([[1.0, 2.0]])
    pq.write_table(pa.table({"video_id": ["v"], "frame": [0], **columns}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="data row 1, column y2: expected a number"):
        look_up(tmp_path, "b.parquet")
    pq.write_table(pa.table({"video_id": pa.array([[1]]), "frame": [0], **columns}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet: .*cannot be read"):
        look_up(tmp_path, "c.parquet")


def test_sizes_without_extent(tmp_path):
    write(tmp_path, "video_id,frame,x,y,width,height\nv,1,10,20,5,6\nv,1,10,20,5,-6\nv,2,10,20,0,6\n")
    with pytest.raises(DataError, match=r"data row 3, column width: expected more than 0, got '0'"):
        look_up(tmp_path, box="xywh")


PLAIN = "video_id,frame,x1,y1,x2,y2,score\nv,1,1.5,2,3,4,0.5\n"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + PLAIN,
        PLAIN.replace(",", ";").replace(".", ","),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", " , "),
        PLAIN.upper().replace("V,1,", "v,1,"),
        PLAIN.replace("\n", "\r\n"),
        "sep=,\n" + PLAIN,
        "Video ID;Frame-Num;Left;Top;Right;Bottom;Confidence\nv;1;1,5;2;3;4;0,5\n",
        "filename,frame_id,x_min,y_min,xmax,YMax,conf,track\n./v,1,1.5,2,3,4,0.5,7\n",
        "file,frame,bb_left,bb_top,bb_right,bb_bottom,prob\nv.mp4,1.0,1.5,2,3,4,0.5\n",
        '"video_id","frame","x1","y1","x2","y2","score"\n"v","1","1.5","2","3","4","0.5"\n',
        '"video_id";"frame";"x1";"y1";"x2";"y2";"score"\n"v";"1";"1,5";"2";"3";"4";"0,5"\n',
    ],
)
def test_headers_and_separators_are_those_of_face_tables(tmp_path, text):
    write(tmp_path, text)
    found = look_up(tmp_path)
    assert found[1].xyxy.tolist() == [[1.5, 2, 3, 4]]
    assert found[1].score.tolist() == [0.5]


@pytest.mark.parametrize("score", ["", ",score"])
def test_a_score_may_be_absent_or_empty(tmp_path, score):
    for cell in ("", "NA", "nan") if score else ("",):
        write(tmp_path, f"video_id,frame,x1,y1,x2,y2{score}\n" + f"v,1,1,2,3,4{',' + cell if score else ''}\n" * 2)
        assert look_up(tmp_path)[1].score.tolist() == [1, 1]


def test_a_video_may_be_written_as_its_path(tmp_path):
    write(tmp_path, HEADER + "./cam//a.mp4,1,1,2,3,4,1\ncam\\b.MKV,1,1,2,3,5,1\nc.mp4,1,1,2,3,4,1\nc.avi,1,1,2,3,4,1\n")
    assert [len(look_up(tmp_path, video=v)[1]) for v in ("cam/a", "cam/b", "c.mp4", "c.avi", "c", "a")] == [
        1,
        1,
        1,
        1,
        0,
        0,
    ]


def test_a_video_may_be_written_in_two_ways(tmp_path):
    rows = "videos/a,0,0,0,5,5,1\nvideos/a.mp4,1,0,0,6,6,1\n./videos/a.mp4,2,0,0,7,7,1\nvideos/a.avi,3,0,0,8,8,1\n"
    write(tmp_path, HEADER + rows)
    (tmp_path / "videos").mkdir()
    write(tmp_path / "videos", "", "a.mp4")
    assert [len(b) for b in look_up(tmp_path, video="videos/a")] == [1, 1, 1, 0]
    write(tmp_path, HEADER + rows + "videos/a.mp4,0,0,0,6,6,1\n")
    with pytest.raises(
        DataError, match=r"the same frames of one video are listed under 'videos/a' and 'videos/a\.mp4' and"
    ):
        look_up(tmp_path, video="videos/a")
    (tmp_path / "videos" / "a").mkdir()  # another video, whose name is its id
    assert [len(b) for b in look_up(tmp_path, video="videos/a")] == [1, 0, 0, 0]


def test_a_row_that_names_no_file_takes_no_boxes_from_the_file_that_it_nearly_is(tmp_path):
    write(tmp_path, HEADER + "videos/a,0,0,0,5,5,1\n")
    (tmp_path / "videos").mkdir()
    write(tmp_path / "videos", "", "a.mp4")
    assert [len(b) for b in look_up(tmp_path, video="videos/a.mp4")] == [1, 0, 0, 0]  # so called beside videos/a.MP4
    write(tmp_path / "videos", "", "a.avi")
    assert [len(b) for b in look_up(tmp_path, video="videos/a.mp4")] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("video", "words"),
    [
        ("Videos/A", "a.csv names 5: 'videos/a', 'videos/b', 'videos/c' and 2 more; Videos/A may be"),
        ("walks", r"walks may be 'walk' \(a similar name\)"),
        ("cam/a", r"cam/a may be 'videos/a' \(another folder\)"),
        ("zo\u0308", r"zo\u0308 may be 'z\\xf6' \(its accents are encoded in another way\)"),
        ("quite another", "^a.csv names 5: 'videos/a', 'videos/b', 'videos/c' and 2 more$"),
    ],
)
def test_a_file_that_does_not_name_the_video_says_which_it_names(tmp_path, video, words):
    write(
        tmp_path,
        HEADER + "".join(f"{v},1,1,2,3,4,1\n" for v in ("videos/a", "videos/b", "videos/c", "walk", "z\u00f6")),
    )
    assert re.search(words, Precomputed(boxes="a.csv").unnamed(tmp_path, video))


def test_sizes_where_edges_are_expected(tmp_path):
    write(tmp_path, "video_id,frame,x1,y1,x2,y2\n" + "".join(f"v,{n},{100 + n},50,36,28\n" for n in range(9)))
    with pytest.raises(
        DataError, match=r"column x2: expected more than x1, got '36' and 8 more .*set detector.box=xywh"
    ):
        look_up(tmp_path)


@pytest.mark.parametrize("kind", ["csv", "numbers"])
def test_boxes_may_name_their_people(tmp_path, kind):
    rows = [("v", 1, 1, 1, 2, 2, 0.5, 12), ("v", 1, 3, 3, 4, 4, 0.9, None), ("w", 1, 0, 0, 2, 2, 1, 12)]
    names = [*HEADER.strip().split(","), "Subject ID"]
    if kind == "csv":
        lines = [",".join("NA" if v is None else str(v) for v in row) for row in rows]
        write(tmp_path, "\n".join([",".join(names), *lines]))
    else:  # of pandas, which makes whole numbers with gaps floats
        pq.write_table(pa.table({n: [r[i] for r in rows] for i, n in enumerate(names)}), tmp_path / "a.csv")
    assert [b.subject_id.tolist() for b in look_up(tmp_path)] == [[], [None, "12"], [], []]
    assert look_up(tmp_path, subjects=False)[1].subject_id is None
    without = Precomputed(boxes="a.csv", subjects=False)
    assert Precomputed(boxes="a.csv").identity(tmp_path, "v") != without.identity(tmp_path, "v")


def test_a_person_has_one_box_a_frame(tmp_path):
    write(tmp_path, HEADER.strip() + ",subject\nv,1,1,1,2,2,1,a\nv,2,1,1,2,2,1,a\nv,1,5,5,6,6,1,b\nv,1,3,3,4,4,1,a\n")
    said = r"data rows 1 and 4: expected one box a person and frame, got two of 'a' in frame 1; .*subjects=false"
    with pytest.raises(DataError, match=said):
        look_up(tmp_path)
    assert len(look_up(tmp_path, subjects=False)[1]) == 3
    write(tmp_path, HEADER.strip() + f",subject\nv,1,1,1,2,2,1,{'x' * 300}\n")
    with pytest.raises(DataError, match="column subject_id: expected names of at most 200"):
        look_up(tmp_path)
