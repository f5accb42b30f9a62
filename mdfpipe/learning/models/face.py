"""The face model: AdaFace's IR network, under its public checkpoints' names, and the class weights of its margin."""

from __future__ import annotations

from torch import Tensor, nn

from mdfpipe.errors import ConfigError
from mdfpipe.learning.losses.identity import AdaFace

UNITS = {18: (2, 2, 2, 2), 50: (3, 4, 14, 3), 101: (3, 13, 30, 3)}
"""Residual units of the four stages (ArcFace's IR networks; METHODS 2). "ResNet100" and "ResNet-101" are IR-101."""
EMBEDDING = 512


class FaceModel(nn.Module):
    """`forward` gives the raw embedding (B, 512). loss: settings of `AdaFace`; classes: 0 = no head."""

    def __init__(self, layers: int, width: int, image_size: int, classes: int, loss: dict[str, float]) -> None:
        super().__init__()
        self.backbone = IResNet(layers, width=width, image_size=image_size)
        self.head = AdaFace(EMBEDDING, classes, **loss) if classes else None

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 512)."""
        found: Tensor = self.backbone(images)
        return found


class IResNet(nn.Module):
    """The IR network of AdaFace. `forward` gives the raw embedding (B, 512): its length is a sign of quality.

    layers: 18, 50 or 101; images are (B, 3, image_size, image_size) in -1..1, in the colour order of the weights.
    width: channels of the first stage, doubled by each further one. Public weights have 64 and 112x112; a smaller width
    and other sizes (multiples of 16) are ours, for machines without an accelerator. The embedding stays 512.
    Raises ConfigError for sizes that there are none of.
    """

    def __init__(self, layers: int = 101, *, width: int = 64, image_size: int = 112) -> None:
        super().__init__()
        if layers not in UNITS:
            raise ConfigError(f"IR network: expected {', '.join(map(str, UNITS))} layers, got {layers}")
        if width < 1 or image_size < 16 or image_size % 16:
            raise ConfigError(
                f"IR network: expected a width of at least 1 and an image size that is a multiple of 16, "
                f"got width {width} and image size {image_size}"
            )
        self.input_layer = nn.Sequential(_convolution(3, width), nn.BatchNorm2d(width), nn.PReLU(width))
        units: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(UNITS[layers]):
            for number in range(count):
                units.append(ResidualUnit(channels, width << stage, stride=2 if number == 0 else 1))
                channels = width << stage
        self.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(channels * (image_size // 16) ** 2, EMBEDDING),
            nn.BatchNorm1d(EMBEDDING, affine=False),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, 512), neither normalised nor split into length and direction."""
        embedding: Tensor = self.output_layer(self.body(self.input_layer(images)))
        return embedding


class ResidualUnit(nn.Module):
    """A residual unit: BN, 3x3, BN, PReLU, 3x3 with the stride, BN; nothing follows the sum.

    The shortcut only drops pixels where the number of channels stays, else it is a 1x1 convolution and a BN.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module
        if channels == out:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            _convolution(channels, out),
            nn.BatchNorm2d(out),
            nn.PReLU(out),
            _convolution(out, out, stride),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, out, H / stride, W / stride)."""
        total: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return total


def _convolution(channels: int, out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, stride, 1, bias=False)
