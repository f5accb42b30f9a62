"""Two processes that train together: of a ViT the loss curve and the weights of one, at the same batch."""

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed

from mdfpipe.cli import main
from mdfpipe.errors import ConfigError
from mdfpipe.learning.data.crops import Crops
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.train import together as own
from mdfpipe.learning.train.fabric import without_settings_of_its_own
from mdfpipe.learning.train.loop import fit, make_fabric
from mdfpipe.learning.train.state import Fitted
from tests.learning.trained import Child, Interrupted, Toy, crops_in, job, result, same, saving_always, tiny, together
from tests.systems import write_study

# 3 subjects x 3 domains x 2 crops: halves cut a subject in two, and of a subject and domain there is one crop, twice
BATCH = {"batches": {"subjects": 3, "crops": 2}, "drop_path": 0.0}
WAYS: dict[str, dict[str, Any]] = {
    "sgd": {"optimiser": {"rate": 0.01}, "schedule": {"length": 8}},
    "adamw, accumulated": {
        "optimiser": {"method": "adamw", "rate": 1e-4, "accumulate": 2, "clip_norm": 1.0, "ema": 0.9},
        "schedule": {"length": 3},
    },
    "some parts": {"parts": ["face", "lower_body"], "optimiser": {"rate": 0.01}, "schedule": {"length": 4}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crops") / "body"


@pytest.fixture(scope="module")
def crops(folder: Path) -> Crops:
    """One crop of each of 12 subjects in each of 3 domains: 2 batches of 18."""
    return crops_in(folder, tiny("body"), subjects=12, clips=1, frames=1)


def recipe_of(way: str) -> Recipe:
    return tiny("body", **BATCH, **WAYS[way])


def train(say: Any, folder: Path, recipe: Recipe, state: Path, interrupt_at: int | None = None) -> None:
    given = job(crops_in(folder, recipe), recipe, state)

    def progress(done: int, total: int) -> None:
        if done == interrupt_at:
            raise Interrupted

    given.progress = progress
    try:
        if interrupt_at is None:
            fitted = fit(given)
        else:
            with saving_always():
                fit(given)
    except Interrupted:
        say("interrupted")
        return
    say(pickle.dumps(fitted))


def ends(children: list[Child]) -> list[Fitted]:
    assert [child.end() for child in children] == [0, 0], [child.heard for child in children]
    return [pickle.loads(child.heard[-1]) for child in children]


@pytest.mark.parametrize("way", [*(n for n in WAYS if n != "sgd"), pytest.param("sgd", marks=pytest.mark.slow)])
def test_the_curve_and_the_weights_of_one(way: str, folder: Path, crops: Crops, tmp_path: Path) -> None:
    recipe = recipe_of(way)
    assert recipe.augment.flip
    assert recipe.augment.erasing
    draw = next(iter(recipe.sampler(crops, 0).epoch(0)))
    assert draw.repeat.max() == 1
    children = together(train, folder, recipe, tmp_path / "two.pt")
    given = job(crops, recipe, tmp_path / "one.pt")
    began = {name: value.clone() for name, value in given.model.state_dict().items()}
    alone = fit(given)
    first, second = ends(children)
    assert result(first) == result(second)
    assert len(alone.lines) == len(first.lines) == recipe.schedule.length
    for one, two in zip(alone.lines, first.lines, strict=True):
        for name in ("loss/identity", "loss/triplet", "accuracy", "rate"):
            assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), (one["epoch"], name)
        assert two["mining"]["anchors"] == one["mining"]["anchors"] == 36
        assert two["mining"]["d_pos"] == pytest.approx(one["mining"]["d_pos"], rel=1e-3)
    moved = apart = 0.0
    for name, value in alone.last.items():
        if name == "backbone.vit.norm.bias":  # what all features have in common, neck and distances take away: noise
            continue
        length = value.double().norm().clamp_min(1e-2)
        apart = max(apart, float((first.last[name].double() - value.double()).norm() / length))
        moved = max(moved, float((began[name].double() - value.double()).norm() / length))
    assert apart < 1e-4
    assert moved > 1e-2


def test_goes_on_together_and_only_together(folder: Path, crops: Crops, tmp_path: Path) -> None:
    recipe, state = tiny("body", **BATCH, optimiser={"rate": 0.01, "ema": 0.9}), tmp_path / "two.pt"
    whole = ends(together(train, folder, recipe, tmp_path / "whole.pt"))[0]
    children = together(train, folder, recipe, state, 3)
    assert [child.end() for child in children] == [0, 0]
    assert [child.heard for child in children] == [["interrupted"]] * 2
    with pytest.raises(ConfigError, match="was computed with processes 2, now it is 1"):
        fit(job(crops, recipe, state))
    again = ends(together(train, folder, recipe, state))[0]
    assert result(again) == result(whole)
    assert same(again.last, whole.last)


def test_a_batch_that_cannot_be_shared(folder: Path, crops: Crops, tmp_path: Path) -> None:
    recipe = tiny("body", batches={"subjects": 3, "crops": 1})
    children = together(train, folder, recipe, tmp_path / "state.pt")
    for child in children:
        assert child.end() == 2
        error = child.heard[-1]
        assert isinstance(error, ConfigError)
        assert str(error).startswith("a batch of 9 crops cannot be shared by 2 processes alike; change the recipe's")
    assert not (tmp_path / "state.pt").exists()


def test_a_weight_that_no_loss_depends_on(tmp_path: Path) -> None:
    recipe = tiny("toy", idle=True)
    crops = crops_in(tmp_path / "toy", recipe)
    assert fit(job(crops, recipe, tmp_path / "one.pt")).last["idle"].tolist() == [0, 0]  # alone it does no harm
    for child in together(train, tmp_path / "toy", recipe, tmp_path / "two.pt"):
        assert child.end() == 2
        assert isinstance(child.heard[-1], ConfigError)
        assert str(child.heard[-1]).startswith("idle: no loss depends on it, which several processes cannot train")


def train_in(say: Any, folder: Path, recipe: Recipe, state: Path) -> None:
    """As on two machines of which one has bf16, with `precision: auto`."""
    given = job(crops_in(folder, recipe), recipe, state)
    fit(replace(given, precision=["fp32", "bf16"][own.rank()]))


def test_processes_of_unlike_machines(tmp_path: Path) -> None:
    recipe = tiny("toy")
    crops_in(tmp_path / "toy", recipe)
    for child in together(train_in, tmp_path / "toy", recipe, tmp_path / "two.pt"):
        assert child.end() == 2
        assert isinstance(child.heard[-1], ConfigError)
        assert "got process 0 fp32, process 1 bf16; their machines differ" in str(child.heard[-1])


# -- who is who


def talk(say: Any) -> None:
    own.connect("cpu")
    own.connect("cpu")  # twice is once
    say((own.rank(), own.processes()))
    if own.rank() == 0:
        for value in ({"unit": Path("a")}, Toy(), None):
            own.tell(value)
    else:
        while (value := own.hear()) is not None:
            say(value)
    own.part()
    own.part()


def test_the_others_hear_what_the_first_tells() -> None:
    first, second = together(talk)
    assert [first.end(), second.end()] == [0, 0]
    assert first.heard == [(0, 2)]
    assert second.heard == [(1, 2), {"unit": Path("a")}, Toy()]


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (own.processes(), own.rank()) == (1, 0)
    own.part()  # nobody to leave


def test_they_wait_for_each_other_as_long_as_a_stage_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend, **more: given.update(more))
    own.connect("cpu")
    assert given["timeout"].days >= 7


