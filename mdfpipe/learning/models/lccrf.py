"""The network of LCCRF: stages 0 and 1 of each stream, shared stages with non-local blocks, GeM, a BN neck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

from mdfpipe.errors import ConfigError
from mdfpipe.learning.losses.lccrf import compactness_of_map
from mdfpipe.learning.models.backbones.trunk import Kind, Trunk
from mdfpipe.learning.models.parts.heads import BNNeck, Classifier
from mdfpipe.learning.models.parts.layers import GeM, NonLocal, gem
from mdfpipe.learning.streams import DomainPairs

OWN = 2
"""Stages of each stream (METHODS 4.1)."""
SHARED = (2, 3, 4)
Blocks: TypeAlias = Literal["two", "agw"]
BEHIND: Final[dict[Blocks, dict[int, int]]] = {"two": {2: 1, 3: 1}, "agw": {2: 2, 3: 3}}
"""Behind how many of the last residual blocks of a stage there is a non-local one."""
MapOf: TypeAlias = Literal["elements", "pooled"]


class LccrfNet(nn.Module):
    """`forward` gives what one image alone decides; neck and classifier are for the losses.

    stream_of: of each domain; for the losses: pairs of these domains, and order, the place of each in a tuple. blocks:
    `NonLocal` ones behind stages 2 and 3 (two), or behind the last two residual blocks of stage 2 and the last three of
    stage 3 (agw); None: nowhere; inner, norm: theirs. classes: 0 = no classifier.
    """

    order: Tensor

    def __init__(
        self,
        kind: Kind,
        stream_of: Sequence[str],
        pairs: DomainPairs,
        classes: int,
        *,
        order: Sequence[int] = (),
        blocks: Blocks | None = "two",
        inner: Literal["half", "one"] = "half",
        norm: Literal["softmax", "mean"] = "softmax",
    ) -> None:
        super().__init__()
        self.backbone = Trunk(kind, stream_of, own=OWN)
        self.pairs = pairs
        self.register_buffer("order", torch.tensor(order, dtype=torch.int64), persistent=False)
        channels = self.backbone.channels
        self.non_local = nn.ModuleDict(
            {
                _place(stage, number): NonLocal(channels[stage], inner=inner, norm=norm)
                for stage, last in (BEHIND[blocks].items() if blocks else ())
                for number in range(len(self._stage(stage)))[-last:]
            }
        )
        self.pool = GeM()
        self.neck = BNNeck(channels[4])
        self.classifier = Classifier(channels[4], classes) if classes else None

    def forward(
        self, images: Tensor, domain: Tensor, maps: MapOf | None = None, compactness: bool = False
    ) -> dict[str, Tensor]:
        """z (B, D) float32, before the neck; and for training what is asked for.

        maps: M at the end of the streams, (B, C, h, w) as it is, or pooled by GeM to (B, C). compactness: (B,) of the
        last map.
        """
        m = self.backbone.begin(images, domain)
        x = m
        for stage in SHARED:
            for number, block in enumerate(self._stage(stage)):
                x = block(x)
                if (place := _place(stage, number)) in self.non_local:
                    x = self.non_local[place](x)
        found = {"z": self.pool(x)}
        if maps is not None:
            found["map"] = m if maps == "elements" else gem(m)
        if compactness:
            found["compactness"] = compactness_of_map(x)
        return found

    def _stage(self, number: int) -> nn.Sequential:
        """The residual blocks of a shared stage."""
        shared = self.backbone.shared
        stage = shared.get_submodule(f"layer{number}") if shared is not None else None
        if not isinstance(stage, nn.Sequential):
            raise ConfigError(f"trunk: expected stage {number} to be a sequence of residual blocks, got {stage}")
        return stage


def _place(stage: int, block: int) -> str:
    return f"{stage}_{block}"
