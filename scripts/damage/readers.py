"""Fuzz of every reader: sound files of each kind, changed, must be read or refused in one line; never a traceback."""

from __future__ import annotations

import os
import pickle
import random
import resource
import shutil
import signal
import struct
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from damage.small import Case, Small, Verdict, flipped

from mdfpipe.errors import MdfError

SECONDS = 30  # of one case
MEMORY = 6 << 30  # bytes of address space beyond what is taken already
_WORDS = (
    *(b"\0", b"\n", b"\r", b",", b'"', b"NaN", b"-1", b"9" * 400, b"1e999", b"null", b"{", b"[", b": ", b"&a", b"*a"),
    *(b"\xff\xfe", b"\x1b[31m", b"../../x", b"!!python/name:os.system", "\u202e".encode(), b"\xed\xa0\x80"),
)


@dataclass(frozen=True)
class Reader:
    """file: under the case's folder, with sound content; read: what a command does with it."""

    file: str
    content: bytes
    read: Callable[[Path], object]


def cases(small: Small) -> Callable[[random.Random], Case]:
    """One reader, one changed file; in a process of its own, as a parser may take that with it."""
    readers = _readers(small)

    def draw(chance: random.Random) -> Case:
        name = chance.choice(sorted(readers))
        reader = readers[name]
        content = changed(reader.content, chance)

        def run() -> Verdict:
            folder = small.folder / "fuzz"
            shutil.rmtree(folder, ignore_errors=True)
            path = folder / reader.file
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
            return in_child(lambda: reader.read(path))

        return Case(name, reader.file, run)

    return draw


def changed(content: bytes, chance: random.Random) -> bytes:
    """The content with one to four changes."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(content) + 1)
        match chance.randrange(8):
            case 0 | 1:
                content = flipped(content, chance)
            case 2:
                content = content[:at]
            case 3:
                end = min(at + chance.randrange(1, 64), len(content))
                content = content[:at] + content[at:end] * 2 + content[end:]
            case 4:
                content = content[:at] + chance.choice(_WORDS) + content[at:]
            case 5:
                content = content[:at] + chance.randbytes(chance.randrange(1, 64)) + content[at:]
            case 6:
                size = struct.pack(
                    chance.choice("<>") + chance.choice("IQ"), chance.choice((2**31 - 1, 2**32 - 1, 1 << 28))
                )
                content = content[:at] + size + content[at + len(size) :]
            case 7:
                end = min(at + chance.randrange(1, 256), len(content))
                content = content[:at] + content[end:]
    return content


def in_child(read: Callable[[], object]) -> Verdict:
    """What a forked process says of it."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        os.write(theirs, pickle.dumps(_read(read))[:60_000])
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    if said:
        return Verdict(*pickle.loads(said))  # noqa: S301 - our own bytes
    number = os.WTERMSIG(status)
    what = (
        f"no answer in {SECONDS} s"
        if number == signal.SIGALRM
        else f"the process ended by {signal.Signals(number).name}"
    )
    return Verdict("traceback", what)


def _read(read: Callable[[], object]) -> tuple[str, str]:
    signal.alarm(SECONDS)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    try:
        read()
    except MdfError as error:
        line = str(error)
        return ("refused", line[:300]) if line.isprintable() else ("traceback", f"not printable: {line!r:.300}")
    except Exception:
        return "traceback", traceback.format_exc(limit=-4)[-1500:]
    return "survived", ""


