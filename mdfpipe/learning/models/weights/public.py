"""Public checkpoints under the names of our networks: functions from dictionaries of tensors to such dictionaries.

Key names and shapes: PROTOCOLS 3.3 (PASS, TransReID, TransReID-SSL) and 3.4 (AdaFace, CVLFace), LIBRARIES "Models".
Nothing here touches a network or a file: `loading.py` reads files, fills networks and reports what it did.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mdfpipe.errors import ConfigError

State = dict[str, Tensor]
Grid = tuple[int, int]

LOCALS = 3
"""Local tokens of a SemanticViT, between the class token and the patches."""
WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.", "base.", "vit.")
"""What wraps a network in a checkpoint: DDP, torch.compile, Lightning, DINO, TransReID, a SemanticViT."""
_HEAD = re.compile(
    r"((\w+_)?heads?(_\w+)?|fc|pre_logits|classifier\w*|bottleneck\w*|projector|predictor|neck\w*|alignment|b1|b2)(\.|$)"
)
_ASIDE = re.compile(r"(sie_embed|dist_token|mask_token)$")
_STEM = "patch_embed.conv.0.weight"


def is_head(name: str) -> bool:
    """Whether a tensor belongs to a classifier, a BN neck or a projection, by the first word of its name alone.

    >>> [is_head(name) for name in ("head.mlp.0.weight", "bottleneck_1.bias", "fc.weight", "blocks.0.mlp.fc1.weight")]
    [True, True, True, False]
    """
    return _HEAD.match(name) is not None


def without_wrappers(state: Mapping[str, Tensor], wrappers: Iterable[str] = WRAPPERS) -> State:
    """The same tensors without the prefixes that wrap a network.

    A prefix goes where all names but those of heads, or 9 of 10 of them, carry it, and no two names become one; other
    names stay as they are.

    >>> list(without_wrappers({"module.base.norm.bias": torch.ones(1), "module.classifier.weight": torch.ones(1)}))
    ['norm.bias', 'classifier.weight']
    """
    found, again = dict(state), True
    while again:
        again = False
        for prefix in wrappers:
            body = [name for name in found if not is_head(name)]
            inside = [name for name in body if name.startswith(prefix)]
            shorter = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
            if inside and len(inside) >= 0.9 * len(body) and len(shorter) == len(found):
                found, again = shorter, True
    return found


@dataclass(frozen=True)
class Converted:
    """A checkpoint under our names.

    tensors: all of it that is for the network, known to it or not; fresh: what is set in addition and is not from the
    checkpoint; uncovered: weights within `tensors` that are not from it either; resized: (name, from grid, to grid);
    ignored: what is left, on purpose; colour: the order of the channels that the weights expect.
    """

    format: str
    tensors: State
    ignored: tuple[str, ...] = ()
    resized: tuple[tuple[str, Grid, Grid], ...] = ()
    colour: Literal["BGR", "RGB"] | None = None
    notes: tuple[str, ...] = ()
    fresh: State = field(default_factory=dict)
    uncovered: int = 0


# --- vision transformers ---------------------------------------------------------------------------------------------


def patch_grid(patches: int, hw_ratio: float | None = None) -> Grid:
    """(rows, columns) of the grid that so many position embeddings were trained on.

    rows = sqrt(patches * hw_ratio) (TransReID). hw_ratio: height over width; None: the first of 1, 2, 3 that comes out
    even, so that ImageNet's 14x14, a person's 16x8 (256x128) and 24x8 (384x128) are distinguished. Raises ConfigError.
    """
    for ratio in (1.0, 2.0, 3.0) if hw_ratio is None else (hw_ratio,):
        rows = int(math.sqrt(patches * ratio) + 1e-6)
        exact = hw_ratio is not None or rows * rows == patches * ratio
        if exact and rows and patches % rows == 0:
            return rows, patches // rows
    given = "of height:width 1, 2 or 3" if hw_ratio is None else f"of height:width {hw_ratio:g}"
    raise ConfigError(
        f"pos_embed: expected a grid {given}, got {patches} patches; take weights of such a grid, or load them in "
        "Python: load_vit(..., source_hw_ratio=...)"
    )


def resized_positions(positions: Tensor, source: Grid, target: Grid) -> Tensor:
    """Position embeddings (1, rows * columns, D) on another grid, bilinear, corners not aligned (TransReID, PASS).

    timm's own resampling is bicubic with anti-aliasing, and is not what these networks are fine-tuned with.
    """
    if source == target:
        return positions
    image = positions.float().reshape(1, *source, -1).permute(0, 3, 1, 2)
    image = functional.interpolate(image, target, mode="bilinear", align_corners=False)
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def vit_format(state: Mapping[str, Tensor]) -> str:
    """What made a ViT checkpoint, by the names in it (wrappers removed); "unknown" where it is no ViT.

    A plain ViT at 2:1 is TransReID-SSL's: no other project publishes bare backbones for people.
    """
    names = state.keys()
    if "part_token1" in names:
        return "PASS"
    if not {"cls_token", "pos_embed"} <= names or state["pos_embed"].ndim != 3:
        return "unknown"
    if "reg_token" in names:
        return "mdfpipe"
    if _STEM in names:
        return "TransReID-SSL"
    if any(name.startswith("head.last_layer.") for name in names):
        return "DINO"
    if any(re.match(r"sie_embed|bottleneck|b1\.", name) for name in names):
        return "TransReID"
    patches = state["pos_embed"].shape[1] - 1
    return "TransReID-SSL" if 2 * math.isqrt(patches // 2) ** 2 == patches else "timm ViT"


def has_stem(state: Mapping[str, Tensor]) -> bool:
    """Whether a ViT's patches come from a convolution stem (TransReID-SSL's ICS networks)."""
    return any(name.endswith(_STEM) for name in state)


def vit(state: Mapping[str, Tensor], grid: Grid, source_hw_ratio: float | None = None) -> Converted:
    """A ViT checkpoint for a SemanticViT on `grid`, (rows, columns) of patches. Raises ConfigError.

    PASS, or one with three register tokens, fills everything. From others `vit.pos_embed` has no rows for the local
    tokens yet, and there is no `vit.reg_token`: `with_local_tokens` adds them.
    """
    found = without_wrappers(state)
    kind = vit_format(found)
    ignored = tuple(name for name in found if is_head(name) or _ASIDE.match(name))
    distilled = "dist_token" in found
    rest = {name: tensor for name, tensor in found.items() if name not in ignored}
    resized: tuple[tuple[str, Grid, Grid], ...] = ()
    before: list[Tensor] = []
    if kind == "PASS":
        tokens = [rest.pop(name, None) for name in ("part_token1", "part_token2", "part_token3")]
        before = [
            p for p in (rest.pop(f"{name}_pos", None) for name in ("cls", "part1", "part2", "part3")) if p is not None
        ]
        if len(before) != 1 + LOCALS or any(token is None for token in tokens):
            raise ConfigError("PASS checkpoint: expected part_token1..3, cls_pos and part1_pos..3, some are missing")
        rest["reg_token"] = torch.cat([token for token in tokens if token is not None], dim=1)
    positions = rest.get("pos_embed")
    if kind != "unknown" and positions is not None:
        if kind != "PASS":
            count = 1 + LOCALS if kind == "mdfpipe" else 1
            before, positions = [positions[:, :count]], positions[:, count + distilled :]
        source = patch_grid(positions.shape[1], source_hw_ratio)
        if source != grid:
            resized = (("pos_embed", source, grid),)
        moved = resized_positions(positions, source, grid)
        rest["pos_embed"] = torch.cat([*(tensor.to(moved) for tensor in before), moved], dim=1)
    tensors = {f"vit.{name}": tensor for name, tensor in rest.items()}
    return Converted(kind, tensors, ignored, resized)


def with_local_tokens(converted: Converted, drawn: Mapping[str, Tensor]) -> Converted:
    """The same with the network's own three local tokens, where the checkpoint had none.

    drawn: among others its `vit.reg_token` (1, 3, D) and `vit.pos_embed` (1, 4 + N, D).
    """
    tensors = dict(converted.tensors)
    cls, positions = tensors.get("vit.cls_token"), tensors.get("vit.pos_embed")
    if cls is None or positions is None or "vit.reg_token" in tensors:
        return converted
    own = drawn["vit.reg_token"], drawn["vit.pos_embed"][:, 1 : 1 + LOCALS]
    if cls.shape[-1] != own[0].shape[-1]:
        return converted  # of another width: the comparison of shapes says so
    tensors["vit.pos_embed"] = torch.cat([positions[:, :1], own[1].to(positions), positions[:, 1:]], dim=1)
    notes = (*converted.notes, "local tokens are new: as they were drawn")
    return replace(converted, tensors=tensors, fresh={"vit.reg_token": own[0]}, uncovered=own[1].numel(), notes=notes)


class ConvStem(nn.Module):
    """The patches of TransReID-SSL's ICS networks: three convolutions, then one step of half a patch.

    7x7 with stride 2, 3x3, 3x3, of 64 channels; after the first two half of the channels are normalised by instance and
    half by batch (IBN), after the third all by batch; then ReLU (Xiao et al. 2021, "Early convolutions"; Luo et al.
    2021, TransReID-SSL). It takes the place of a timm `PatchEmbed`: (B, 3, H, W) to (B, patches, D).
    """

    def __init__(self, embed_dim: int, patch: int = 16, hidden: int = 64) -> None:
        super().__init__()
        if patch < 2 or patch % 2:
            raise ConfigError(f"convolution stem: expected patches of an even size, got {patch}")
        self.conv = nn.Sequential(
            nn.Conv2d(3, hidden, 7, 2, 3, bias=False),
            InstanceBatchNorm(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, 1, 1, bias=False),
            InstanceBatchNorm(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, 1, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
        )
        self.proj = nn.Conv2d(hidden, embed_dim, patch // 2, patch // 2)

    @classmethod
    def instead_of(cls, patches: nn.Module) -> ConvStem:
        """A stem with the sizes of a timm `PatchEmbed`, and what timm asks of one."""
        proj = patches.proj
        assert isinstance(proj, nn.Conv2d)
        stem = cls(proj.out_channels, proj.kernel_size[0]).to(proj.weight).train(patches.training)
        for name in ("img_size", "patch_size", "grid_size", "num_patches", "flatten", "dynamic_img_pad"):
            if hasattr(patches, name):
                setattr(stem, name, getattr(patches, name))
        return stem

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, H / patch * W / patch, D)."""
        found: Tensor = self.proj(self.conv(images))
        return found.flatten(2).transpose(1, 2)


