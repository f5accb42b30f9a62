"""Jobs: what `--on slurm` and the options that belong to it ask for."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdfpipe.errors import ConfigError

if TYPE_CHECKING:
    from mdfpipe.running.slurm.script import Asked
    from mdfpipe.running.slurm.workers import SlurmExecutor
    from mdfpipe.stages import Resources, Stage
    from mdfpipe.store.run import Run

WAIT_SECONDS = 60  # of a job for its leader, which has opened its gate before


def refuse_others(o: dict[str, Any]) -> None:
    """Raise ConfigError where an option belongs to another --on than that of the call."""
    on_ray = o.get("on") == "ray"
    for name in () if o.get("on") == "slurm" else ("jobs", "slurm", "profile", "detach"):
        if o.get(name) and not (on_ray and name == "jobs"):
            raise ConfigError(f"--{name}: expected --on slurm with it; without that nothing is submitted")
    for name in ("ray", "ray_needs"):
        if o.get(name) and not on_ray:
            raise ConfigError(f"--{name.replace('_', '-')}: expected --on ray with it")


def asked_of(run: Run, resources: Resources, o: dict[str, Any]) -> Asked:
    """What the scripts of a call are made of. Raises ConfigError."""
    from mdfpipe.running.slurm.profile import Wish
    from mdfpipe.running.slurm.script import Asked

    wish = Wish.of(o["jobs"], o["slurm"], o["profile"])
    work = [*("--wait", str(WAIT_SECONDS)), *("--threads", str(resources.threads)), *("--batch", str(resources.batch))]
    for option, value in (("--workers", resources.workers), ("--per-device", resources.per_device)):
        work += [option, str(value)] if value is not None else []
    uses_gpus = resources.device.startswith("cuda")
    work += ["--device", resources.device] if uses_gpus else []
    words = [*wish.for_workers, *wish.for_trainings]
    if not uses_gpus and any("gpu" in word and word.startswith(("--g", "-G")) for word in words):
        sys.stderr.write("mdfpipe: --slurm asks for GPUs and --device is cpu: no job will use them; see --device\n")
    python = wish.profile.python or sys.executable
    return Asked(wish, Path(os.path.abspath(run.path)), python, tuple(work), uses_gpus)  # noqa: PTH100


def slurm_executor(run: Run, asked: Asked, resources: Resources, data: Path, connect: str) -> SlurmExecutor:
    """What runs the units of a call in jobs."""
    from mdfpipe.running.slurm.workers import SlurmExecutor, SlurmWorkers
    from mdfpipe.running.workers.joined import Terms

    terms = Terms(Path(os.path.abspath(data)), resources.trust_pickle, resources.tensorboard)  # noqa: PTH100
    return SlurmExecutor(resources, SlurmWorkers(run, terms, connect, asked))


def scripts(asked: Asked, stages: Sequence[Stage], *, detach: bool) -> dict[str, str]:
    """The scripts that a call would submit, by what they are of."""
    from mdfpipe.running.slurm.script import training_script, workers_script

    found = {"leader": _leader(asked)} if detach else {}
    if any(not stage.together for stage in stages):
        found["workers"] = workers_script(asked, asked.wish.jobs)
    if any(stage.together for stage in stages):
        found["each training"] = training_script(asked)
    return found


def submit_leader(asked: Asked) -> str:
    """Submit this very command as a job; a line that says which, and where its log is."""
    from mdfpipe.running.slurm import queue
    from mdfpipe.running.slurm.script import LOGS

    (asked.run / LOGS).mkdir(parents=True, exist_ok=True)
    number = queue.submit(_leader(asked))
    log = asked.run / LOGS / f"{number}.log"
    return f"submitted job {number}, which leads; its log is {log}; `mdfpipe status {asked.run}` tells how far it is"


def _leader(asked: Asked) -> str:
    from mdfpipe.running.slurm.script import leader_script

    command = [word for word in sys.argv[1:] if word not in ("--detach", "--dry-run", "--json")]
    return leader_script(asked, command, Path.cwd())
