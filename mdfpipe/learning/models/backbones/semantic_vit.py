"""A vision transformer with one global and three local tokens, and what is made of them: the paper's body backbone.

"Multi-Domain Biometric Recognition using Body Embeddings" (arXiv 2503.10931), section III; PASS (Zhu et al. 2022) has
the same layout, and its tensors fit.

The options `Design` are ours, for training from scratch. `scripts/bench learn` compares networks of such options.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from mdfpipe.errors import ConfigError
from mdfpipe.learning.models.backbones.stems import STEMS, stem_of

PARTS = ("face", "torso", "lower_body")
"""The regions of the local tokens, in their order. Fine-tuning alone ties no token to a region (METHODS 1.1)."""
HALVES = ("upper", "middle", "lower")
"""The names of the same tokens in networks from PASS, which trained them for overlapping halves of the picture."""
EPS = 1e-6
"""Epsilon of every LayerNorm, as in PASS."""


class Size(NamedTuple):
    """width: d of a token; depth: blocks; heads: of each block's attention."""

    width: int
    depth: int
    heads: int


SIZES = {"base": Size(768, 12, 12), "small": Size(384, 12, 6), "tiny": Size(192, 12, 3), "mini": Size(192, 6, 3)}
"""base, small and tiny as everywhere; mini is ours, for training on a CPU."""


class Design(NamedTuple):
    """What a SemanticViT is made of. The defaults are the paper's network.

    stem: of STEMS. local: token: the local tokens attend to all others, which attend to them; band: a local token
    attends to itself and to the patches of its band of the body (`band_rows`), nothing else attends to it, and it gets
    the mean of the band's patches added. global_: token: the class token; mean: the mean of all patches. fusion: see
    `SemanticViT.fuse`. positions: learned: drawn; sincos: see `start_sincos`. initialisation: of the attention;
    normal: drawn; mimetic: see `start_mimetic`.
    """

    stem: Literal["patch", "conv", "resnet"] = "patch"
    local: Literal["token", "band"] = "token"
    global_: Literal["token", "mean"] = "token"
    fusion: Literal["cat", "ffn", "four"] = "cat"
    positions: Literal["learned", "sincos"] = "learned"
    initialisation: Literal["normal", "mimetic"] = "normal"


PAPER = Design()
CHOICES = {
    "stem": STEMS,
    "local": ("token", "band"),
    "global_": ("token", "mean"),
    "fusion": ("cat", "ffn", "four"),
    "positions": ("learned", "sincos"),
    "initialisation": ("normal", "mimetic"),
}


class Tokens(NamedTuple):
    """What the last LayerNorm gives: global_ (B, d); local (B, 3, d), in PARTS' order; patches (B, N, d), by rows."""

    global_: Tensor
    local: Tensor
    patches: Tensor


class TokenBackbone(nn.Module):
    """A network that gives Tokens, and the feature z of them.

    token_width: d; chosen: the places of the local tokens in use; ffn: for fusion ffn.
    """

    design: Design
    token_width: int
    chosen: list[int]
    ffn: nn.Module | None

    @property
    def width(self) -> int:
        """Width of the feature z: 2 d, or 4 d where all tokens are kept apart."""
        return (1 + len(PARTS) if self.design.fusion == "four" else 2) * self.token_width

    def fuse(self, tokens: Tokens) -> Tensor:
        """The feature z (B, width), raw.

        cat: [z_g ; z_local], z_local the mean of the local tokens in use (eq. 8-9). It is divided by as many as remain,
        so that leaving one out does not weigh global against local again; of none it is 0.
        ffn: LayerNorm, linear, GELU, linear on [z_g ; z_1 ; z_2 ; z_3], with 0 for tokens not in use (eq. 4).
        four: [z_g ; z_1 ; z_2 ; z_3], with 0 for tokens not in use.
        """
        chosen = self.chosen
        if self.design.fusion == "cat":
            local = tokens.local[:, chosen].mean(1) if chosen else torch.zeros_like(tokens.global_)
            return torch.cat([tokens.global_, local], dim=1)
        kept = [tokens.local[:, k] if k in chosen else torch.zeros_like(tokens.global_) for k in range(len(PARTS))]
        apart = torch.cat([tokens.global_, *kept], dim=1)
        return apart if self.ffn is None else self.ffn(apart)


