"""A pipe, a device or a folder in the place of a run's file is one that cannot be read, and nobody waits for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mdfpipe.errors import ConfigError, StoreError
from mdfpipe.learning.train.log import Log
from mdfpipe.store.environment import read_environment
from mdfpipe.store.hashing import bytes_sha256
from mdfpipe.store.regular import bytes_of, opened
from mdfpipe.store.run import Run, read_receipt
from mdfpipe.study.study import Study

ODD: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    names = (
        "x",
        "environment.json",
        "events.jsonl",
        "pipeline.yaml",
        "part.parquet",
        "detect/failed/v.json",
        ".lock-000003",
    )
    (tmp_path / "detect/failed").mkdir(parents=True)
    for name in names:
        ODD[kind](tmp_path / name)
    for read in (opened, bytes_of, bytes_sha256):
        with pytest.raises(OSError, match=r"pipe, socket or device|folder"):
            read(tmp_path / "x")
    run = Run(tmp_path)
    assert read_environment(tmp_path) is None
    assert not list(run.events())
    assert read_receipt(tmp_path / "part.parquet") is None
    failure = run.failure("detect", "v")
    assert failure is not None
    assert failure.kind == "unknown"
    assert run.holder() is None
    with pytest.raises(ConfigError, match=r"pipeline\.yaml: expected the study that a run keeps"):
        Study.kept(tmp_path)
    with pytest.raises(StoreError, match=r"events\.jsonl: expected a file"), run.lock():
        pass


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_the_log_of_a_training_is_written_to_nothing_else(kind: str, tmp_path: Path) -> None:
    ODD[kind](tmp_path / "state.jsonl")
    with Log(tmp_path / "state.jsonl") as log:
        log({"epoch": 0, "step": 1})
    assert (tmp_path / "state.jsonl").read_text() == '{"epoch": 0, "step": 1}\n'
    assert not (tmp_path / "state.jsonl").is_symlink()


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("x")
    assert bytes_of(tmp_path / "link") == b"abc"
