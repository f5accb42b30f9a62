"""The videos of the ijb reader: frames in folders, made-up and real; domains, sessions and cameras; which there are."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.video.decoders import Decoder
from tests import clips
from tests.datasets.made_ijb import ASSETS, IJBC, Root, boxes, domains, frames, ijbc, kinds, needs, reader

# --- frames in folders --------------------------------------------------------------------------------------------


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
    with pytest.raises(DataError, match=r"faces.csv row 2: the frame 'f1.png' is in no folder"):
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
    frames(home, "seq", ["cover.jp2"])
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
        faces_csv=ijbc("late,seq/t9_f10.png,1,,1,2,3,4", "early,seq/t9_f9.png,1,,5,6,7,8", "no,seq/a0.jp2,1,,1,2,3,4")
    )
    clips.write_images(home / "seq", [clips.picture(1), clips.picture(2)], "t9_f{0}.png", [9, 10])
    (home / "seq/a0.jp2").write_bytes(b"RIFF")
    listing = reader(frames_in="folder").read(home)
    assert [(r[0], r[2]) for r in boxes(listing, "seq")] == [(0, "early"), (1, "late")]
    assert kinds(listing) == {"not_a_frame_image": 1}
    decoded = Decoder.variant("auto")().read(home / "seq", lambda number: True, 1)
    assert [clips.number_of(pixels) for pixels, _ in decoded if pixels is not None] == [1, 2]
    numbered = ijbc("late,seq,1,10,1,2,3,4", "early,seq,1,9,5,6,7,8", "no,seq,1,0,1,2,3,4")
    (home / "faces.csv").write_text(numbered)
    listing = reader(frame_number="file_number").read(home)
    assert [(r[0], r[2]) for r in boxes(listing, "seq")] == [(0, "early"), (1, "late")]


@pytest.mark.parametrize("picture", ["x.png", "x.webp", "x.jp2"])
def test_a_picture_is_no_video(root: Root, picture: str) -> None:
    home = root(faces_csv=ijbc(f"1,img/{picture},1,0,1,2,3,4", "1,videos/a.mp4,1,0,1,2,3,4"))
    listing = reader().read(home)
    assert kinds(listing) == {"still_image": 1}
    assert [v.video_id for v in listing.videos] == ["videos/a", "videos/b"]


def test_a_tiff_of_many_pages_is_a_video(root: Root) -> None:
    """Its faces are kept, whether or not `videos` names it; a picture is a video where `videos` names it."""
    rows = [f"1,{path},1,0,1,2,3,4" for path in ("videos/film.tif", "img/film.TIFF", "img/one.tif", "img/damaged.tif")]
    home = root(faces_csv=ijbc(*rows, "1,img/named.png,1,0,1,2,3,4"))
    (home / "img").mkdir()
    pages = [clips.grey16(n) for n in range(2)]
    for name, pages_of in (("videos/film.tif", pages), ("img/film.TIFF", pages), ("img/one.tif", pages[:1])):
        clips.write_tiff(home / name, pages_of)
    (home / "img/damaged.tif").write_bytes(b"II*\0\xff\xff")
    clips.write_images(home / "img", [pages[0]], "named.png")
    listing = reader(videos=["videos/*", "img/named.png"]).read(home)
    assert kinds(listing) == {"still_image": 2}
    assert [v.video_id for v in listing.videos] == [
        *("img/film.TIFF", "img/named.png", "videos/a", "videos/b", "videos/film.tif"),
    ]
    assert all(len(boxes(listing, name)) == 1 for name in ("img/film.TIFF", "img/named.png", "videos/film.tif"))


# --- domains, sessions, cameras, videos ---------------------------------------------------------------------------


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


def test_patterns_that_take_nothing_or_what_another_passes_over_are_said(root: Root) -> None:
    home = root(faces_csv=ijbc("1,videos/a.mp4,1,0,1,2,3,4"), videos__notes_txt="x")
    (home / "videos/thermal.tif").touch()
    frames(home, "stills", [f"{n}.png" for n in range(1, 5)])
    frames(home, "videos/walk", ["1.png"])
    (home / "videos/walk/clip.mp4").touch()

    def remarks(*patterns: str) -> list[str]:
        return reader(videos=list(patterns)).read(home).remarks

    assert remarks("videos/a.mp4") == []
    assert remarks("videos/*.mp4", "videos/walk") == []
    assert remarks("videos/*", "videos/thermal.tif") == [
        "videos: videos/* passes over videos/thermal.tif, which videos/thermal.tif names: taken as a video"
    ]
    (still,) = remarks("videos/*")
    assert still.startswith("videos: videos/* passes over videos/thermal.tif: single pictures are no videos")
    (nothing,) = remarks("Videos/*.mp4")
    assert nothing.startswith(
        f"videos: Videos/*.mp4 matches nothing under {home}; 'videos/b.mp4' is there (letter case"
    )
    (none,) = remarks("stills/*")
    assert none.startswith(
        "videos: stills/* matches 4 paths (stills/1.png, ...) and takes none: a video is a file with"
    )
    (twice,) = remarks("videos/*.mp4", "videos/walk", "videos/*/*.mp4")
    assert twice.startswith(
        "videos: videos/*/*.mp4 takes videos/walk/clip.mp4 as a video, and videos/walk takes its folder"
    )
