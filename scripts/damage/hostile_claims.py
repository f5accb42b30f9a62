"""Files of some kB that ask for gigabytes, or for ever; and files that hold code."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from damage.hostile_names import PROTOCOL, told
from damage.small import Small

SIDE = 60_000  # pixels that a picture claims, of each side


def load() -> None:
    """Import what the commands of this file import."""
    import av  # noqa: F401
    import torch  # noqa: F401

    import mdfpipe.video.decoders
    import mdfpipe.video.detectors.yolo
    import mdfpipe.video.probe  # noqa: F401


# -- pictures and videos


def png(width: int, height: int) -> bytes:
    """A PNG of that claim, and a megabyte of rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def patched(suffix: str, mark: bytes, at: int, form: str, order: tuple[int, int] = (SIDE, SIDE)) -> bytes:
    """A small picture whose header is said to be of another size. mark: what the numbers stand `at` bytes after."""
    content = cv2.imencode(suffix, np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    place = (content.index(mark) if mark else 0) + at
    numbers = struct.pack(form, *order)
    return content[:place] + numbers + content[place + len(numbers) :]


def tiff(compression: int = 1, strips: int = 1) -> bytes:
    """A TIFF of that claim whose pixels are not there."""
    entries = [(256, 4, 1, SIDE), (257, 4, 1, SIDE), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    entries += [(273, 4, strips, 8), (277, 3, 1, 1), (278, 4, 1, SIDE), (279, 4, strips, 1 << 30)]
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", 0) + bytes(100)


def gif(frames: int = 1) -> bytes:
    """A GIF whose screen is 65,535 pixels each way."""
    head = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    one = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02D\x01\0"
    return head + one * frames + b";"


def psd_like(text: bytes) -> bytes:
    """A picture of one of the plain kinds that OpenCV reads: its header is text."""
    return text + bytes(1000)


def picture(name: str, make: Callable[[], bytes]) -> Callable[[Small, Path, str], object]:
    """A frame of a folder of frames; it is inspected, too."""

    def tried(small: Small, folder: Path, text: str) -> object:
        from mdfpipe.video.decoders import Decoder

        (folder / "frames").mkdir()
        path = folder / "frames" / name
        path.write_bytes(make())
        told("inspect", folder / "frames")
        return list(Decoder.variant("images")().frames(path.parent))

    return tried


def avi(width: int, height: int) -> bytes:
    """A raw video of 16x16 whose headers are said to be of another size."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="avi") as container:
        stream = container.add_stream("rawvideo", rate=5)
        stream.width = stream.height = 16
        stream.pix_fmt = "bgr24"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "bgr24")))
        container.mux(stream.encode(None))
    content = out.getvalue()
    return content.replace(struct.pack("<II", 16, 16), struct.pack("<II", width, height))


def encoded(small: Small, old: tuple[int, int], form: str, suffix: str) -> bytes:
    """A video of the data whose size in its container is another."""
    source = next(path for path in sorted(small.data.rglob(f"*{suffix}")))
    content = source.read_bytes()
    return content.replace(struct.pack(form, *old), struct.pack(form, SIDE, SIDE))


def video(name: str, make: Callable[[Small], bytes]) -> Callable[[Small, Path, str], object]:
    """A video, probed, inspected and decoded."""

    def tried(small: Small, folder: Path, text: str) -> object:
        from mdfpipe.video.decoders import Decoder
        from mdfpipe.video.probe import probe

        path = folder / name
        path.write_bytes(make(small))
        told("inspect", path)
        probe(path)
        return [frame.index for frame in Decoder.variant("pyav")().frames(path)]

    return tried


# -- arrays, tables and texts


def head_of(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    """The header of an array of NumPy."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": kind, "fortran_order": False, "shape": shape})
    return head.getvalue()


