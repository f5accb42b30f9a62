"""Slurm's commands, on the real Slurm of the fixture."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdfpipe.errors import ConfigError
from mdfpipe.running.slurm import queue
from tests.slurm import Cluster, until

SLEEP = "#!/bin/bash\n#SBATCH --output=/dev/null\n#SBATCH --job-name=mdfpipe-test\n#SBATCH --array=0-1\nsleep 100\n"


def test_jobs_are_submitted_followed_and_cancelled(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of a job around this process do not change the jobs that it submits."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_NTASKS", "99")
    assert queue.largest_array() == 5
    number = queue.submit(SLEEP)
    assert queue.named("mdfpipe-test") == [number]
    assert queue.named("mdfpipe-other") == []
    until(lambda: [job.state for job in queue.jobs([number]) or ()] == ["RUNNING"] * 2, "two jobs run")
    found = queue.jobs([number, "99999"])
    assert found is not None
    assert {job.number for job in found} == {f"{number}_0", f"{number}_1"}
    assert all(job.is_live and job.node.startswith("n") for job in found)
    queue.cancel([number])
    until(lambda: not any(job.is_live for job in queue.jobs([number]) or ()), "none lives")


def test_what_the_queue_says_to_a_job_that_it_refuses(cluster: Cluster) -> None:
    for line, words in (("--partition=nowhere", "invalid partition specified: nowhere"), ("--frob", "frob")):
        with pytest.raises(queue.RefusedError) as caught:
            queue.submit(SLEEP.replace("#SBATCH --array=0-1", f"#SBATCH {line}"))
        assert words in caught.value.words
        assert str(caught.value).isprintable()
    with pytest.raises(queue.RefusedError, match="array"):
        queue.submit(SLEEP.replace("0-1", "0-5"))


def test_a_process_that_is_killed_leaves_no_job(cluster: Cluster, tmp_path: Path) -> None:
    code = (
        "import os, signal; from mdfpipe.running.slurm import queue; guard = queue.Canceller();"
        f"guard.watch(queue.submit({SLEEP!r})); guard.watch(queue.submit({SLEEP!r}));"
        "print(*guard.numbers, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    numbers = done.stdout.split()
    assert len(numbers) == 2, done.stderr
    until(lambda: not any(job.is_live for job in queue.jobs(numbers) or ()), "none lives")


def test_without_slurm_one_line_says_where_to_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="sbatch, found none on PATH; give the command on a login node"):
        queue.submit(SLEEP)


def test_a_controller_that_does_not_answer_is_no_end_of_jobs(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = cluster.folder / "bin"
    fake.mkdir()
    (fake / "squeue").write_text("#!/bin/sh\nsleep 5\n")
    (fake / "squeue").chmod(0o755)
    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(queue, "PATIENCE_SECONDS", 0.2)
        patch.setenv("PATH", f"{fake}:/usr/bin:/bin")
        assert queue.jobs(["1"]) is None
    assert time.monotonic() - began < 3
