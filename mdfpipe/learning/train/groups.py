"""Parameter groups: which parameters of a network learn at which rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
) -> list[Group]:
    """What requires a gradient: backbone (how its names begin) and the rest (head), of each matrices, biases and other
    vectors apart.

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
        kind = "biases" if name.endswith(".bias") else "matrices" if value.ndim > 1 else "vectors"
        made = Group([], rate * (bias_rate if kind == "biases" else 1.0), decay[kind], f"{part} {kind}")
        groups.setdefault(made.name, made).parameters.append(value)
    return list(groups.values())
