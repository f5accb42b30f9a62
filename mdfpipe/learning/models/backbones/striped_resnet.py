"""A small residual network whose feature keeps head, trunk and legs apart: for a CPU, and for training from scratch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mdfpipe.errors import ConfigError
from mdfpipe.learning.models.parts.residual import NormedConvolution, residual_stage


class StripedResNet(nn.Module):
    """ResNet-18's blocks at half its width, horizontal stripes, one linear map: 3.2 M parameters (SYNTH 9).

    width: channels of the first stage, doubled by each of the other three; stripes: horizontal bands of the last map;
    features: length of what `forward` gives.

    The stem is ResNet's own (7x7, max-pool; stride 4): of 144x48 it leaves a last map of 5x2, whose rows stripes share.
    A stem of stride 2 would leave 9x3 at three times the cost.
    The linear map has no bias: BN neck and distances take no notice of one, while cosines at test would.
    """

    def __init__(self, *, width: int = 32, stripes: int = 6, features: int = 256) -> None:
        super().__init__()
        if min(width, stripes, features) < 1:
            raise ConfigError(f"striped ResNet: expected at least 1, got width {width}, {stripes=}, {features=}")
        self.stripes = stripes
        self.trunk = nn.Sequential(
            NormedConvolution(3, width, size=7, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
            residual_stage(width, width, stride=1),
            residual_stage(width, 2 * width, stride=2),
            residual_stage(2 * width, 4 * width, stride=2),
            residual_stage(4 * width, 8 * width, stride=2),
        )
        self.project = nn.Linear(stripes * 8 * width, features, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, features), raw. Raises ConfigError where a row would serve more than two stripes."""
        found: Tensor = self.project(self.stripe_means(images).flatten(1))
        return found

    def stripe_means(self, images: Tensor) -> Tensor:
        """(B, stripes, 8 width): the last map, of H/32 rows, averaged over each stripe, from the top."""
        rows = self.trunk(images).mean(3)
        fewest = -(-self.stripes // 2)
        if rows.shape[2] < fewest:
            raise ConfigError(
                f"striped ResNet: expected at least {fewest} rows in the last map, got {rows.shape[2]} of images "
                f"{images.shape[2]} px high: expected {32 * (fewest - 1) + 1} px at least"
            )
        # not adaptive_avg_pool2d: the same means, but its gradient is not reproducible on CUDA
        bands = stripe_rows(rows.shape[2], self.stripes)
        return torch.stack([rows[:, :, band.start : band.stop].mean(2) for band in bands], dim=1)


def stripe_rows(rows: int, stripes: int) -> list[range]:
    """The rows of each stripe: from floor(i rows / stripes) to ceil((i + 1) rows / stripes), as in adaptive pooling.

    Stripes that do not fit evenly share a row.
    """
    return [range(i * rows // stripes, -(-(i + 1) * rows // stripes)) for i in range(stripes)]
