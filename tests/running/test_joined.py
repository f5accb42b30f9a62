"""Joined workers: real processes that join a leader, over TCP and over files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.cli.display import Display
from mdfpipe.errors import ConfigError, StoreError
from mdfpipe.running import execution
from mdfpipe.running.crew import Crew
from mdfpipe.running.execution import Event, LocalExecutor, Unit, run_unit
from mdfpipe.running.leading import JoinedExecutor
from mdfpipe.running.runner import Runner
from mdfpipe.running.status import status
from mdfpipe.running.workers import Loss, Step, UnitReport
from mdfpipe.running.workers import joined as joined_file
from mdfpipe.running.workers import relay as relay_file
from mdfpipe.running.workers.channels import TcpChannel, connected, proof, read_json
from mdfpipe.running.workers.joined import Joined, JoinedWorker, Terms, key_of
from mdfpipe.running.workers.messages import of_event, of_unit, to_unit
from mdfpipe.stages import Inputs, Resources
from mdfpipe.store.environment import code_version
from mdfpipe.store.owner import Owner
from mdfpipe.store.run import Receipt, Run
from mdfpipe.study.study import Study
from tests.running.test_execution import Odd, units
from tests.runs import ROOT, DataSet, call_here, digests

CONNECT = ["tcp", "files"]


class Site:
    """A data set, and commands over it that run beside each other."""

    def __init__(self, home: Path, videos: Sequence[str] = "abc", frames: int = 12) -> None:
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

    def events(self, run: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.home / run / "events.jsonl").read_text().splitlines()]

    def await_words(self, run: str, words: str, seconds: float = 150) -> None:
        """Wait until the events of a run have these words."""
        until = time.monotonic() + seconds
        place = self.home / run / "events.jsonl"
        while not (place.exists() and words in place.read_text()):
            assert time.monotonic() < until, [p.communicate()[0] for p in self.processes if p.poll() is not None]
            time.sleep(0.05)


def ended(process: subprocess.Popen[str], seconds: float = 150) -> tuple[int, str]:
    said = process.communicate(timeout=seconds)[0]
    return process.returncode, said


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from started(Site(tmp_path))


@pytest.fixture
def long(tmp_path: Path) -> Iterator[Site]:
    """One video that takes seconds."""
    yield from started(Site(tmp_path, "a", frames=5000))


def started(site: Site) -> Iterator[Site]:
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
        assert said.splitlines()[-1].endswith(" done here")
    assert digests(site.home / "run") == site.local()
    assert not (site.home / "run" / ".crew").exists()


def test_a_worker_without_the_files_of_the_study_is_sent_away_and_the_run_goes_on(site: Site) -> None:
    shutil.copytree(site.data.root, site.home / "copy")
    for file in (site.home / "copy").glob("boxes*"):
        file.unlink()
    leader = site.lead("run", "--on", "workers")
    poor = site.work("run", "node1", "--data", str(site.home / "copy"))
    site.await_words("run", "its machine lacks what the unit needs")
    site.work("run", "node2")
    code, said = ended(leader)
    assert code == 0, said
    assert "boxes" in ended(poor)[1]
    assert digests(site.home / "run") == site.local()


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
        (("--on", "moon"), "--on moon: expected slurm, ray or workers"),
        (("--on", "workers", "--ray", "a:1"), "--ray: expected --on ray with it"),
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


@pytest.mark.slow
@pytest.mark.parametrize("connect", CONNECT)
def test_a_worker_killed_at_work_and_then_its_leader(long: Site, connect: str) -> None:
    site = long
    options = ("--on", "workers", "--connect", connect)
    leader = site.lead("run", *options)
    site.await_words("run", '"waiting"')
    workers = {process.pid: process for process in (site.work("run", "", "--wait", "0") for _ in range(2))}
    site.await_words("run", '"event": "started", "key": "videos/a", "stage": "detect"')
    begun = [line for line in site.events("run") if line["event"] == "started" and line["stage"] == "detect"]
    said = call_here("status", site.home / "run").out
    assert f"worker {begun[0]['worker']} (" in said
    assert "at detect/videos/a" in said
    victim = workers.pop(int(begun[0]["worker"].rpartition("-")[2]))
    os.kill(victim.pid, signal.SIGKILL)
    site.await_words("run", '"again"')
    os.kill(leader.pid, signal.SIGKILL)
    (other,) = workers.values()
    code, said = ended(other, 100)
    assert code == 2, said
    assert "is gone; nothing more is committed here" in said
    assert not list((site.home / "run" / "detect").glob("*.parquet"))
    assert len(said.splitlines()) == 2, said  # joined; gone
    site.work("run")
    leader = site.lead("run", *options)
    code, said = ended(leader, 100)
    assert code == 0, said
    assert digests(site.home / "run") == site.local()


# -- who may join


@contextlib.contextmanager
def gate(path: Path, connect: str) -> Iterator[Joined]:
    """A leader's gate over an empty run folder."""
    (path / "data").mkdir(parents=True)
    run = Run(path / "run")
    with run.lock():
        joined = Joined(run, Terms(path / "data"), connect)
        joined.open()
        try:
            yield joined
        finally:
            joined.close()
    assert not (path / "run" / ".crew").exists()


