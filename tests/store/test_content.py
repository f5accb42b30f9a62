"""Stand-ins are called what they are; what only looks like one is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mdfpipe.config import find_file
from mdfpipe.datasets.reading.layout import find_tables
from mdfpipe.errors import ConfigError, DataError
from mdfpipe.store.content import stand_in

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345678\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LFS, "a Git LFS pointer of a file of 12,345,678 bytes, not the file; fetch it with `git lfs pull`"),
        (LFS.replace("\n", "\r\n"), "a Git LFS pointer"),
        ("version https://hawser.github.com/spec/v1\noid x\n", "a Git LFS pointer, not the file"),
        ("/annex/objects/SHA256E-s10--ab.mp4\n", "a git-annex pointer, not the file; fetch it with `git annex get a"),
        ("../.git/annex/objects/Xk/9f/SHA256E-s10--ab.mp4/SHA256E-s10--ab.mp4", "a git-annex pointer"),
        (
            "<!DOCTYPE html>\n<html><head><title>Sign\n in</title>",
            r"a web page \('Sign in'\), as a login .*not the file",
        ),
        ("\ufeff \n<HTML lang=en>", "a web page, as a login"),
        ("<!-- saved -->\n<html>", "a web page"),
        ("<?xml version='1.0'?><!DOCTYPE html PUBLIC ''><html>", "a web page"),
        ("<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code>", "the reply 'AccessDenied' of a web server"),
        ('{"message": "Not Found", "x": 1}', "the reply 'Not Found' of a web server; download the file again"),
        ("../../disk2/a.mp4", r"the text of a link to ../../disk2/a.mp4, not the file"),
    ],
)
def test_stand_ins(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_text(content, encoding="utf-8", newline="")
    assert re.match(words, stand_in(path) or "")


def test_a_page_in_utf_16_and_a_name_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("<html>".encode("utf-16"))
    assert (stand_in(path) or "").startswith("a web page")
    assert stand_in(tmp_path / "b.mp4") is None
    (tmp_path / "b.mp4.dvc").write_text("outs:\n")
    assert stand_in(tmp_path / "b.mp4") == ("only b.mp4.dvc: DVC holds the file; fetch it with `dvc pull b.mp4.dvc`")


def test_links(tmp_path: Path) -> None:
    link = tmp_path / "a.mp4"
    link.symlink_to("../.git/annex/objects/Xk/9f/K/K")
    assert (stand_in(link) or "").startswith("a git-annex link whose content is not here; fetch it with `git annex get")
    link.unlink()
    link.symlink_to("elsewhere.mp4")
    assert stand_in(link) == "a link to elsewhere.mp4, which is not there; mount what holds it, or mend the link"
    link.unlink()
    link.symlink_to("a.mp4")
    assert stand_in(link) == "a link that leads round in a circle; put the file itself there"


def test_links_to_content_that_is_not_here_are_named_where_tables_and_weights_are_looked_up(tmp_path: Path) -> None:
    for name in ("faces.csv", "a.onnx"):
        (tmp_path / name).symlink_to("../.git/annex/objects/Xk/9f/K/K")
    with pytest.raises(ConfigError, match=r"a\.onnx is a git-annex link .*; fetch it with `git annex get a\.onnx`"):
        find_file("a.onnx", tmp_path, "weights")
    for pattern in ("faces.csv", "*.csv"):
        with pytest.raises(DataError, match=r"faces: faces\.csv: expected a table, got a git-annex link whose"):
            find_tables(tmp_path, [pattern], "faces")
    (tmp_path / "boxes.csv.dvc").write_text("outs:\n- path: boxes.csv\n")
    with pytest.raises(ConfigError, match=r"boxes\.csv is only boxes\.csv\.dvc: .* `dvc pull boxes\.csv\.dvc`"):
        find_file("boxes.csv", tmp_path, "detector.boxes")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"video_id,frame,x1,y1,x2,y2\nversion https://git-lfs.github.com,1,2,3,4,5\n",
        b"FILENAME\nvideos/a.mp4\n",
        b"\0\0\0\x18ftypmp42",
        b"<svg>",
        b'{"video_id": "a"}',
        b"\x80\x04version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_what_is_no_stand_in(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    assert stand_in(tmp_path / "a.mp4") is None
    assert stand_in(tmp_path) is None
