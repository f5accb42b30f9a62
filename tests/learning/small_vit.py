"""A small semantic ViT, and tokens as one would give."""

from __future__ import annotations

import torch
from torch import Tensor

from mdfpipe.learning.models.backbones.semantic_vit import Design, SemanticViT, Tokens
from tests.learning.scalars import normal as noise

HEIGHT, WIDTH = 96, 32  # 6 x 2 patches


def small(seed: int = 0, **more: object) -> SemanticViT:
    torch.manual_seed(seed)
    design = Design(**{name: more.pop(name) for name in Design._fields if name in more})  # type: ignore[arg-type]
    given: dict[str, object] = {"image_size": (HEIGHT, WIDTH), "design": design, **more}
    return SemanticViT("mini", **given).eval()  # type: ignore[arg-type]


def global_only(vit: SemanticViT, images: Tensor) -> Tensor:
    """(B, d): the global token where nothing attends to the local ones: what the ViT without them gives."""
    seen = torch.ones(4 + vit.grid[0] * vit.grid[1], dtype=torch.bool)
    seen[1:4] = False
    return vit.vit.forward_features(images, attn_mask=seen.expand(len(seen), -1))[:, 0]


def some_tokens(images: int = 2, width: int = 192, patches: int = 12) -> Tokens:
    found = noise(images, 4 + patches, width)
    return Tokens(found[:, 0], found[:, 1:4], found[:, 4:])
