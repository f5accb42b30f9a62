"""Tiny data sets with bad videos among the good, and the real command line over them.

Every video shows one subject before a shaking camera: a body box of 40x52 and a face in it, drawn by `clips`.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import yaml

from mdfpipe.cli import main
from mdfpipe.running.execution import Executor, executor_of
from mdfpipe.stages import Resources

from . import clips
from .inline import Inline

ROOT = Path(__file__).parents[1]
FRAMES = 12
FACES = "SUBJECT_ID,FILENAME,FRAME_NUM,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"
BOXES = "video_id,frame,x1,y1,x2,y2,score"
STAGES = ("index", "detect", "label", "crop", "manifest")


@dataclass(frozen=True)
class Said:
    """What one call of the command line said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The document that --json printed."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def failures(self) -> dict[str, str]:
        """Why each unit failed, by "stage/key"."""
        return {f"{f['stage']}/{f['key']}": f["message"] for f in self.json["failures"]}

    def tally(self, name: str) -> dict[str, int]:
        """One figure of every stage: total, already, ran, failed, blocked."""
        return {stage: tally[name] for stage, tally in self.json["tallies"].items()}

    def line(self, code: int = 2) -> str:
        """The one line on the error stream, where the call ends with `code`."""
        assert self.code == code, self
        lines = self.err.splitlines()
        assert len(lines) == 1, self
        assert lines[0].startswith("mdfpipe: "), self
        assert lines[0].isprintable(), self
        assert self.out == "", self
        return lines[0]

    def calm(self) -> Said:
        """The same, seen to hold no traceback."""
        assert "Traceback" not in self.err + self.out, self.err
        assert "unexpected error" not in self.err + self.out, self.err
        return self


def call(*arguments: str | Path, env: dict[str, str] | None = None, timeout: float = 120) -> Said:
    """`mdfpipe ARGUMENTS`, as a user gives it, in a process of its own."""
    command = [sys.executable, "-m", "mdfpipe", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, timeout=timeout, check=False
    )
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())


def call_here(*arguments: str | Path, folder: Path = ROOT) -> Said:
    """The same in this process, which has imported all of it already: the entry point, its streams and its exit code.

    Units run here, too, where one worker would do them: what a worker process adds is what other tests are about.
    """
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(folder),
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        patch.setattr(sys, "argv", ["mdfpipe", *map(str, arguments)])
        patch.setattr("mdfpipe.running.runner.executor_of", _here)
        patch.setattr("mdfpipe.machine.stopping.listen", lambda: None)  # signals of this process are the test runner's
        patch.setattr("mdfpipe.machine.arrow.leave_pandas_out", lambda: None)  # other tests have DataFrames
        with _diverted(1, out), _diverted(2, err):
            code = _ended(main)
        for file in (out, err):
            file.seek(0)
        return Said(code, out.read().decode(), err.read().decode())


