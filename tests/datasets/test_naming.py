"""Names of videos, refused paths, natural order."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdfpipe.datasets import name_videos
from mdfpipe.errors import DataError, DecodeError
from mdfpipe.store.frames import FrameRule, frame_files, frame_numbers, in_order
from mdfpipe.store.naming import file_name, inside, natural_key, safe_relative
from mdfpipe.video.image_files import numbered_frames

HOSTILE = [
    "",
    "/etc/passwd",
    "../a.mp4",
    "a/../../b.mp4",
    "a/..",
    "./",
    "C:/a.mp4",
    "https://x.org/a.mp4",
    "..\\a.mp4",
    "C:\\a.mp4",
    "\\\\server\\a.mp4",
    "a\u00a0b.mp4",
    "c:a.mp4",
    "a\x00b.mp4",
    "a\nb.mp4",
    "a\x1b[31m.mp4",
    "a\u202egpm.mp4",  # right-to-left override
    "a\udc80.mp4",  # half a surrogate pair
    "x" * 1001,
]


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_paths_are_refused_in_one_short_line(path: str) -> None:
    with pytest.raises(DataError) as caught:
        safe_relative(path, "faces.csv row 7")
    message = str(caught.value)
    assert message.startswith("faces.csv row 7: ")
    assert message.isprintable()
    assert len(message) < 300
    with pytest.raises(DataError):
        name_videos(["fine.mp4", path])


@pytest.mark.parametrize("path", ["a", "a b/c.d.mp4", "..a/b..", "Zürich/übung.mp4", "a" * 1000])
def test_plain_paths_pass(path: str) -> None:
    assert safe_relative(path, "x") == path


@pytest.mark.parametrize(
    "path", ["./a/b.mp4", "a//b.mp4", "a/./b.mp4", "a\\b.mp4", ".\\a\\b.mp4", "a/b.mp4/", ".//./a//b.mp4"]
)
def test_one_path_written_in_other_ways(path: str) -> None:
    assert safe_relative(path, "x") == "a/b.mp4"
    assert name_videos([path, "a/b.mp4"]) == {"a/b.mp4": "a/b"}


def test_the_suffix_goes_where_the_rest_is_unique() -> None:
    assert name_videos(["v/a.mp4", "v/b.mp4", "v/b.AVI", "w/a.mp4"]) == {
        "v/a.mp4": "v/a",
        "v/b.AVI": "v/b.AVI",
        "v/b.mp4": "v/b.mp4",
        "w/a.mp4": "w/a",
    }


def test_a_name_with_its_suffix_may_displace_another() -> None:
    names = name_videos(["a.mp4", "a.mov", "a.mp4.avi"])
    assert names == {"a.mov": "a.mov", "a.mp4": "a.mp4", "a.mp4.avi": "a.mp4.avi"}


def test_a_folder_keeps_its_whole_name_and_clashes_with_a_file() -> None:
    assert name_videos(["2019.05.01", "2019.05.02"]) == {"2019.05.01": "2019.05.01", "2019.05.02": "2019.05.02"}
    assert name_videos(["a", "a.mp4"]) == {"a": "a", "a.mp4": "a.mp4"}


def test_names_do_not_depend_on_order_or_repetition() -> None:
    paths = ["b.mp4", "a.mp4", "a.avi", "c/d.ts"]
    assert name_videos(paths) == name_videos(paths[::-1] + paths)


def test_two_videos_with_one_file_name_are_refused() -> None:
    assert file_name("a/b") == file_name("a__b")
    with pytest.raises(DataError, match=r"a/b.mp4 and a__b.mp4 would share the file name a__b"):
        name_videos(["a/b.mp4", "a__b.mp4"])


def test_long_and_hidden_names_are_refused() -> None:
    assert name_videos(["é" * 100 + ".mp4"])
    with pytest.raises(DataError, match="202 bytes, at most 200"):
        name_videos(["é" * 101 + ".mp4"])
    with pytest.raises(DataError, match="starts with a dot"):
        name_videos([".a/b.mp4"])


def test_natural_order() -> None:
    names = ["f10.png", "f9.png", "f009.png", "a.png", "10.png", "9.png", "f9_2.png", "f9_10.png"]
    assert sorted(names, key=natural_key) == [
        *("9.png", "10.png", "a.png", "f009.png", "f9.png", "f9_2.png", "f9_10.png", "f10.png"),
    ]


def test_frame_numbers() -> None:
    assert frame_numbers(["1800v.png", "1801i.png"]) == [1800, 1801]
    assert frame_numbers(["a2_0010.tif"]) == [10]
    assert frame_numbers(["x.png"]) is None


def test_frame_files_are_the_images_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("f10.PNG", "f2.png", "notes.txt", ".f1.png", "LICENSE", "f5.gif", "cover.jp2"):
        (tmp_path / name).touch()
    (tmp_path / "f3.png").mkdir()
    with pytest.raises(DataError, match=r"not read \(f5\.gif\); convert"):
        frame_files(tmp_path)
    (tmp_path / "f5.gif").rename(tmp_path / "f10.gif")  # another copy of a frame
    assert frame_files(tmp_path) == ["f2.png", "f10.PNG"]
    with pytest.raises(DataError, match="cannot be listed"):
        frame_files(tmp_path / "absent")
    (tmp_path / "F11.tif").touch()
    assert frame_files(tmp_path) == ["f2.png", "f10.PNG", "F11.tif"]
    for name in ("f12.heic", "f12.png.part", "f12.JPG.dvc"):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=rf"\({re.escape(name)}\)"):
            frame_files(tmp_path)
        (tmp_path / name).unlink()
    for name in ("f12.jfif", "f2.png.tmp", "f2.txt", "x.part"):
        (tmp_path / name).touch()
    assert frame_files(tmp_path) == ["f2.png", "f10.PNG", "F11.tif", "f12.jfif"]


BY_NUMBER = {
    "unpadded": ["1.png", "2.png", "10.png"],
    "mixed padding": ["f1.png", "f02.png", "f010.png"],
    "copies of a file browser": ["img (1).png", "img (2).png", "img (10).png"],
    "a camera in front": ["cam2_0001.png", "cam2_0002.png"],
    "a camera behind": ["0001_cam2.png", "0002_cam2.png", "0010_cam2.png"],
    "a size behind": ["f9_640x480.jpg", "f10_640x480.jpg"],
    "a band in front": ["lwir14_8.tif", "lwir14_9.tif", "lwir14_10.tif"],
    "frame and time": ["000001_1610000000350.png", "000002_1610000000700.png"],
    "seven scenes": ["frame-000012.color.png", "frame-000013.color.png"],
    "nanoseconds": ["1403636579763555584.png", "1403636579813555456.png"],
    "within a second": ["1610000000.050000000.png", "1610000000.400000000.png"],
    "gaps": ["5.png", "7.png", "1000000.png"],
    "letter case": ["FRAME_1.png", "frame_2.png", "Frame_3.png"],
    "suffixes": ["2.tif", "3.jpg", "4.bmp"],
    "one image": ["1610000000.050000000.png"],
    "of a morning": ["0059_am.png", "0060_am.png", "0061_am.png"],
    "of one day": ["07-Jan-2021_1.png", "07-Jan-2021_2.png"],
    "of one day, the year last": ["01-02-2021_1.png", "01-02-2021_2.png"],
    "a month that is a name": ["may_1.png", "may_2.png"],
}
BY_TIME = {
    "ros": [f"{1610000000 + k * 350 // 1000}.{k * 350 % 1000 * 1000000:09d}.png" for k in range(10)],
    "tum": ["1305031102.975304.png", "1305031103.011304.png"],
    "underline": ["left_999999999_900.png", "left_1000000000_100.png"],
    "iso": ["2021-01-07T12-30-59.750.png", "2021-01-07T12-31-00.250.png"],
    "iso, colons": ["cam1_2021-01-07 12:30:59.750000Z.png", "cam1_2021-01-07 12:31:00.250000Z.png"],
    "compact": ["20210107_235959.jpg", "20210108_000000.jpg"],
    "12 hours, compact": ["120000AM.png", "010000AM.png", "110000AM.png", "120000PM.png", "010000PM.png"],
    "12 hours": ["9-59-59 AM.png", "10-00-00 AM.png", "12-00-00 PM.png", "1-00-00 PM.png"],
    "12 hours, minutes": ["cam2 1.59 a.m..png", "cam2 12.05 p.m..png", "cam2 1.00 p.m..png"],
    "12 hours, dated": [f"Shot 2021-01-07 at {t}.png" for t in ("11.59.59 AM", "12.00.00 PM", "1.00.00\u202fPM")],
    "12 hours, one number": ["20210107115959AM.png", "20210107120000PM.png", "20210107010000PM.png"],
    "12 hours of an afternoon": ["12-30-00 PM.png", "12-45-00 PM.png", "01-00-00 PM.png"],
    "12 hours, hours": ["11am.png", "12pm.png", "1pm.png"],
    "12 hours, in front": ["上午11.59.59.png", "下午12.00.00.png", "下午1.00.00.png"],
    "12 hours, fractions": ["11-59-59.900 AM.png", "12-00-00.100 PM.png", "01-00-00.000 PM.png"],
    "months": ["31-Jan-2021_12-00-05.png", "01-Feb-2021_12-00-04.png", "01-Mar-2021_12-00-03.png"],
    "months, compact": ["07Dec2021_235959.png", "5Jan2022_000000.png"],
    "months in front": ["Thu Dec 30 2021 23-59-59.png", "Sat Jan 1 2022 00-00-00.png"],
    "months between": ["2021-Apr-30 10.00.00.png", "2021-May-01 09.00.00.png"],
    "a day first": ["31-01-2021_12-00-05.png", "01-02-2021_12-00-04.png"],
    "a day first, compact": ["31012021_235959.png", "01022021_000000.png"],
    "a month first": ["12.31.2021 10.00.00.png", "01.01.2022 09.00.00.png"],
    "a time of day": ["left_9-59-59.png", "left_10-00-00.png"],
    "compact, milliseconds": ["IMG_20210107_123059_750.jpg", "IMG_20210107_123100_250.jpg"],
}
GUESSES = {
    "two cameras": (
        ["cam1_1.png", "cam1_2.png", "cam2_1.png", "cam2_2.png"],
        "cam1_1.png and cam2_1.png are both",
    ),
    "scenes": (["s1_9.png", "s2_3.png"], r"s1_9.png comes before s2_3.png by the whole name, and after it by the last"),
    "prefixes": (["b1.png", "a2.png"], "a2.png comes before b1.png"),
    "decimals": (["frame-000012.900.png", "frame-000013.100.png"], "rename the files so that one number counts"),
    "short fractions": (["1610000000.5.png", "1610000000.35.png", "1610000001.1.png"], "write all digits of a time"),
    "isoformat of Python": (
        [f"2021-01-07T12-30-{s}.png" for s in ("45.500", "46", "46.250")],
        "45.500.png comes before",
    ),
    "two clocks": (["a_1610000000.900.png", "b_1610000001.100.png"], "comes before"),
    "a copy": (["0002.png", "0003.png", "0003 (1).png"], "comes before|both frame number"),
    "in words": (["one.png", "two.png", "three.png"], "counted in letters or words"),
    "in letters": (["f_z.png", "f_aa.png"], "counted in letters or words"),
    "in Roman numbers": (["iv.png", "v.png", "ix.png"], "counted in letters or words"),
    "some with a.m.": (["11-59-59 AM.png", "12-00-00.png"], r"12-00-00 does not"),
    "a.m. or a number": (["f_1_am.png", "f_12_am.png"], r"numbered or says an hour"),
    "no times": (["11-59-59 AM.png", "11-75-59 PM.png"], r"11-75-59 PM does not"),
    "dates where the months differ": (["Jan 7_1.png", "Feb 8_2.png"], "name months, and these do not sort"),
    "day or month first": (["01-02-2021_1.png", "02-01-2021_2.png"], "the day or the month is first would be a guess"),
    "across midnight": (["23-59-59.png", "00-00-00.png"], "may go across midnight"),
    "across midnight, 12 hours": (["11-59-59 PM.png", "12-00-00 AM.png"], "may go across midnight"),
    "one without": (["img.png", "img (1).png"], "img.png: expected a number in every frame's file name"),
}


@pytest.mark.parametrize("kind", BY_NUMBER)
def test_frames_go_by_the_number_that_counts_them(kind: str) -> None:
    names = BY_NUMBER[kind]
    assert in_order(sorted(names), "f") == (names, FrameRule.NUMBER)
    assert frame_numbers(names) is not None


@pytest.mark.parametrize("kind", BY_TIME)
def test_frames_go_by_time_stamps_of_one_form(kind: str) -> None:
    names = BY_TIME[kind]
    assert in_order(names[::-1], "f") == (names, FrameRule.TIME)
    assert frame_numbers(names) is None, "a fraction of a second is no frame number"


@pytest.mark.parametrize("kind", GUESSES)
def test_an_order_that_would_be_a_guess_is_refused(kind: str) -> None:
    names, words = GUESSES[kind]
    with pytest.raises(DataError, match=words) as caught:
        in_order(names, "f")
    assert "\n" not in str(caught.value)


def test_a_broken_link_keeps_its_place(tmp_path: Path) -> None:
    for name in ("1.png", "3.png"):
        (tmp_path / name).touch()
    (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
    assert frame_files(tmp_path, tmp_path) == ["1.png", "2.png", "3.png"]


def test_frames_without_numbers_are_in_natural_order_and_guesses_are_refused(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "C.png"):
        (tmp_path / name).touch()
    assert frame_files(tmp_path) == ["C.png", "a.png", "b.png"]
    (tmp_path / "x1.png").touch()
    with pytest.raises(DataError, match=r"a.png: expected a number in every frame's file name, as 1 of 4"):
        frame_files(tmp_path)
    for name in ("a.png", "b.png", "C.png"):
        (tmp_path / name).unlink()
    (tmp_path / "y01.jpg").touch()
    with pytest.raises(DataError, match=r"x1.png and y01.jpg are both frame number 1 "):
        frame_files(tmp_path)


NAMES = st.from_regex(r"[a-c_ ]{0,3}[0-9]{0,2}[a-c_]{0,2}[0-9]{0,2}[a-c]?", fullmatch=True)
SUFFIXES = st.sampled_from([".png", ".PNG", ".tif", ".jpg", ".bmp", ".webp", ".gif", ""])


@given(st.lists(st.tuples(NAMES, SUFFIXES).map("".join).filter(lambda n: n.strip("_ ")), max_size=6, unique=True))
@settings(deadline=None, max_examples=150)
def test_the_order_of_the_readers_is_that_of_the_decoder(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / name).touch()
        problem, expected = None, []
        try:
            expected = frame_files(Path(folder), Path(folder))
        except DataError as error:
            problem = str(error)
        if problem is not None:
            with pytest.raises(DecodeError) as caught:
                numbered_frames(Path(folder))
            assert str(caught.value) == problem
            return
        if not expected:
            with pytest.raises(DecodeError, match="found none"):
                numbered_frames(Path(folder))
            return
        assert [p.name for p in numbered_frames(Path(folder))] == expected
        numbers = frame_numbers(expected)
        assert numbers is None or numbers == sorted(numbers)


def test_symlinks_may_not_leave_the_root(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "real/frames").mkdir(parents=True)
    (tmp_path / "root").symlink_to(tmp_path / "real")  # the root itself may be a link
    root = tmp_path / "root"
    (root / "here").symlink_to("frames")
    (root / "there").symlink_to(tmp_path / "out")
    (root / "frames/1.png").symlink_to(tmp_path / "out" / "1.png")
    (tmp_path / "out/1.png").touch()
    assert inside(root, "here", "x") == root / "here"
    with pytest.raises(DataError, match="outside the data root"):
        inside(root, "there/deep", "x")
    with pytest.raises(DataError, match="outside the data root"):
        frame_files(root / "frames", root)
