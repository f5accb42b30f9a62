"""The ijb reader: every family's headers, every anomaly, every refusal, real folders."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdfpipe.config import validate
from mdfpipe.datasets import Dataset, Listing
from mdfpipe.errors import ConfigError, DataError
from mdfpipe.store.tables import FACES
from mdfpipe.video.decoders import Decoder
from tests import clips

ASSETS = Path(os.environ.get("MDFPIPE_TEST_ASSETS") or Path(__file__).parents[3] / "shared/assets")
IJBC = "SUBJECT_ID,FILENAME,SIGHTING_ID,FRAME_NUM,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"

Root = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Writes files under a data root: name -> text or bytes; `None` makes an empty file."""

    def write(**files: str | bytes | None) -> Path:
        home = tmp_path / "data"
        for name, content in files.items():
            path = home / name.replace("__", "/").replace("_csv", ".csv").replace("_tsv", ".tsv")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content or b"")
        (home / "videos").mkdir(parents=True, exist_ok=True)
        for video in ("a.mp4", "b.mp4"):
            (home / "videos" / video).touch()
        return home

    return write


def reader(**settings: Any) -> Dataset:
    return validate(Dataset, {"use": "ijb", "domain": {"constant": "VIS"}, **settings}, "index.dataset")


def ijbc(*rows: str) -> str:
    return "\n".join([IJBC, *rows]) + "\n"


def boxes(listing: Listing, video: str = "videos/a") -> list[tuple[Any, ...]]:
    table = listing.faces[video]
    assert table.schema.equals(FACES, check_metadata=True)
    table.validate(full=True)
    assert set(table["video_id"].to_pylist()) == {video}
    columns = [table[n].to_pylist() for n in ("frame", "face_no", "subject_id", "x1", "y1", "x2", "y2")]
    return list(zip(*columns, strict=True))


def kinds(listing: Listing) -> dict[str, int]:
    assert all(a.example.isprintable() and len(a.example) <= 300 for a in listing.anomalies)
    return {a.kind: a.count for a in listing.anomalies}


# --- real data ---------------------------------------------------------------------------------------------------


def needs(folder: str) -> Path:
    path = ASSETS / folder
    if not path.exists():
        pytest.skip(f"{path} is absent: set MDFPIPE_TEST_ASSETS to the folder of real inputs")
    return path


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


def test_tno_folders_of_numbered_frames(tmp_path: Path) -> None:
    needs("tno-nato-camp")
    for folder in ("visual", "thermal"):  # the tables are ours, the frames theirs
        (tmp_path / folder).mkdir()
        for frame in (ASSETS / "tno-nato-camp" / folder).iterdir():
            (tmp_path / folder / frame.name).touch()
    (tmp_path / "faces.csv").write_text(
        ijbc("1,thermal,1,1800,1,2,3,4", "1,thermal,1,1831,1,2,3,4", "1,visual,1,1800,1,2,3,4")
    )
    rule = {"regex": "^(?P<domain>[a-z]+)", "map": {"visual": "VIS", "thermal": "MWIR"}}
    listing = reader(videos=["*"], domain=rule, frame_number="file_number").read(tmp_path)
    assert [(v.video_id, str(v.domain)) for v in listing.videos] == [("thermal", "MWIR"), ("visual", "VIS")]
    assert [r[0] for r in boxes(listing, "thermal")] == [0, 31]
    unlabelled = reader(videos=["visual", "thermal"], faces=[], domain=rule).read(ASSETS / "tno-nato-camp")
    assert len(unlabelled.videos) == 2
    assert not unlabelled.faces


def test_a_folder_with_one_unnumbered_image_is_a_video() -> None:
    listing = reader(videos=["thermal16*"], faces=[], domain={"constant": "LWIR"}).read(needs("thermal16").parent)
    assert [v.path for v in listing.videos] == ["thermal16"]