def _ended(entry: Callable[[], None]) -> int:
    """The exit code with which a process ends that does this, and nothing else."""
    try:
        entry()
    except SystemExit as ended:
        if not isinstance(ended.code, str):
            return int(ended.code or 0)
        sys.stderr.write(f"{ended.code}\n")
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def _diverted(descriptor: int, file: IO[bytes]) -> Iterator[None]:
    """Standard output (1) or error (2) goes into a file: what Python writes, what C does, and child processes."""
    name = {1: "stdout", 2: "stderr"}[descriptor]
    usual, kept = getattr(sys, name), os.dup(descriptor)
    usual.flush()
    os.dup2(file.fileno(), descriptor)
    stream = open(descriptor, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - closed below
    setattr(sys, name, stream)
    try:
        yield
    finally:
        stream.close()
        setattr(sys, name, usual)
        os.dup2(kept, descriptor)
        os.close(kept)


def _here(resources: Resources) -> Executor:
    alone = resources.workers in (None, 1) and resources.device == "cpu"
    return Inline(resources) if alone else executor_of(resources)


def shake(frames: int, seed: int) -> np.ndarray[Any, Any]:
    """(frames, 2) float: where the camera points, a fast unsteady motion of some pixels."""
    return np.random.default_rng(seed).uniform(-9, 9, (frames, 2))


@dataclass
class DataSet:
    """A data folder that grows video by video; `write` makes its tables and its study."""

    root: Path

    def __post_init__(self) -> None:
        (self.root / "videos").mkdir(parents=True, exist_ok=True)
        self.faces: list[list[Any]] = []
        self.boxes: list[list[Any]] = []

    def video(self, name: str) -> Path:
        """Where the video `name` lies."""
        return self.root / "videos" / name

    def good(self, name: str, frames: int = FRAMES, **options: Any) -> Path:
        """A sound video, annotated."""
        path = clips.write_video(self.video(name), frames, **options)
        self.annotate(name, frames)
        return path

    def copies(self, clip: Path, *names: str) -> DataSet:
        """The same with copies of a sound clip, annotated."""
        for name in names:
            shutil.copy(clip, self.video(name))
            self.annotate(name)
        return self

    def bad(self, name: str, make: Callable[[Path], object], frames: int = FRAMES) -> Path:
        """Whatever `make` puts at the video's place, annotated as if it were sound."""
        path = self.video(name)
        make(path)
        self.annotate(name, frames)
        return path

    def annotate(
        self, name: str, frames: int = FRAMES, *, subject: str = "s1", off: int = 0, steady: bool = False
    ) -> None:
        """Face and body in each frame. off: how much the table's frame numbers are too high. steady: nothing moves."""
        video_id = f"videos/{Path(name).stem if '.' in name else name}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        moves = np.zeros((frames, 2)) if steady else shake(frames, seed)
        for frame, (x, y) in enumerate(moves + np.array([28, 6])):
            figures = (f"{v:.2f}" for v in (x, y, x + 40, y + 50))
            self.boxes.append([video_id, frame, *figures, "0.9"])
            self.faces.append([subject, f"videos/{name}", frame + off, f"{x + 14:.2f}", f"{y + 3:.2f}", 12, 12])

    def write(self, **settings: Any) -> Path:
        """faces.csv, boxes.csv and study.yaml; gives the study. settings: sections, set over the usual ones."""
        write_rows(self.root / "faces.csv", FACES, self.faces)
        write_rows(self.root / "boxes.csv", BOXES, self.boxes)
        return write_study(self.root / "study.yaml", **settings)


def write_rows(path: Path, header: str, rows: Sequence[Sequence[Any]]) -> None:
    """A CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(header + "\n")
        csv.writer(file, lineterminator="\n").writerows(rows)


def write_study(path: Path, **settings: Any) -> Path:
    """A study over the ijb reader and precomputed boxes; settings: sections, set over the usual ones."""
    study: dict[str, Any] = {
        "name": "tiny",
        "dataset": {"use": "ijb", "preset": "ijbc", "domain": {"constant": "VIS"}},
        "detect": {"detector": {"use": "precomputed", "boxes": "boxes.csv"}},
        "manifest": {"protocol": "no-roles"},
    }
    for section, values in settings.items():
        study[section] = {**study.get(section, {}), **values} if isinstance(values, dict) else values
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


def run(data: Path, folder: Path, *more: str | Path, workers: int = 1, env: dict[str, str] | None = None) -> Said:
    """`mdfpipe run DATA/study.yaml --data DATA --run FOLDER ...` of one thread: here, or as a process in `env`."""
    base = ("run", data / "study.yaml", "--data", data, "--run", folder, "--workers", str(workers), "--threads", "1")
    return call_here(*base, *more) if env is None else call(*base, *more, env=env)


def digests(folder: Path, *keys: str) -> dict[str, str]:
    """Every table and shard of the videos `keys`, and of all where none is named, by content; not the index's."""
    names = tuple(key.replace("/", "__") + "." for key in keys)
    found = [p for stage in STAGES[1:] for p in sorted((folder / stage).rglob("*")) if p.is_file()]
    chosen = [p for p in found if not names or p.name.startswith(names)]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in chosen}


def facts(folder: Path, stage: str, key: str) -> dict[str, Any]:
    """What `stage` observed in a video."""
    from mdfpipe.store.run import Run

    receipt = Run(folder).receipt(stage, key)
    assert receipt is not None
    return receipt.facts


def tree(*roots: Path) -> dict[str, int]:
    """Every file below the roots, with its size: to see that a call wrote nothing there."""
    return {str(p): p.stat().st_size for root in roots for p in root.rglob("*") if p.is_file()}
