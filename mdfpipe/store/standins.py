"""Stand-ins: small files in place of the data, as Git LFS, git-annex, DVC and web servers leave them behind."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

from mdfpipe.errors import one_line

_HEAD = 4096  # bytes that are looked at; every pointer is shorter
_LONGEST_TITLE = 60
_SPACE = b" \t\r\n"
_LFS = re.compile(rb"version https?://[^\s]*(git-lfs|git-media|hawser)[^\s]*[\r\n]")
_ANNEX = re.compile(r"(^|/)(\.git/)?annex/objects/")
_REPLY = {"error", "errors", "message", "detail", "status", "statusCode", "code"}


def stand_in(path: Path) -> str | None:
    """What stands at `path` in place of the file itself, and how to get that; None where nothing is known to.

    A Git LFS pointer, a git-annex link or pointer without its content, a file that DVC holds, a link to nothing or
    written as text, a web page, or the reply of a web server. Reads at most
    4 kB; a file that cannot be read is no stand-in.
    """
    try:
        if path.is_symlink() and not path.exists():
            return _annex(path) if _ANNEX.search(path.readlink().as_posix()) else _broken(path)
        if not path.exists():
            held = path.with_name(path.name + ".dvc").is_file()
            return (
                f"only {path.name}.dvc: DVC holds the file; fetch it with `dvc pull {path.name}.dvc`" if held else None
            )
        if not path.is_file():
            return None
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError, RuntimeError):
        return None
    return _pointer(path, head) or _page(head, size) or _link_as_text(path, head, size)


def _annex(path: Path) -> str:
    return f"a git-annex link whose content is not here; fetch it with `git annex get {path.name}`"


def _broken(path: Path) -> str:
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "a link that leads round in a circle; put the file itself there"
    return f"a link to {one_line(path.readlink(), 120)}, which is not there; mount what holds it, or mend the link"


def _pointer(path: Path, head: bytes) -> str | None:
    if _LFS.match(head):
        size = re.search(rb"\nsize (\d{1,20})", head)
        real = f" of a file of {int(size[1]):,} bytes" if size else ""
        return f"a Git LFS pointer{real}, not the file; fetch it with `git lfs pull`"
    if len(head) < _HEAD and _ANNEX.search(head.decode("utf-8", "replace").split("\n", 1)[0]) and b"\0" not in head:
        return f"a git-annex pointer, not the file; fetch it with `git annex get {path.name}`"
    return None


def _page(head: bytes, size: int) -> str | None:
    """Words on a file that is a web page, or a web server's reply in XML or JSON."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip(_SPACE)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        start = head.decode("utf-16", "replace").encode().lstrip(_SPACE)
    lower = start.lower()
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<meta")) or (
        lower.startswith((b"<?xml", b"<!--", b"<!doctype")) and b"<html" in lower
    ):
        title = re.search(r"<title[^>]*>(.*?)</title>", start.decode("utf-8", "replace"), re.DOTALL | re.IGNORECASE)
        named = f" ('{one_line(title[1], _LONGEST_TITLE)}')" if title and title[1].strip() else ""
        return f"a web page{named}, as a login or an error saves itself, not the file; download it again"
    code = re.match(rb"(?:<\?xml[^>]*>\s*)?<Error>\s*<Code>([^<]{1,60})<", start)
    if code:
        return f"the reply '{one_line(code[1].decode('utf-8', 'replace'))}' of a web server; download the file again"
    return _json_reply(start) if size < _HEAD and start.startswith(b"{") else None


def _json_reply(text: bytes) -> str | None:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    named = [name for name in said if name in _REPLY] if isinstance(said, dict) else []
    if not named:
        return None
    return f"the reply '{one_line(said[named[0]], _LONGEST_TITLE)}' of a web server; download the file again"


def _link_as_text(path: Path, head: bytes, size: int) -> str | None:
    """Words on a link that was checked out as a text file, as Git does on file systems without links."""
    text = head.decode("utf-8", "replace").strip()
    if size >= 1024 or "\n" in text or "/" not in text or not text.isprintable():
        return None
    same = bool(path.suffix) and text.lower().endswith(path.suffix.lower()) and not re.search(r"[,;\s]", text)
    return f"the text of a link to {one_line(text, 80)}, not the file; put the file itself there" if same else None