class InstanceBatchNorm(nn.Module):
    """IBN-a: the first half of the channels normalised by instance, the second by batch (Pan et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = channels // 2
        self.IN = nn.InstanceNorm2d(self.split, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.split)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W), the same shape."""
        return torch.cat([self.IN(x[:, : self.split]), self.BN(x[:, self.split :])], dim=1)


# --- residual networks -----------------------------------------------------------------------------------------------


def iresnet(state: Mapping[str, Tensor]) -> Converted:
    """A face checkpoint for an IResNet: AdaFace's (Lightning; BGR), CVLFace's (RGB), or bare tensors."""
    found = without_wrappers(state, ("module.", "_orig_mod.", "backbone."))
    for kind, prefix, colour in (
        ("CVLFace", "model.net.", "RGB"),
        ("CVLFace", "net.", "RGB"),
        ("AdaFace", "model.", "BGR"),
        ("IR network", "", None),
    ):
        if f"{prefix}input_layer.0.weight" not in found:
            continue
        inside = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
        tensors = {name: tensor for name, tensor in inside.items() if not is_head(name)}
        ignored = tuple(n for n in found if not n.startswith(prefix) or n.removeprefix(prefix) not in tensors)
        return Converted(kind, tensors, ignored, colour="BGR" if colour == "BGR" else "RGB" if colour else None)
    return Converted("unknown", found)


def resnet(state: Mapping[str, Tensor]) -> Converted:
    """A torchvision ResNet checkpoint (conv1, bn1, layer1..4; not fc) under these names."""
    found = without_wrappers(state)
    kind = "ImageNet ResNet" if "layer1.0.conv1.weight" in found else "unknown"
    ignored = tuple(name for name in found if is_head(name))
    return Converted(kind, {name: t for name, t in found.items() if name not in ignored}, ignored)