def npz(members: dict[str, bytes]) -> bytes:
    """An archive of these."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def lying(given: bytes, size: int = 100) -> bytes:
    """An archive whose directory says that each member has so many bytes."""
    content = bytearray(given)
    for mark, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = content.find(mark)
        while place >= 0:
            content[place + at : place + at + 4] = struct.pack("<I", size)
            place = content.find(mark, place + 4)
    return bytes(content)


def vectors(name: str, make: Callable[[Path], bytes]) -> Callable[[Small, Path, str], object]:
    """A file of vectors, inspected and evaluated."""

    def tried(small: Small, folder: Path, text: str) -> object:
        path = folder / name
        path.write_bytes(make(folder))
        (folder / "p.yaml").write_text(PROTOCOL)
        base = ("eval", "--embeddings", path, "--protocol", folder / "p.yaml")
        told("inspect", path)
        return told(*base, "--out", folder / "out", "--set", "tables.t.unmated=exclude")

    return tried


def parquet(table: pa.Table, **more: object) -> bytes:
    """A table as a file."""
    out = pa.BufferOutputStream()
    pq.write_table(table, out, **more)
    return bytes(out.getvalue())


def long_texts(folder: Path) -> bytes:
    """8 million rows of one text of a thousand letters."""
    one = pa.array(["x" * 1000]).dictionary_encode()
    rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1 << 23, np.int32)), one.dictionary)
    return parquet(pa.table({"subject_id": rows, "domain": rows, "vector": rows}))


def long_lists(folder: Path) -> bytes:
    """A vector of 600 million zeros, which take some kB."""
    rows = pa.array([0, 1 << 27], pa.int32())
    zeros = pa.array(np.zeros(1 << 27, np.int8))
    names = {"subject_id": ["a"], "domain": ["VIS-500m"]}
    return parquet(pa.table({**names, "vector": pa.ListArray.from_arrays(rows, zeros)}), compression="zstd")


def deep_type(folder: Path) -> bytes:
    """Lists in lists, 90 deep."""
    kind: pa.DataType = pa.float32()
    for _ in range(90):
        kind = pa.list_(kind)
    return parquet(pa.table({"subject_id": ["a"], "domain": ["VIS-500m"], "vector": pa.nulls(1, kind)}))


def many_columns(folder: Path) -> bytes:
    """Ten thousand columns."""
    return parquet(pa.table({f"c{n}": [1] for n in range(10_000)}))


def settings(text: str | bytes) -> Callable[[Small, Path, str], object]:
    """A study of this text; as a protocol and as an extension, too."""

    def tried(small: Small, folder: Path, name: str) -> object:
        path = folder / "s.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        (folder / "v.parquet").write_bytes(parquet(pa.table({"vector": [[1.0]]})))
        (folder / "over.yaml").write_text("extends: s.yaml\nname: over\n")
        end = ("--data", small.data, "--run", folder / "run", "--dry-run")
        told("eval", "--embeddings", folder / "v.parquet", "--protocol", path, "--out", folder / "out")
        told("run", folder / "over.yaml", *end)
        return told("run", path, *end)

    return tried


def matlab(dims: tuple[int, ...], kind: int = 6, packed: bool = False, version: bytes = b"MATLAB 5.0") -> bytes:
    """An array of that claim, with no numbers."""

    def element(kind: int, body: bytes) -> bytes:
        return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)

    body = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(dims)}i", *dims)) + element(1, b"x")
    body = element(14, body + element(9, b""))
    if packed:
        body = zlib.compress(struct.pack("<II", 14, 0xFFFFFFF0) + bytes(300 << 20), 9)
        body = struct.pack("<II", 15, len(body)) + body
    return version.ljust(124, b" ") + struct.pack("<H", 0x100) + b"IM" + body


def of_matlab(make: Callable[[], bytes]) -> Callable[[Small, Path, str], object]:
    """A MATLAB file."""

    def tried(small: Small, folder: Path, name: str) -> object:
        from mdfpipe.store.matlab import read_matlab

        (folder / "m.mat").write_bytes(make())
        return read_matlab(folder / "m.mat", "m.mat")

    return tried


# -- weights


class Runs:
    """Makes a folder outside when it is unpickled."""

    target = ""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (Runs.target,)


def weights(name: str, make: Callable[[Path], bytes]) -> Callable[[Small, Path, str], object]:
    """Weights that are inspected, and named in a study for a system and for the detector."""

    def tried(small: Small, folder: Path, text: str) -> object:
        from mdfpipe.learning.models.weights.loading import read_state
        from mdfpipe.video.detectors.yolo import Yolo

        Runs.target = str(folder.parent / "made by a pickle")
        (folder / name).write_bytes(make(folder))
        told("inspect", folder / name)
        for read in (read_state, lambda path: Yolo(weights=path.name).check(folder)):
            try:
                read(folder / name)
            except Exception as error:
                last = error
        raise last

    return tried


def torch_of(found: object, **more: Any) -> bytes:
    """What torch saves."""
    import torch

    out = io.BytesIO()
    torch.save(found, out, **more)
    return out.getvalue()


def zip_of_zeros(folder: Path) -> bytes:
    """A checkpoint with an entry that is said to be 3.9 GB."""
    out = io.BytesIO(torch_of({"x": 1}))
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(4 << 20))
    return lying(out.getvalue(), 3_900_000_000)


def safetensors(header: bytes, claimed: int | None = None) -> bytes:
    """A file of that header."""
    return struct.pack("<Q", len(header) if claimed is None else claimed) + header + bytes(16)


def entry(shape: list[int], end: int) -> bytes:
    """The header of one tensor."""
    return json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()


_LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
_MERGES = "a0: &a0 {k0: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)

KINDS: dict[str, Callable[[Small, Path, str], object]] = {
    "PNG of 3.6 GB": picture("0001.png", lambda: png(SIDE, SIDE)),
    "PNG of no width": picture("0001.png", lambda: png(0, 0x7FFFFFFF)),
    "JPEG of 12 GB": picture("0001.jpg", lambda: patched(".jpg", b"\xff\xc0", 5, ">HH", (65500, 65500))),
    "BMP of 10 GB": picture("0001.bmp", lambda: patched(".bmp", b"", 18, "<ii")),
    "BMP of a negative size": picture("0001.bmp", lambda: patched(".bmp", b"", 18, "<ii", (-(2**31), -(2**31)))),
    "WebP of 0.8 GB": picture("0001.webp", lambda: patched(".webp", b"VP8L", 9, "<HH", (0xFFFF, 0xFFFF))),
    "TIFF of 3.6 GB": picture("0001.tiff", tiff),
    "TIFF, packed, of 3.6 GB": picture("0001.tiff", lambda: tiff(8)),
    "TIFF of a million strips": picture("0001.tif", lambda: tiff(1, 1 << 20)),
    "PPM of 10 GB": picture("0001.ppm", lambda: psd_like(b"P6\n60000 60000\n255\n")),
    "PGM of 10 GB in 16 bits": picture("0001.pgm", lambda: psd_like(b"P5\n70000 70000\n65535\n")),
    "GIF of 12 GB": video("v.gif", lambda small: gif()),
    "GIF of a hundred thousand frames": video("v.gif", lambda small: gif(100_000)),
    "AVI of 10 GB a frame": video("v.avi", lambda small: avi(SIDE, SIDE)),
    "AVI of a narrow frame": video("v.avi", lambda small: avi(1, 0x7FFFFFF)),
    "Matroska of 10 GB a frame": video(
        "v.mkv", lambda small: encoded(small, (0xB0820100, 0xBA8190), ">II", ".mkv").replace(b"\xb0\x82", b"\xb0\x83")
    ),
    "NPZ of 16 GB": vectors("v.npz", lambda _: npz({"vector.npy": head_of((1 << 16, 1 << 16)) + bytes(1 << 20)})),
    "NPZ of many gigabytes": vectors(
        "v.npz", lambda _: npz({f"a{n}.npy": head_of((1 << 28,)) + bytes(1 << 16) for n in range(50)})
    ),
    "NPZ that lies of its sizes": vectors(
        "v.npz", lambda _: lying(npz({"vector.npy": head_of((1 << 14, 1 << 14)) + bytes(256 << 20)}))
    ),
    "NPZ of a negative shape": vectors("v.npz", lambda _: npz({"vector.npy": head_of((2, 2)).replace(b"(2,", b"(-2")})),
    "NPZ of objects": vectors("v.npz", lambda _: npz({"vector.npy": head_of((1,), "|O") + pickle.dumps([Runs()])})),
    "Parquet of 8 GB": vectors("v.parquet", long_texts),
    "Parquet of one long vector": vectors("v.parquet", long_lists),
    "Parquet of lists in lists": vectors("v.parquet", deep_type),
    "Parquet of 10,000 columns": vectors("v.parquet", many_columns),
    "YAML of laughs": settings(_LAUGHS + "name: *a11\n"),
    "YAML of merges": settings(_MERGES + "name: x\n"),
    "YAML of an alias in itself": settings("name: x\nsystems: &a {b: *a}\n"),
    "YAML of 100,000 brackets": settings("[" * 100_000),
    "YAML of 100,000 blocks": settings("".join(" " * n + "a:\n" for n in range(2000))),
    "YAML that runs": settings("name: !!python/object/apply:os.mkdir [P]\n"),
    "YAML of 30 MB": settings("name: '" + "x" * 30_000_000 + "'\n"),
    "YAML of a long number": settings("name: x\nseed: " + "9" * 100_000 + "\n"),
    "YAML in base 60": settings("name: x\ndetect: {stride: 59:59:59:59:59:59:59:59}\n"),
    "YAML of NUL": settings("name: x\nextends: ['a\\0b']\n"),
    "YAML in UTF-16": settings("name: x\n".encode("utf-16")),
    "YAML that extends itself": settings("name: x\nextends: [s.yaml]\n"),
    "YAML that extends a device": settings("name: x\nextends: [/dev/zero]\n"),
    "YAML that extends a process": settings("name: x\nextends: [/proc/self/mem]\n"),
    "MATLAB of 16 GB": of_matlab(lambda: matlab((1 << 16, 1 << 15))),
    "MATLAB of a negative size": of_matlab(lambda: matlab((-1, 1 << 30))),
    "MATLAB of a size that overflows": of_matlab(lambda: matlab((1 << 30, 1 << 30, 1 << 30, 16))),
    "MATLAB of a million cells": of_matlab(lambda: matlab((1 << 15, 1 << 15), kind=1)),
    "MATLAB, packed": of_matlab(lambda: matlab((1,), packed=True)),
    "MATLAB of version 7.3": of_matlab(lambda: matlab((1,), version=b"MATLAB 7.3 MAT-file")),
    "weights that run, pickled": weights("w.pt", lambda _: pickle.dumps(Runs())),
    "weights that run, of torch": weights("w.pt", lambda _: torch_of({"model": Runs()})),
    "weights that run, of old torch": weights(
        "w.pth", lambda _: torch_of({"model": Runs()}, _use_new_zipfile_serialization=False)
    ),
    "weights of 3 GB of zeros": weights("w.pt", zip_of_zeros),
    "weights that lie of their sizes": weights("w.pt", lambda _: lying(torch_of({"w": 1}))),
    "safetensors with a long header": weights("w.safetensors", lambda _: safetensors(b"{}", 1 << 40)),
    "safetensors of 16 GB": weights("w.safetensors", lambda _: safetensors(entry([1 << 16, 1 << 16], 1 << 34))),
    "safetensors of an odd size": weights("w.safetensors", lambda _: safetensors(entry([1 << 62, 4], 16))),
    "safetensors of brackets": weights("w.safetensors", lambda _: safetensors(b'{"w":' + b"[" * 100_000)),
}
