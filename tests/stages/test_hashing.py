"""hash: new videos are hashed by units that workers share; what is done is kept when the run is killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.running import runner
from mdfpipe.running.execution import Event, Unit, run_unit
from mdfpipe.running.hashing import ALL
from mdfpipe.stages import Resources, hashing
from mdfpipe.stages.hashing import FOLDER, KeptHashes, ToHash, in_units
from mdfpipe.stages.index import Index
from mdfpipe.store import hashing as store_hashing
from mdfpipe.store.hashing import bytes_sha256, stamp
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study
from tests import clips

VIDEOS = 5


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root, and the run folder whose index made all hashes itself."""
    root = tmp_path_factory.mktemp("hashing")
    (root / "data").mkdir()
    for number in range(VIDEOS - 1):
        clips.write_video(root / f"data/v{number}.mp4", 2 + number)
    clips.write_images(root / "data/frames", [clips.grey8(n) for n in range(3)])
    indexed(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same data without a run folder; here each unit takes up to two videos, however short they are."""
    shutil.copytree(whole / "data", tmp_path / "data")  # with their times
    for name, value in (("_LEAST_BYTES", 0), ("_MOST_VIDEOS", 2)):
        monkeypatch.setattr(hashing, name, value)
    return tmp_path


def study() -> Study:
    dataset = {"use": "ijb", "faces": [], "videos": ["*"], "domain": {"constant": "VIS"}}
    detector = {"use": "precomputed", "boxes": "boxes.csv"}
    return Study.model_validate({"name": "s", "dataset": dataset, "detect": {"detector": detector}})


class Here:
    """An executor whose units run in this process. stops: at the index, as a kill would."""

    leads = True

    def __init__(self, stops: bool) -> None:
        self.stops = stops

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None: ...

    def run(self, units: Iterable[Unit]) -> Iterator[Event]:
        for unit in units:
            if self.stops and unit.stage.name == Index.name:
                raise KeyboardInterrupt
            yield run_unit(unit, Resources(), lambda event: None)


def here(root: Path, *, stops: bool = False) -> runner.Runner:
    return runner.Runner(study(), Run(root / "run"), root / "data", executor=Here(stops))  # type: ignore[arg-type]


def indexed(root: Path) -> None:
    """Make the index in this process."""
    assert here(root).execute("index", "index").complete


def rows(root: Path) -> dict[str, Any]:
    return {row["video_id"]: row for row in Run(root / "run").table("index", Index.table).to_pylist()}


def kept(root: Path) -> dict[str, tuple[str, str]]:
    return KeptHashes(Run(root / "run")).all()


def units_of(root: Path) -> list[str]:
    events = [json.loads(line) for line in (root / "run/events.jsonl").read_text().splitlines()]
    return [e["key"] for e in events if e["event"] == "finished" and e["stage"] == "hash" and e["key"] != ALL]


def test_units_are_the_longest_first_and_of_some_size() -> None:
    sizes = [3 << 30, 1 << 20, 2 << 36, 5 << 30, *(1 << 10 for _ in range(300))]
    units = in_units(ToHash(str(n), "", size) for n, size in enumerate(sizes))
    assert [[video.size for video in unit][:4] for unit in units] == [
        [2 << 36],
        [5 << 30, 3 << 30, 1 << 20, 1 << 10],
        [1 << 10] * 4,
        [1 << 10] * 4,
    ]
    assert in_units([ToHash("short", "", 1 << 20)]) == [] == in_units([])
    assert len(in_units([ToHash("long", "", 1 << 31)])) == 1


def test_units_on_two_workers_give_the_index_that_it_makes_alone(whole: Path, root: Path) -> None:
    events: list[Event] = []
    made = runner.Runner(study(), Run(root / "run"), root / "data", Resources(workers=2))
    assert made.execute("index", "index", listen=events.append).complete
    assert rows(root) == rows(whole)
    assert all(row["sha256"] and not row["problem"] for row in rows(root).values())
    assert len(units_of(root)) == 3
    end = next(event for event in events if event.kind == "finished" and event.stage == "hash")
    assert (end.key, end.rows) == (ALL, VIDEOS)
    assert "MB/s" in end.words
    assert not (root / "run" / FOLDER).exists()
    assert here(root).due("index", "index") == []


def test_a_killed_run_goes_on_and_what_changed_is_hashed_again(whole: Path, root: Path) -> None:
    """What is kept is trusted for its stamp alone: a made-up hash shows that the video was not read again."""
    run, data = Run(root / "run"), root / "data"
    (run.path / "index").mkdir(parents=True)
    for name, said in (("v0.mp4", "a" * 64), ("v1.mp4", "b" * 64), ("frames", "c" * 64)):
        KeptHashes(run).put(name, stamp(data / name) or "", said)
    place = next((run.path / FOLDER).iterdir())
    place.write_bytes(place.read_bytes().replace(b"b" * 64, b"d" * 64) + b'{"path": "v2.mp4", "sta')  # damaged, cut off
    clips.write_video(data / "v0.mp4", 9)
    assert kept(root).keys() == {"v0.mp4", "frames"}
    indexed(root)
    found, alone = rows(root), rows(whole)
    assert found["frames"]["sha256"] == "c" * 64
    assert found["v0"]["sha256"] == bytes_sha256(data / "v0.mp4")
    assert {name: found[name] for name in ("v1", "v2", "v3")} == {name: alone[name] for name in ("v1", "v2", "v3")}
    assert len(units_of(root)) == 2, "of the four that were not kept"


def test_hashes_are_kept_until_the_index_is_made(root: Path) -> None:
    assert here(root).due("index", "index") == ["index/videos: never made (videos to hash: 5, 0.0 GB)"]
    with pytest.raises(KeyboardInterrupt):
        here(root, stops=True).execute("index", "index")
    assert {name: now for name, (now, _) in kept(root).items()} == {
        name: stamp(root / "data" / name) for name in ("v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4", "frames")
    }
    assert here(root).due("index", "index") == ["index/videos: never made"]


def test_a_video_that_cannot_be_read_says_why_and_the_others_go_on(
    whole: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "data/v2.mp4").write_bytes(b"no video")

    def refuse(path: Path, *rest: Any) -> str:
        if path.name == "v1.mp4":
            raise PermissionError(13, "Permission denied", str(path))
        return bytes_sha256(path, *rest)

    monkeypatch.setattr(hashing, "bytes_sha256", refuse)
    monkeypatch.setattr(store_hashing, "bytes_sha256", refuse)
    events: list[Event] = []
    assert here(root).execute("index", "index", listen=events.append).complete
    assert [e.rows for e in events if e.stage == "hash" and e.kind == "finished"] == [VIDEOS - 1]
    found = rows(root)
    assert "v1.mp4: cannot be read: Permission denied" in found["v1"]["problem"]
    assert found["v2"]["problem"]
    assert {name: found[name] for name in ("v0", "v3")} == {name: rows(whole)[name] for name in ("v0", "v3")}