# --- families, columns, boxes, frames ----------------------------------------------------------------------------


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
    with pytest.raises(DataError, match=r"tabs in a file named \.tsv"):
        reader().read(root(faces_csv=IJBC.replace(",", ";") + "\n"))


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


# --- frames in folders -------------------------------------------------------------------------------------------


def frames(home: Path, folder: str, names: list[str]) -> None:
    (home / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (home / folder / name).touch()


def test_a_row_names_a_frame_image(root: Root) -> None:
    rows = [
        "1,seq/f10.png,1,,1,2,3,4",
        "1,seq/f9.png,1,,5,6,7,8",
        "1,seq/f77.png,1,,1,2,3,4",
        "1,gone/f1.png,1,,1,2,3,4",
    ]
    home = root(faces_csv=ijbc(*rows, "1,videos/a.mp4,1,,1,2,3,4"))
    frames(home, "seq", ["f9.png", "f10.png", "README"])
    listing = reader(frames_in="folder").read(home)
    assert [r[0] for r in boxes(listing, "seq")] == [0, 1]
    assert [v.video_id for v in listing.videos] == ["gone", "seq", "videos/a", "videos/b"]
    assert kinds(listing) == {"missing_frame_file": 1, "not_a_frame_image": 1, "video_missing_on_disk": 1}
    assert home / "seq" in reader(frames_in="folder").sources(home)
    with pytest.raises(DataError, match=r"faces.csv row 2: the frame 'f1.png' lies in no folder"):
        reader(frames_in="folder").read(root(faces_csv=ijbc("1,f1.png,1,,1,2,3,4")))


def test_frame_numbers_of_a_folder(root: Root) -> None:
    home = root(
        faces_csv=ijbc(
            "1,seq,1,1800,1,2,3,4", "1,seq,1,1802,1,2,3,4", "1,seq,1,1801,1,2,3,4", "1,videos/a.mp4,1,1,1,2,3,4"
        )
    )
    frames(home, "seq", ["cam2_1800i.png", "cam2_1802i.png"])
    listing = reader(frame_number="file_number", frame_base=1).read(home)
    assert [r[0] for r in boxes(listing, "seq")] == [0, 1]
    assert [r[0] for r in boxes(listing)] == [0]  # a file counts from frame_base
    assert kinds(listing) == {"missing_frame_file": 1}
    assert [r[0] for r in boxes(reader(frame_base=1).read(home), "seq")] == [1799, 1800, 1801]
    frames(home, "seq", ["cam1_1801i.webp"])
    assert kinds(reader(frame_number="file_number", frame_base=1).read(home)) == {"missing_frame_file": 1}
    frames(home, "seq", ["1800.png"])
    with pytest.raises(DataError, match="are both frame number 1800"):
        reader(frame_number="file_number").read(home)
    frames(home, "seq", ["x.png"])
    (home / "seq/1800.png").unlink()
    with pytest.raises(DataError, match=r"x.png: expected a number in every frame's file name"):
        reader(frame_number="file_number").read(home)
    for frame in (home / "seq").glob("cam*"):
        frame.unlink()
    with pytest.raises(DataError, match=r"seq/x.png: frame_number: file_number expects a number"):
        reader(frame_number="file_number").read(home)


def test_reader_and_decoder_agree_on_the_frames_of_a_folder(root: Root) -> None:
    """Two frames whose number is the last one in the name, and a picture that the decoder does not read."""
    home = root(
        faces_csv=ijbc("late,seq/t1_f2.png,1,,1,2,3,4", "early,seq/t2_f1.png,1,,5,6,7,8", "no,seq/a0.webp,1,,1,2,3,4")
    )
    clips.write_images(home / "seq", [clips.picture(1), clips.picture(2)], "t{0}.png", [2, 1])
    (home / "seq/t2.png").rename(home / "seq/t2_f1.png")
    (home / "seq/t1.png").rename(home / "seq/t1_f2.png")
    (home / "seq/a0.webp").write_bytes(b"RIFF")
    listing = reader(frames_in="folder").read(home)
    assert [(r[0], r[2]) for r in boxes(listing, "seq")] == [(0, "early"), (1, "late")]
    assert kinds(listing) == {"not_a_frame_image": 1}
    decoded = Decoder.variant("auto")().read(home / "seq", lambda number: True, 1)
    assert [clips.number_of(pixels) for pixels, _ in decoded if pixels is not None] == [1, 2]
    numbered = ijbc("late,seq,1,2,1,2,3,4", "early,seq,1,1,5,6,7,8", "no,seq,1,0,1,2,3,4")
    (home / "faces.csv").write_text(numbered)
    listing = reader(frame_number="file_number").read(home)
    assert [(r[0], r[2]) for r in boxes(listing, "seq")] == [(0, "early"), (1, "late")]


@pytest.mark.parametrize("picture", ["x.png", "x.webp", "x.jp2"])
def test_a_picture_is_no_video(root: Root, picture: str) -> None:
    home = root(faces_csv=ijbc(f"1,img/{picture},1,0,1,2,3,4", "1,videos/a.mp4,1,0,1,2,3,4"))
    listing = reader().read(home)
    assert kinds(listing) == {"still_image": 1}
    assert [v.video_id for v in listing.videos] == ["videos/a", "videos/b"]


def test_a_long_domain_table_is_looked_up(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"videos/{n}.mp4,NIR\n" for n in range(3000))
    home = root(
        faces_csv=ijbc("1,videos/a.mp4,1,0,1,2,3,4"),
        domains_csv=f"file,domain\nvideos/a.mp4,VIS\n{rows}videos/[ab]*,SWIR\nvideos/b.mp4,LWIR\n*,MWIR\n",
    )
    compiled: list[str] = []
    translate = fnmatch.translate
    monkeypatch.setattr(fnmatch, "translate", lambda pattern: compiled.append(pattern) or translate(pattern))
    assert domains(reader(domain={"table": "domains.csv"}).read(home)) == {"a": "VIS", "b": "SWIR"}
    assert set(compiled) == {"videos/[ab]*", "*"}  # pathlib may translate one, too


# --- domains, sessions, cameras, videos --------------------------------------------------------------------------


def domains(listing: Listing) -> dict[str, str]:
    return {v.video_id.removeprefix("videos/"): str(v.domain) for v in listing.videos}


def test_domain_rules(root: Root) -> None:
    rows = [f"1,videos/{v}.mp4,1,0,1,2,3,4" for v in ("a", "b")]
    lines = ijbc(*rows).splitlines()
    home = root(
        faces_csv="\n".join([lines[0] + ",CAT", lines[1] + ",swir-30m", lines[2] + ",7"]) + "\n",
        domains_csv="domain,file\nLWIR-30m,videos/[ax]*\nVIS-500m,*\n",
    )
    assert domains(reader(domain={"column": "CAT", "map": {7: "MWIR-30m"}}).read(home)) == {
        "a": "SWIR-30m",
        "b": "MWIR-30m",
    }
    assert domains(reader(domain={"table": "domains.csv"}).read(home)) == {"a": "LWIR-30m", "b": "VIS-500m"}
    assert home / "domains.csv" in reader(domain={"table": "domains.csv"}).sources(home)
    assert domains(reader(domain={"regex": "/(?P<domain>.)", "map": {"a": "VIS", "b": "NIR"}}).read(home)) == {
        "a": "VIS",
        "b": "NIR",
    }
    for name in ("swir_30m.mp4", "swir.mp4"):
        (home / "videos" / name).touch()
    rule = {"regex": r"(?P<band>swir)(_(?P<range>\d+m?))?"}
    assert domains(reader(domain=rule, videos=["videos/swir*"], faces=[]).read(home)) == {
        "swir": "SWIR",
        "swir_30m": "SWIR-30m",
    }
    with pytest.raises(
        DataError, match=r"domain: 2 of 4 videos have no domain, the first is videos/a.mp4 \(the rule says nothing"
    ):
        reader(domain=rule).read(home)
    with pytest.raises(DataError, match=r"domain: 1 of 2 videos .* videos/b.mp4 \(the rule says '7'\)"):
        reader(domain={"column": "CAT"}, videos=["videos/a*"]).read(home)


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"constant": "VIS", "column": "X"},
        {"constant": "RED-5m"},
        {"regex": "("},
        {"regex": "(vis)"},
        {"regex": "(?P<domain>x)", "map": {"x": "far"}},
        {"colunm": "X"},
    ],
)
def test_a_wrong_domain_rule_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="domain"):
        reader(domain=rule)


