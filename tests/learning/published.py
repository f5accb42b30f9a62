"""Public checkpoints as state dicts, drawn here under their public names, and a network that takes them."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

State = dict[str, Tensor]


class Vit(nn.Module):
    """The names of a SemanticViT, and a part that is not of the backbone."""

    def __init__(self, size: tuple[int, int] = (256, 128), width: int = 24, depth: int = 2, **more: Any) -> None:
        super().__init__()
        self.vit = VisionTransformer(
            img_size=size,
            patch_size=16,
            embed_dim=width,
            depth=depth,
            num_heads=2,
            class_token=True,
            reg_tokens=3,
            num_classes=0,
            global_pool="",
            **more,
        )
        self.fusion = nn.Linear(2, 2)


def plain_vit(width: int = 24, depth: int = 2, patches: int = 196) -> State:
    """The tensors of a plain ViT with 16x16 patches, drawn."""
    return {
        "cls_token": torch.randn(1, 1, width),
        "pos_embed": torch.randn(1, 1 + patches, width),
        "patch_embed.proj.weight": torch.randn(width, 3, 16, 16) * 0.05,
        "patch_embed.proj.bias": torch.randn(width) * 0.1,
        **{k: v for i in range(depth) for k, v in block(f"blocks.{i}", width).items()},
        "norm.weight": torch.rand(width) + 0.5,
        "norm.bias": torch.randn(width) * 0.1,
    }


def block(at: str, width: int) -> State:
    shapes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    shapes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    found = {f"{at}.{n}.weight": torch.randn(shape) * shape[1] ** -0.5 for n, shape in shapes.items()}
    found |= {f"{at}.{n}.bias": torch.randn(shape[0]) * 0.1 for n, shape in shapes.items()}
    for norm in ("norm1", "norm2"):
        found |= {f"{at}.{norm}.weight": torch.rand(width) + 0.5, f"{at}.{norm}.bias": torch.randn(width) * 0.1}
    return found


def pass_state(width: int = 24, depth: int = 2) -> State:
    """PASS (PROTOCOLS 3.3): position embeddings of the patches alone, 16x8; those of the four tokens by themselves."""
    state = plain_vit(width, depth, 128)
    state["pos_embed"] = torch.randn(1, 128, width)
    for name in ("part_token1", "part_token2", "part_token3", "cls_pos", "part1_pos", "part2_pos", "part3_pos"):
        state[name] = torch.randn(1, 1, width)
    return state
