"""Names of videos, refused paths, natural order."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdfpipe.datasets import name_videos
from mdfpipe.errors import DataError, DecodeError
from mdfpipe.store.naming import file_name, frame_files, frame_number, inside, natural_key, safe_relative
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
    assert [frame_number(n) for n in ("1800v.png", "a2_0010.tif", "x.png", "7.mp4")] == [1800, 10, None, 7]


def test_frame_files_are_the_images_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("f10.PNG", "f2.png", "notes.txt", ".f1.png", "LICENSE", "f5.webp", "cover.webp"):
        (tmp_path / name).touch()
    (tmp_path / "f3.png").mkdir()
    assert frame_files(tmp_path) == ["f2.png", "f10.PNG"]
    with pytest.raises(DataError, match="cannot be listed"):
        frame_files(tmp_path / "absent")
    (tmp_path / "a11.tif").touch()
    (tmp_path / "t9_f1.bmp").touch()
    assert frame_files(tmp_path) == ["t9_f1.bmp", "f2.png", "f10.PNG", "a11.tif"]


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
    with pytest.raises(DataError, match=r"C.png: expected a number in every frame's file name, as 1 of 4"):
        frame_files(tmp_path)
    for name in ("a.png", "b.png", "C.png"):
        (tmp_path / name).unlink()
    (tmp_path / "y01.jpg").touch()
    with pytest.raises(DataError, match=r"x1.png and y01.jpg are both frame number 1 "):
        frame_files(tmp_path)


NAMES = st.from_regex(r"[a-c_ ]{0,3}[0-9]{0,2}[a-c_]{0,2}[0-9]{0,2}[a-c]?", fullmatch=True)
SUFFIXES = st.sampled_from([".png", ".PNG", ".tif", ".jpg", ".bmp", ".webp", ".txt", ""])


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
        numbers = [frame_number(name) for name in expected]
        assert numbers == [None] * len(numbers) or numbers == sorted(n for n in numbers if n is not None)


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
