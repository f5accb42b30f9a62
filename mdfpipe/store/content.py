"""Content of a file, by its first bytes and not by its name: a stand-in, or what a weight file really is.

Git LFS, git-annex, DVC and web servers leave small files in place of the data. A web page is downloaded under the name
of a checkpoint, a Keras file is taken for one of torch, a TorchScript archive is called `.pt` like a checkpoint. Each
is named here, so that no user has to read a library's error for it. Only a few bytes are read, nothing is opened.
"""

from __future__ import annotations

import errno
import json
import re
import tarfile
import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from mdfpipe.errors import counted, one_line

HEAD: Final = 4096  # bytes that are read; every pointer is shorter
HEAD_OF_TAR: Final = 512  # bytes; all zero they end one
LEGACY: Final = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # torch.save before 1.6 begins with it


class Kind(Enum):
    """What can be opened, and OTHER: everything else."""

    TORCH = "a checkpoint of torch"
    LEGACY = "a checkpoint of torch before 1.6"
    TAR = "a checkpoint of torch before 0.1.10"
    SAFETENSORS = "a safetensors file"
    ONNX = "an ONNX model"
    PICKLE = "a plain pickle"
    OTHER = "something else"


@dataclass(frozen=True)
class Content:
    """What a file is. what: in words, with its article; advice: what to do where a checkpoint or model was expected."""

    kind: Kind
    what: str
    advice: str = ""


def content_of(path: Path) -> Content:
    """What `path` is: a file of any kind, a folder, or nothing. Raises OSError where it cannot be read."""
    if path.is_dir():
        return _folder(path)
    if (standing := stand_in(path)) is not None:
        what, _, advice = standing.partition("; ")
        return _other(what, advice)
    if not path.exists():
        return _other("no such file", "give the path of the weights")
    if not path.is_file():  # opening a pipe would wait for ever
        return _other("a pipe, socket or device", "give the path of the weights")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return _other("an empty file", "get it again")
    return _zip(path, head, size) or _by_head(path, head, size) or _unknown(head, size)


def _other(what: str, advice: str) -> Content:
    return Content(Kind.OTHER, what, advice)


def _known(kind: Kind) -> Content:
    return Content(kind, kind.value)


# --- folders ---------------------------------------------------------------------------------------------------------


def _folder(path: Path) -> Content:
    """A folder, and what in it may be meant."""
    if (path / "saved_model.pb").exists():
        return _other("a folder with a TensorFlow SavedModel", "give weights of PyTorch")
    weights = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx")
    inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in weights)
    if inside:
        return _other(f"a folder with {one_line(', '.join(inside[:3]), 120)}", f"name the file: {path / inside[0]}")
    return _other("a folder", "give the path of the weights")


# --- zips ------------------------------------------------------------------------------------------------------------


def _zip(path: Path, head: bytes, size: int) -> Content | None:
    """A zip by its members' names: checkpoints of torch are such, and much else."""
    if not head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return _other(f"a truncated or damaged zip: {size} bytes without an end", "get it again")
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        advice = "save its tensors: torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        return _other("a TorchScript archive, which is a compiled program", advice)
    if "archive_format" in inside or "serialized_exported_program.json" in {*inside, *names}:
        advice = "save its tensors: torch.save(torch.export.load(FILE).state_dict, NEW)"
        return _other("a program of torch.export (.pt2)", advice)
    if "data.pkl" in inside:
        return _known(Kind.TORCH)
    if names and all(name.endswith(".npy") for name in names):
        return _other("an archive of NumPy arrays (.npz)", _CONVERT)
    if {"model.weights.h5", "config.json"} <= set(names):
        return _other("a Keras model (.keras)", "give weights of PyTorch")
    shown = one_line(", ".join(names[:3]) or "no files", 100)
    return _other(f"a zip archive with {shown}{', ...' * (len(names) > 3)}", "unpack it and name the file in it")


# --- other files, by their first bytes -------------------------------------------------------------------------------

