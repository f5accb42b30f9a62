"""Workers on a real Ray cluster of three nodes on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.errors import ConfigError
from mdfpipe.running.workers.ray import OnRay
from tests.running.test_joined import Site, ended
from tests.runs import DataSet, call_here, digests


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray", reason="NO RAY: workers on a Ray cluster are not tested here")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    try:
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        made.add_node(num_cpus=1)
    except Exception as error:  # a sandbox without the network interfaces, or the memory, that Ray needs
        pytest.skip(f"NO RAY CLUSTER: workers on one are not tested here: {error}")
    yield made
    made.shutdown()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    for process in site.processes:
        with contextlib.suppress(OSError):
            process.kill()
        process.communicate()


def on_ray(cluster: Any, *more: str) -> tuple[str, ...]:
    return ("--on", "ray", "--ray", cluster.address, "--jobs", "2", *more)


def workers_of(run: Path) -> list[int]:
    """The processes of the actors that joined a run."""
    found = subprocess.run(["pgrep", "-f", "ray::_Actor"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def test_two_workers_of_a_cluster_make_the_bytes_of_a_local_run(cluster: Any, site: Site) -> None:
    code, said = ended(site.lead("run", *on_ray(cluster)), 240)
    assert code == 0, said
    assert "joined" in said
    assert digests(site.home / "run") == site.local()


@pytest.mark.slow
def test_a_killed_worker_node_and_leader_lose_nothing(cluster: Any, tmp_path: Path) -> None:
    site = Site(tmp_path, "abcdefgh", 60)
    node = cluster.add_node(num_cpus=1)
    leader = site.lead("run", "--on", "ray", "--ray", cluster.address, "--jobs", "3")
    site.await_words("run", '"finished"', 90)
    os.kill(workers_of(site.home / "run")[0], signal.SIGKILL)
    site.await_words("run", '"left"', 90)
    cluster.remove_node(node)
    time.sleep(2)
    leader.kill()
    leader.communicate()
    code, said = ended(site.lead("run", *on_ray(cluster)), 240)
    assert code == 0, said
    assert digests(site.home / "run") == site.local()


@pytest.mark.slow
def test_what_a_cluster_can_never_place_is_said(cluster: Any, site: Site) -> None:
    leader = site.lead("run", *on_ray(cluster, "--ray-needs", "num_gpus=4"))
    site.await_words("run", "the Ray cluster can never place a worker", 120)
    leader.send_signal(signal.SIGINT)
    code, said = ended(leader)
    assert code not in (0, 1), said
    assert "none of its nodes has num_gpus" in said


def test_no_cluster_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    data = DataSet(tmp_path / "data")
    data.good("a.mp4")
    done = call_here(
        "run", data.write(), "--data", data.root, "--run", tmp_path / "run", "--on", "ray", "--ray", "127.0.0.1:1"
    )
    assert "--ray 127.0.0.1:1: expected a running Ray cluster, found none" in done.line()


@pytest.mark.parametrize("needs", ["num_gpus", "num_gpus=-1", "=1", "num_gpus=many", "a b"])
def test_needs_that_are_no_numbers(needs: str) -> None:
    with pytest.raises(ConfigError, match="expected NAME=NUMBER"):
        OnRay.parse(1, "", needs)
