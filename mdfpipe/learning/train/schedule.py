"""Optimiser and schedule as settings, in epochs or in steps; which parameters of a network learn at which rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from mdfpipe.config import IF_SET, Config

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(eq=False)
class Group:
    """Parameters that learn at the same rate. rate: times the schedule's; weight_decay: None = the optimiser's."""

    parameters: list[Any]
    rate: float = 1.0
    weight_decay: float | None = None
    name: str = ""


def by_part(
    model: nn.Module,
    *,
    backbone_rate: float = 1.0,
    head_rate: float = 1.0,
    bias_rate: float = 1.0,
    decay_vectors: bool = True,
    bias_decay: float | None = None,
    backbone: tuple[str, ...] = ("backbone.",),
    others: Mapping[str, float] = MappingProxyType({}),
) -> list[Group]:
    """What requires a gradient: backbone (how its names begin) and the rest (head), of each matrices, biases and other
    vectors apart. others: further parts, how their names begin, and their rates.

    Biases learn bias_rate times as fast, and decay by bias_decay; without decay_vectors they and other vectors do not.
    """
    groups: dict[str, Group] = {}
    decay = {
        "matrices": None,
        "biases": bias_decay if decay_vectors else 0.0,
        "vectors": None if decay_vectors else 0.0,
    }
    for name, value in model.named_parameters():
        if not value.requires_grad:
            continue
        part, rate = ("backbone", backbone_rate) if name.startswith(backbone) else ("head", head_rate)
        part, rate = next(((begin, own) for begin, own in others.items() if name.startswith(begin)), (part, rate))
        kind = "biases" if name.endswith(".bias") else "matrices" if value.ndim > 1 else "vectors"
        made = Group([], rate * (bias_rate if kind == "biases" else 1.0), decay[kind], f"{part} {kind}")
        groups.setdefault(made.name, made).parameters.append(value)
    return list(groups.values())


class Optimiser(Config):
    """The optimiser."""

    method: Literal["sgd", "adam", "adamw"] = Field("sgd", description="optimisation method")
    rate: float = Field(4e-4, gt=0, description="learning rate at the schedule's top, of a group of rate 1")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(False, description="of sgd")
    weight_decay: float = Field(1e-4, ge=0, description="of every group that names none")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient over all parameters")
    accumulate: int = Field(1, ge=1, description="batches accumulated before a step")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of a moving average of the weights, which is then stored"
    )

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    def make(self, groups: list[Group]) -> torch.optim.Optimizer:
        """The optimiser over the groups, each with its own rate."""
        import torch

        made: list[dict[str, Any]] = [
            {
                "params": group.parameters,
                "lr": self.rate * group.rate,
                "weight_decay": self.weight_decay if group.weight_decay is None else group.weight_decay,
                "scale": group.rate,
            }
            for group in groups
            if group.parameters
        ]
        if self.method == "sgd":
            return torch.optim.SGD(made, lr=self.rate, momentum=self.momentum, nesterov=self.nesterov)
        kind = torch.optim.Adam if self.method == "adam" else torch.optim.AdamW
        return kind(made, lr=self.rate)


class Schedule(Config):
    """Length of the training and schedule of the learning rate. Lengths are in epochs, or in steps where `unit`
    says so.

    cosine falls from the top to `floor` times it; steps multiplies by `factor` at each milestone; constant stays.
    During the warm-up the rate rises linearly from `warm_up_from` times the top. A cosine from the start
    (PASS) begins below the top where the warm-up ends.
    """

    length: float = Field(120, ge=0, description="epochs (or steps) in all; 0: nothing is trained")
    unit: Literal["epochs", "steps"] = Field("epochs", description="what length, warm_up and milestones count")
    shape: Literal["cosine", "steps", "constant"] = Field("cosine", description="how the rate falls")
    warm_up: float = Field(20, ge=0, description="epochs (or steps) of rising rate")
    warm_up_from: float = Field(0.01, ge=0, le=1, description="share of the top at which the warm-up begins")
    floor: float = Field(0.002, ge=0, le=1, description="share of the top at which cosine ends")
    cosine_from: Literal["start", "warm_up"] | None = Field(
        None,
        json_schema_extra=IF_SET,
        description="where cosine begins, start: of the training; none: at the end of the warm-up",
    )
    milestones: list[float] = Field(default=[], description="when the rate falls, of shape steps")
    factor: float = Field(0.1, gt=0, lt=1, description="of shape steps, at each milestone")

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.length and self.warm_up >= self.length:
            raise ValueError(f"expected a warm_up shorter than the length {self.length:g}, got {self.warm_up:g}")
        if self.milestones != sorted(self.milestones):
            raise ValueError(f"expected ascending milestones, got {self.milestones}")
        return self

    def steps(self, epoch_steps: int) -> int:
        """Steps in all, at so many steps an epoch; one at least, where anything is trained."""
        if not self.length:
            return 0
        return max(round(self.length * epoch_steps) if self.unit == "epochs" else round(self.length), 1)

    def share(self, step: int, epoch_steps: int) -> float:
        """The rate of a step as a share of the top."""
        scale = epoch_steps if self.unit == "epochs" else 1
        warm, total = self.warm_up * scale, self.steps(epoch_steps)
        if step < warm:
            return self.warm_up_from + (1 - self.warm_up_from) * step / warm
        if self.shape == "steps":
            return self.factor ** sum(step >= milestone * scale for milestone in self.milestones)
        if self.shape == "constant":
            return 1.0
        begun = 0.0 if self.cosine_from == "start" else warm
        done = min((step - begun) / max(total - begun, 1), 1.0)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))
