"""Kill it anywhere: the same command goes on, and ends with the same bytes.

The command line is killed with SIGKILL at random moments, the whole process tree or the parent alone, and given
again until it ends. The tables and shards must equal those of a run that nobody disturbed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drawn import draw

STAGES = ("index", "detect", "label", "crop", "manifest")
ROOT = Path(__file__).parents[2]


def command(data: Path, run: Path, workers: int, *more: str) -> list[str]:
    study = ROOT / "tests" / "drawn" / "study.yaml"
    base = [sys.executable, "-m", "mdfpipe", "run", str(study), "--data", str(data), "--run", str(run)]
    return [*base, "--workers", str(workers), "--threads", "1", *more]


def digests(run: Path) -> dict[str, str]:
    """Every table and shard of the stages, by content."""
    files = [p for stage in STAGES for p in sorted((run / stage).rglob("*")) if p.is_file()]
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    draw(folder, frames=24)
    return folder


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """What a run gives that nobody disturbs, and how long it takes."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    started = time.monotonic()
    subprocess.run(command(data, run, 1), check=True, capture_output=True)
    return digests(run), time.monotonic() - started


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def kill_parent(process: subprocess.Popen[bytes]) -> None:
    process.kill()


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def check(
    data: Path, folder: Path, undisturbed: tuple[dict[str, str], float], kill: Callable[..., None], kills: int
) -> None:
    """Kill the command `kills` times while it works, with one worker and with two.

    A run that ends before it is killed must be right; the next one then starts from nothing.
    """
    expected, seconds = undisturbed
    for workers in (1, 2):
        chance, killed, number = random.Random(kills + workers), 0, 0
        while killed < kills:
            run = folder / f"run{workers}-{number}"
            process = subprocess.Popen(
                command(data, run, workers),
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            before = size_of(run / "events.jsonl")
            while process.poll() is None and size_of(run / "events.jsonl") == before:
                time.sleep(0.01)  # it starts; there is nothing to disturb yet
            time.sleep(chance.uniform(0, seconds / 2))
            ended = process.poll() is not None
            kill(process)
            process.wait()
            if ended:
                assert digests(run) == expected
                number += 1
            killed += not ended
        final = subprocess.run(command(data, run, workers), capture_output=True, text=True, check=False)
        assert final.returncode == 0, final.stdout + final.stderr
        assert digests(run) == expected
        assert not list(run.rglob(".part-*"))


@pytest.mark.parametrize("kill", [kill_tree, kill_parent])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    data: Path, tmp_path: Path, undisturbed: tuple[dict[str, str], float], kill: Callable[..., None]
) -> None:
    check(data, tmp_path, undisturbed, kill, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_tree, kill_parent])
def test_killed_very_often_it_ends_with_the_same_bytes(
    data: Path, tmp_path: Path, undisturbed: tuple[dict[str, str], float], kill: Callable[..., None]
) -> None:
    check(data, tmp_path, undisturbed, kill, 40)


def test_a_lost_or_damaged_file_is_made_again_and_nothing_else(
    data: Path, tmp_path: Path, undisturbed: tuple[dict[str, str], float]
) -> None:
    run = tmp_path / "run"
    subprocess.run(command(data, run, 2), check=True, capture_output=True)
    shard, part = run / "crop" / "videos__VIS-500m_a.face.tar", run / "label" / "videos__LWIR-30m_b.parquet"
    untouched = (run / "detect" / "videos__VIS-500m_a.parquet").stat().st_mtime_ns
    whole = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-512])
    part.unlink()
    said = subprocess.run(command(data, run, 2, "--dry-run"), check=True, capture_output=True, text=True).stdout
    assert said.splitlines() == [
        "label/videos/LWIR-30m_b: never made",
        "crop/videos/LWIR-30m_b: label is made again (after label)",  # and it may turn out to be the same
        f"crop/videos/VIS-500m_a: damaged, made again: crop/{shard.name} has {whole - 512} bytes, expected {whole}",
        "manifest/manifest: crop/videos/LWIR-30m_b is made again, crop/videos/VIS-500m_a is made again (after crop)",
    ]
    others = (run / "crop" / "videos__LWIR-30m_b.parquet", run / "manifest" / "manifest.parquet")
    stamps = [other.stat().st_mtime_ns for other in others]
    subprocess.run(command(data, run, 2), check=True, capture_output=True)
    assert digests(run) == undisturbed[0]
    assert (run / "detect" / "videos__VIS-500m_a.parquet").stat().st_mtime_ns == untouched
    assert [other.stat().st_mtime_ns for other in others] == stamps


def test_a_moved_and_touched_data_folder_changes_nothing(
    data: Path, tmp_path: Path, undisturbed: tuple[dict[str, str], float]
) -> None:
    """The content counts: new modification times make the index look again, and no video run again."""
    run, moved = tmp_path / "run", tmp_path / "elsewhere"
    subprocess.run(command(data, run, 2), check=True, capture_output=True)
    shutil.copytree(data, moved, copy_function=shutil.copyfile)
    done = subprocess.run(command(moved, run, 2, "--json"), check=True, capture_output=True, text=True).stdout
    assert '"ran": 1' in done
    assert done.count('"ran": 0') == 4
