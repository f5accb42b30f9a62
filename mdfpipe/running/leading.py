"""Leading: the units of a command run on workers that join it, and not on processes of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self

from mdfpipe.errors import ConfigError
from mdfpipe.machine import devices
from mdfpipe.running.crew import Crew
from mdfpipe.running.execution import Event, LocalExecutor, Unit
from mdfpipe.running.workers.channels import listed
from mdfpipe.running.workers.joined import Joined
from mdfpipe.stages import Resources

EXPECTED = 64  # workers into whose shares long videos are cut: how many join is unknown


class JoinedExecutor(LocalExecutor):
    """Runs units on joined workers: `Joined`, or a subclass that brings them about."""

    def __init__(self, resources: Resources, joined: Joined, on: str = "workers") -> None:
        """Raises ConfigError where the call asks for workers of its own, too. on: the value of --on."""
        for option, given in (
            ("--workers", resources.workers),
            ("--per-device", resources.per_device),
            ("--device", None if resources.device == devices.CPU else resources.device),
        ):
            if given is not None:
                raise ConfigError(
                    f"{option} {given} with --on {on}: the workers are processes elsewhere; give {option} to "
                    "`mdfpipe work`"
                )
        super().__init__(resources)
        self.joined = joined
        self.crew = Crew(
            joined,
            deadline_seconds=resources.deadline_seconds,
            saves=lambda unit, resources: unit.stage.together,
        )

    def __enter__(self) -> Self:
        try:
            self.joined.open()
        except BaseException:
            self.joined.close()
            raise
        return self

    def run(self, units: Iterable[Unit]) -> Iterator[Event]:
        """Run the units, the longest first, on the workers that there are, and wait for some where there are none."""
        yield from self._in_shares(list(units), EXPECTED)

    def sees(self, unit: Unit) -> bool:
        """Whether the part, and the files that belong to it, are visible here."""
        if _is_there(unit):
            return True
        run, stage = unit.inputs.run, unit.stage.name  # a client of NFS caches that a file is absent
        listed(run.part(stage, unit.key).parent)
        if found := run.receipt(stage, unit.key):
            for folder in {(run.path / name).parent for name in found.files}:
                listed(folder)
        return _is_there(unit)


def _is_there(unit: Unit) -> bool:
    run, stage = unit.inputs.run, unit.stage
    found = run.receipt(stage.name, unit.key)
    if found is None:
        return False
    before, now = stage.decided(found, found.facts), stage.decided(unit.expected(), found.facts)
    return before.fingerprint == now.fingerprint and run.files_in_place(found) is None
