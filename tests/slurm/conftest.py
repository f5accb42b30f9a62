"""The cluster, started once, by the first test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.slurm import Cluster, missing


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Cluster]:
    lacking = missing()
    if lacking:
        pytest.skip(
            f"Slurm: {', '.join(lacking)} missing, so no job is tested; on Debian: apt-get install "
            "--no-install-recommends slurmd slurmctld slurm-client munge"
        )
    with ExitStack() as stack:
        try:
            made = stack.enter_context(Cluster())
        except Exception as error:  # a sandbox in which its daemons do not start
            pytest.skip(f"Slurm: its daemons do not start here, so no job is tested: {error}")
        yield made


@pytest.fixture
def cluster(_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Three nodes; this process, and what it starts, is a client. No job is left after the test."""
    for name, value in _cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield _cluster
    _cluster.cancel_all()
