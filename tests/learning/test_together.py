"""Two processes that train together: of a ViT the loss curve and the weights of one, at the same batch."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.errors import ConfigError
from mdfpipe.learning import together as own
from mdfpipe.learning.crops import Crops
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.state import Fitted
from mdfpipe.learning.training import fit
from tests.learning.trained import Child, Interrupted, Toy, crops_in, job, result, same, saving_always, tiny, together

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


@pytest.mark.parametrize("way", WAYS)
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