def test_one_video_has_one_domain_session_and_camera(root: Root) -> None:
    head = f"{IJBC},CAT,SES"
    row = "1,videos/a.mp4,1,{},1,2,3,4,{},{}\n"
    home = root(faces_csv=f"{head}\n" + row.format(0, "VIS", "") + row.format(1, "nan", "s1"))
    dataset = reader(domain={"column": "CAT"}, session={"column": "SES"}, camera={"regex": "/(.)[.]"}, videos=[])
    (video,) = dataset.read(home).videos
    assert (str(video.domain), video.session_id, video.camera_id) == ("VIS", "s1", "a")
    home = root(faces_csv=f"{head}\n" + row.format(0, "VIS", "") + row.format(1, "LWIR", "s1"))
    with pytest.raises(DataError, match=r"faces.csv row 3: CAT says 'LWIR' of videos/a.mp4, an earlier row says 'VIS'"):
        dataset.read(home)


def test_videos_of_the_data_set(root: Root) -> None:
    home = root(
        faces_csv=ijbc("1,videos/gone.mp4,1,0,1,2,3,4"),
        videos__LICENSE=None,
        videos__B_MKV=None,
        videos__notes_csv="x\n",
    )
    for hidden in (".hidden.mp4", "._a.mp4"):
        (home / "videos" / hidden).touch()
    frames(home, "videos/walk", ["1.png"])
    frames(home, "videos/empty", [])
    frames(home, "videos/text", ["1.txt"])
    listing = reader().read(home)
    assert [v.video_id for v in listing.videos] == ["videos/a", "videos/b", "videos/gone", "videos/walk"]
    assert kinds(listing) == {"video_missing_on_disk": 1}
    assert home / "videos/gone.mp4" in reader().sources(home)
    assert [v.path for v in reader(videos=["lost.mp4"], faces=[]).read(home).videos] == ["lost.mp4"]
    with pytest.raises(DataError, match="names a video"):
        reader(videos=["x*"], faces=[]).read(home)


