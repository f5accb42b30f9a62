"""The loop against a loop written by hand; what validation chooses; what stops it."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.learning.data.crops import Crops, from_manifest
from mdfpipe.learning.data.loader import CropReader, Loader
from mdfpipe.learning.train import checkpoint
from mdfpipe.learning.train.loop import fit, make_fabric
from mdfpipe.learning.train.schedule import Optimiser
from mdfpipe.learning.train.state import Job
from tests.learning.made import write_run
from tests.learning.trained import Toy, ToyNet, crops_in, job, result, same, tiny


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    Toy.seen.clear()


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Crops:
    """72 crops of 6 subjects: 6 batches of 12."""
    return crops_in(tmp_path_factory.mktemp("crops") / "toy", Toy())


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Of each step, the rate of each group, as the optimiser has it when it steps; and the gradient's length."""
    found: list[list[float]] = []
    make = Optimiser.make

    def recording(self: Optimiser, groups: Any) -> Any:
        optimizer = make(self, groups)

        def note(it: Any, *rest: Any) -> None:
            gradients = [p.grad.flatten() for g in it.param_groups for p in g["params"]]
            found.append([*(g["lr"] for g in it.param_groups), float(torch.cat(gradients).norm())])

        optimizer.register_step_pre_hook(note)
        return optimizer

    monkeypatch.setattr(Optimiser, "make", recording)
    return found


# -- against a loop by hand


def by_hand(given: Job) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """SGD with momentum, decay, clipping, accumulation and an average of the weights, from their definitions.

    Of a Toy job: weights, and averaged weights.
    """
    recipe, o = given.recipe, given.recipe.optimiser
    assert isinstance(recipe, Toy)
    model = ToyNet(3 * 16 * 16, len(given.crops.subjects))
    model.load_state_dict(given.model.state_dict())
    weights = dict(model.named_parameters())
    speed = {name: torch.zeros_like(value) for name, value in weights.items()}
    average = {name: value.detach().clone() for name, value in weights.items()}
    sampler = recipe.sampler(given.crops, given.seed)
    reader = CropReader(given.crops, 16, 16, recipe.depth)
    steps = len(sampler) // o.accumulate
    total = round(recipe.schedule.length * steps)
    for step in range(total):
        epoch, inside = divmod(step, steps)
        draws = list(sampler.epoch(epoch))[inside * o.accumulate : (inside + 1) * o.accumulate]
        for draw in draws:
            batch = next(iter(Loader(given.crops, reader, recipe.augment, seed=0, threads=1).batches([draw], epoch)))
            logits = model.classifier(model.backbone(batch.images.flatten(1)))
            chosen = logits.log_softmax(1)[torch.arange(len(logits)), batch.subject]
            (-chosen.mean() / len(draws)).backward()
        length = math.sqrt(sum(float((w.grad**2).sum()) for w in weights.values()))
        shrink = min(1.0, o.clip_norm / (length + 1e-6)) if o.clip_norm else 1.0
        share = 0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * step / total))
        for name, weight in weights.items():
            head = name.startswith("classifier")
            decay = recipe.head_decay if head and recipe.head_decay is not None else o.weight_decay
            gradient = weight.grad * shrink + decay * weight.detach()
            speed[name] = gradient + o.momentum * speed[name]
            with torch.no_grad():
                weight -= o.rate * (recipe.head_rate if head else 1.0) * share * speed[name]
            weight.grad = None
            average[name] = (o.ema or 0) * average[name] + (1 - (o.ema or 0)) * weight.detach()
    return {name: value.detach() for name, value in weights.items()}, average


