"""Processes that train one model together, started by `torchrun`: their numbers, and messages from the first."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from typing import Any

from mdfpipe.errors import ConfigError, CopyError, one_line
from mdfpipe.machine.processes import copies


def processes() -> int:
    """How many processes train together; 1 without `torchrun`. Raises ConfigError where its variables are none."""
    world = _count("WORLD_SIZE", 1)
    if world > 1 and "RANK" not in os.environ:
        return 1  # a cluster's own variable: `torchrun` sets both
    if world > 1 and (rank() >= world or world % local_processes()):
        raise ConfigError(
            f"RANK {rank()} of WORLD_SIZE {world}, {local_processes()} a node: expected what `torchrun` sets; start "
            "with `torchrun`, or unset WORLD_SIZE"
        )
    return world


def rank() -> int:
    """This process's number, from 0."""
    return _count("RANK", 0) if _count("WORLD_SIZE", 1) > 1 else 0


def local_processes() -> int:
    """How many of them are on this node."""
    return max(_count("LOCAL_WORLD_SIZE", 1), 1)


def local_rank() -> int:
    """This process's number on its node, from 0."""
    return _count("LOCAL_RANK", 0)


def _count(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise ConfigError(f"{name}={text!r:.40}: expected the number that `torchrun` sets; unset it, or use `torchrun`")
    return int(text)


def refuse_copies() -> None:
    """Raise CopyError where srun or mpirun started this command several times: they would not train together."""
    several = copies()
    if several is not None:
        raise CopyError(
            f"{several.launcher} started this command {several.count} times, and these do not train together; "
            f"start it once (`{several.launcher} -n 1`), or once a node through torchrun (`torchrun --nnodes NODES "
            f"--nproc-per-node N ... --no-python -- mdfpipe train ...`); if each is to train a run of its own, unset "
            f"{several.variable} in it",
            several.number,
        )


PATIENCE = timedelta(days=30)
"""How long one waits for another: the first does whole stages alone meanwhile. `torchrun` ends them all if one dies."""


def connect(device: str) -> None:
    """Meet the other processes; a second call does nothing."""
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)


def tell(value: Any) -> None:
    """Send a value to all others, who wait in `hear`."""
    import torch
    import torch.distributed as dist

    dist.broadcast_object_list([value], src=0, device=torch.device("cpu"))


def hear() -> Any:
    """The value that the first process sends. Raises CopyError with the reason where that process has ended.

    A thread waits: this one would not see a stop signal before the first process speaks, which may take a day.
    """
    import torch
    import torch.distributed as dist

    box: list[Any] = [None]
    lost: list[RuntimeError] = []

    def wait() -> None:
        try:
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        except RuntimeError as error:
            lost.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    while waiting.is_alive():
        waiting.join(0.5)
    if lost:
        raise CopyError(f"process {rank()}: the first process has ended: {one_line(lost[0], 160)}", rank())
    return box[0]


def part() -> None:
    """Leave the others."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