_CONVERT: Final = "convert it to .safetensors, or save a state_dict of tensors with torch.save"
_HEADS: Final = (
    (b"\x93NUMPY", "a NumPy array (.npy)", _CONVERT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes them (.h5)", "give weights of PyTorch"),
    (b"MATLAB ", "a MATLAB file", "give weights of PyTorch"),
    (b"GGUF", "a GGUF file of llama.cpp", "give weights of PyTorch"),
    (b"PAR1", "a Parquet table", "give the path of the weights"),
    (b"%PDF", "a PDF", "give the path of the weights"),
    (b"\x89PNG", "a picture", "give the path of the weights"),
    (b"\xff\xd8\xff", "a picture", "give the path of the weights"),
    (b"\x7fELF", "a program", "give the path of the weights"),
)


_PACKED: Final = {
    b"\x1f\x8b": "a gzip archive",
    **{b"BZh%d1AY&" % level: "a bzip2 archive" for level in range(1, 10)},  # three letters may begin a text
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
}


def packed_as(head: bytes) -> str | None:
    """What a file that begins so has to be unpacked from; None for any other."""
    return next((what for start, what in _PACKED.items() if head.startswith(start)), None)


def _by_head(path: Path, head: bytes, size: int) -> Content | None:
    if head.startswith(LEGACY):
        return _known(Kind.LEGACY)
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length < 1 << 40:
        return _known(Kind.SAFETENSORS)
    if packed := packed_as(head):
        return _other(packed, "unpack it and name the file in it")
    for start, what, advice in _HEADS:
        if head.startswith(start):
            return _other(what, advice)
    if head[4:8] == b"TFL3":
        return _other("a TensorFlow Lite model", "give weights of PyTorch")
    if any(head[:HEAD_OF_TAR]) and size > HEAD_OF_TAR and (head[257:262] == b"ustar" or tarfile.is_tarfile(path)):
        return _tar(path)
    if len(head) > 2 and head[0] == 0x80 and 0 < head[1] <= 5:
        return _pickle(path, head)
    # an ONNX model is a protobuf message: its version, then who made it, or the graph
    is_onnx = len(head) > 3 and head[0] == 0x08 and 0 < head[1] < 0x80 and head[2] in b"\x12\x1a\x22\x2a\x32\x3a\x42"
    return _known(Kind.ONNX) if is_onnx else None


def _tar(path: Path) -> Content:
    try:
        with tarfile.open(path) as archive:
            names = [member.name for _, member in zip(range(4), archive, strict=False)]
    except (tarfile.TarError, OSError, EOFError):
        names = []
    if {"storages", "tensors", "pickle"} & {name.removeprefix("./") for name in names}:
        return _known(Kind.TAR)
    shown = one_line(", ".join(names[:3]) or "no files", 100)
    return _other(f"a tar archive with {shown}", "unpack it and name the file in it")


def _pickle(path: Path, head: bytes) -> Content:
    """A pickle that torch did not write: of pickle.dump, or of joblib, which has the arrays' bytes within."""
    if b"joblib" in head:
        what = "a pickle of joblib"
    else:
        with path.open("rb") as file:
            file.seek(-1, 2)
            whole = file.read(1) == b"."
        what = f"a plain pickle (protocol {head[1]})" if whole else f"a truncated pickle (protocol {head[1]})"
    return Content(Kind.PICKLE, what, _CONVERT)


def _unknown(head: bytes, size: int) -> Content:
    if size < 16:
        return _other(f"a file of {counted(size, 'byte')}", "get it again")
    try:
        text = head.decode("utf-8") if size <= HEAD else head[:-4].decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if text and all(c.isprintable() or c in "\r\n\t\f\ufeff" for c in text):
        return _text(text, size)
    return _other(f"{size} bytes of no known kind (damaged, encrypted, or another kind of file)", "get it again")


def _text(text: str, size: int) -> Content:
    if text.lstrip().startswith("{") and '"weight_map"' in text:
        shards = sorted(set(re.findall(r'"([^"]+\.(?:safetensors|bin))"', text)))
        shown = f" ({', '.join(shards[:2])}, ...)" if shards else ""
        return _other(f"the index of a checkpoint in several files{shown}", "join them into one file")
    try:
        found = json.loads(text) if size <= HEAD else None
    except (ValueError, RecursionError):
        found = None
    kind = "a JSON text" if isinstance(found, dict | list) else "a text"
    return _other(f"{kind} that begins {one_line(repr(text.strip()[:40]), 60)}", "download the file itself")


_LONGEST_TITLE = 60
_SPACE = b" \t\r\n"
_LFS = re.compile(rb"version https?://[^\s]*(git-lfs|git-media|hawser)[^\s]*[\r\n]")
_ANNEX = re.compile(r"(^|/)(\.git/)?annex/objects/")
_REPLY = {"error", "errors", "message", "detail", "status", "statusCode", "code"}


def stand_in(path: Path) -> str | None:
    """Words on what is at `path` instead of the file itself, and how to get that; None if it is no known stand-in.

    A Git LFS pointer, a git-annex link or pointer without its content, a file that DVC holds, a link to nothing or
    written as text, a web page, or the reply of a web server. A file that cannot be read is no stand-in.
    """
    try:
        if path.is_symlink() and not path.exists():
            if _ANNEX.search(path.readlink().as_posix()):
                return f"a git-annex link whose content is not here; fetch it with `git annex get {path.name}`"
            return _broken(path)
        if not path.exists() and path.with_name(path.name + ".dvc").is_file():
            return f"only {path.name}.dvc: DVC holds the file; fetch it with `dvc pull {path.name}.dvc`"
        if not path.is_file():
            return None
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEAD)
    except (OSError, ValueError, RuntimeError):
        return None
    return _pointer(path, head) or _page(head, size) or _link_as_text(path, head, size)


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
    if len(head) < HEAD and _ANNEX.search(head.decode("utf-8", "replace").split("\n", 1)[0]) and b"\0" not in head:
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
    return _json_reply(start) if size < HEAD and start.startswith(b"{") else None


def _json_reply(text: bytes) -> str | None:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    named = next((name for name in said if name in _REPLY), None) if isinstance(said, dict) else None
    if named is None:
        return None
    return f"the reply '{one_line(said[named], _LONGEST_TITLE)}' of a web server; download the file again"


def _link_as_text(path: Path, head: bytes, size: int) -> str | None:
    """Words on a link that was checked out as a text file, as Git does on file systems without links."""
    text = head.decode("utf-8", "replace").strip()
    if size >= 1024 or "\n" in text or "/" not in text or not text.isprintable():
        return None
    same = bool(path.suffix) and text.lower().endswith(path.suffix.lower()) and not re.search(r"[,;\s]", text)
    return f"the text of a link to {one_line(text, 80)}, not the file; put the file itself there" if same else None
