"""What is wrong for the ijb reader: rows that it counts by kind with an example; tables and settings refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdfpipe.datasets import Dataset
from mdfpipe.errors import ConfigError, DataError
from tests.datasets.made_ijb import GOOD, Root, boxes, ijbc, kinds, reader

# --- anomalies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "row", "kept"),
    [
        ("missing_file", "1,,1,1,1,2,3,4", 1),
        ("missing_file", "1,NaN,1,1,1,2,3,4", 1),
        ("still_image", "1,img/12.JPG,1,1,1,2,3,4", 1),
        ("missing_box", "1,videos/a.mp4,1,1,,nan,NaN,", 1),
        ("missing_box", "nan,videos/a.mp4,nan,nan,nan,nan,nan,nan", 1),
        ("partial_box", "1,videos/a.mp4,1,1,1,2,,4", 1),
        ("negative_size", "1,videos/a.mp4,1,1,1,2,-3,4", 1),
        ("zero_size", "1,videos/a.mp4,1,1,1,2,3,0", 1),
        ("missing_frame", "1,videos/a.mp4,1,,1,2,3,4", 1),
        ("non_integer_frame", "1,videos/a.mp4,1,1.5,1,2,3,4", 1),
        ("negative_frame", "1,videos/a.mp4,1,-1,1,2,3,4", 1),
        ("not_a_number", "1,videos/a.mp4,1,one,1,2,3,4", 1),
        ("not_a_number", "1,videos/a.mp4,1,1,1,2,0x10,4", 1),
        ("not_a_number", "1,videos/a.mp4,1,1,inf,2,3,4", 1),
        ("not_a_number", "1,videos/a.mp4,1,1,1e60,2,3,4", 1),
        ("not_a_number", "1,videos/a.mp4,1,1,3e38,2,3e38,4", 1),
        ("not_a_number", "1,videos/a.mp4,1,1e300,1,2,3,4", 1),
        ("not_a_number", "1,videos/a.mp4,1,1,1\x00,2,3,4", 1),
        ("duplicate_row", "1,videos/a.mp4,9,0.0,1.0,2,3,4", 1),
        ("missing_subject", ",videos/a.mp4,1,1,1,2,3,4", 2),
        ("missing_subject", "NAN,videos/a.mp4,1,1,1,2,3,4", 2),
        ("subject_as_float", "12.0,videos/a.mp4,1,1,1,2,3,4", 2),
        ("same_box_two_subjects", "2,videos/a.mp4,1,0,1,2,3,4", 2),
        ("same_subject_twice_in_frame", "1,videos/a.mp4,1,0,9,2,3,4", 2),
    ],
)
def test_anomalous_rows_are_counted_with_an_example(root: Root, kind: str, row: str, kept: int) -> None:
    listing = reader().read(root(faces_csv=ijbc(GOOD, row)))
    assert kinds(listing) == {kind: 1}
    assert len(boxes(listing)) == kept
    assert listing.anomalies[0].example.startswith("faces.csv row 3: ")


def test_frames_before_the_base(root: Root) -> None:
    listing = reader(frame_base=1).read(root(faces_csv=ijbc(GOOD, GOOD.replace(",1,0,", ",1,1,"))))
    assert [r[0] for r in boxes(listing)] == [0]
    assert kinds(listing) == {"negative_frame": 1}


@pytest.mark.parametrize("crowd", [3, 40])  # compared pairwise, sorted
def test_duplicates_shared_boxes_and_doubles_in_a_crowd(root: Root, crowd: int) -> None:
    rows = [f"{s},videos/a.mp4,1,0,{s},2,3,4" for s in range(crowd)]
    rows += ["0,videos/a.mp4,1,0,0,2,3,4", "0,videos/a.mp4,1,0,1,2,3,4", "0,videos/a.mp4,1,0,-0.0,2,3,4"]
    listing = reader().read(root(faces_csv=ijbc(*rows, ",videos/a.mp4,1,0,50,2,3,4", ",videos/a.mp4,1,0,60,2,3,4")))
    assert kinds(listing) == {
        "duplicate_row": 2,
        "missing_subject": 2,
        "same_box_two_subjects": 1,
        "same_subject_twice_in_frame": 1,
    }
    assert [r[1] for r in boxes(listing)] == list(range(crowd + 3))
    assert [r[2] for r in boxes(listing)] == [*map(str, range(crowd)), "0", None, None]


def test_anomalies_over_several_blocks(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{i % 2},videos/{'ab'[i % 2]}.mp4,1,{i // 2},{i},2,3,4" for i in range(400)]
    rows[333] = "1,videos/b.mp4,1,166,x,2,3,4"
    home = root(faces_csv=ijbc(*rows), bad_csv=ijbc(*rows[:300], "1,2"))
    whole = reader().read(home)
    monkeypatch.setattr("mdfpipe.store.text_tables.BLOCK_BYTES", 1000)
    parts = reader().read(home)
    assert parts.anomalies == whole.anomalies
    assert parts.anomalies[0].example.startswith("faces.csv row 335: ")
    assert all(boxes(parts, v) == boxes(whole, v) for v in whole.faces)
    with pytest.raises(DataError, match=r"bad.csv: row 302: expected 8 fields as in the header, got 2"):
        reader(faces=["bad.csv"]).read(home)


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [
        "../x.mp4",
        "videos/../../x.mp4",
        "/etc/passwd",
        "C:/x.mp4",
        "..\\b.mp4",
        "a\x00.mp4",
        '"a\nb.mp4"',
        "https://x.org/b.mp4",
        "../x.png",
    ],
)
def test_hostile_paths_in_cells(root: Root, cell: str) -> None:
    home = root(faces_csv=ijbc(GOOD, f"1,{cell},1,0,1,2,3,4"))
    for call in (reader().read, reader().sources, reader(frames_in="folder").read):
        with pytest.raises(DataError) as caught:
            call(home)
        message = str(caught.value)
        assert message.startswith("faces.csv row 3, FILENAME: expected a path relative to the data root"), message
        assert message.isprintable()


@pytest.mark.parametrize("column", [0, 1, 3, 4])
def test_a_ten_megabyte_cell(root: Root, column: int) -> None:
    cells = GOOD.split(",")
    cells[column] = "9" * 10_000_000
    with pytest.raises(DataError, match=r"faces.csv row 3: [A-Z_]+ holds 10000000 characters") as caught:
        reader().read(root(faces_csv=ijbc(GOOD, ",".join(cells))))
    assert len(str(caught.value)) < 200


def test_a_subject_is_printable(root: Root) -> None:
    home = root(faces_csv=ijbc(GOOD, "a\x1b[31m,videos/a.mp4,1,0,1,2,3,4"))
    with pytest.raises(DataError, match=r"faces.csv row 3, SUBJECT_ID: expected a subject") as caught:
        reader().read(home)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a header line"),
        (b"\n" * 9, "row 1 is blank"),
        ("é,b\n".encode("latin-1"), "the header is not UTF-8"),
        (ijbc(GOOD, "é,videos/a.mp4,1,0,1,2,3,4").encode("latin-1"), "row 3: SUBJECT_ID is not UTF-8"),
        (ijbc(GOOD).encode("utf-16"), "the header is not UTF-8"),
        (ijbc(GOOD).encode("utf-16-le"), "control characters"),
        (ijbc(GOOD, "1,2,3"), "row 3: expected 8 fields as in the header, got 3: 1,2,3"),
        (ijbc(GOOD, GOOD + ",9"), "row 3: expected 8 fields as in the header, got 9"),
        (ijbc(GOOD, '"1,videos/a.mp4,1,0,1,2,3,4'), "row 3: expected 8 fields"),
    ],
)
def test_damaged_tables(root: Root, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        reader().read(root(faces_csv=content))
    assert str(caught.value).startswith("faces.csv: ")
    assert str(caught.value).isprintable()


def test_a_quote_left_open_over_many_megabytes(root: Root) -> None:
    with pytest.raises(DataError, match="a row after row 1 is longer than 16 MB: is a quote left open"):
        reader().read(root(faces_csv=ijbc('"' + GOOD, *[GOOD] * 1_500_000)))


def test_tables_that_are_not_there(root: Root) -> None:
    with pytest.raises(DataError, match=r"faces: faces.csv names no file"):
        reader().read(root())
    with pytest.raises(DataError, match=r"faces: \*\*/x.csv names no file"):
        reader(faces=["**/x.csv"]).read(root())


def test_symlinks_out_of_the_root(root: Root, tmp_path: Path) -> None:
    home = root(faces_csv=ijbc(GOOD))
    (tmp_path / "secret.mp4").write_text("x")
    (home / "videos/c.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(DataError, match=r"videos/c.mp4 is a symlink to .*secret.mp4, outside the data root"):
        reader().read(home)
    (home / "videos/c.mp4").unlink()
    (home / "more.csv").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(DataError, match=r"more.csv is a symlink"):
        reader(faces=["*.csv"]).read(home)
    (home / "faces.csv").write_text(ijbc("1,out/a.mp4,1,0,1,2,3,4"))
    (home / "out").symlink_to(tmp_path)
    with pytest.raises(DataError, match=r"out/a.mp4 is a symlink"):
        reader().read(home)


def test_too_many_faces_in_a_frame(root: Root) -> None:
    rows = [f"{i},videos/a.mp4,1,0,{i},2,3,4" for i in range(32769)]
    with pytest.raises(DataError, match=r"row 32770: .* more than 32767 faces"):
        reader().read(root(faces_csv=ijbc(*rows)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"faces": ["../x.csv"]}, "climbs out"),
        ({"videos": ["/data/*"]}, "is absolute"),
        ({"folder": "a\\..\\b"}, "climbs out"),
        ({"columns": {"x1": "L"}}, "x1 not used with box: xywh"),
        ({"columns": {"frame": "F"}, "frames_in": "folder"}, "frame not used"),
        ({"columns": {"subjet": "S"}}, "columns.subjet: unknown setting"),
        ({"columns": {"file": None}}, "does not know file"),
        ({"box": "xyxy"}, "does not know x1, y1, x2, y2"),
        ({"box": "xyxx"}, "box"),
        ({"preset": "ijbq"}, "preset"),
        ({"preset": ["ijbc"]}, "preset"),
        ({"frame_base": 2}, "frame_base"),
        ({"galleries": {"1": ["g.csv"]}, "columns": {"subject": None}}, "galleries"),
        ({"faces": [], "session": {"column": "S"}}, "no face tables"),
        ({"session": {}}, "exactly one of column, regex"),
    ],
)
def test_contradictory_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        reader(**settings)
    assert "\n" not in str(caught.value)


def test_settings_written_out_read_back_the_same() -> None:
    for more in (
        {},
        {"preset": "ijba", "columns": {"subject": None}},
        {"frames_in": "folder"},
        {"box": "xyxy", "columns": {"x1": "l", "y1": "t", "x2": "r", "y2": "b"}},
    ):
        dataset = reader(**more)
        assert Dataset.model_validate(dataset.model_dump(mode="json")) == dataset
        assert Dataset.model_validate(dataset.model_dump()) == dataset
