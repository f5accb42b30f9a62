"""What a weight file is by its content, not by its name. Nothing in it is opened: a few bytes are read.

A web page is downloaded under the name of a checkpoint, a Keras file is taken for one of torch, a TorchScript archive
is called `.pt` like a checkpoint. Each gets its own word here, so that nobody has to read a library's error for it.
"""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from mdfpipe.errors import one_line
from mdfpipe.store.standins import stand_in

HEAD: Final = 4096  # bytes that are looked at
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
    (b"\x1f\x8b", "a gzip archive", "unpack it and name the file in it"),
    (b"BZh", "a bzip2 archive", "unpack it and name the file in it"),
    (b"\xfd7zXZ\x00", "an xz archive", "unpack it and name the file in it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it and name the file in it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and name the file in it"),
    (b"Rar!", "a RAR archive", "unpack it and name the file in it"),
    (b"%PDF", "a PDF", "give the path of the weights"),
    (b"\x89PNG", "a picture", "give the path of the weights"),
    (b"\xff\xd8\xff", "a picture", "give the path of the weights"),
    (b"\x7fELF", "a program", "give the path of the weights"),
)


def _by_head(path: Path, head: bytes, size: int) -> Content | None:
    if head.startswith(LEGACY):
        return _known(Kind.LEGACY)
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length < 1 << 40:
        return _known(Kind.SAFETENSORS)
    for start, what, advice in _HEADS:
        if head.startswith(start):
            return _other(what, advice)
    if head[4:8] == b"TFL3":
        return _other("a TensorFlow Lite model", "give weights of PyTorch")
    if any(head[:HEAD_OF_TAR]) and size > HEAD_OF_TAR and (head[257:262] == b"ustar" or tarfile.is_tarfile(path)):
        return _tar(path)
    if len(head) > 2 and head[0] == 0x80 and 0 < head[1] <= 5:
        return _pickle(path, head)
    if _is_onnx(head):
        return _known(Kind.ONNX)
    return None


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


def _is_onnx(head: bytes) -> bool:
    """Whether it begins as a protobuf message of an ONNX model does: its version, then who made it, or the graph."""
    return len(head) > 3 and head[0] == 0x08 and 0 < head[1] < 0x80 and head[2] in b"\x12\x1a\x22\x2a\x32\x3a\x42"


def _unknown(head: bytes, size: int) -> Content:
    if size < 16:
        return _other(f"a file of {size} byte{'s' * (size > 1)}", "get it again")
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
