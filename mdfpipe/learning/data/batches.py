"""What passes between samplers, loader, recipes and loop: draws of crops, and batches of their pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PLAIN, AUXILIARY = 0, 1
"""Views of a crop: as it is, or as a further image made of it (DI2L)."""
ANCHOR, POSITIVE, NEGATIVE = 0, 1, 2
"""Roles of a crop in a tuple (LCCRF); a batch without tuples holds anchors only."""


@dataclass(frozen=True, eq=False)
class Draw:
    """The crops of one batch. row: (B,) positions in the `Crops`; view, role: (B,) int8, by default PLAIN, ANCHOR.

    repeat: (B,) how often the whole batch held the same crop in the same view before: they are augmented differently.
    """

    row: NDArray[np.int64]
    view: NDArray[np.int8]
    role: NDArray[np.int8]
    repeat: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if len(self.repeat) == len(self.row):
            return
        seen: Counter[tuple[int, int]] = Counter()
        repeat = np.zeros(len(self.row), np.int64)
        for at, pair in enumerate(zip(self.row.tolist(), self.view.tolist(), strict=True)):
            repeat[at] = seen[pair]
            seen[pair] += 1
        object.__setattr__(self, "repeat", repeat)

    @classmethod
    def plain(cls, row: NDArray[np.int64]) -> Draw:
        """A draw without views and roles."""
        return cls(row, np.zeros(len(row), np.int8), np.zeros(len(row), np.int8))

    def __len__(self) -> int:
        return len(self.row)

    def share(self, rank: int, world: int) -> Draw:
        """The part of one of `world` processes: a run of the batch, so that the parts in order are the whole."""
        cut = slice(len(self) * rank // world, len(self) * (rank + 1) // world)
        return Draw(self.row[cut], self.view[cut], self.role[cut], self.repeat[cut])


class Sampler(Protocol):
    """Which crops make the batches of an epoch: a function of (seed, epoch) alone."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, number: int) -> Iterator[Draw]:
        """The batches of epoch `number`, from 0."""


@dataclass(frozen=True, eq=False)
class CropBatch:
    """Crops as a network takes them.

    images: (B, 3, H, W) float32; subject: (B,) int64 class, 0..C-1; domain: (B,) int64 position in the domains that are
    trained on; source: (B,) int64, 0 = the study's own manifest, 1.. = further ones; view, role: (B,) int64; row: (B,)
    int64 position in the `Crops`; camera: (B,) int64 `camera_code`, -1 where it is not known. images may be empty (0
    images) where a batch was gathered: labels only.
    """

    images: Tensor
    subject: Tensor
    domain: Tensor
    source: Tensor
    view: Tensor
    role: Tensor
    row: Tensor
    camera: Tensor = field(default_factory=lambda: _none())

    def __post_init__(self) -> None:
        if len(self.camera) != len(self.subject):
            object.__setattr__(self, "camera", self.subject.new_full(self.subject.shape, -1))

    def __len__(self) -> int:
        return len(self.subject)

    def to(self, device: torch.device) -> CropBatch:
        """The same on another device."""
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


def _none() -> Tensor:
    import torch

    return torch.zeros(0, dtype=torch.int64)
