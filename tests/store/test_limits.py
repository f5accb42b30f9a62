"""Files that claim more than they can be are refused by their headers: at once, and in one line."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdfpipe.errors import ConfigError, DataError, DecodeError, MdfError
from mdfpipe.running.scoring import read_vectors
from mdfpipe.store.limits import VARIABLE
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
    }

    def made(path: Path) -> object:
        path.write_bytes(content[name])
        return read_image(path, "frame 0")

    return made


KINDS: dict[str, Callable[[Path], object]] = {
    "text": repeated_text,
    "numbers": repeated_numbers,
    "shape": shape,
    "archive": unfolding,
    **{name: picture(name) for name in ("png", "bmp", "pnm", "webp")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_claims_too_much_is_refused_by_its_header(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "numbers":  # that so many are written quickly
        monkeypatch.setenv(VARIABLE, "0.2")
    with pytest.raises(
        MdfError, match=rf"ask for .* GB of memory, expected at most (2|0\.2) GB; .*{VARIABLE}="
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
