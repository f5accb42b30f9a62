"""Trainings of the recipes: crops that give no batch, bf16, and what makes no difference to a bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mdfpipe.errors import DataError
from mdfpipe.learning.data.crops import Crops, from_manifest
from mdfpipe.learning.train import checkpoint
from mdfpipe.learning.train.loop import fit
from mdfpipe.learning.train.state import Job
from mdfpipe.store.run import Run
from tests.learning.trained import Interrupted, crops_in, job, result, same, saving_always, tiny

BODY = {"batches": {"subjects": 3, "crops": 1}, "optimiser": {"rate": 0.01}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crops")


@pytest.fixture
def bodies(shared: Path) -> Crops:
    return crops_in(shared / "body", tiny("body"))


# -- crops that give no batch


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"subjects": 1}, r"sampler: expected at least 2 subjects .*got 1"),
        (
            {"lacking": {n: {"MWIR-30m"} for n in range(1, 6)}},
            r"sampler: expected at least 2 .* \(5 lack some\), got 1",
        ),
        ({"subjects": 2}, r"sampler: expected at least 3 subjects .*got 2"),
    ],
)
def test_crops_that_give_no_batch(made: dict[str, Any], message: str, tmp_path: Path) -> None:
    recipe = tiny("body", **BODY)
    crops = crops_in(tmp_path / "crops", recipe, **made)
    with pytest.raises(DataError, match=message) as caught:
        fit(job(crops, recipe, tmp_path / "state.pt"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "state.pt").exists()


def test_a_domain_without_a_crop(bodies: Crops, shared: Path, tmp_path: Path) -> None:
    run = Run(next(shared.glob("body*")))
    with pytest.raises(DataError, match="LWIR"):
        from_manifest(run.table("manifest", "manifest"), run.path, modality="body", domains=["VIS-500m", "LWIR-30m"])
    without = bodies.take(bodies.domain != 1).compact()  # the domains in use are those there are
    assert len(without.domains) == 2
    assert fit(job(without, tiny("body", **BODY), tmp_path / "state.pt")).step > 0
    for recipe in (tiny("body", **BODY), tiny("face"), tiny("toy")):
        with pytest.raises(DataError, match="sampler: ") as caught:
            recipe.sampler(bodies.take(np.zeros(0, np.int64)).compact(), 0)
        assert "\n" not in str(caught.value)


# -- precision


def test_bf16_trains_nearly_alike_and_losses_stay_precise(bodies: Crops, tmp_path: Path) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        recipe = tiny("body", drop_path=0.0, **BODY)
        found[precision] = fit(job(bodies, recipe, tmp_path / f"{precision}.pt", precision=precision))
    exact, rough = found["fp32"], found["bf16"]
    assert not same(exact.last, rough.last)
    assert {value.dtype for value in rough.last.values() if value.is_floating_point()} == {torch.float32}
    for one, other in zip(exact.lines, rough.lines, strict=True):
        assert one["loss/identity"] != other["loss/identity"]
        assert other["loss/identity"] == pytest.approx(one["loss/identity"], rel=0.02)


# -- what makes no difference to a bit


def test_same_seed_same_bits_however_crops_are_read(bodies: Crops, tmp_path: Path) -> None:
    recipe = tiny("body", drop_path=0.3, **BODY)
    ways = [(1, 0), (3, 0), (1, 1 << 24), (3, 1 << 24), (2, 3 * 64 * 32 * 20)]  # the last keeps 20 of 72 crops
    found = []
    for number, (threads, cache) in enumerate(ways):
        given = job(bodies, recipe, tmp_path / f"{number}.pt", loader_threads=threads, cache=cache)
        found.append(result(fit(given)))
    assert all(one == found[0] for one in found[1:])
    other = fit(job(bodies, recipe, tmp_path / "other.pt", seed=1))
    assert result(other)["last"] != found[0]["last"]
    assert {path.read_bytes() for path in tmp_path.glob("[0-4].pt")} == {(tmp_path / "0.pt").read_bytes()}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("toy", {"optimiser": {"method": "adam", "ema": 0.9, "accumulate": 2, "clip_norm": 0.5}}),
        ("toy", {"optimiser": {"method": "sgd", "nesterov": True}, "schedule": {"length": 2.5, "warm_up": 1}}),
        ("body", {"drop_path": 0.5, "optimiser": {"method": "adamw", "rate": 0.01}}),
        ("body", {"backbone": "striped", "width": 8, "contrastive": 0.5, "optimiser": {"ema": 0.9}}),
        ("face", {"optimiser": {"rate": 0.01, "accumulate": 2}}),
    ],
)
def test_goes_on_from_any_step(name: str, settings: dict[str, Any], shared: Path, tmp_path: Path) -> None:
    """Interrupted after each step but the last: the same bits, lines and best weights. `test_train_kill` kills."""
    if name == "body":
        settings = settings | {"batches": BODY["batches"], "image_height_px": 96}
    recipe = tiny(name, **settings)
    crops = crops_in(shared / f"{name}-{recipe.image_height_px}", recipe)

    def judged(model: nn.Module) -> float:
        return -abs(sum(value.double().sum().item() for value in model.parameters()))

    def training(path: Path) -> Job:
        return job(crops, recipe, path, validate=judged, every=1)

    whole = result(fit(training(tmp_path / "whole.pt")))
    total = whole["step"]
    assert whole["epoch"] >= 2
    with saving_always():
        for stop in sorted({1, total // 2, total - 1}):

            def interrupt(done: int, total: int, stop: int = stop) -> None:
                if done == stop + 1:  # its state is there
                    raise Interrupted

            given = training(tmp_path / "state.pt")
            given.progress = interrupt
            with pytest.raises(Interrupted):
                fit(given)
            assert checkpoint.load(tmp_path / "state.pt")["step"] == stop
        assert result(fit(training(tmp_path / "state.pt"))) == whole
    assert result(fit(training(tmp_path / "state.pt"))) == whole  # it is done