class SemanticViT(TokenBackbone):
    """`forward` gives the tokens, `fuse` makes the feature z of them. Order inside: global, local 1..3, patches.

    size: of SIZES; image_size: (height, width) in pixels, multiples of patch_px; drop_path: stochastic depth at the
    last block, rising linearly from 0 at the first; parts: the local tokens in use, of PARTS or of HALVES;
    design: see Design; depth: blocks, by default those of its size.
    `vit` is timm's VisionTransformer, whose `reg_token` holds the local tokens. Raises ConfigError.
    """

    def __init__(
        self,
        size: str = "base",
        *,
        image_size: tuple[int, int] = (384, 128),
        patch_px: int = 16,
        drop_path: float = 0.0,
        parts: Sequence[str] = PARTS,
        design: Design = PAPER,
        depth: int | None = None,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ConfigError(f"semantic ViT: expected a size of {', '.join(SIZES)}, got {size!r}")
        for name, known in CHOICES.items():
            if (given := getattr(design, name)) not in known:
                raise ConfigError(f"semantic ViT: expected {name} of {', '.join(known)}, got {given!r}")
        if patch_px < 1 or any(side < patch_px or side % patch_px for side in image_size):
            raise ConfigError(
                f"semantic ViT: expected image sides that are multiples of the patch of {patch_px} px, "
                f"got {image_size[0]}x{image_size[1]}"
            )
        self.size, self.image_size, self.patch_px, self.design = SIZES[size], image_size, patch_px, design
        self.size = self.size._replace(depth=depth or self.size.depth)
        self.token_width = self.size.width
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
        self.ffn = feed_forward(self.size.width) if design.fusion == "ffn" else None
        if design.stem != "patch":
            self.vit.patch_embed.proj = stem_of(design.stem, self.size.width, patch_px)
        if design.positions == "sincos":
            start_sincos(self.vit, self.grid)
        if design.initialisation == "mimetic":
            start_mimetic(self.vit)
        self.seen: Tensor | None
        self.register_buffer("seen", _seen(self.grid) if design.local == "band" else None, persistent=False)
        if design.local == "band" and not self.chosen:
            self.vit.reg_token.requires_grad_(False)  # it gets no gradient, for which several processes would wait

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_px, self.image_size[1] // self.patch_px

    def forward(self, images: Tensor, side: Tensor | None = None) -> Tokens:
        """images: (B, 3, H, W), normalised as the checkpoint wants it; side: (B, 1, d) added to every token after the
        positions. Raises ConfigError at another H or W.
        """
        if images.shape[-2:] != self.image_size:
            raise ConfigError(
                f"semantic ViT: expected images of {self.image_size[0]}x{self.image_size[1]}, "
                f"got {images.shape[-2]}x{images.shape[-1]}: set the recipe's image size"
            )
        with self._attention(images):
            if side is None:
                given = (images,) if self.seen is None else (images, self.seen)
                found = self.vit.forward_features(*given)
            else:
                found = self._features_with(images, side)
        global_, local, patches = found[:, 0], found[:, 1 : 1 + len(PARTS)], found[:, 1 + len(PARTS) :]
        if self.design.local == "band":
            local = local + band_targets(patches, self.grid)
        if self.design.global_ == "mean":
            global_ = patches.mean(1)
        return Tokens(global_, local, patches)

    def _attention(self, images: Tensor) -> AbstractContextManager[Any]:
        """How attention is computed. Where a CPU trains, matrix by matrix: torch 2.14 differentiates its fused form
        slowly (a step of `bands-resnet-stem` of scripts/benchmarks/networks.yaml takes 0.46 s with it, 0.37 s without).
        The paper's network keeps it, and with it its numbers to the last bit.
        """
        plain = images.device.type == "cpu" and self.training and self.design != PAPER
        return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()

    def _features_with(self, images: Tensor, side: Tensor) -> Tensor:
        """As timm's `forward_features`, which takes nothing between positions and blocks."""
        vit: Any = self.vit
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images)) + side))
        for block in vit.blocks:
            x = block(x) if self.seen is None else block(x, attn_mask=self.seen)
        found: Tensor = vit.norm(x)
        return found

    @torch.no_grad()
    def attended(self, images: Tensor, side: Tensor | None = None) -> tuple[Tokens, Tensor]:
        """The tokens, and (B, 4, N) what the global and the three local ones attend to among the patches, sum 1.

        It is the mean over heads and blocks; attention to other tokens is left out. A global token that is the mean of
        the patches weighs all alike.
        """
        first, found = 1 + len(PARTS), list[Tensor]()

        def keep(attention: Any, given: tuple[Tensor, ...]) -> None:
            """The rows of the tokens alone, which the fused attention of torch does not give."""
            x = given[0]
            qkv = attention.qkv(x).reshape(*x.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
            q, k = attention.q_norm(qkv[0, :, :, :first]), attention.k_norm(qkv[1])
            logits = (q.float() * attention.scale) @ k.float().transpose(2, 3)
            if self.seen is not None:
                logits = logits.masked_fill(~self.seen[:first], -torch.inf)
            found.append(logits.softmax(-1).mean(1)[..., first:])

        with ExitStack() as stack:
            for block in self.vit.blocks:
                attention: Any = block.attn
                stack.callback(attention.register_forward_pre_hook(keep).remove)
            tokens = self(images, side)
        mean = torch.stack(found).mean(0)
        if self.design.global_ == "mean":
            mean[:, 0] = 1.0
        return tokens, mean / mean.sum(-1, keepdim=True)


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
            f"bands of the body: expected at least {len(PARTS)} rows of patches, got {rows}: smaller patches"
        )
    face = max(round(rows / 6), 1)
    torso = max(round(rows / 2), face + 1)
    return range(face), range(face, torso), range(torso, rows)