def _readers(small: Small) -> dict[str, Reader]:
    """Every kind of file that a command reads, with the code that reads it."""
    from mdfpipe.config import read_yaml
    from mdfpipe.inspection import inspect
    from mdfpipe.learning.checkpoint import Checkpoint
    from mdfpipe.learning.models.weights import read_state
    from mdfpipe.pipeline import Pipeline, open_run
    from mdfpipe.protocol import read_protocol
    from mdfpipe.report.numbers import number_lines, numbers_of
    from mdfpipe.scoring import read_vectors
    from mdfpipe.status import status
    from mdfpipe.store.matlab import read_matlab
    from mdfpipe.store.run import Run, read_receipt, read_table

    done, made = small.done, small.folder / "made"
    made.mkdir(exist_ok=True)

    def of_run(name: str, read: Callable[[Path], object]) -> Reader:
        """A file of a run: all others lie beside it."""

        def within(path: Path) -> object:
            run = small.copy()
            (run / name).unlink(missing_ok=True)
            shutil.copyfile(path, run / name)
            return read(run)

        return Reader(Path(name).name, (done / name).read_bytes(), within)

    def of_data(name: str) -> Reader:
        """A table of the data set, as the reader takes it."""

        def within(path: Path) -> object:
            data = small.folder / "fuzz-data"
            shutil.rmtree(data, ignore_errors=True)
            shutil.copytree(small.data, data, copy_function=os.link)
            (data / name).unlink()
            shutil.copyfile(path, data / name)
            return Pipeline.load(small.study).dataset.read(data)

        return Reader(Path(name).name, (small.data / name).read_bytes(), within)

    def of_video(name: str, decoder: str = "pyav") -> Reader:
        def within(path: Path) -> object:
            from mdfpipe.video.decoders import Decoder
            from mdfpipe.video.probe import probe

            probe(path)
            return [f.index for f in Decoder.variant(decoder)().frames(path)]

        return Reader(f"v{Path(name).suffix}", (small.data / name).read_bytes(), within)

    def of_picture(suffix: str) -> Reader:
        grey = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
        content = cv2.imencode(suffix, grey)[1].tobytes()

        def within(path: Path) -> object:
            from mdfpipe.video.decoders import Decoder
            from mdfpipe.video.probe import probe

            probe(path)
            return list(Decoder.variant("images")().frames(path))

        return Reader(f"p{suffix}", content, within)

    vectors = {"subject_id": ["a", "b", "a", "b"], "domain": ["VIS", "VIS", "LWIR", "LWIR"], "system": ["x"] * 4}
    pq.write_table(pa.table({**vectors, "vector": np.eye(4, dtype=np.float32).tolist()}), made / "v.parquet")
    np.savez(made / "v.npz", vector=np.eye(4, dtype=np.float32), **{n: np.array(v) for n, v in vectors.items()})
    videos = sorted(
        path.relative_to(small.data).as_posix()
        for path in small.data.rglob("*-a01.*")
        if path.suffix in (".mkv", ".mp4")
    )
    tables = sorted(path.relative_to(small.data).as_posix() for path in small.data.rglob("*.csv"))
    from scipy.io import savemat

    savemat(made / "m.mat", {"ids": np.arange(9), "cells": np.array([[1, 2]], dtype=object)})
    protocol = Path(__file__).parents[2] / "manifests" / "synthetic-vis-to-ir.yaml"
    found = {
        "study": Reader("study.yaml", small.study.read_bytes(), Pipeline.load),
        "settings": Reader("s.yaml", small.study.read_bytes(), read_yaml),
        "protocol": Reader("p.yaml", protocol.read_bytes(), lambda path: read_protocol(str(path), [])),
        "vectors of Parquet": Reader("v.parquet", (made / "v.parquet").read_bytes(), read_vectors),
        "vectors of NPZ": Reader("v.npz", (made / "v.npz").read_bytes(), read_vectors),
        "MATLAB": Reader("m.mat", (made / "m.mat").read_bytes(), lambda path: read_matlab(path, "m.mat")),
        "checkpoint": Reader("last.pt", (done / "train/body/last.pt").read_bytes(), Checkpoint.load),
        "weights": Reader("w.pt", (done / "train/body/last.pt").read_bytes(), read_state),
        "receipt": Reader("r.parquet", (done / "manifest/manifest.parquet").read_bytes(), read_receipt),
        "table": Reader("t.parquet", (done / "manifest/manifest.parquet").read_bytes(), read_table),
        "inspect a table": Reader("t.parquet", (done / "manifest/manifest.parquet").read_bytes(), inspect),
        "inspect weights": Reader("last.pt", (done / "train/body/last.pt").read_bytes(), inspect),
        "inspect a shard": Reader("a.tar", next(done.glob("crop/*.body.tar")).read_bytes(), inspect),
        "pipeline.yaml": of_run("pipeline.yaml", open_run),
        "environment.json": of_run("environment.json", lambda run: (open_run(run), status(run), inspect(run))),
        "events.jsonl": of_run("events.jsonl", status),
        "metrics.json": of_run("evaluate/metrics.json", lambda run: number_lines(numbers_of(Run(run)) or {})),
        "index": of_run("index/videos.parquet", status),
        "inspect a run": of_run("detect/" + next(done.glob("detect/*.parquet")).name, inspect),
    }  # fmt: skip
    found |= {f"table of the data set {Path(name).name}": of_data(name) for name in tables}
    found |= {f"video {Path(name).suffix} {name.split('/')[1]}": of_video(name) for name in videos[::2]}
    found |= {f"picture {suffix}": of_picture(suffix) for suffix in (".jpg", ".png", ".tiff", ".bmp", ".webp", ".ppm")}
    for reader in found.values():  # loads what they import; and proves that the sound files are read
        path = small.folder / "sound" / reader.file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(reader.content)
        reader.read(path)
    return found
