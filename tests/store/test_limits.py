"""Files that claim more than they can be are refused by their headers: at once, and in one line."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from mdfpipe.errors import ConfigError, DataError, DecodeError, MdfError
from mdfpipe.running.scoring import read_vectors
from mdfpipe.store.images import decode
from mdfpipe.store.limits import VARIABLE
from mdfpipe.store.matlab import read_matlab
from mdfpipe.store.parquet import read_table
from mdfpipe.store.shards import read_crop
from mdfpipe.video.decoders import Decoder, FrameStream
from mdfpipe.video.image_files import read_image
from mdfpipe.weightfiles import open_tensors


def repeated_text(path: Path) -> object:
    """A Parquet table of a few kB, in which 8 million rows repeat a text of 1000 letters."""
    codes = pa.array(np.zeros(1 << 23, np.int32))
    rows = pa.DictionaryArray.from_arrays(codes, pa.array(["x" * 1000]))
    pq.write_table(pa.table({"subject_id": rows, "vector": rows}), path)
    return read_vectors(path)


def repeated_numbers(path: Path) -> object:
    """A Parquet table of a few kB with 2^25 numbers, which are all the same, in batches."""
    batch = pa.RecordBatch.from_arrays([pa.array(np.zeros(1 << 22))], ["vector"])
    with pq.ParquetWriter(path, batch.schema) as writer:
        for _ in range(1 << 3):
            writer.write_batch(batch)
    return read_vectors(path)


def shape(path: Path) -> object:
    """An NPZ whose array claims 16 GB."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (1 << 16, 1 << 16)})
    with zipfile.ZipFile(path.with_suffix(".npz"), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("vector.npy", head.getvalue() + bytes(1 << 16))
    return read_vectors(path.with_suffix(".npz"))


def unfolding(path: Path) -> object:
    """A checkpoint of torch, one of whose members is 3 GB of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", b"\x80\x02}q\x00.")
        file.writestr("a/version", b"3\n")
        file.writestr("a/data/0", b"0")
    content = path.read_bytes()
    place = content.rindex(b"PK\x01\x02") + 24  # the size that the directory claims
    path.write_bytes(content[:place] + struct.pack("<I", 3_000_000_000) + content[place + 4 :])
    return open_tensors(path)


def tiff(tags: dict[int, int]) -> bytes:
    """A TIFF of one page with these tags."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IQ", 16, 0) + struct.pack("<H", len(tags)) + entries + bytes(4)


def spread(path: Path) -> object:
    """A checkpoint of torch, one number of which stands for 2^32."""
    torch.save({"a": torch.zeros(1).expand(1 << 16, 1 << 16)}, path)
    return open_tensors(path)


def objects(path: Path) -> object:
    """An NPZ of 100 kB with 2^25 small numbers, each of which becomes an object."""
    names = {"subject_id": ["a"], "domain": ["VIS-500m"], "vector": [[1.0, 2.0]]}
    np.savez_compressed(path.with_suffix(".npz"), **names, more=np.zeros(1 << 25, np.uint8))
    return read_vectors(path.with_suffix(".npz"))


def matlab(path: Path) -> object:
    """A MATLAB file whose compressed array says that it has 3 GB."""
    body = zlib.compress(struct.pack("<II", 14, 3_000_000_000) + bytes(64))
    head = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"
    path.write_bytes(head + struct.pack("<II", 15, len(body)) + body)
    return read_matlab(path, "a.mat")


def part_of_a_run(path: Path) -> object:
    """A Parquet table as any stage reads it."""
    pq.write_table(pa.table({"n": np.zeros(1 << 20)}), path)
    return read_table(path)


def box(kind: bytes, *content: bytes) -> bytes:
    """A box of an mp4."""
    return struct.pack(">I4s", 8 + len(b"".join(content)), kind) + b"".join(content)


def mp4(pictures: int, fragment: int = 0) -> bytes:
    """An mp4 whose tables claim so many pictures of one byte each, and a fragment of it so many more."""
    handler = box(b"hdlr", bytes(8), b"vide", bytes(13))
    sizes = box(b"stsz", struct.pack(">III", 0, 1, pictures))
    track = box(b"trak", box(b"mdia", handler, box(b"minf", box(b"stbl", sizes))))
    run = box(b"trun", struct.pack(">II", 0, fragment))
    return box(b"ftyp", b"isom") + box(b"moov", track) + box(b"moof", box(b"traf", run))


def film(name: str) -> Callable[[Path], object]:
    """A video that claims what it does not hold."""
    content = {
        "mp4": mp4(1 << 30),
        "fragments": mp4(0, 1 << 30),
        "gif": b"GIF89a" + struct.pack("<HHBBB", 16_000, 16_000, 0x80, 0, 0) + bytes(6) + b"\x2c" + bytes(4)
        + struct.pack("<HHB", 1, 1, 0) + bytes([2, 2, 0x4C, 1, 0]) + b"\x3b",
    }  # fmt: skip

    def made(path: Path) -> object:
        path.write_bytes(content[name])
        return list(Decoder.variant("pyav")().frames(path))

    return made