def band_targets(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, 3, d) mean patch feature of each horizontal band. patches: (B, rows x columns, d), row by row."""
    by_row = patches.reshape(-1, *grid, patches.shape[2]).mean(2)
    return torch.stack([by_row[:, band.start : band.stop].mean(1) for band in band_rows(grid[0])], dim=1)


def band_shares(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """(..., 3) which share of the attention (..., rows x columns) is on each band, bands weighed alike: 1/3 is chance.

    Bands are of different heights, so each counts by the mean attention to one of its patches.
    """
    means = attention.reshape(*attention.shape[:-1], *grid).mean(-1)
    bands = torch.stack([means[..., band.start : band.stop].mean(-1) for band in band_rows(grid[0])], dim=-1)
    return bands / bands.sum(-1, keepdim=True)


@torch.no_grad()
def match_shares(local: Tensor, bands: Tensor) -> Tensor:
    """(3,) of each local token the share of images in which it is nearest to its own band; 1/3 is chance.

    local, bands: (B, 3, d), B > 2. Both are taken from their mean over the images, so that only what differs from image
    to image counts: a token that holds the same of every image matches by chance.
    """
    said, target = (functional.normalize(x.float() - x.float().mean(0, keepdim=True), dim=2) for x in (local, bands))
    nearest = (said @ target.transpose(1, 2)).argmax(dim=2)
    return (nearest == torch.arange(len(PARTS), device=nearest.device)).float().mean(0)


def part_figures(
    vit: SemanticViT, images: Iterable[Tensor | tuple[Tensor, Tensor]], predictor: nn.Module | None = None
) -> dict[str, float]:
    """part_match and part_attention of a ViT in eval mode, 0..1, means over its local tokens in use; 1/3 is chance.

    part_match: see `match_shares`; part_attention: the share of a token's attention on its own band (`band_shares`).
    images: batches, or pairs with the side information of each; predictor: that of `PartAlignment`, applied to the
    tokens. Empty where there are less than three images, no local token is in use, or the grid is too low for bands.
    """
    if not vit.chosen or vit.grid[0] < len(PARTS):
        return {}
    local, bands, shares = list[Tensor](), list[Tensor](), list[Tensor]()
    for batch in images:
        tokens, attention = vit.attended(*batch) if isinstance(batch, tuple) else vit.attended(batch)
        local.append(tokens.local if predictor is None else predictor(tokens.local))
        bands.append(band_targets(tokens.patches, vit.grid))
        shares.append(band_shares(attention[:, 1:], vit.grid).diagonal(dim1=1, dim2=2))
    if sum(map(len, local)) < 3:
        return {}
    match, attention = match_shares(torch.cat(local), torch.cat(bands)), torch.cat(shares).mean(0)
    return {"part_match": float(match[vit.chosen].mean()), "part_attention": float(attention[vit.chosen].mean())}


@torch.no_grad()
def start_sincos(vit: VisionTransformer, grid: tuple[int, int], base: float = 100.0, scale: float = 0.5) -> None:
    """Start the position embeddings as sines and cosines of row and column (Dosovitskiy's 2-D form), times `scale`.

    base: of the wavelengths; for grids of some ten rows much shorter ones than those of text (10,000). Those of the
    tokens start at 0.
    """
    assert vit.pos_embed is not None
    vit.pos_embed.zero_()
    sines = build_sincos2d_pos_embed(list(grid), dim=vit.embed_dim, temperature=base)
    vit.pos_embed[0, -len(sines) :] = scale * sines


@torch.no_grad()
def start_mimetic(vit: VisionTransformer) -> None:
    """Start the attention as that of trained ViTs is (Trockman and Kolter 2023, "Mimetic initialization"); no biases.

    In each head query and key have the same orthogonal rows, times .5, so that a patch attends to those like it. Value
    and output multiply to -.4 I + .4 N, N Gaussian of variance 1 / d: each has the roots of its singular values.
    """
    width: int = vit.embed_dim
    for block in vit.blocks:
        attention: Any = block.attn
        qkv, heads = attention.qkv.weight, attention.num_heads
        rows = [nn.init.orthogonal_(qkv.new_empty(width // heads, width)) for _ in range(heads)]
        qkv[:width] = qkv[width : 2 * width] = 0.5 * torch.cat(rows)
        both = 0.4 * (torch.randn(width, width) / width**0.5 - torch.eye(width))
        left, values, right = torch.linalg.svd(both)
        qkv[2 * width :] = values.sqrt()[:, None] * right
        attention.proj.weight.copy_(left * values.sqrt())
        for bias in (attention.qkv.bias, attention.proj.bias):
            bias.zero_()


def _seen(grid: tuple[int, int]) -> Tensor:
    """(4 + N, 4 + N) which token (column) each token (row) attends to, where local tokens keep to their band."""
    rows, columns = grid
    first = 1 + len(PARTS)
    seen = torch.ones(first + rows * columns, first + rows * columns, dtype=torch.bool)
    seen[:, 1:first] = False
    seen[1:first] = False
    for place, band in enumerate(band_rows(rows), start=1):
        seen[place, place] = True
        seen[place, first + band.start * columns : first + band.stop * columns] = True
    return seen


def places(parts: Sequence[str]) -> list[int]:
    """Places of these parts in PARTS or HALVES, ascending. Raises ConfigError for one unknown or named twice."""
    names = HALVES if set(parts) & set(HALVES) else PARTS
    for part in parts:
        if part not in names:
            raise ConfigError(f"parts: expected some of {', '.join(PARTS)}, or of {', '.join(HALVES)}, got {part!r}")
    if len(set(parts)) < len(parts):
        raise ConfigError(f"parts: expected each part once, got {', '.join(parts)}")
    return sorted(names.index(part) for part in parts)


def feed_forward(width: int) -> nn.Sequential:
    """Eq. 4; its sizes are ours (METHODS 1.1)."""
    given, made = (1 + len(PARTS)) * width, 2 * width
    return nn.Sequential(nn.LayerNorm(given, eps=EPS), nn.Linear(given, made), nn.GELU(), nn.Linear(made, made))