def refused(run: Path) -> str:
    with pytest.raises(StoreError) as error:
        relay_file.work(run, resources=Resources(threads=1), wait_seconds=0)
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize("connect", CONNECT)
def test_a_wrong_key_another_code_and_another_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connect: str
) -> None:
    with gate(tmp_path, connect) as joined:
        folder = tmp_path / "run" / ".crew"
        assert folder.stat().st_mode & 0o77 == (folder / "key").stat().st_mode & 0o77 == 0
        key = (folder / "key").read_bytes()
        (folder / "key").write_bytes(b"another")
        assert f"refuses this worker: its key is not the one in {folder / 'key'}" in refused(tmp_path / "run")
        (folder / "key").write_bytes(key)
        with monkeypatch.context() as patch:
            patch.setattr(relay_file, "code_version", lambda: "0.0.9 (abc)")
            assert "it has another code version, 0.0.9 (abc); the leader has 0.1.0 (" in refused(tmp_path / "run")
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        monkeypatch.setattr(joined_file, "HELLO_SECONDS", 0.5)
        if connect == "files":  # no leader reads what is written there
            monkeypatch.setattr(relay_file, "HELLO_SECONDS", 0.5)
        said = refused(tmp_path / "copy")
        assert ("they share no file" if connect == "tcp" else "does not answer; is this its run folder") in said
        reports, until = list[UnitReport](), time.monotonic() + 20
        while len(reports) < (3 if connect == "tcp" else 2) and time.monotonic() < until:
            reports += joined.look(0)
        assert [report.kind for report in reports] == [Step.REFUSED] * (3 if connect == "tcp" else 2)


@pytest.mark.slow
def test_a_second_leader_on_another_host_is_one_line(site: Site) -> None:
    site.lead("run", "--on", "workers")
    site.await_words("run", '"waiting"')
    code, said = ended(site.lead("run", "--on", "workers", MDFPIPE_HOST="elsewhere"), 90)
    assert code == 2, said
    assert "in use by process" in said.splitlines()[-1]


# -- what becomes of a unit


class Elsewhere(threading.Thread):
    """A worker of another machine, as its messages show it. dies: at its first video; else it waits for that."""

    def __init__(self, site: Site, name: str, device: str, death: threading.Event, *, dies: bool) -> None:
        super().__init__(daemon=True)
        self.site, self.name, self.device, self.death, self.dies = site, name, device, death, dies
        self.place = site.home / "run" / ".crew"

    def run(self) -> None:
        while (leader := read_json(self.place / "leader.json")) is None:
            time.sleep(0.01)
        found = connected([("127.0.0.1", leader["addresses"][0][1])])
        assert found is not None
        channel, number = TcpChannel(found), self.name[-1]
        (self.place / self.name).touch()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            wait([channel.source], timeout=1)
            try:
                messages = channel.receive()
            except EOFError:
                return
            for message in messages:
                if "challenge" in message:
                    key = key_of(self.place)
                    owner = replace(Owner.new(), host=f"node{number}", boot=number, job=f"Slurm job 7_{number}")
                    hello = {"name": self.name, "owner": asdict(owner), "device": self.device, "mark": self.name}
                    said = proof(key, "worker", message["challenge"], leader["secret"])
                    channel.send({"hello": {**hello, "code": code_version(), "nonce": "n", "proof": said}})
                elif "unit" in message:
                    if message["stage"] == "detect" and self.dies:
                        half = self.site.home / "run" / "detect" / f".part-{owner.label}-4-{'0' * 16}-a.parquet"
                        half.parent.mkdir(exist_ok=True)
                        half.touch()
                        self.death.set()
                        channel.close()
                        return
                    assert message["stage"] != "detect" or self.death.wait(30)
                    run = Run(self.site.home / "run")
                    unit = to_unit(message, Study.kept(run.path), run, self.site.data.root)
                    event = run_unit(unit, Resources(threads=1), lambda event: None)
                    channel.send({"ended": message["unit"], "event": of_event(event)})


