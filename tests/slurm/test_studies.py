"""The shipped studies, with the network, up to the manifest in jobs and actors: the files of a local run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from mdfpipe.store.run import read_receipt
from tests.running.test_ray import cluster as ray_cluster
from tests.runs import ROOT, Said, call, digests
from tests.slurm.test_slurm_runs import events

__all__ = ["ray_cluster"]

Drawn = Callable[[str], Path]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """The home of a preset: data/, and local/, the run of one process. Nobody changes it."""

    @cache
    def made(preset: str) -> Path:
        home = tmp_path_factory.mktemp(preset)
        assert call("synth", home / "data", "--preset", preset, timeout=3000).code == 0
        said = run(home / "data", home / "local", preset)
        assert said.code == 0, said
        return home

    return made


def run(data: Path, folder: Path, preset: str, *more: str) -> Said:
    study = ROOT / "pipelines" / "synthetic" / f"{preset}.yaml"
    given = ("run", study, "--data", data, "--run", folder, "--until", "manifest", "--threads", "1")
    return call(*given, *more, timeout=3000)


@pytest.fixture
def three_workers(request: pytest.FixtureRequest) -> Iterator[tuple[str, ...]]:
    """The options for jobs of Slurm, or actors of Ray, on three nodes."""
    if request.param == "slurm":
        request.getfixturevalue("cluster")
        yield "--on", "slurm", "--jobs", "3", "--slurm", "-c 2"
        return
    found = request.getfixturevalue("ray_cluster")
    node = found.add_node(num_cpus=1)
    yield "--on", "ray", "--ray", found.address, "--jobs", "3"
    found.remove_node(node)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "demo"])
@pytest.mark.parametrize("three_workers", ["slurm", "ray"], indirect=True)
def test_a_shipped_study_has_the_bytes_of_a_local_run(
    preset: str, three_workers: tuple[str, ...], drawn: Drawn, tmp_path: Path
) -> None:
    home, folder = drawn(preset), tmp_path / "run"
    said = run(home / "data", folder, preset, *three_workers)
    assert said.code == 0, said
    assert len({event["worker"] for event in events(folder, "finished")}) == 3
    assert digests(folder) == digests(home / "local")
    parts = [path for place in (folder, home / "local") for path in (place / "detect").glob("*.parquet")]
    assert len(parts) == 2 * len(list((home / "data" / "videos").glob("*/*")))
    receipts = [read_receipt(path) for path in parts]
    engines = {receipt.facts["engine"]["name"] for receipt in receipts if receipt is not None}
    assert len(engines) == 1, engines
    print(preset, engines, len(parts) // 2, "videos,", len(digests(folder)), "files")