def picture(name: str) -> Callable[[Path], object]:
    """A picture whose header claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    content = {
        "png": b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(9)))
        + chunk(b"IEND", b""),
        "bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, 60_000, -60_000) + bytes(40),
        "pnm": b"P5\n# made\n60000 60000\n255\n" + bytes(9),
        "webp": b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + (59_999).to_bytes(3, "little") * 2 + bytes(9),
        "webp, lossy": b"RIFF\0\0\0\0WEBPVP8 " + bytes(7) + b"\x9d\x01\x2a" + struct.pack("<HH", 16_000, 16_000),
        "webp, lossless": b"RIFF\0\0\0\0WEBPVP8L" + bytes(4) + b"\x2f" + struct.pack("<I", 16_000 << 14 | 16_000),
        "jpeg": b"\xff\xd8\xff\xfe\0\2odd\xff\xc0\0\x0b\x08"
        + struct.pack(">HH", 60_000, 60_000)
        + b"\x01\x01\x11\0\xff\xd9",
        "tiff": tiff({256: 30_000, 257: 30_000, 258: 16, 259: 8, 262: 1, 273: 8, 277: 1, 278: 1, 279: 8}),
    }

    def made(path: Path) -> object:
        path.write_bytes(content[name])
        return read_image(path, "frame 0")

    return made


KINDS: dict[str, Callable[[Path], object]] = {
    "text": repeated_text,
    "numbers": repeated_numbers,
    "shape": shape,
    "objects": objects,
    "archive": unfolding,
    "spread tensor": spread,
    "matlab": matlab,
    "part of a run": part_of_a_run,
    **{name: film(name) for name in ("mp4", "fragments", "gif")},
    **{name: picture(name) for name in ("png", "bmp", "pnm", "webp", "webp, lossy", "webp, lossless", "jpeg", "tiff")},
}


LESS = {"objects": 1, "numbers": 0.2, "part of a run": 0.001, "gif": 0.5, "webp, lossy": 0.5, "webp, lossless": 0.5}
"""Where the format, or the time to write it, allows no more."""


@pytest.mark.parametrize("kind", KINDS)
def test_what_claims_too_much_is_refused_by_its_header(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = LESS.get(kind, 2)
    if kind in LESS:
        monkeypatch.setenv(VARIABLE, str(limit))
    with pytest.raises(
        MdfError, match=rf"ask for .* GB of memory, expected at most {limit} GB; .*{VARIABLE}="
    ) as caught:
        KINDS[kind](tmp_path / "file")
    assert isinstance(caught.value, (ConfigError, DataError, DecodeError))


def test_the_limit_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"subject_id": ["a"], "domain": ["VIS-500m"], "vector": [[1.0, 2.0]]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    monkeypatch.setenv(VARIABLE, "1e-9")
    with pytest.raises(DataError, match="MB that ask for"):
        read_vectors(tmp_path / "a.parquet")
    monkeypatch.setenv(VARIABLE, "much")
    with pytest.raises(ConfigError, match=f"{VARIABLE}='much': expected a number of GB"):
        read_vectors(tmp_path / "a.parquet")
    monkeypatch.setenv(VARIABLE, "1")
    assert read_vectors(tmp_path / "a.parquet")[1].shape == (1, 2)


def test_what_unfolds_to_nothing_more_is_held_against_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1 << 10)}, tmp_path / "a.safetensors")
    assert open_tensors(tmp_path / "a.safetensors")["a"].shape == (1 << 10,)
    monkeypatch.setenv(VARIABLE, "1e-6")
    with pytest.raises(ConfigError, match=f"a.safetensors: .* MB that ask for .*{VARIABLE}="):
        open_tensors(tmp_path / "a.safetensors")


def test_what_opencv_would_read_beyond_our_formats_is_not_tried() -> None:
    """JPEG 2000, GIF, OpenEXR, HDR, PFM: nobody here reads their headers."""
    head, rgbe = b"\x89PNG\r\n\x1a\n", b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n" + bytes(4)
    assert cv2.imdecode(np.frombuffer(rgbe, np.uint8), cv2.IMREAD_UNCHANGED) is not None
    for data in (b"\xff\x4f\xff\x51" + bytes(60), b"\0\0\0\x0cjP  \r\n\x87\n", b"GIF89a" + bytes(60), rgbe):
        with pytest.raises(
            DataError, match=rf"a crop: expected an image of 8 or 16 bits, found {len(data)} bytes that do not decode"
        ):
            decode(data, "a crop")
    with pytest.raises(DataError, match="found 8 bytes that do not decode"):
        decode(head, "a crop")


def test_a_batch_of_pictures_asks_for_no_more_than_a_file_may(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [(np.full((10, 10, 3), n, np.uint8), float(n)) for n in range(5)]
    monkeypatch.setenv(VARIABLE, "7e-7")  # two pictures
    frames = list(FrameStream(iter(pictures), Path("made"), 4, lambda delivered: None))
    assert [len(each.index) for each in frames] == [2, 2, 1]
    assert [n for each in frames for n in each.index.tolist()] == list(range(5))


def test_a_crop_that_claims_more_bytes_than_its_shard_has_asks_for_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(100))
    with pytest.raises(DataError, match="expected 1099511627776 bytes at 60, got 40"):
        read_crop(tmp_path / "a.tar", 60, 1 << 40, None)
