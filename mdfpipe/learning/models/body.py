"""The body model: a backbone, a BN neck, a classifier."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mdfpipe.learning.models.backbones.semantic_vit import PartAlignment, SemanticViT, TokenBackbone
from mdfpipe.learning.models.parts.heads import Classifier, Neck
from mdfpipe.learning.models.parts.side_information import SideInformation


class BodyModel(nn.Module):
    """`forward` gives what one image alone decides; neck and classifier are for the losses.

    backbone: a TokenBackbone, or any module that gives (B, width); classes: 0 = no classifier; side: for a
    SemanticViT.
    """

    def __init__(
        self,
        backbone: nn.Module,
        width: int,
        classes: int,
        neck: Literal["multi", "single", "plain"],
        align_parts: bool = False,
        side: SideInformation | None = None,
    ) -> None:
        super().__init__()
        self.side = side
        self.backbone = backbone
        self.alignment = None
        if isinstance(backbone, TokenBackbone):
            apart = backbone.design.fusion == "four"
            self.neck = Neck(neck, width, backbone.token_width, backbone.chosen, apart=apart)
            if align_parts and isinstance(backbone, SemanticViT):
                self.alignment = PartAlignment(backbone.size.width, backbone.grid)
        else:
            self.neck = Neck(neck, width)
        self.classifier = Classifier(width, classes) if classes else None

    def forward(self, images: Tensor, domain: Tensor | None = None, camera: Tensor | None = None) -> dict[str, Tensor]:
        """z (B, width) before the neck; of a TokenBackbone tokens (B, 4, d); of aligned parts alignment, match (B,)."""
        if not isinstance(self.backbone, TokenBackbone):
            return {"z": self.backbone(images)}
        if self.side is None:
            tokens = self.backbone(images)
        else:
            tokens = self.backbone(images, self.side(domain, camera))
        found = {"z": self.backbone.fuse(tokens), "tokens": torch.cat([tokens.global_[:, None], tokens.local], dim=1)}
        if self.alignment is not None and self.training:
            found["alignment"] = self.alignment(tokens).expand(len(images))
            found["part_match"] = self.alignment.match(tokens)
        return found
