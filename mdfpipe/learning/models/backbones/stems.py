"""Stems of a vision transformer: from pixels to one vector a patch, by convolutions in place of one linear map.

Xiao et al. 2021, "Early convolutions help transformers see better": with a few convolutions of stride 2 a ViT trains
faster and minds its learning rate less. The sizes here are ours.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from mdfpipe.errors import ConfigError
from mdfpipe.learning.models.parts.residual import NormedConvolution, residual_stage

STEMS = ("patch", "conv", "resnet")
"""patch: one linear map of the pixels of a patch; conv: convolutions of stride 2; resnet: the first stages of one."""


def stem_of(kind: Literal["conv", "resnet"], width: int, patch_px: int) -> nn.Sequential:
    """(B, 3, H, W) to (B, width, H / patch_px, W / patch_px). Raises ConfigError for a patch_px that it cannot reach.

    conv: 3x3 convolutions of stride 2 with BatchNorm and ReLU, twice as many channels each, then 1x1. resnet: 7x7 of
    stride 2, max-pool, a stage of stride 1 and others of stride 2, each of two basic blocks (He et al. 2016), then 1x1.
    """
    halvings = math.log2(patch_px)
    least = {"conv": 1, "resnet": 3}[kind]
    if halvings != int(halvings) or halvings < least:
        raise ConfigError(
            f"stem {kind}: expected patches of {', '.join(str(2**n) for n in range(least, 6))}, ... px, got {patch_px}"
        )
    if kind == "conv":
        widths = [max(width >> left, 8) for left in reversed(range(int(halvings)))]
        layers = [
            layer
            for given, made in zip([3, *widths], widths, strict=False)
            for layer in (NormedConvolution(given, made, stride=2), nn.ReLU(inplace=True))
        ]
        return nn.Sequential(*layers, nn.Conv2d(widths[-1], width, 1))
    first = max(width // 6, 8)
    rest = range(int(halvings) - 2)
    return nn.Sequential(
        NormedConvolution(3, first, size=7, stride=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
        residual_stage(first, first, stride=1),
        *(residual_stage(first << number, first << number + 1, stride=2) for number in rest),
        nn.Conv2d(first << int(halvings) - 2, width, 1),
    )
