"""Runs whose workers are jobs of a real Slurm: the bytes of a local run, whatever dies."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mdfpipe.machine.processes import die_with_parent
from tests.running.test_joined import Site, ended
from tests.runs import ROOT, call, call_here, digests
from tests.slurm import Cluster, until
from tests.systems import STRIPED, body, copied, write_study
from tests.systems import digests as trained_bytes

JOBS = ("--on", "slurm", "--jobs", "2", "--slurm", "-c 1")


@pytest.fixture(autouse=True)
def _no_profile_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


def sited(home: Path, *, videos: Sequence[str], frames: int) -> Iterator[Site]:
    site = Site(home, videos, frames)
    yield site
    for process in site.processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from sited(tmp_path, videos="ab", frames=12)


@pytest.fixture
def long_site(tmp_path: Path) -> Iterator[Site]:
    """Videos that take a second each: something can die meanwhile."""
    yield from sited(tmp_path, videos="abcdefgh", frames=600)


@pytest.fixture
def slow_site(tmp_path: Path) -> Iterator[Site]:
    """More than a minute and a half of work for three jobs, in many short videos."""
    yield from sited(tmp_path, videos=["a", *(f"v{number}" for number in range(400))], frames=300)


def events(run: Path, kind: str) -> list[dict[str, str]]:
    lines = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def none_is_left(cluster: Cluster) -> None:
    until(lambda: not cluster.jobs("pending,running"), "no job of the run")


def test_a_run_in_jobs_has_the_bytes_of_a_local_one(cluster: Cluster, site: Site) -> None:
    code, said = ended(site.lead("run", *JOBS[:3], "1", "--slurm", "-c 1 --gres=gpu:1"))
    assert code == 0, said
    assert "mdfpipe: --slurm asks for GPUs and --device is cpu" in said
    assert digests(site.home / "run") == site.local()
    none_is_left(cluster)


@pytest.mark.slow
def test_arrays_are_no_larger_than_the_cluster_allows(cluster: Cluster, site: Site) -> None:
    code, said = ended(site.lead("run", *JOBS[:3], "6"))
    assert code == 0, said
    assert len(events(site.home / "run", "submitted")[0]["jobs"]) == 2  # of 5 and 1
    none_is_left(cluster)
    again = site.lead("run", *JOBS)
    assert ended(again)[0] == 0
    assert len(events(site.home / "run", "submitted")) == 1, "nothing is due, so that nothing was submitted"


@pytest.mark.slow
@pytest.mark.parametrize("connect", ["tcp", "files"])
@pytest.mark.parametrize("dies", ["a job", "a node", "a requeue"])
def test_what_dies_changes_no_byte(dies: str, connect: str, cluster: Cluster, long_site: Site) -> None:
    site = long_site
    leader = site.lead("run", *JOBS, "--connect", connect)
    site.await_words("run", '"stage": "detect"')
    number = events(site.home / "run", "submitted")[0]["jobs"][0]
    if dies == "a job":
        cluster.call("scancel", "-s", "KILL", f"{number}_0")
    elif dies == "a requeue":
        cluster.call("scontrol", "requeue", f"{number}_0")
    else:
        node = cluster.call("squeue", "-h", "-r", "-j", f"{number}_0", "-o", "%N")
        cluster.kill_node(node)
    code, said = ended(leader, 500)
    if dies == "a node":
        cluster.start_node(node)
        cluster.await_idle()
    assert code == 0, said
    assert digests(site.home / "run") == site.local()
    assert "left" in said, said
    none_is_left(cluster)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal_", "connect"),
    [(signal.SIGKILL, "tcp"), (signal.SIGTERM, "tcp"), (signal.SIGINT, "tcp"), (signal.SIGKILL, "files")],
)
def test_a_leader_that_dies_leaves_no_job_and_another_goes_on(
    signal_: signal.Signals, connect: str, cluster: Cluster, long_site: Site
) -> None:
    site = long_site
    options = (*JOBS, "--connect", connect)
    leader = site.lead("run", *options)
    site.await_words("run", '"stage": "detect"')
    leader.send_signal(signal_)
    assert ended(leader)[0] in (-9, 143, 130)
    none_is_left(cluster)
    code, said = ended(site.lead("run", *options), 500)
    assert code == 0, said
    assert digests(site.home / "run") == site.local()
    none_is_left(cluster)


@pytest.mark.slow
def test_jobs_of_a_leader_that_was_killed_with_its_whole_machine_are_cancelled_by_the_next(
    cluster: Cluster, site: Site
) -> None:
    """They wait, and would otherwise hold a place in the queue for ever."""
    leader = site.lead("run", *JOBS[:4], "--slurm", "--hold")
    until(lambda: len(cluster.jobs("pending")) == 2, "two jobs wait")
    for process in cluster.processes():
        command = Path(f"/proc/{process}/cmdline").read_bytes()
        if b"scancel $jobs" in command:
            os.kill(process, signal.SIGKILL)
    leader.kill()
    ended(leader)
    assert len(cluster.jobs("pending")) == 2
    code, said = ended(site.lead("run", *JOBS), 200)
    assert code == 0, said
    assert digests(site.home / "run") == site.local()
    none_is_left(cluster)


@pytest.mark.slow
def test_a_detached_leader_is_a_job_and_survives_its_requeue(cluster: Cluster, long_site: Site) -> None:
    site = long_site
    run = site.home / "run"
    done = call("run", site.study, "--data", site.data.root, "--run", run, *JOBS, "--threads", "1", "--detach")
    assert done.code == 0, done
    number = done.out.split()[2].rstrip(",")
    site.await_words("run", '"stage": "detect"')
    cluster.call("scontrol", "requeue", number)
    until(lambda: cluster.jobs().get(number) == "COMPLETED", "the leader is done", 200)
    assert digests(run) == site.local()
    assert f"log is {run}/slurm/{number}.log" in done.out
    none_is_left(cluster)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-t 1 --signal=B:TERM@30", "SIGTERM"),  # asked to leave; the job queues again
        ("-t 1 --signal=B:URG@1", "TIMEOUT"),  # not asked: Slurm ends it at its limit
    ],
    ids=["asked", "ended"],
)
def test_a_time_limit_ends_no_run(options: str, words: str, cluster: Cluster, slow_site: Site) -> None:
    """Three jobs run at once and are at a video when their limit comes; the fourth begins after one of them."""
    site = slow_site
    leader = site.lead("run", *JOBS[:3], "4", "--slurm", f"-c 2 {options}")
    code, said = ended(leader, 1500)
    assert code == 0, said
    run = site.home / "run"
    assert words in said, said
    assert len({event["worker"] for event in events(run, "finished") if event["stage"] == "detect"}) > 3
    assert events(run, "again"), said
    assert digests(run) == site.local()
    none_is_left(cluster)


@pytest.mark.slow
def test_a_queue_that_refuses_is_one_line(cluster: Cluster, site: Site) -> None:
    options = ("--on", "slurm", "--slurm", "--partition=nowhere")
    done = call("run", site.study, "--data", site.data.root, "--run", site.home / "run", *options)
    assert "the queue refuses the job: invalid partition specified: nowhere" in done.line()


@pytest.mark.slow
def test_jobs_that_wait_say_why(cluster: Cluster, site: Site) -> None:
    leader = site.lead("run", *JOBS[:4], "--slurm", "--partition=closed")
    site.await_words("run", "Slurm: 2 of 2 jobs are pending: 2 for PartitionDown")
    leader.terminate()
    assert ended(leader)[0] == 143
    none_is_left(cluster)


@pytest.mark.slow
def test_jobs_that_die_at_once_are_one_line_with_the_end_of_their_log(cluster: Cluster, site: Site) -> None:
    profile = site.home / "site.yaml"
    profile.write_text("setup: ['echo module: command not found >&2; exit 4']\n")
    done = call(*("run", site.study, "--data", site.data.root, "--run", site.home / "run", *JOBS, "--profile", profile))
    line = done.line()
    assert "no worker joined, and the queue has none left of job" in line
    assert "FAILED, NonZeroExitCode" in line
    assert line.endswith(".log ends with: module: command not found")


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="a folder is hidden from nodes by root alone")
@pytest.mark.parametrize(
    ("hidden", "words"),
    [
        ("", "expected a run folder on a file system that n"),
        ("deep", "no unit made progress in any; the last one: .*: its machine has no folder .*/deep/data"),
    ],
    ids=["the run folder", "the data"],
)
def test_nodes_that_lack_a_folder_are_one_line(hidden: str, words: str, cluster: Cluster, site: Site) -> None:
    nodes = ("n1", "n2", "n3")
    (site.home / "deep").mkdir()
    data = site.data.root.rename(site.home / "deep" / "data")
    for node in nodes:
        cluster.kill_node(node)
        cluster.start_node(node, hidden=site.home / hidden)
    cluster.await_idle()
    try:
        done = call("run", data / "study.yaml", "--data", data, "--run", site.home / "run", *JOBS, timeout=500)
    finally:
        for node in nodes:
            cluster.kill_node(node)
            cluster.start_node(node)
        cluster.await_idle()
    assert done.code == 2
    assert re.search(words, done.err.splitlines()[-1]), done


@pytest.mark.slow
def test_nodes_with_another_mdfpipe_are_one_line(cluster: Cluster, site: Site) -> None:
    shutil.copytree(ROOT / "mdfpipe", site.home / "other" / "mdfpipe")
    with (site.home / "other" / "mdfpipe" / "errors.py").open("a") as file:
        file.write("# of another version\n")
    python, profile = site.home / "python", site.home / "site.yaml"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={site.home}/other exec {sys.executable} -P "$@"\n')
    python.chmod(0o755)
    profile.write_text(f"python: {python}\n")
    given = ("run", site.study, "--data", site.data.root, "--run", site.home / "run", *JOBS, "--profile", profile)
    done = call(*given, timeout=500)
    assert done.code == 2
    line = done.err.splitlines()[-1]
    assert "no unit made progress in any" in line
    assert "it has another code version, " in line
    assert line.endswith("install the same on both")


@pytest.mark.slow
def test_an_option_that_sbatch_does_not_know_is_one_line(cluster: Cluster, site: Site) -> None:
    profile = site.home / "site.yaml"
    profile.write_text("options: ['--nice-nodes=1']\n")
    given = ("run", site.study, "--data", site.data.root, "--run", site.home / "run", *JOBS, "--profile", profile)
    assert "the queue refuses the job: unrecognized option '--nice-nodes=1'" in call(*given, timeout=500).line()
    none_is_left(cluster)


# -- trainings

TRAIN = {"a": {"recipe": body(batches={"subjects": 2, "crops": 2}), "seed": 0}}


@pytest.fixture
def trained(labelled: Path, tmp_path: Path) -> Path:
    """A home with a run up to its manifest, and a study with one training."""
    home = copied(labelled, tmp_path / "home", data=True)
    write_study(home / "study.yaml", {"a": {"recipe": STRIPED}})
    return home


@pytest.mark.slow
@pytest.mark.parametrize("dies", ["nothing", "a process"])
def test_a_training_on_two_nodes_has_the_bytes_of_torchrun_with_two_processes(
    dies: str, cluster: Cluster, trained: Path, tmp_path: Path
) -> None:
    here = copied(trained, tmp_path / "here", data=True)
    profile = tmp_path / "site.yaml"
    profile.write_text("options: ['-c 1']\ntrain: ['--nodes=2 --ntasks-per-node=1']\n")
    options = ("train", trained / "study.yaml", "--threads", "1", "--data")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--no-python", "--"]
    told = [
        *torchrun,
        sys.executable,
        "-m",
        "mdfpipe",
        *map(str, options),
        str(here / "data"),
        "--run",
        str(here / "run"),
    ]
    subprocess.run(told, cwd=ROOT, check=True, timeout=200, capture_output=True)
    on = [*options, trained / "data", "--run", trained / "run", "--on", "slurm", "--profile", profile]
    command = [sys.executable, "-m", "mdfpipe", *map(str, on)]
    parent = os.getpid()
    leader = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: die_with_parent(parent),
    )
    if dies == "a process":
        until(lambda: len(cluster.processes("RANK=1")) > 0, "the second process", 60)
        time.sleep(3)
        for process in cluster.processes("RANK=1"):
            os.kill(process, signal.SIGKILL)
    code, said = ended(leader, 300)
    assert code == 0, said
    submitted = events(trained / "run", "submitted")
    assert [found["kind"] for found in submitted][-1] == "work"  # to embed
    assert {found["kind"] for found in submitted} == {"train", "work"}
    assert trained_bytes(trained / "run", "train", "embed") == trained_bytes(here / "run", "train", "embed")
    none_is_left(cluster)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["srun -n 2", "sbatch --ntasks=2"])
def test_a_training_that_slurm_starts_otherwise(how: str, cluster: Cluster, trained: Path) -> None:
    """A batch script of two tasks runs once, and trains; srun starts copies, which say what to do."""
    command = f"{sys.executable} -m mdfpipe train {trained}/study.yaml --data {trained}/data --run {trained}/run"
    if how.startswith("srun"):
        done = subprocess.run(
            ["srun", "-n", "2", *command.split()], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert "srun started this command 2 times" in done.stderr
        return
    shutil.rmtree(trained / "run" / "train", ignore_errors=True)
    script = f"#!/bin/bash\n#SBATCH --ntasks=2 --wait --output={trained}/log\n{command}\n"
    done = subprocess.run(["sbatch"], input=script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (trained / "log").read_text()
    assert call_here("status", trained / "run").code == 0
