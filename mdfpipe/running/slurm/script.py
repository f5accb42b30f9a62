"""Script: the text that sbatch gets: of workers, of a training, and of a leader that is a job itself."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mdfpipe.running.slurm.profile import Wish

JobKind = Literal["work", "train", "lead"]
LOGS = "slurm"  # of the run folder: the logs of jobs
SAVING_SECONDS = 60  # from Slurm's signal to its time limit

_HEAD = """
# Slurm sends TERM a minute before the time limit. What runs then gets time to save, and the job queues again.
asked=
trap 'asked=1; kill -TERM "${running:-}" 2>/dev/null' TERM
"""
_TAIL = """running=$!
wait "$running"
code=$?
if [ -n "$asked" ]; then
    wait "$running"
    job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}  # the number alone may be the whole array
    job=${job:-$SLURM_JOB_ID}
    [ "$(squeue -h -j "$job" -o %T)" = RUNNING ] && scontrol requeue "$job"
fi
exit "$code"
"""
_TORCHRUN = """srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=1 \\
    ${{SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"}} \\
    {python} -m torch.distributed.run --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node={processes} \\
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" \\
    --rdzv-endpoint="$(hostname):$((20000 + SLURM_JOB_ID % 12000))" --no-python -- \\
    {command} &
"""


@dataclass(frozen=True)
class Asked:
    """What scripts are made of. run: the run folder; python: the interpreter; work: options of `mdfpipe work`."""

    wish: Wish
    run: Path
    python: str
    work: tuple[str, ...] = ()
    uses_gpus: bool = False

    @property
    def command(self) -> list[str]:
        """What each worker runs."""
        return [self.python, "-m", "mdfpipe", "work", "--run", str(self.run), *self.work]


def workers_script(asked: Asked, count: int, arrays: bool = True) -> str:
    """The script of `count` workers, as one array; of one worker where the cluster has no arrays."""
    array = [f"--array=0-{count - 1}"] if arrays else []
    name = "%A_%a.log" if arrays else "%j.log"
    head = _directives(asked.run, "work", name, array, asked.wish.for_workers)
    return _joined(head, asked.wish.profile.setup, f"{shlex.join(asked.command)} &\n")


def training_script(asked: Asked) -> str:
    """The script of one training: torchrun on every node of the job, a process for each GPU."""
    head = _directives(asked.run, "train", "%j.log", [], asked.wish.for_trainings)
    processes = '"${SLURM_GPUS_ON_NODE:-1}"' if asked.uses_gpus else "1"
    body = _TORCHRUN.format(python=shlex.quote(asked.python), processes=processes, command=shlex.join(asked.command))
    return _joined(head, asked.wish.profile.setup, body)


def leader_script(asked: Asked, command: Sequence[str], folder: Path) -> str:
    """The script of a command that leads: `python -m mdfpipe COMMAND` in a folder."""
    head = _directives(asked.run, "lead", "%j.log", [f"--chdir={folder}"], asked.wish.for_leader)
    line = shlex.join([asked.python, "-m", "mdfpipe", *command])
    return _joined(head, asked.wish.profile.setup, f"{line} &\n")


def job_name(run: Path, kind: JobKind) -> str:
    """Name of the jobs of a run: no other run has it.

    >>> job_name(Path("/data/runs/my walk"), "work")
    'mdfpipe-my_walk-02f7d6d9-work'
    """
    short = re.sub(r"[^A-Za-z0-9_.-]", "_", run.name)[:24]
    return f"mdfpipe-{short}-{hashlib.sha256(os.fspath(run).encode()).hexdigest()[:8]}-{kind}"


def _directives(run: Path, kind: JobKind, log: str, ours: list[str], theirs: Sequence[str]) -> str:
    """The #SBATCH lines: what mdfpipe needs, then what the site and the user want, which wins."""
    log_path = os.fspath(run / LOGS).replace("%", "%%")
    lines = [
        f"--job-name={job_name(run, kind)}",
        *ours,
        f"--output={log_path}/{log}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:TERM@{SAVING_SECONDS}",
    ]
    lines = [shlex.quote(line) for line in lines]
    for word in theirs:
        if word.startswith("-") or not lines:
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return "#!/bin/bash\n" + "".join(f"#SBATCH {line}\n" for line in lines)


def _joined(head: str, setup: Iterable[str], body: str) -> str:
    return head + _HEAD + "".join(f"{line}\n" for line in setup) + body + _TAIL