@pytest.mark.parametrize(
    ("optimiser", "settings"),
    [
        ({}, {}),
        ({"accumulate": 2}, {"schedule": {"length": 1.5}}),
        ({"accumulate": 4}, {}),  # 6 batches: 2 of each epoch are left over
        ({"clip_norm": 0.3, "momentum": 0.5, "weight_decay": 0.1}, {"head_rate": 5.0, "head_decay": 0.0}),
        ({"ema": 0.8, "accumulate": 3, "clip_norm": 1.0}, {"schedule": {"length": 3}}),
    ],
)
def test_is_the_loop_by_hand(optimiser: dict[str, Any], settings: dict[str, Any], toys: Crops, tmp_path: Path) -> None:
    schedule = {"length": 2, "warm_up": 0, **settings.pop("schedule", {})}
    recipe = tiny("toy", optimiser={"rate": 0.01, **optimiser}, schedule=schedule, **settings)
    given = job(toys, recipe, tmp_path / "state.pt")
    weights, average = by_hand(given)
    began = {name: value.clone() for name, value in given.model.state_dict().items()}
    fitted = fit(given)
    expected = average if recipe.optimiser.ema else weights
    assert fitted.last.keys() == expected.keys()
    for name, value in expected.items():
        assert float((value - began[name]).abs().max()) > 1e-4, name
        torch.testing.assert_close(fitted.last[name], value, rtol=1e-5, atol=1e-6)
    if recipe.optimiser.ema:
        torch.testing.assert_close(given.model.classifier.weight.detach(), weights["classifier.weight"])


def test_accumulated_batches_are_one_large_batch(toys: Crops, tmp_path: Path) -> None:
    found = []
    for batch, accumulate in ((36, 1), (12, 3)):
        recipe = tiny("toy", batch=batch, optimiser={"rate": 0.01, "accumulate": accumulate})
        found.append(fit(job(toys, recipe, tmp_path / f"{batch}.pt")))
    for name, value in found[0].last.items():
        torch.testing.assert_close(found[1].last[name], value, rtol=1e-5, atol=1e-6)
    assert found[0].step == found[1].step == 4
    assert [line["loss/identity"] for line in found[1].lines] == pytest.approx(
        [line["loss/identity"] for line in found[0].lines], rel=1e-5
    )


def test_gradients_are_clipped(toys: Crops, tmp_path: Path, rates: list[list[float]]) -> None:
    fit(job(toys, tiny("toy"), tmp_path / "a.pt"))
    free = [length for *_, length in rates]
    limit = float(np.median(free))
    rates.clear()
    fit(job(toys, tiny("toy", optimiser={"rate": 0.01, "clip_norm": limit}), tmp_path / "b.pt"))
    clipped = [length for *_, length in rates]
    assert max(free) > 1.05 * limit
    assert max(clipped) <= limit * (1 + 1e-5)
    assert min(clipped) < 0.999 * limit  # a short one stays


