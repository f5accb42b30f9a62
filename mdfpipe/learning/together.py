"""Several processes that train one model: who I am, and what the first tells the others. Started by `torchrun`."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any


def processes() -> int:
    """How many processes train together; 1 without `torchrun`."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", 0))


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
    """What the first process tells."""
    import torch
    import torch.distributed as dist

    box: list[Any] = [None]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def part() -> None:
    """Leave the others."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
