"""The network of DI2L: ResNet with streams, attention after stages 2 and 3, attending stripes, neck (METHODS 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mdfpipe.errors import ConfigError
from mdfpipe.learning.losses.ranking import precise
from mdfpipe.learning.models.backbones.trunk import Kind, Trunk
from mdfpipe.learning.models.parts.heads import BNNeck, Classifier
from mdfpipe.learning.models.parts.layers import GeM, NonLocal, uncast


class PartAggregation(nn.Module):
    """(B, C, H, W) to (B, C) float32: GeM of the map, and a gated sum of what its stripes find in one another (DPA).

    x_i are the averages of `parts` horizontal stripes that do not overlap; a_ij = softmax_j(u(x_i).v(x_j)) (DI2L
    eq. 4), x'_i = sum_j a_ij z(x_j); the output is GeM + sum_i w_i x'_i, w the softmax of gates that start equal.
    scaled: u.v is divided by the root of u's width, which is a quarter of C (512 of ResNet-50). u, v and z have no
    bias: one of v cancels in the softmax, one of z in every distance and in a BN neck.
    """

    def __init__(self, channels: int, parts: int = 3, power: float = 3.0, *, scaled: bool = True) -> None:
        super().__init__()
        inner = channels // 4
        self.parts = parts
        self.scale = inner**-0.5 if scaled else 1.0
        self.pool = GeM(power)
        self.u = nn.Conv2d(channels, inner, 1, bias=False)
        self.v = nn.Conv2d(channels, inner, 1, bias=False)
        self.z = nn.Conv2d(channels, channels, 1, bias=False)
        self.gate = nn.Parameter(torch.zeros(parts))
        for convolution in (self.u, self.v, self.z):
            nn.init.normal_(convolution.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Raises ConfigError where the rows of the map cannot be divided into the stripes."""
        if x.shape[2] % self.parts:
            raise ConfigError(
                f"part aggregation: expected a map whose rows divide into {self.parts} parts, got {x.shape[2]}; "
                "change the parts, or the height of the image"
            )
        if torch.onnx.is_in_onnx_export():  # the exporter knows no size of a map behind a residual block
            stripes = functional.avg_pool2d(x, (int(x.shape[2]) // self.parts, int(x.shape[3])))
        else:
            stripes = functional.adaptive_avg_pool2d(x, (self.parts, 1))  # (B, C, p, 1)
        seen = self.attention(stripes).to(x.dtype) @ self.z(stripes).flatten(2).transpose(1, 2)  # (B, p, C)
        gathered: Tensor = self.pool(x) + (self.gate.softmax(0)[:, None] * precise(seen)).sum(1)
        return gathered

    def attention(self, stripes: Tensor) -> Tensor:
        """(B, p, p) float32, how stripe i weighs stripe j: rows sum to 1. stripes: (B, C, p, 1)."""
        u, v = self.u(stripes).flatten(2), self.v(stripes).flatten(2)
        with uncast(u):
            return (self.scale * precise(u).transpose(1, 2) @ precise(v)).softmax(dim=2)


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
