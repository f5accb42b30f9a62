"""Devices: what --device asks for, who sees which GPU, and who is first. No GPU is needed: the names are made up."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from mdfpipe.errors import ConfigError
from mdfpipe.learning import gpus
from mdfpipe.machine import devices
from mdfpipe.running.execution import Event, LocalExecutor, TogetherExecutor, Unit, longest_first
from mdfpipe.stages import Context, Inputs, Made, Resources, Stage
from mdfpipe.store.run import Receipt, Run
from tests.runs import DataSet, call_here


class Seeing(Stage):
    """A stage that notes what its worker sees; `lost` has it killed first."""

    name: ClassVar[str] = "seeing"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ()
    schema: ClassVar[pa.Schema] = pa.schema([pa.field("x", pa.int64())])

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        if key.startswith("lost"):
            os._exit(3)
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        facts = {"sees": seen, "device": context.resources.device, "pid": os.getpid()}
        return Made(pa.table({"x": pa.array([1], pa.int64())}), facts)


class Trained(Seeing):
    """A stage that takes what memory its GPU has, as a training does."""

    name: ClassVar[str] = "trained"
    together: ClassVar[bool] = True

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        time.sleep(0.1)
        return super().process(key, inputs, context)


def units(run: Run, **frames: int | None) -> list[Unit]:
    videos: dict[str, dict[str, Any]] = {key: {"video_id": key, "n_frames": n} for key, n in frames.items()}
    return [Unit(Seeing(), Receipt("seeing", 1, k, {}, {}), Inputs(run, video=v), run.path) for k, v in videos.items()]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.cuda.is_built", lambda: True)


def run_all(path: Path, resources: Resources, **frames: int | None) -> tuple[list[Event], list[Event]]:
    """What started, and what finished."""
    run = Run(path)
    path.mkdir(exist_ok=True)
    with LocalExecutor(resources) as executor:
        events = list(executor.run(units(run, **frames)))
    return [e for e in events if e.kind == "started"], [e for e in events if e.kind == "finished"]


@pytest.mark.parametrize(
    ("outside", "sees"), [(None, {"0", "1"}), ("GPU-8932f937, 5,7", {"GPU-8932f937", "5"})], ids=["all", "some"]
)
def test_a_worker_sees_its_own_gpu_alone(
    two_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: str | None, sees: set[str]
) -> None:
    if outside is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", outside)
    started, finished = run_all(tmp_path / "run", Resources(device="cuda:all"), lost=9, a=1, b=1, c=1, d=1)
    where = {event.key: event.device for event in started}
    named = dict(zip(("cuda:0", "cuda:1"), sorted(sees, reverse=outside is not None), strict=True))
    assert len(finished) == 4
    assert set(where.values()) == {"cuda:0", "cuda:1"}
    assert all(event.facts["sees"] == named[where[event.key]] for event in finished)
    assert {event.facts["device"] for event in finished} == {"cuda:0"}
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == outside


def test_on_the_cpu_nothing_is_hidden(tmp_path: Path) -> None:
    started, finished = run_all(tmp_path / "run", Resources(), a=1)
    assert [(e.device, e.facts["sees"], e.facts["device"]) for e in finished] == [
        ("", os.environ.get("CUDA_VISIBLE_DEVICES"), "cpu")
    ]
    assert [e.device for e in started] == ["cpu"]


def test_the_longest_is_first(tmp_path: Path) -> None:
    """Frames decide, and bytes where a header tells no frames; what is alike keeps its order."""
    made = units(Run(tmp_path), a=10, b=500, c=None, d=10, e=None, f=None)
    for unit, size in zip(made, (1000, 50_000, 30_000, 9, 200, None), strict=True):
        unit.inputs.video["bytes"] = size  # type: ignore[index]
    assert [unit.key for unit in longest_first(made)] == ["b", "c", "a", "d", "e", "f"]
    assert [unit.key for unit in longest_first(made[2:3] + made[4:])] == ["c", "e", "f"]
    assert longest_first([]) == []


def test_the_workers_of_several_gpus(two_gpus: None, tmp_path: Path) -> None:
    """Two a GPU, given either way, are spread evenly."""
    for number, resources in enumerate(
        [Resources(4, device="cuda:0,cuda:1"), Resources(device=" cuda, cuda:1", per_device=2)]
    ):
        with LocalExecutor(resources) as executor:
            Path(tmp_path / str(number)).mkdir()
            first = next(iter(executor.run(units(Run(tmp_path / str(number)), a=1, b=1, c=1, d=1, e=1))))
            assert first.device == "cuda:0"
            assert Counter(worker.device for worker in executor.spawned.present) == {"cuda:0": 2, "cuda:1": 2}


@pytest.mark.parametrize(("device", "at_once"), [("cuda:0,cuda:1", 2), ("cpu", 4)])
def test_a_gpu_has_one_training_at_a_time(two_gpus: None, tmp_path: Path, device: str, at_once: int) -> None:
    run = Run(tmp_path)
    waiting = [Unit(Trained(), Receipt("trained", 1, key, {}, {}), Inputs(run), run.path) for key in "abcdef"]
    with LocalExecutor(Resources(4, device=device)) as executor:
        events = [e for e in executor.run(waiting) if e.kind in ("started", "finished")]
    under_way = list(accumulate(1 if event.kind == "started" else -1 for event in events))
    assert len(events) == 12
    assert max(under_way) == at_once
    assert {e.device for e in events if e.kind == "started"} == set(device.split(","))


SAID = {  # of /proc/cpuinfo, in short
    "flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_vnni\n": "bf16",
    "processor: 0\nflags : avx2 amx_bf16 amx_tile\nbugs : none\n": "bf16",
    "processor: 0\nFeatures\t: fp asimd svebf16 i8mm bf16\n": "bf16",
    "flags\t\t: fpu avx2 avx512f avx512_vnni\nmodel name : no bf16\n": "fp32",
    "Features\t: fp asimd i8mm\n": "fp32",
    "": "fp32",  # no Linux
}


@pytest.mark.parametrize(("said", "precision"), SAID.items())
def test_the_precision_that_a_processor_is_fast_in(said: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_processor", lambda: said)
    assert gpus.fastest_precision("cpu") == precision


WRONG = {
    ("mps",): "--device mps: expected cpu, cuda, cuda:N, several as cuda:0,cuda:1, or cuda:all",
    ("cpu:1",): "--device cpu:1: expected cpu, cuda, cuda:N",
    ("cuda:",): "--device cuda:: expected cpu, cuda, cuda:N",
    ("",): "--device : expected cpu, cuda, cuda:N",
    ("cuda:0,",): "--device cuda:0,: expected cpu, cuda, cuda:N",
    ("cuda:0,cuda:0",): "cuda:0 is named twice; for several workers a GPU use --per-device",
    ("cuda,cuda:0",): "cuda:0 is named twice",
    ("cpu,cpu",): "--device cpu,cpu: expected cpu alone, or GPUs alone",
    ("cpu,cuda:0",): "--device cpu,cuda:0: expected cpu alone, or GPUs alone; one run does not mix them",
    ("cuda:all,cuda:0",): "expected cuda:all alone, which names every GPU",
    ("cpu", None, 2): "--per-device 2: expected GPUs in --device, got cpu; use --workers",
    ("cuda:0,cuda:1", 3, 2): "--workers 3: --per-device 2 with --device cuda:0,cuda:1 makes 4; give one of the two",
    ("cuda:0,cuda:1", 1): "--workers 1: expected one worker or more for each of 2 GPUs",
}


@pytest.mark.parametrize(("asked", "words"), WRONG.items(), ids=lambda value: str(value)[:40])
def test_what_contradicts_itself_is_one_line_before_anything_is_read(asked: tuple[Any, ...], words: str) -> None:
    device, workers, per_device = (*asked, None, None)[:3]
    with pytest.raises(ConfigError) as refused:
        LocalExecutor(Resources(workers, device, per_device=per_device))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    data = DataSet(tmp_path / "data")
    data.good("a.mp4")
    data.write()
    return data


def call(data: DataSet, home: Path, *options: str) -> tuple[int, str]:
    done = call_here("detect", data.root / "study.yaml", "--data", data.root, "--run", home / "run", *options)
    return done.code, done.err


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cuda:7", "--device cuda:7: no cuda:7 here, torch finds cuda:0 to cuda:1; name one of these"),
        ("cuda:1,cuda:2", "--device cuda:1,cuda:2: no cuda:2 here, torch finds cuda:0 to cuda:1"),
    ],
)
def test_a_gpu_that_is_not_there(two_gpus: None, data: DataSet, tmp_path: Path, device: str, words: str) -> None:
    code, said = call(data, tmp_path, "--device", device)
    assert (code, said.count("\n")) == (2, 1), said
    assert words in said
    assert not (tmp_path / "run" / "index").exists()  # refused before the videos are hashed


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cuda:all", "--device cuda:all: expected GPUs, torch finds none; check the driver and CUDA_VISIBLE_DEVICES"),
        ("cuda:0", "--device cuda:0: no cuda:0 here, torch finds none; use --device cpu"),
    ],
)
def test_no_gpu_at_all(no_gpu: None, data: DataSet, tmp_path: Path, device: str, words: str) -> None:
    code, said = call(data, tmp_path, "--device", device)
    assert (code, said.count("\n")) == (2, 1), said
    assert words in said


def test_a_torch_without_cuda_leaves_a_named_gpu_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime may have CUDA where torch has not."""
    assert devices.present(("cuda:0", "cuda:3"), lambda: None) == ("cuda:0", "cuda:3")
    with pytest.raises(ConfigError, match="torch finds none"):
        devices.present((devices.ALL,), lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert devices.environment("cuda:1") == {"CUDA_VISIBLE_DEVICES": "6"}
    with pytest.raises(ConfigError, match="--device cuda:3: CUDA_VISIBLE_DEVICES=4,6 has 2, counted from 0"):
        devices.environment("cuda:3")


def test_under_torchrun_a_process_trains_on_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for right in ("cpu", "cuda", "cuda:all", "cuda:0,cuda:1"):
        assert TogetherExecutor(Resources(device=right)).resources.device in ("cpu", "cuda:0")
    with pytest.raises(ConfigError, match="process N of a machine trains on cuda:N"):
        TogetherExecutor(Resources(device="cuda:2,cuda:3"))


def test_events_and_status_tell_the_device(two_gpus: None, data: DataSet, tmp_path: Path) -> None:
    """Boxes made elsewhere need no GPU, so a run on made-up ones ends well, with the parts of one on the CPU."""
    for name in ("b.mp4", "c.mp4"):
        data.good(name)
    data.write()
    homes = (tmp_path, tmp_path / "cpu")
    assert call(data, tmp_path, "--device", "cuda:0,cuda:1")[0] == 0
    assert call(data, tmp_path / "cpu")[0] == 0
    on_gpus, on_cpu = ([Run(home / "run").part("detect", f"videos/{name}") for name in "abc"] for home in homes)
    assert [part.read_bytes() for part in on_gpus] == [part.read_bytes() for part in on_cpu]
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    where = Counter(line["device"] for line in lines if line["event"] == "started" and line["stage"] == "detect")
    assert set(where) == {"cuda:0", "cuda:1"}
    said = call_here("status", tmp_path / "run")
    assert f"detect: {where['cuda:0']} on cuda:0, {where['cuda:1']} on cuda:1" in said.out
    assert " on cpu" not in call_here("status", tmp_path / "cpu" / "run").out
