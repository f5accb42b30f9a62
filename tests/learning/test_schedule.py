"""Rates against PASS's schedule written down anew, timm's and torch's; what is refused."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.learning.train.schedule import Group, Optimiser, Schedule


def test_the_body_learns_at_the_rates_of_pass() -> None:
    """Its `create_scheduler` and `do_train`: timm's scheduler, stepped at the start of each epoch, the first as 1."""
    from timm.scheduler import CosineLRScheduler

    from mdfpipe.learning.recipes.body import Body

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=4e-4)
    passes = CosineLRScheduler(optimizer, 120, lr_min=0.002 * 4e-4, warmup_t=20, warmup_lr_init=0.01 * 4e-4)
    recipe = Body()
    shares = []
    for epoch in range(1, 121):
        passes.step(epoch)
        shares.append(recipe.schedule.share(7 * epoch, 7))  # at its end: ours moves with every step
        assert recipe.optimiser.rate * shares[-1] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), epoch
    assert [round(shares[epoch - 1], 3) for epoch in (20, 60, 100)] == [0.933, 0.501, 0.069]
    rates = {group.name: group.rate for group in recipe.parameter_groups(nn.Sequential(nn.Linear(2, 2)))}
    assert rates == {"head matrices": 1, "head biases": 2}
    assert (recipe.triplet.margin, recipe.augment.erased_up_to) == (0, pytest.approx(1 / 3))  # the hinge: the paper's


def pass_rate(epoch: float, base: float, epochs: int, warm_up: int) -> float:
    """PASS's `create_scheduler`, with the cosine counted from the end of the warm-up."""
    lr_min, first = 0.002 * base, 0.01 * base
    if epoch < warm_up:
        return first + epoch * ((base - first) / warm_up)
    return lr_min + 0.5 * (base - lr_min) * (1 + math.cos(math.pi * (epoch - warm_up) / (epochs - warm_up)))


@pytest.mark.parametrize("epoch_steps", [1, 7, 100])
def test_the_default_is_pass(epoch_steps: int) -> None:
    schedule = Schedule()
    assert schedule.steps(epoch_steps) == 120 * epoch_steps
    for epoch in range(121):
        expected = pass_rate(epoch, 4e-4, 120, 20)
        assert 4e-4 * schedule.share(epoch * epoch_steps, epoch_steps) == pytest.approx(expected, rel=1e-12), epoch
    assert schedule.share(0, epoch_steps) == 0.01
    assert schedule.share(20 * epoch_steps, epoch_steps) == 1.0
    assert schedule.share(120 * epoch_steps, epoch_steps) == pytest.approx(0.002)


def test_cosine_is_timms() -> None:
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    timms = CosineLRScheduler(optimizer, 50, lr_min=0.03, warmup_t=10, warmup_lr_init=0.06, warmup_prefix=True)
    schedule = Schedule(length=60, warm_up=10, warm_up_from=0.2, floor=0.1)
    for epoch in range(60):
        timms.step(epoch)
        assert 0.3 * schedule.share(epoch * 4, 4) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), epoch


def test_steps_are_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    torchs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 50], gamma=0.1)
    schedule = Schedule(length=60, warm_up=0, shape="steps", milestones=[20, 50], factor=0.1)
    for epoch in range(60):
        for step in (0, 2):  # the first and the last of an epoch of three
            assert 0.1 * schedule.share(epoch * 3 + step, 3) == pytest.approx(torchs.get_last_lr()[0]), epoch
        optimizer.step()
        torchs.step()


def test_lccrfs_schedule_in_steps() -> None:
    """Adam 3e-4, x0.1 at 10,000 and 20,000 of 30,000 iterations, warm-up of 500 from a third (METHODS 4)."""
    schedule = Schedule(
        length=30000, unit="steps", shape="steps", warm_up=500, warm_up_from=1 / 3, milestones=[10000, 20000]
    )
    for epoch_steps in (1, 17, 40000):
        assert schedule.steps(epoch_steps) == 30000
        found = [schedule.share(step, epoch_steps) for step in (0, 250, 500, 9999, 10000, 19999, 20000, 29999)]
        assert found == pytest.approx([1 / 3, 2 / 3, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_constant_after_its_warm_up() -> None:
    schedule = Schedule(length=4, warm_up=1, warm_up_from=0.5, shape="constant")
    assert [schedule.share(step, 4) for step in (0, 1, 2, 3, 4, 5, 15)] == [0.5, 0.625, 0.75, 0.875, 1, 1, 1]


@pytest.mark.parametrize(
    ("settings", "epoch_steps", "steps"),
    [
        ({"length": 0}, 9, 0),
        ({"length": 0.5, "warm_up": 0}, 10, 5),
        ({"length": 2.5, "warm_up": 1}, 4, 10),
        ({"length": 0.1, "warm_up": 0}, 3, 1),  # less than a step is one
        ({"length": 0.1, "warm_up": 0, "unit": "steps"}, 3, 1),
        ({"length": 7, "warm_up": 0, "unit": "steps"}, 3, 7),
    ],
)
def test_length(settings: dict[str, Any], epoch_steps: int, steps: int) -> None:
    assert Schedule(**settings).steps(epoch_steps) == steps


@given(
    length=st.floats(0.5, 200),
    warm=st.floats(0, 0.99),
    shape=st.sampled_from(["cosine", "steps", "constant"]),
    unit=st.sampled_from(["epochs", "steps"]),
    epoch_steps=st.integers(1, 50),
)
def test_a_rate_rises_once_then_never_again(
    length: float, warm: float, shape: str, unit: str, epoch_steps: int
) -> None:
    schedule = Schedule(
        length=length, warm_up=warm * length, shape=shape, unit=unit, milestones=[length / 2, length * 0.8]
    )
    shares = [schedule.share(step, epoch_steps) for step in range(min(schedule.steps(epoch_steps), 500))]
    assert all(0.0019 < share <= 1 for share in shares)
    top = shares.index(max(shares))
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Schedule, {"length": 10, "warm_up": 10}, "warm_up shorter than the length 10, got 10"),
        (Schedule, {"milestones": [50, 20]}, r"ascending milestones, got \[50.0, 20.0\]"),
        (Schedule, {"length": -1}, "length"),
        (Schedule, {"factor": 1.5}, "factor"),
        (Schedule, {"length": float("nan")}, "length"),
        (Optimiser, {"rate": 0}, "rate"),
        (Optimiser, {"accumulate": 0}, "accumulate"),
        (Optimiser, {"ema": 1.0}, "ema"),
        (Optimiser, {"nesterov": True, "momentum": 0}, "nesterov needs a momentum above 0"),
    ],
)
def test_refused(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(kind, settings, "study.yaml")


def test_groups_keep_their_rates_and_decays() -> None:
    one, two, three = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    groups = [Group([one]), Group([two], 10.0, 0.0), Group([]), Group([three], 0.5)]
    for method, kind in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        optimizer = Optimiser(method=method, rate=0.2, weight_decay=0.3, momentum=0.7, nesterov=True).make(groups)
        assert type(optimizer) is kind
        found = [(g["params"], g["lr"], g["weight_decay"], g["scale"]) for g in optimizer.param_groups]
        assert [(p[0] is q, *rest) for (p, *rest), q in zip(found, (one, two, three), strict=True)] == [
            (True, 0.2, 0.3, 1.0),
            (True, 2.0, 0.0, 10.0),
            (True, 0.1, 0.3, 0.5),
        ]
        if method == "sgd":
            assert all(g["momentum"] == 0.7 and g["nesterov"] for g in optimizer.param_groups)
