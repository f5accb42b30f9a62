"""The face model: AdaFace's IR network and the class weights of its margin."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mdfpipe.learning.losses.identity import AdaFace
from mdfpipe.learning.models.backbones.iresnet import IResNet


class FaceModel(nn.Module):
    """`forward` gives the raw embedding (B, 512). classes: 0 = no head."""

    def __init__(self, layers: int, width: int, image_size: int, classes: int, loss: dict[str, Any]) -> None:
        super().__init__()
        self.backbone = IResNet(layers, width=width, image_size=image_size)
        self.head = (
            AdaFace(
                512,
                classes,
                margin=loss["margin"],
                h=loss["quality"],
                scale=loss["scale"],
                average=loss["average"],
            )
            if classes
            else None
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 512)."""
        found: Tensor = self.backbone(images)
        return found
