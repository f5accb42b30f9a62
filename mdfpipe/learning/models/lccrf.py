"""The network of LCCRF: stages 0 and 1 of each stream, shared stages with non-local blocks, GeM, a BN neck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

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
        self,
        images: Tensor,
        domain: Tensor,
        maps: MapOf | None = None,
        compactness: bool = False,
        part: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """z (B, D) float32, before the neck; and for training what is asked for.

        maps: M at the end of the streams, (B, C, h, w) as it is, or pooled by GeM to (B, C). compactness: (B,) of the
        last map. part: (B,) int64; images of one number go through the network by themselves, so that each BN takes
        their statistics alone.
        """
        if part is None:
            return self._once(images, domain, maps, compactness)
        found = [self._once(images[of], domain[of], maps, compactness) for of in _each(part)]
        order = torch.cat(_each(part)).argsort()
        return {name: torch.cat([each[name] for each in found])[order] for name in found[0]}

    def necked(self, z: Tensor, part: Tensor | None = None) -> Tensor:
        """z behind the neck; images of one part by themselves, as in `forward`.

        A single one, which has no spread, takes the running statistics.
        """
        if part is None:
            whole: Tensor = self.neck(z)
            return whole
        norm = self.neck
        running = norm.running_mean, norm.running_var, norm.weight, norm.bias
        found = [
            norm(z[of]) if len(of) > 1 else functional.batch_norm(z[of], *running, eps=norm.eps) for of in _each(part)
        ]
        return torch.cat(found)[torch.cat(_each(part)).argsort()]

    def _once(self, images: Tensor, domain: Tensor, maps: MapOf | None, compactness: bool) -> dict[str, Tensor]:
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


def _each(part: Tensor) -> list[Tensor]:
    """The places of each number, in ascending order of the numbers."""
    return [(part == number).nonzero().flatten() for number in torch.unique(part)]


def _place(stage: int, block: int) -> str:
    return f"{stage}_{block}"
