"""A vision transformer with one global and three local tokens, and what is made of them: the paper's body backbone.

"Multi-Domain Biometric Recognition using Body Embeddings" (arXiv 2503.10931), section III; PASS (Zhu et al. 2022) has
the same layout, and its tensors fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from mdfpipe.errors import ConfigError

PARTS = ("face", "torso", "lower_body")
"""The regions of the local tokens, in their order. Fine-tuning alone ties no token to a region (METHODS 1.1)."""
EPS = 1e-6
"""Epsilon of every LayerNorm, as in PASS."""


class Size(NamedTuple):
    """width: d of a token; depth: blocks; heads: of each block's attention."""

    width: int
    depth: int
    heads: int


SIZES = {"base": Size(768, 12, 12), "small": Size(384, 12, 6), "tiny": Size(192, 12, 3), "mini": Size(192, 6, 3)}
"""base, small and tiny as everywhere; mini is ours, for training on a CPU."""


class Tokens(NamedTuple):
    """What the last LayerNorm gives: global_ (B, d); local (B, 3, d), in PARTS' order; patches (B, N, d), by rows."""

    global_: Tensor
    local: Tensor
    patches: Tensor


class SemanticViT(nn.Module):
    """`forward` gives the tokens, `fuse` makes the feature z of them. Order inside: global, local 1..3, patches.

    size: of SIZES; image_size: (height, width) in pixels, multiples of patch_px; drop_path: stochastic depth at the
    last block, rising linearly from 0 at the first; fusion: see `fuse`; parts: the local tokens in use, of PARTS.
    `vit` is timm's VisionTransformer, whose `reg_token` holds the local tokens. Raises ConfigError.
    """

    def __init__(
        self,
        size: str = "base",
        *,
        image_size: tuple[int, int] = (384, 128),
        patch_px: int = 16,
        drop_path: float = 0.0,
        fusion: Literal["cat", "ffn"] = "cat",
        parts: Sequence[str] = PARTS,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ConfigError(f"semantic ViT: expected a size of {', '.join(SIZES)}, got {size!r}")
        if fusion not in ("cat", "ffn"):
            raise ConfigError(f"semantic ViT: expected a fusion of cat, ffn, got {fusion!r}")
        if patch_px < 1 or any(side < patch_px or side % patch_px for side in image_size):
            raise ConfigError(
                f"semantic ViT: expected image sides that are multiples of the patch of {patch_px} px, "
                f"got {image_size[0]}x{image_size[1]}"
            )
        self.size, self.image_size, self.patch_px, self.fusion = SIZES[size], image_size, patch_px, fusion
        self.chosen = places(parts)
        self.vit = VisionTransformer(
            img_size=image_size,
            patch_size=patch_px,
            num_classes=0,
            global_pool="",
            embed_dim=self.size.width,
            depth=self.size.depth,
            num_heads=self.size.heads,
            mlp_ratio=4.0,
            qkv_bias=True,
            class_token=True,
            reg_tokens=len(PARTS),
            drop_path_rate=drop_path,
            norm_layer=partial(nn.LayerNorm, eps=EPS),
        )
        # timm draws them at 1e-6: without position embeddings of their own they would stay equal
        assert self.vit.reg_token is not None
        nn.init.normal_(self.vit.reg_token, std=0.02)
        self.ffn = _feed_forward(self.size.width) if fusion == "ffn" else None

    @property
    def width(self) -> int:
        """Width of the feature z: 2 d."""
        return 2 * self.size.width

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_px, self.image_size[1] // self.patch_px

    def forward(self, images: Tensor) -> Tokens:
        """images: (B, 3, H, W), normalised as the checkpoint wants it. Raises ConfigError at another H or W."""
        if images.shape[-2:] != self.image_size:
            raise ConfigError(
                f"semantic ViT: expected images of {self.image_size[0]}x{self.image_size[1]}, "
                f"got {images.shape[-2]}x{images.shape[-1]}: set the recipe's image size"
            )
        found = self.vit.forward_features(images)
        return Tokens(found[:, 0], found[:, 1 : 1 + len(PARTS)], found[:, 1 + len(PARTS) :])

    def fuse(self, tokens: Tokens) -> Tensor:
        """The feature z (B, 2 d), raw.

        cat: [z_g ; z_local], z_local the mean of the local tokens in use (eq. 8-9). It is divided by as many as remain,
        so that leaving one out does not weigh global against local again; of none it is 0.
        ffn: LayerNorm, linear, GELU, linear on [z_g ; z_1 ; z_2 ; z_3], with 0 for tokens not in use (eq. 4).
        """
        chosen = self.chosen
        if self.ffn is None:
            local = tokens.local[:, chosen].mean(1) if chosen else torch.zeros_like(tokens.global_)
            return torch.cat([tokens.global_, local], dim=1)
        kept = [tokens.local[:, k] if k in chosen else torch.zeros_like(tokens.global_) for k in range(len(PARTS))]
        fused: Tensor = self.ffn(torch.cat([tokens.global_, *kept], dim=1))
        return fused


class PartAlignment(nn.Module):
    """Ties local tokens to body bands: token k predicts the mean patch feature of its band (METHODS 1.1 a; ours).

    A linear predictor is between them, so that a token, which is part of the feature z, need not lie among the patches
    itself. All tokens share it and it has no bias: it cannot know which band is asked for, so what tells the bands
    apart has to be in the tokens. It starts as the identity.

    A low value is no proof that a token attends to its band: by the last block patches hold what other bands show, too,
    and what all images have in common is predicted without looking. `match` measures it; in short trainings of the
    mini ViT (1,200 steps) it stayed near chance, and so did two contrastive forms of the term (200 to 300 steps).
    """

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        """width: d of a token; grid: rows and columns of patches. Raises ConfigError for less than 3 rows."""
        super().__init__()
        band_rows(grid[0])
        self.grid = grid
        self.predictor = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.predictor.weight)

    def forward(self, tokens: Tokens) -> Tensor:
        """A scalar, 0..2: mean over images and tokens of 1 - cosine. No gradient passes through what is predicted."""
        target = band_targets(tokens.patches, self.grid).detach()
        cosine = functional.cosine_similarity(self.predictor(tokens.local).float(), target.float(), dim=2)
        return 1 - cosine.mean()

    @torch.no_grad()
    def match(self, tokens: Tokens) -> Tensor:
        """(B,) 0..1: the share of an image's local tokens that are nearest to their own band, from the mean of the
        bands. 1/3 is chance: what the term is worth is measured, not believed.
        """
        target = band_targets(tokens.patches, self.grid).float()
        target = functional.normalize(target - target.mean(dim=1, keepdim=True), dim=2)
        said = functional.normalize(self.predictor(tokens.local).float(), dim=2)
        nearest = (said @ target.transpose(1, 2)).argmax(dim=2)
        return (nearest == torch.arange(len(PARTS), device=nearest.device)).float().mean(dim=1)


