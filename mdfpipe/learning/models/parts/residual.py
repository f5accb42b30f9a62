"""Residual blocks of plain ResNets (He et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SAFE_WIDTH = 3
"""Width of a map from which torch 2.14 on a CPU computes convolutions of stride 2 in bf16 rightly. On narrower ones
it reads memory that nothing has written: outputs and gradients differ from run to run, and some are NaN.
"""


class NormedConvolution(nn.Sequential):
    """A convolution without a bias, and its BatchNorm."""

    def __init__(self, given: int, made: int, size: int = 3, stride: int = 1) -> None:
        convolution = nn.Conv2d(given, made, size, stride, padding=size // 2, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # He et al. 2015
        super().__init__(convolution, nn.BatchNorm2d(made))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, given, H, W) to (B, made, H / stride, W / stride); in float32 where bf16 cannot be trusted."""
        narrow = self.stride > 1 and x.shape[3] < SAFE_WIDTH
        if narrow and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                x = self[0](x.float())
        else:
            x = self[0](x)
        made: Tensor = self[1](x)
        return made


class ResidualBlock(nn.Module):
    """ResNet's basic block (He et al. 2016): two 3x3 convolutions and a shortcut."""

    def __init__(self, given: int, made: int, stride: int) -> None:
        super().__init__()
        self.first = NormedConvolution(given, made, stride=stride)
        self.second = NormedConvolution(made, made)
        same = given == made and stride == 1
        self.shortcut = nn.Identity() if same else NormedConvolution(given, made, size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, given, H, W) to (B, made, H / stride, W / stride)."""
        residual = self.second(functional.relu(self.first(x), inplace=True))
        return functional.relu(residual + self.shortcut(x), inplace=True)


def residual_stage(given: int, made: int, *, stride: int) -> nn.Sequential:
    """(B, given, H, W) to (B, made, H / stride, W / stride): two basic blocks, the first of which has the stride."""
    return nn.Sequential(ResidualBlock(given, made, stride), ResidualBlock(made, made, 1))
