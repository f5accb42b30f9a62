"""The ijb reader's tables: every family's headers, columns, boxes and galleries; order of rows; a real one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdfpipe.errors import ConfigError, DataError
from tests.datasets.made_ijb import GOOD, IJBC, Root, boxes, ijbc, needs, reader


def test_real_walk() -> None:
    home = needs("real-walk")
    dataset = reader(preset="ijbc")
    listing = dataset.read(home)
    assert [v.path for v in listing.videos] == [
        "videos/face-demographics-walking.gif",
        "videos/one-by-one-person-detection.mp4",
    ]
    assert [(k, len(t)) for k, t in listing.faces.items()] == [("videos/face-demographics-walking", 70)]
    rows = boxes(listing, "videos/face-demographics-walking")
    assert {r[2] for r in rows} == {"1", "2"}
    assert [(r[0], r[1]) for r in rows] == [(f, n) for f in range(35) for n in (0, 1)]
    assert rows[0][3:] == pytest.approx((269.4, 122.3, 269.4 + 12.8, 122.3 + 16.1), abs=1e-4)
    assert not listing.anomalies
    assert dataset.sources(home) == [home / "faces.csv", *(home / v.path for v in listing.videos)]


def test_ijba(root: Root) -> None:
    head = "TEMPLATE_ID,SUBJECT_ID,FILE,MEDIA_ID,SIGHTING_ID,FRAME,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT,RIGHT_EYE_X"
    home = root(faces_csv=f"{head}\n1,7,videos/a.mp4,3,4,12,10,20,30,40,\n")
    assert boxes(reader(preset="ijba").read(home)) == [(12, 0, "7", 10, 20, 40, 60)]


def test_ijbs_ground_truth_columns_are_not_public_and_must_be_named(root: Root) -> None:
    with pytest.raises(ConfigError, match="the preset ijbs does not know frame, x, y, width, height"):
        reader(preset="ijbs")
    home = root(videos_ground_truth__gt_csv="SUBJECT_ID,FILENAME,F,L,T,W,H\n7,videos/a.mp4,1,10,20,30,40\n")
    names = {"frame": "F", "x": "L", "y": "T", "width": "W", "height": "H"}
    assert boxes(reader(preset="ijbs", columns=names, frame_base=1).read(home)) == [(0, 0, "7", 10, 20, 40, 60)]


@pytest.mark.parametrize(("box", "right"), [("xyxy", 40), ("xyxy_inclusive", 41)])
def test_custom_columns_and_corner_boxes(root: Root, box: str, right: int) -> None:
    names = {"subject": "who", "file": "vid", "frame": "n", "x1": "l", "y1": "t", "x2": "r", "y2": "b"}
    home = root(faces_csv="vid,n,who,l,t,r,b\nvideos/a.mp4,0,S1,10,20,40,60.5\n")
    listing = reader(preset="custom", columns=names, box=box).read(home)
    assert boxes(listing) == [(0, 0, "S1", 10, 20, right, 60.5 + right - 40)]


def test_counts_in_print_are_compared(root: Root) -> None:
    home = root(faces_csv=ijbc(GOOD), g_csv="SUBJECT_ID\n1\n2\n")
    counts = {"subjects": 251, "galleries": {"1": 2, "2": 125}, "videos": {"VIS": 2, "SWIR-30m": 42}}
    galleries = {"1": ["g.csv"]}
    found = reader(domain={"constant": "VIS"}, galleries=galleries, published=counts).read(home)
    assert found.differs == [
        "published 251 subjects, found 2",
        "published 125 subjects of gallery 2, found 0",
        "published 42 videos of SWIR-30m, found 0",
    ]
    assert reader(galleries=galleries).read(home).differs == []


def test_xywh_adds_no_one_and_keeps_fractions(root: Root) -> None:
    home = root(faces_csv=ijbc("1,videos/a.mp4,1,0,-2.5,1e1,.5,+4."))
    assert boxes(reader().read(home)) == [(0, 0, "1", -2.5, 10, -2, 14)]


def test_encodings_and_separators(root: Root) -> None:
    text = ijbc('"1","videos/a.mp4",1,0,1,2,3,4', " 2 , videos/a.mp4 ,1, 1 ,1,2,3,4", "", "é,videos/b.mp4,1,0,1,2,3,4")
    plain = reader().read(root(faces_csv=text))
    assert [r[2] for r in boxes(plain)] == ["1", "2"]
    for content in (b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), text.rstrip("\n").encode()):
        listing = reader().read(root(faces_csv=content))
        assert boxes(listing) == boxes(plain)
        assert boxes(listing, "videos/b") == boxes(plain, "videos/b")
    tabbed = root(faces_tsv=text.replace(",", "\t"))
    assert boxes(reader(faces=["*.tsv"]).read(tabbed)) == boxes(plain)
    for content in (text.replace(",", ";"), text.replace(",", "\t"), text.replace(",", "|"), "sep=,\n" + text):
        assert boxes(reader().read(root(faces_csv=content))) == boxes(plain)
    german = root(faces_csv=ijbc("1,videos/a.mp4,1,0,1.5,2,3,4").replace(",", ";").replace(".5", ",5"))
    assert boxes(reader().read(german)) == [(0, 0, "1", 1.5, 2, 4.5, 6)]


def test_headers_match_in_any_case_and_a_missing_one_names_the_closest(root: Root) -> None:
    home = root(faces_csv=ijbc("1,videos/a.mp4,1,0,1,2,3,4").replace("FACE_X", "Face_x"))
    assert boxes(reader().read(home))
    home = root(faces_csv=ijbc("1,videos/a.mp4,1,0,1,2,3,4").replace("FRAME_NUM", "FRAME"))
    with pytest.raises(DataError, match=r"faces.csv: column frame: expected a header FRAME_NUM, found .*close: FRAME"):
        reader().read(home)
    twice = root(faces_csv=f"{IJBC},frame_num\n")
    assert reader(videos=["videos/*"]).read(twice).videos
    with pytest.raises(DataError, match="stands 2 times"):
        reader(columns={"frame": "Frame_Num"}).read(twice)
    spaced = root(faces_csv=ijbc(GOOD).replace("_", " "))
    assert boxes(reader().read(spaced))


def test_no_subject_column_leaves_every_face_unnamed(root: Root) -> None:
    listing = reader(columns={"subject": None}).read(root(faces_csv=ijbc(GOOD)))
    assert [r[2] for r in boxes(listing)] == [None]


def test_header_only_is_no_rows(root: Root) -> None:
    listing = reader().read(root(faces_csv=ijbc()))
    assert len(listing.videos) == 2
    assert not listing.faces


def test_galleries(root: Root) -> None:
    home = root(
        faces_csv=ijbc("1,videos/a.mp4,1,0,1,2,3,4"),
        protocols__gallery_G1_csv="TEMPLATE_ID,SUBJECT_ID\n1,7\n2,7\n3,12.0\n4,nan\n",
        protocols__gallery_G2_csv="TEMPLATE_ID,SUBJECT_ID\n1,9\n2,12\n",
    )
    tables = {1: ["protocols/gallery_G1.csv"], "2": ["protocols/*_G2.csv"]}
    dataset = reader(galleries=tables)
    assert dataset.read(home).galleries == {"12": ["1", "2"], "7": ["1"], "9": ["2"]}
    assert home / "protocols/gallery_G2.csv" in dataset.sources(home)
    with pytest.raises(DataError, match=r"galleries.1: protocols/gallery_G3.csv names no file"):
        reader(galleries={"1": ["protocols/gallery_G3.csv"]}).read(home)


def test_several_tables_and_a_folder_that_paths_start_from(root: Root) -> None:
    home = root(t__b_csv=ijbc("2,a.mp4,1,0,1,2,3,4"), t__a_csv=ijbc("1,a.mp4,1,0,1,2,3,4"))
    listing = reader(faces=["t/b.csv", "t/*.csv"], folder="videos").read(home)
    assert [(r[1], r[2]) for r in boxes(listing)] == [(0, "2"), (1, "1")]  # in the order of the tables


def test_rows_need_not_be_contiguous(root: Root) -> None:
    rows = [f"{s},videos/{v}.mp4,1,{f},{f},{s},3,4" for f in (2, 0, 1) for v in "ab" for s in (1, 2)]
    listing = reader().read(root(faces_csv=ijbc(*rows)))
    for video in ("videos/a", "videos/b"):
        assert [r[:3] for r in boxes(listing, video)] == [(f, n, str(n + 1)) for f in range(3) for n in (0, 1)]
    assert not listing.anomalies


ROWS = [(f, s, v) for f in range(4) for s in range(3) for v in "ab"]


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(ROWS))
def test_order_of_rows_only_moves_face_no(
    order: list[tuple[int, int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("order")
    content = []
    for rows in (ROWS, order):
        text = ijbc(*(f"{s},videos/{v}.mp4,1,{f},{s},2,3,4" for f, s, v in rows))
        (home / "faces.csv").write_text(text)
        listing = reader().read(home)
        content.append({v: sorted((r[0], *r[2:]) for r in boxes(listing, v)) for v in listing.faces})
        for video in listing.faces:
            assert [r[:2] for r in boxes(listing, video)] == [(f, n) for f in range(4) for n in range(3)]
    assert content[0] == content[1]
