"""Files that want harm: names that lead out of the folder, code, claims of size, text that a terminal would obey."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from damage.readers import in_child
from damage.small import Case, Small, Verdict

from mdfpipe.errors import DataError

NAMES = (
    "../../../P",
    "x/../../../P",
    "/P",
    "a\0b",
    "\x1b]0;P\a",
    "\u202egnp.P",
    "C:\\P",
    "~/P",
    "con",
    "." * 300,
    "",
)


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (_Runs.target,)

    target = ""


def cases(small: Small) -> Callable[[random.Random], Case]:
    """One file with one of these in it; nothing may appear outside, nothing may be taken without a word."""

    def draw(chance: random.Random) -> Case:
        kind = chance.choice(sorted(_KINDS))
        name = chance.choice(NAMES)

        def run() -> Verdict:
            folder = small.folder / "hostile" / "a" / "b"
            folder.mkdir(parents=True, exist_ok=True)
            before = _outside(small, folder)
            verdict = in_child(lambda: _KINDS[kind](folder, name))
            if _outside(small, folder) != before:
                return Verdict("silent", "a file appeared outside")
            return verdict

        return Case(kind, repr(name), run)

    return draw


def _outside(small: Small, folder: Path) -> set[str]:
    return {path.as_posix() for path in (small.folder / "hostile").rglob("*P*") if not path.is_relative_to(folder)}


def _vectors(folder: Path, name: str) -> object:
    """A system of that name."""
    from mdfpipe.running.scoring import score

    rows = {"subject_id": ["a", "b"] * 2, "domain": ["VIS-500m"] * 2 + ["SWIR-30m"] * 2, "system": [name] * 4}
    pq.write_table(pa.table({**rows, "vector": np.eye(4).tolist()}), folder / "v.parquet")
    (folder / "p.yaml").write_text(
        "{name: p, unlisted: test, domains: [VIS-500m, SWIR-30m], gallery_domains: [VIS-500m], "
        "probe_domains: [SWIR-30m]}"
    )
    return score(folder / "v.parquet", str(folder / "p.yaml"), folder / "out", ["tables.t.unmated=exclude"])


def _pickle(folder: Path, name: str) -> object:
    """Weights that make a folder when they are opened."""
    from mdfpipe.learning.models.weights.loading import read_state

    _Runs.target = str(folder.parent / "P")
    (folder / "w.pt").write_bytes(pickle.dumps(_Runs()))
    return read_state(folder / "w.pt")


def _large_array(folder: Path, name: str) -> object:
    """An NPZ whose header claims 16 GB."""
    from mdfpipe.running.scoring import read_vectors

    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (1 << 16, 1 << 16)})
    with zipfile.ZipFile(folder / "v.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("vector.npy", head.getvalue() + bytes(1 << 20))
    return read_vectors(folder / "v.npz")


def _large_picture(folder: Path, name: str) -> object:
    """A PNG that claims 60,000 x 60,000 pixels."""
    from mdfpipe.video.decoders import Decoder

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (folder / "0001.png").write_bytes(content)
    return list(Decoder.variant("images")().frames(folder / "0001.png"))


def _large_table(folder: Path, name: str) -> object:
    """A Parquet table of a few kB that unfolds to 8 GB."""
    from mdfpipe.running.scoring import read_vectors

    one = pa.array(["x" * 1000]).dictionary_encode()
    rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1 << 23, np.int32)), one.dictionary)
    pq.write_table(pa.table({"subject_id": rows, "domain": rows, "vector": rows}), folder / "v.parquet")
    return read_vectors(folder / "v.parquet")


def _path_in_a_table(folder: Path, name: str) -> object:
    """A video of that name in a face table."""
    from mdfpipe.store.naming import safe_relative

    safe = safe_relative(name, "faces.csv row 2")
    if not (folder / safe).resolve().is_relative_to(folder.resolve()):
        raise AssertionError(f"leads to {(folder / safe).resolve()}")
    raise DataError("taken as a path below the folder")


def _link_loop(folder: Path, name: str) -> object:
    """A folder of videos that holds itself."""
    from mdfpipe.video.probe import probe

    loop = folder / "loop"
    loop.unlink(missing_ok=True)
    loop.symlink_to(loop)
    return probe(loop)


_KINDS: dict[str, Callable[[Path, str], object]] = {
    "name of a system": _vectors,
    "weights that run": _pickle,
    "NPZ of 16 GB": _large_array,
    "PNG of 3.6 GB": _large_picture,
    "Parquet of 8 GB": _large_table,
    "path in a table": _path_in_a_table,
    "loop of links": _link_loop,
}