def test_each_groups_rate_reaches_the_optimiser(toys: Crops, tmp_path: Path, rates: list[list[float]]) -> None:
    recipe = tiny("toy", head_rate=10.0, schedule={"length": 3, "warm_up": 1.5})
    fitted = fit(job(toys, recipe, tmp_path / "state.pt"))
    expected = []
    for step in range(18):
        if step < 9:
            share = 0.01 + 0.99 * step / 9
        else:
            share = 0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * (step - 9) / 9))
        expected.append([0.01 * share, 0.1 * share])
    np.testing.assert_allclose([row[:2] for row in rates], expected, rtol=1e-12)
    assert [line["rate"] for line in fitted.lines] == pytest.approx([expected[n][0] for n in (5, 11, 17)])


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        ({"length": 0.5}, [3]),
        ({"length": 1.5}, [6, 9]),
        ({"length": 8, "unit": "steps"}, [6, 8]),
        ({"length": 0.01}, [1]),
    ],
)
def test_length(schedule: dict[str, Any], steps: list[int], toys: Crops, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    shown: list[tuple[int, int]] = []
    given = job(toys, tiny("toy", schedule={"warm_up": 0, **schedule}), tmp_path / "state.pt", log=told.append)
    given.progress = lambda done, total: shown.append((done, total))
    fitted = fit(given)
    assert [line["step"] for line in fitted.lines] == steps
    assert [line["epoch"] for line in fitted.lines] == list(range(len(steps)))
    assert (fitted.step, fitted.epoch) == (steps[-1], len(steps))
    assert shown == [(step, steps[-1]) for step in (0, *steps)]  # where it begins, too
    speeds = ("images_per_second", "seconds")
    assert [{k: v for k, v in line.items() if k not in speeds} for line in told] == fitted.lines
    assert all(line["images_per_second"] > 0 and line["seconds"] >= 0 for line in told)  # rounded to 10 ms
    progress = [seen[0] for seen in Toy.seen]
    assert [p.step for p in progress] == list(range(steps[-1]))
    assert {(p.steps, p.epochs) for p in progress} == {(steps[-1], len(steps))}
    assert [p.epoch for p in progress] == [step // 6 for step in range(steps[-1])]


def test_every_epoch_draws_anew_and_sees_each_crop(toys: Crops, tmp_path: Path) -> None:
    fit(job(toys, tiny("toy"), tmp_path / "state.pt"))
    drawn = [row for _, _, rows in Toy.seen for row in rows]
    assert sorted(drawn[:72]) == sorted(drawn[72:]) == list(range(72))
    assert drawn[:72] != drawn[72:]


def test_a_line_is_the_mean_of_its_epoch(toys: Crops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[float, float]] = []
    losses = Toy.losses

    def noting(self: Toy, *given: Any) -> Any:
        made = losses(self, *given)
        found.append((made.terms["identity"].item(), made.figures["accuracy"][0]))
        return made

    monkeypatch.setattr(Toy, "losses", noting)
    fitted = fit(job(toys, tiny("toy"), tmp_path / "state.pt"))
    for epoch, line in enumerate(fitted.lines):
        part = found[6 * epoch : 6 * epoch + 6]
        assert line["loss/identity"] == pytest.approx(np.mean([loss for loss, _ in part]), rel=1e-6)
        assert line["accuracy"] == pytest.approx(sum(right for _, right in part) / 72)
        assert line["mining"]["anchors"] + line["mining"]["skipped"] == 72
        assert {cell["anchor"] for cell in line["mining"]["positive"]} <= set(toys.domains)
    assert fitted.lines[1]["loss/identity"] < fitted.lines[0]["loss/identity"]


def test_losses_are_given_float32(toys: Crops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[torch.dtype] = []
    forward = ToyNet.forward

    def noting(self: ToyNet, images: torch.Tensor) -> torch.Tensor:
        made = forward(self, images)
        inside.append(made.dtype)
        return made

    monkeypatch.setattr(ToyNet, "forward", noting)
    fit(job(toys, tiny("toy"), tmp_path / "state.pt", precision="bf16"))
    assert set(inside) == {torch.bfloat16}
    assert {kind for _, kind, _ in Toy.seen} == {torch.float32}


# -- validation


class Judge:
    """Gives these scores, one after the other, and keeps the weights that it was shown."""

    def __init__(self, *scores: float) -> None:
        self.scores, self.shown = list(scores), []

    def __call__(self, model: nn.Module) -> float:
        assert not model.training
        self.shown.append({name: value.clone() for name, value in model.state_dict().items()})
        return self.scores[len(self.shown) - 1]


@pytest.mark.parametrize("ema", [None, 0.9])
def test_best_is_what_was_best(ema: float | None, toys: Crops, tmp_path: Path) -> None:
    recipe = tiny("toy", optimiser={"rate": 0.01, "ema": ema}, schedule={"length": 5, "warm_up": 0})
    judge = Judge(0.1, 0.5, 0.5, 0.3, 0.2)
    measure = {"measure": lambda model: {"own": float(model.training)}}
    fitted = fit(job(toys, recipe, tmp_path / "a.pt", validate=judge, every=1, **measure))
    assert fitted.best is not None
    assert fitted.best_epoch == 1
    assert fitted.stopped == ""
    assert same(fitted.best, judge.shown[1])
    assert same(fitted.last, judge.shown[4])
    assert not same(fitted.best, fitted.last)
    assert [line["validation/rank-1"] for line in fitted.lines] == judge.scores
    assert [line["validation/own"] for line in fitted.lines] == [0.0] * 5
    unseen = fit(job(toys, recipe, tmp_path / "b.pt"))  # looking changes nothing
    assert same(unseen.last, fitted.last)
    assert unseen.best is None


@pytest.mark.parametrize(
    ("scores", "every", "patience", "epochs", "best"),
    [
        ([0.1, 0.5, 0.5, 0.3, 0.9, 0.9], 1, 2, 4, 1),  # as good is no better; the later rise is never seen
        ([0.1, 0.5, 0.4, 0.6, 0.5, 0.6], 1, 2, 6, 3),
        ([0.4, 0.3, 0.5], 2, 2, 6, 5),
        ([0.4, 0.3, 0.3], 2, 1, 4, 1),
        ([0.1, 0.2], 4, 1, 6, 5),  # at epoch 3, and at the end
        ([0.4, 0.3, 0.2, 0.1, 0.0, 0.0], 1, 0, 6, 0),
    ],
)
def test_ends_early(
    scores: list[float], every: int, patience: int, epochs: int, best: int, toys: Crops, tmp_path: Path
) -> None:
    recipe = tiny("toy", schedule={"length": 6, "warm_up": 0})
    judge = Judge(*scores)
    given = job(toys, recipe, tmp_path / "state.pt", validate=judge, every=every, patience=patience)
    fitted = fit(given)
    assert (fitted.epoch, fitted.best_epoch, len(fitted.lines)) == (epochs, best, epochs)
    assert len(judge.shown) == math.ceil(epochs / every)
    assert fitted.stopped == ("" if epochs == 6 else f"validation has not risen since epoch {best}")
    again = fit(job(toys, recipe, tmp_path / "state.pt", validate=Judge(), every=every, patience=patience))
    assert result(again) == result(fitted)  # it stays ended


# -- what stops it


@pytest.mark.parametrize(
    ("illness", "clip", "message"),
    [
        ({"ill": 9}, None, r"step 9: the loss term identity is nan; lower optimiser\.rate.*last state was kept"),
        ({"ill": 9}, 1.0, "step 9: the loss term identity is nan"),
        ({"steep": 9}, None, "step 10: the loss term identity is nan"),
        ({"steep": 11}, None, r"step 11: the weight backbone\.weight is no number after it.*last state was kept"),
        ({"steep": 11}, 1.0, r"step 11: the weight backbone\.weight is no number"),
    ],
)
def test_no_number(illness: dict[str, int], clip: float | None, message: str, toys: Crops, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    optimiser = {"rate": 0.01, "clip_norm": clip}
    with pytest.raises(DataError, match=message) as caught:
        fit(job(toys, tiny("toy", optimiser=optimiser, **illness), path))
    assert "\n" not in str(caught.value)
    kept = checkpoint.load(path)
    assert kept["step"] == 6
    assert all(value.isfinite().all() for value in kept["model"].values())
    healed = fit(job(toys, tiny("toy", optimiser=optimiser), path))
    assert same(healed.last, fit(job(toys, tiny("toy", optimiser=optimiser), tmp_path / "b.pt")).last)


def test_too_many_batches_for_a_step(toys: Crops, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"optimiser\.accumulate: expected at most the 6 batches .* got 7"):
        fit(job(toys, tiny("toy", optimiser={"accumulate": 7}), tmp_path / "state.pt"))


def test_crops_that_do_not_decode_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "crops", size=(16, 16), damaged=9)
    crops = from_manifest(run.table("manifest", "manifest"), tmp_path / "crops", modality="body")
    given = job(crops, tiny("toy"), tmp_path / "state.pt")
    fitted = fit(given)
    assert len(given.loader.reader.bad) == 9
    assert given.loader.left_out == 18
    assert sum(len(rows) for _, _, rows in Toy.seen) == 2 * 63
    assert all(line["mining"]["anchors"] + line["mining"]["skipped"] == 63 for line in fitted.lines)


def test_one_crop_that_is_left_of_a_batch(tmp_path: Path) -> None:
    run = write_run(tmp_path / "crops", subjects=2, clips=1, frames=1, size=(16, 16), damaged=5)
    crops = from_manifest(run.table("manifest", "manifest"), tmp_path / "crops", modality="body")
    with pytest.raises(DataError, match="step 0: one crop is left of a batch, the others do not decode"):
        fit(job(crops, tiny("toy", batch=6), tmp_path / "state.pt"))


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("cpu", "fp16", "precision fp16: a CPU does not train in it; set precision to bf16 or fp32"),
        ("mps", "fp32", "--device mps: expected cpu, cuda or cuda:N"),
        ("cuda:first", "fp32", "--device cuda:first: expected cpu, cuda or cuda:N"),
        ("cpu:1", "fp32", "--device cpu:1: expected cpu, cuda or cuda:N"),
    ],
)
def test_where_nothing_trains(device: str, precision: str, message: str, toys: Crops, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        fit(job(toys, tiny("toy"), tmp_path / "state.pt", device=device, precision=precision))


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device cuda: expected a CUDA device, torch finds none; use --device cpu"):
        make_fabric("cuda", "fp32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="--device cuda:2: torch finds 2 of them, counted from 0"):
        make_fabric("cuda:2", "fp32")