def band_rows(rows: int) -> tuple[range, range, range]:
    """Patch rows of face, torso and lower body: the top 1/6, the next 2/6, the rest (METHODS 1.1), at least one each.

    Raises ConfigError for less than 3 rows.
    """
    if rows < len(PARTS):
        raise ConfigError(
            f"part alignment: expected at least {len(PARTS)} rows of patches, got {rows}: smaller patches"
        )
    face = max(round(rows / 6), 1)
    torso = max(round(rows / 2), face + 1)
    return range(face), range(face, torso), range(torso, rows)


def band_targets(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, 3, d) mean patch feature of each horizontal band. patches: (B, rows x columns, d), row by row."""
    by_row = patches.reshape(len(patches), *grid, -1).mean(2)
    return torch.stack([by_row[:, band.start : band.stop].mean(1) for band in band_rows(grid[0])], dim=1)


def places(parts: Sequence[str]) -> list[int]:
    """Places of these parts in PARTS, ascending. Raises ConfigError for one that is unknown or named twice."""
    for part in parts:
        if part not in PARTS:
            raise ConfigError(f"parts: expected some of {', '.join(PARTS)}, got {part!r}")
    if len(set(parts)) < len(parts):
        raise ConfigError(f"parts: expected each part once, got {', '.join(parts)}")
    return sorted(PARTS.index(part) for part in parts)


def _feed_forward(width: int) -> nn.Sequential:
    """Eq. 4; its sizes are ours (METHODS 1.1)."""
    given, made = (1 + len(PARTS)) * width, 2 * width
    return nn.Sequential(nn.LayerNorm(given, eps=EPS), nn.Linear(given, made), nn.GELU(), nn.Linear(made, made))