# --- anomalies ---------------------------------------------------------------------------------------------------

GOOD = "1,videos/a.mp4,1,0,1,2,3,4"


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
    monkeypatch.setattr("mdfpipe.datasets._annotation.BLOCK_BYTES", 1000)
    parts = reader().read(home)
    assert parts.anomalies == whole.anomalies
    assert parts.anomalies[0].example.startswith("faces.csv row 335: ")
    assert all(boxes(parts, v) == boxes(whole, v) for v in whole.faces)
    with pytest.raises(DataError, match=r"bad.csv: row 302: expected 8 fields as in the header, got 2"):
        reader(faces=["bad.csv"]).read(home)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [
        "../x.mp4",
        "videos/../../x.mp4",
        "/etc/passwd",
        "C:/x.mp4",
        "a\\b.mp4",
        "a\x00.mp4",
        '"a\nb.mp4"',
        "a//b.mp4",
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


def test_header_only_is_no_rows(root: Root) -> None:
    listing = reader().read(root(faces_csv=ijbc()))
    assert len(listing.videos) == 2
    assert not listing.faces


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
        ({"folder": "a\\b"}, "backslash"),
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


def test_no_subject_column_leaves_every_face_unnamed(root: Root) -> None:
    listing = reader(columns={"subject": None}).read(root(faces_csv=ijbc(GOOD)))
    assert [r[2] for r in boxes(listing)] == [None]