def test_variables_that_are_not_those_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (own.processes(), own.rank()) == (1, 0)  # of a cluster, not of torchrun
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(ConfigError, match="RANK 4 of WORLD_SIZE 4, 1 a node: expected what `torchrun` sets"):
        own.processes()
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(ConfigError, match="WORLD_SIZE='many': expected the number that `torchrun` sets"):
        own.processes()


# -- clusters


SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
CLUSTERS: dict[str, dict[str, str]] = {
    "a batch script of Slurm": SLURM,
    "one task of srun": SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "train"},
    "srun --pty, of more tasks": SLURM | {"SLURM_STEP_ID": "0", "SLURM_PTY_PORT": "4711"},
    "LSF": {
        "LSB_JOBID": "7",
        "LSB_DJOB_RANKFILE": "/nowhere",
        "JSM_NAMESPACE_SIZE": "1",
        "JSM_NAMESPACE_LOCAL_RANK": "0",
    },
    "Fabric's own settings": {
        "LT_DEVICES": "2",
        "LT_STRATEGY": "ddp",
        "LT_PRECISION": "bf16-mixed",
        "LT_NUM_NODES": "2",
    },
}


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "PMI_", "JSM_", "LT_")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_training_is_the_same_in_every_cluster(
    cluster: str, folder: Path, crops: Crops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With srun on the PATH, in a batch job of four tasks: alone, without a warning."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\nexit 1\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    for name, value in CLUSTERS[cluster].items():
        monkeypatch.setenv(name, value)
    own.refuse_copies()
    fabric = make_fabric("cpu", "fp32")
    assert (fabric.world_size, fabric.global_rank, type(fabric.strategy).__name__) == (1, 0, "SingleDeviceStrategy")
    recipe = tiny("toy", schedule={"length": 1, "warm_up": 0})
    assert fit(job(crops_in(tmp_path / "toy", recipe), recipe, tmp_path / "one.pt")).step > 0


def test_fabric_leaves_the_threads_of_a_training_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one process on each node it would take every core, and results would differ from those of one node."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with without_settings_of_its_own():
            _set_num_threads_if_needed(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize(
    "variables",
    [
        SLURM | {"SLURM_STEP_ID": "0"},
        SLURM | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "8"},
        {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"},
        {"PMI_SIZE": "4", "PMI_RANK": "0"},
    ],
    ids=["srun", "srun of an allocation of more", "Open MPI", "MPICH"],
)
def test_copies_of_one_command_are_refused(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"(srun|mpirun) started this command 4 times, .*`torchrun --nnodes"):
        own.refuse_copies()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    own.refuse_copies()  # torchrun, within


@pytest.mark.usefixtures("no_cluster")
def test_srun_without_torchrun_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `srun -n 2 mdfpipe train` starts it: the first says it, both end with 2, and nothing is made."""
    study = write_study(tmp_path / "study.yaml", {"face": {"recipe": {"use": "face"}}})
    command = ["mdfpipe", "train", str(study), "--data", str(tmp_path), "--run", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", command)
    for name, value in (SLURM | {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}).items():
        monkeypatch.setenv(name, value)
    for number in ("0", "1"):
        monkeypatch.setenv("SLURM_PROCID", number)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        said = capsys.readouterr()
        lines = said.err.splitlines()
        assert (said.out, len(lines)) == ("", number == "0")
        assert all(line.startswith("mdfpipe: srun started this command 2 times, ") for line in lines)
    assert not (tmp_path / "run").exists()
