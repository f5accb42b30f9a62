"""Ray: joined workers that are actors of a Ray cluster (Ray Core; the extra `ray`).

An actor does what `mdfpipe work` does: it joins the gate of the leader, gets units by name, and commits parts into the
run folder, which all nodes share. Ray places the actors and says when one is gone; it carries no unit and no frame. Its
own retries are off: a worker whose node was killed can stay "unavailable" for ever, so a lost one is replaced here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdfpipe.errors import ConfigError, MdfError, StoreError, counted, not_loaded, one_line
from mdfpipe.machine import devices
from mdfpipe.running.workers import UnitReport
from mdfpipe.running.workers.joined import PATIENCE_SECONDS, Joined, Terms
from mdfpipe.stages import Resources
from mdfpipe.store.run import Run

NEEDS = {"num_cpus": 1.0, "num_gpus": 0.0, "memory": 0.0}
"""What a worker reserves on its node, and the default: cores, GPUs, bytes. Any other name is a resource of the site."""

WAIT_SECONDS = 600.0  # of an actor for its leader, which is there before it
PLACING_SECONDS = 15.0  # for Ray to start the first worker, before that is said to be missing
LOOK_SECONDS = 1.0  # between two looks at the actors


@dataclass(frozen=True)
class OnRay:
    """What `--on ray` asks for. address: of a running cluster; "auto": that of RAY_ADDRESS, or of this machine."""

    jobs: int
    address: str = "auto"
    needs: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, jobs: int, address: str, needs: str) -> OnRay:
        """From options of a command. Raises ConfigError.

        >>> OnRay.parse(2, "", "num_gpus=1 num_cpus=8").needs
        {'num_cpus': 8.0, 'num_gpus': 1.0}
        """
        found = {"num_cpus": NEEDS["num_cpus"]}
        for part in needs.replace(",", " ").split():
            name, equals, text = part.partition("=")
            try:
                value = float(text)
            except ValueError:
                value = -1.0
            if not equals or not name.isidentifier() or not 0 <= value < float("inf"):
                raise ConfigError(
                    f"--ray-needs {one_line(part, 80)}: expected NAME=NUMBER, such as num_gpus=1; known names are "
                    f"{', '.join(NEEDS)}, and the resources that your cluster defines"
                )
            found[name] = value
        return cls(jobs, address or "auto", found)

    @property
    def options(self) -> dict[str, Any]:
        """The options of an actor."""
        own = {name: value for name, value in self.needs.items() if name not in NEEDS}
        known = {name: value for name, value in self.needs.items() if name in NEEDS and value}
        return {"max_restarts": 0, "max_task_retries": 0, **known, **({"resources": own} if own else {})}


class _Actor:
    """What runs on a node: `mdfpipe work` with the devices that Ray gave to it."""

    def work(self, run: str, resources: Resources, wait_seconds: float) -> int:
        """Join the leader of a run folder; gives the number of units done here."""
        from mdfpipe.running.workers.relay import work

        return work(run, resources=resources, wait_seconds=wait_seconds)


class RayWorkers(Joined):
    """Joined workers on a Ray cluster. `opened` asks Ray for them; those that it loses are asked for again."""

    def __init__(self, run: Run, terms: Terms, connect: str, asked: OnRay, resources: Resources) -> None:
        """resources: what each worker gets: threads and batch; its device is every GPU that Ray gives to it."""
        super().__init__(run, terms, connect)
        self.asked = asked
        device = "cuda:all" if asked.needs.get("num_gpus") else devices.CPU
        self.resources = Resources(
            device=device, threads=resources.threads, batch=resources.batch, deadline_seconds=resources.deadline_seconds
        )
        self._ray: Any = None
        self._actors: dict[Any, Any] = {}  # the result that an actor will give -> the actor
        self._ended = 0  # actors that ended since a unit made progress in one
        self._last = ""  # why the last one ended
        self._looked = 0.0

    def opened(self) -> None:
        """Connect to the cluster and ask for the workers. Raises ConfigError where there is no cluster."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no report to its makers
        try:
            import ray
        except ImportError as error:
            raise not_loaded(error, "ray", "--on ray", "ray") from error
        try:
            _reach(os.environ.get("RAY_ADDRESS", "") if self.asked.address == "auto" else self.asked.address)
            ray.init(self.asked.address, logging_level=logging.ERROR, log_to_driver=False, configure_logging=False)
        except Exception as error:  # ConnectionError, ValueError, RuntimeError: by version and by kind of address
            raise ConfigError(
                f"--ray {self.asked.address}: expected a running Ray cluster, found none ({one_line(error, 200)}); "
                "start one with `ray start --head`, or give its address with --ray"
            ) from error
        self._ray = ray
        for _ in range(self.asked.jobs):
            self._ask()
        self._said = time.monotonic() - PATIENCE_SECONDS + PLACING_SECONDS

    def _ask(self) -> None:
        actor = self._ray.remote(_Actor).options(**self.asked.options).remote()
        run = str(Path(self.run.path).absolute())
        self._actors[actor.work.remote(run, self.resources, WAIT_SECONDS)] = actor

    def look(self, wanted: int) -> Iterator[UnitReport]:
        """Workers that came and went. Raises StoreError where actors end and no unit makes progress in them."""
        if any(worker.was_useful for worker in self.present):
            self._ended = 0
        yield from super().look(wanted)
        if wanted and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._replace()

    def _replace(self) -> None:
        """Ask again for workers whose actors are gone."""
        gone, _ = self._ray.wait(list(self._actors), num_returns=len(self._actors), timeout=0)
        for result in gone:
            del self._actors[result]
            try:
                self._ray.get(result)
                self._last = "it ended without an error"
            except Exception as error:  # every RayError is a lost worker; others are of `work`
                cause = getattr(error, "cause", None)
                self._last = one_line(cause if isinstance(cause, MdfError) else error, 300)
            self._ended += 1
            if self._ended > max(3, self.asked.jobs):
                raise StoreError(
                    f"--on ray: {counted(self._ended, 'worker')} ended before a unit made progress, the last one: "
                    f"{self._last}; nodes must have this version of mdfpipe, {self.run.path} and {self.terms.data}"
                )
            self._ask()

    def waits_for(self) -> str:
        """What the loop waits for while there is no worker."""
        try:
            free = self._ray.available_resources()
            whole = self._ray.cluster_resources()
        except Exception as error:
            return f"the Ray cluster does not answer: {one_line(error, 200)}"
        needs = ", ".join(f"{value:g} {name}" for name, value in self.asked.needs.items() if value)
        names = {name: _OF_CLUSTER.get(name, name) for name, value in self.asked.needs.items() if value}
        lacking = [name for name, own in names.items() if self.asked.needs[name] > whole.get(own, 0)]
        if lacking:
            return f"the Ray cluster can never place a worker: none of its nodes has {', '.join(lacking)} for {needs}"
        has = ", ".join(f"{free.get(own, 0):g} {name}" for name, own in names.items())
        ended = f"; the last one ended: {self._last}" if self._last else ""
        return f"Ray has placed no worker yet: one needs {needs}; free now: {has}{ended}"

    def closing(self) -> None:
        """End the actors: their processes die with them."""
        if self._ray is None:
            return
        for actor in self._actors.values():
            with contextlib.suppress(Exception):
                self._ray.kill(actor)
        with contextlib.suppress(Exception):
            self._ray.shutdown()
        self._actors, self._ray = {}, None


def _reach(address: str) -> None:
    """Raise OSError where nothing answers at HOST:PORT: Ray itself tries for minutes, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()


_OF_CLUSTER = {"num_cpus": "CPU", "num_gpus": "GPU"}
