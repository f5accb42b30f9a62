"""The network of DI2L: ResNet with streams, attention after stages 2 and 3, attending stripes, neck (METHODS 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from mdfpipe.learning.models.backbones.trunk import Kind, Trunk
from mdfpipe.learning.models.parts.heads import BNNeck, Classifier
from mdfpipe.learning.models.parts.non_local import NonLocal
from mdfpipe.learning.models.parts.part_aggregation import PartAggregation
from mdfpipe.learning.models.parts.pooling import GeM


class DI2LModel(nn.Module):
    """`forward` gives what one image alone decides; neck and classifier are for the losses.

    domains: their names, by place; stream_of: the stream of each. attention: (inner, norm) of the `NonLocal` blocks,
    None: there are none. parts: stripes that are aggregated, 0: the map is pooled only. classes: 0 = no classifier.
    """

    def __init__(
        self,
        kind: Kind,
        domains: Sequence[str],
        stream_of: Sequence[str],
        classes: int,
        *,
        attention: tuple[Literal["half", "one"], Literal["softmax", "mean"]] | None = ("half", "softmax"),
        parts: int = 3,
        scaled: bool = True,
        power: float = 3.0,
    ) -> None:
        super().__init__()
        self.domains = tuple(domains)
        self.backbone = Trunk(kind, stream_of, own=1)
        channels = self.backbone.channels
        self.non_local = nn.ModuleDict()
        if attention is not None:
            inner, norm = attention
            for stage in (2, 3):
                self.non_local[str(stage)] = NonLocal(channels[stage], inner=inner, norm=norm)
        width = channels[-1]
        self.aggregation = PartAggregation(width, parts, power, scaled=scaled) if parts else GeM(power)
        self.neck = BNNeck(width)
        self.classifier = Classifier(width, classes) if classes else None

    def forward(self, images: Tensor, domain: Tensor) -> dict[str, Tensor]:
        """z (B, width) float32 before the neck. images: (B, 3, H, W); domain: (B,) places in `domains`."""
        after = {int(stage): block for stage, block in self.non_local.items()}
        x = self.backbone.go_on(self.backbone.begin(images, domain), after)
        return {"z": self.aggregation(x)}