def test_a_lost_worker_is_named_with_host_job_and_device(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    death = threading.Event()
    for dies, device in enumerate(("cuda:2", "cuda:3")):
        Elsewhere(site, f"node{dies}-4{dies}", device, death, dies=bool(dies)).start()
    run, resources = Run(site.home / "run"), Resources(threads=1)
    executor = JoinedExecutor(resources, Joined(run, Terms(site.data.root)))
    made = Runner(Study.load(site.study), run, site.data.root, resources, executor)
    with Display() as display:
        outcome = made.execute(None, "detect", listen=display)
    assert (outcome.workers_lost, outcome.given_again, outcome.complete) == (1, 1, True)
    place, why = "node1 (Slurm job 7_1) on cuda:3", "its connection ended"
    lines = capsys.readouterr().err.splitlines()
    assert f"joined  node1-41: {place}" in lines
    assert f"left    node1-41: {place}: {why}" in lines
    (again,) = (event for event in site.events("run") if event["event"] == "again")
    assert (again["worker"], again["words"]) == ("node1-41", f"node1-41 ({place}): {why}")
    key = f"detect/{again['key']}"
    assert f"again   {key}: node1-41 ({place}): {why}" in lines
    found = status(site.home / "run")
    assert found.losses == [{"unit": key, "worker": "node1-41", "words": again["words"]}]
    assert (found.workers_lost, found.given_again) == (1, 1)
    said = call_here("status", site.home / "run").out
    assert f"given again: {key}, lost by node1-41 ({place}): {why}" in said
    local = {name: digest for name, digest in site.local().items() if name.startswith("detect/")}
    assert digests(site.home / "run") == local


def test_a_unit_of_every_stage_is_made_again_from_json(tmp_path: Path) -> None:
    study, run = Study.load(ROOT / "pipelines" / "synthetic" / "study.yaml"), Run(tmp_path)
    inputs = Inputs(run, {"n": None}, ("a",), ("b",), frozenset({("crop", "b")}), {"index/faces/a.parquet": "0f"})
    assert {"train", "embed", "evaluate"} <= {stage.name.partition("/")[0] for stage in study.stages}
    for stage in study.stages:
        unit = Unit(
            stage, Receipt(stage.name, stage.version, stage.key, stage.decisive(), {"a": "1"}), inputs, tmp_path
        )
        made = to_unit(json.loads(json.dumps(of_unit(unit))), study, run, tmp_path)
        assert made.stage == stage
        if stage.engine_asked:  # under the engine that its leader has taken, whatever `auto` is here
            settled = replace(unit, stage=stage.under("openvino"))
            again = to_unit(json.loads(json.dumps(of_unit(settled))), study, run, tmp_path)
            assert again.stage.engine_asked.name == "openvino"
        assert made.receipt.fingerprint == unit.receipt.fingerprint
        assert [vars(made.inputs)[name] for name in vars(inputs)] == list(vars(inputs).values())
        with pytest.raises(ConfigError, match="expected the settings of its leader, found others"):
            to_unit(of_unit(unit) | {"receipt": asdict(unit.receipt) | {"version": 99}}, study, run, tmp_path)


class Dying:
    """Workers that lose their units: each of the first five is a loss."""

    tries = 3
    given = 0
    sources = ()
    poll_seconds = 0.0
    unit: tuple[Any, ...] | None = None
    source = None

    def __init__(self, left: bool) -> None:
        self.left = left

    @property
    def present(self) -> Sequence[Dying]:
        return [self]

    def look(self, wanted: int) -> Sequence[UnitReport]:
        return ()

    def give(self, function: Callable[..., Any], unit: tuple[Any, ...]) -> UnitReport:
        self.unit = unit
        return UnitReport(Step.BEGUN, unit, "cpu", "dying")

    def hear(self) -> list[UnitReport]:
        unit, self.unit = self.unit, None
        assert unit is not None
        self.given += 1
        if self.given > 5:
            return [UnitReport(Step.DONE, unit, None, "dying")]
        return [UnitReport(Step.LOST, unit, Loss("gone", None, self.left, not self.left), "dying")]

    def overdue(self, passed: float, deadline_seconds: float) -> None:
        return None

    def terminate(self) -> None: ...

    def join(self, seconds: float) -> None: ...

    def kill(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("left", [False, True])
def test_a_lost_unit_is_given_three_times(left: bool) -> None:
    """One whose workers leave at the end of their time is given as often as that happens."""
    with Crew(Dying(left)) as crew:
        kinds = [report.kind for report in crew.run(print, [(1,)])]
    lost = [Step.BEGUN, Step.AGAIN]
    assert kinds == ([*lost * 5, Step.BEGUN, Step.DONE] if left else [*lost * 2, Step.BEGUN, Step.LOST])


class Together(Odd):
    together = True


class Silent:
    """A channel whose other side says these messages, one each time."""

    source = None

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = list(messages)

    def send(self, message: dict[str, Any]) -> bool:
        return True

    def receive(self) -> list[dict[str, Any]]:
        if not self.messages:
            raise EOFError
        return [self.messages.pop(0)]

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("number", "together", "progress", "end", "counts"),
    [
        (1, False, True, "bye", True),  # it had all the time of its worker
        (2, False, False, "bye", False),  # it had the rest of it
        (2, False, True, "", True),  # its worker was killed: perhaps by this unit
        (1, True, True, "bye", False),  # a training has saved its state
        (1, False, False, "bye", False),  # its machine lacks a folder, say
    ],
)
def test_only_what_may_be_the_units_fault_counts(
    tmp_path: Path, number: int, together: bool, progress: bool, end: str, counts: bool
) -> None:
    told = {"told": number, "event": of_event(Event("progress", "odd", "a", 1, 2))}
    first = [{"ended": 1, "event": of_event(Event("finished", "odd", "b"))}] * (number - 1)
    channel = Silent(*first, *[told] * progress, *[{"bye": "SIGTERM"}] * bool(end))
    run = Run(tmp_path)
    (tmp_path / "pipeline.yaml").touch()
    worker = JoinedWorker(channel, "n1-4", replace(Owner.new(), host="n1", boot="1"), "cpu", run)
    (unit,) = units(run, "a")
    if together:
        unit = replace(unit, stage=Together())
    for _ in first:
        worker.give(print, (unit,))
        worker.hear()
    worker.give(print, (unit,))
    reports = [report for _ in range(1 + progress) for report in worker.hear()]
    why = "SIGTERM" if end else "its connection ended"
    assert reports[-1].value == Loss(f"n1-4 (n1 on cpu): {why}", None, bool(end), counts)


@pytest.mark.parametrize("looks", [3, 10**9], ids=["late", "never"])
def test_a_part_that_becomes_visible_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    class Late(LocalExecutor):
        looked = 0

        def sees(self, unit: Unit) -> bool:
            self.looked += 1
            return self.looked >= looks

    monkeypatch.setattr(execution, "LATE_SECONDS", 0.3 if looks > 3 else 60.0)
    run = Run(tmp_path)
    with Late(Resources(1)) as executor:
        last = list(executor.run(units(run, "a")))[-1]
    assert last.kind == ("finished" if looks == 3 else "failed")
    if last.failure is not None:
        assert "which is not visible here after 0.3 s; expected one file system that both" in last.failure.message
