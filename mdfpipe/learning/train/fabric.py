"""Fabric as a training uses it: on one device, or in all processes that `torchrun` started.

Lightning Fabric searches for the launcher of the process: Slurm, LSF, MPI, its own command line. Inside a batch job
it then expects processes that were not started, or starts some. Here only `torchrun` starts processes, so Fabric always
gets them from us.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from mdfpipe.errors import ConfigError
from mdfpipe.learning.train.together import local_processes, local_rank, processes, rank

PRECISIONS: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class Processes(TorchElasticEnvironment):
    """The processes that train together, as `mdfpipe.learning.train.together` knows them; one without `torchrun`."""

    def world_size(self) -> int:
        """How many there are."""
        return processes()

    def global_rank(self) -> int:
        """This one's number."""
        return rank()

    def local_rank(self) -> int:
        """This one's number on its node."""
        return local_rank()

    def node_rank(self) -> int:
        """The number of its node."""
        return rank() // local_processes()


def make_fabric(device: str, precision: str) -> Fabric:
    """Where it runs: one device, or, under `torchrun`, all processes of all nodes. Raises ConfigError."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces every precision
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise ConfigError(f"--device {device}: expected cpu, cuda or cuda:N, such as cuda:0")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {device}: expected a CUDA device, torch finds none; use --device cpu")
    if number and int(number) >= torch.cuda.device_count():
        raise ConfigError(f"--device {device}: torch finds {torch.cuda.device_count()} of them, counted from 0")
    if precision == "fp16" and kind == "cpu":
        raise ConfigError("precision fp16: a CPU does not train in it; set precision to bf16 or fp32, or use a GPU")
    common: dict[str, Any] = {
        "accelerator": "cuda" if kind == "cuda" else "cpu",
        "precision": PRECISIONS[precision],
        "plugins": [Processes()],
    }
    with without_settings_of_its_own():
        if processes() > 1:
            nodes = processes() // local_processes()
            fabric = Fabric(devices=local_processes(), num_nodes=nodes, strategy="ddp", **common)
        else:
            devices: Any = [int(number)] if number and kind == "cuda" else 1
            fabric = Fabric(devices=devices, **common)
        fabric.launch()
    if fabric.world_size > 1:
        _refuse_unlike(fabric, precision)
    return fabric


def _refuse_unlike(fabric: Fabric, precision: str) -> None:
    """Raise ConfigError where a process trains in another precision than this one: `auto` asks each machine."""
    names = list(PRECISIONS)
    theirs: Any = fabric.all_gather(torch.tensor(names.index(precision), device=fabric.device))
    if len(theirs.unique()) > 1:
        said = ", ".join(f"process {rank} {names[code]}" for rank, code in enumerate(theirs.tolist()))
        raise ConfigError(
            f"precision auto: expected one for all processes that train together, got {said}; their machines differ: "
            "set the system's precision to fp32, or to one that all of them have"
        )


@contextlib.contextmanager
def without_settings_of_its_own() -> Iterator[None]:
    """Hide LT_DEVICES, LT_PRECISION and so on, with which Fabric overrides what it is given.

    Also OMP_NUM_THREADS: where it is not set and several processes train, Fabric sets it, and torch's threads, to
    the number of cores.
    """
    before = dict(os.environ)
    for name in before:
        if name.startswith("LT_"):
            del os.environ[name]
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    try:
        yield
    finally:
        os.environ.update(before)
        if "OMP_NUM_THREADS" not in before:
            del os.environ["OMP_NUM_THREADS"]
