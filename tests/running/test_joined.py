"""Joined workers: real processes that join a leader, over TCP and over files."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import ROOT, DataSet, call_here, digests

CONNECT = ["tcp", "files"]


class Site:
    """A data set, and commands over it that run beside each other."""

    def __init__(self, home: Path, videos: str = "abc", frames: int = 12) -> None:
        self.home, self.data = home, DataSet(home / "data")
        first = self.data.good("a.mp4", frames)
        if len(videos) > 1:
            self.data.copies(first, *(f"{name}.mp4" for name in videos[1:]))
        self.study = self.data.write()
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str | Path, **env: str) -> subprocess.Popen[str]:
        """`mdfpipe ARGUMENTS`, which runs on."""
        command = [sys.executable, "-m", "mdfpipe", *map(str, arguments), "--threads", "1"]
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.processes.append(process)
        return process

    def lead(self, run: str, *more: str, **env: str) -> subprocess.Popen[str]:
        return self.start("run", self.study, "--data", self.data.root, "--run", self.home / run, *more, **env)

    def work(self, run: str, host: str = "", *more: str) -> subprocess.Popen[str]:
        return self.start("work", "--run", self.home / run, *more, **({"MDFPIPE_HOST": host} if host else {}))

    def local(self) -> dict[str, str]:
        """The digests of the same run on this machine alone."""
        done = call_here("run", self.study, "--data", self.data.root, "--run", self.home / "local", "--threads", "1")
        assert done.code == 0, done
        return digests(self.home / "local")

    def await_words(self, run: str, words: str, seconds: float = 30) -> None:
        """Wait until the events of a run have these words."""
        until = time.monotonic() + seconds
        place = self.home / run / "events.jsonl"
        while not (place.exists() and words in place.read_text()):
            assert time.monotonic() < until, [p.communicate()[0] for p in self.processes if p.poll() is not None]
            time.sleep(0.05)


def ended(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str]:
    said = process.communicate(timeout=seconds)[0]
    return process.returncode, said


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    for process in site.processes:
        with contextlib.suppress(OSError):
            process.kill()
        process.communicate()


@pytest.mark.parametrize("connect", CONNECT)
def test_two_joined_workers_make_the_bytes_of_a_local_run(site: Site, connect: str) -> None:
    leader = site.lead("run", "--on", "workers", "--connect", connect)
    workers = [site.work("run", host) for host in ("node1", "node2")]
    code, said = ended(leader)
    assert code == 0, said
    assert all(f"joined  {host}-" in said for host in ("node1", "node2"))
    for worker in workers:
        code, said = ended(worker)
        assert code == 0, said
        assert said.splitlines()[-1].endswith("units were done here")
    assert digests(site.home / "run") == site.local()
    assert not (site.home / "run" / ".crew").exists()


@pytest.mark.slow
@pytest.mark.parametrize("connect", CONNECT)
def test_a_killed_worker_and_a_killed_leader_lose_nothing(site: Site, connect: str) -> None:
    options = ("--on", "workers", "--connect", connect)
    leader = site.lead("run", *options)
    first = site.work("run", "", "--wait", "60")
    site.await_words("run", '"joined"')
    os.kill(first.pid, signal.SIGKILL)
    site.await_words("run", '"left"', 90)
    second = site.work("run", "", "--wait", "60")
    site.await_words("run", '"finished"')
    os.kill(leader.pid, signal.SIGKILL)
    leader = site.lead("run", *options)
    code, said = ended(leader, 120)
    assert code == 0, said
    code, said = ended(second)
    assert code == 0, said
    assert digests(site.home / "run") == site.local()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--connect", "files"), "--connect files: expected --on beside it"),
        (("--on", "moon"), "--on moon: expected workers"),
        (("--on", "workers", "--connect", "mail"), "--connect mail: expected tcp or files"),
        (("--on", "workers", "--workers", "2"), "--workers 2 with --on workers: the workers are processes elsewhere"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    data = DataSet(tmp_path / "data")
    done = call_here("run", data.write(), "--data", data.root, "--run", tmp_path / "run", *options)
    assert words in done.line()


def test_without_a_leader_a_worker_ends_with_one_line(tmp_path: Path) -> None:
    done = call_here("work", "--run", tmp_path, "--wait", "0")
    assert "expected a leader, found none" in done.line()
