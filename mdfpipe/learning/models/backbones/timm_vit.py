"""Any vision transformer of timm as the backbone of the body model: DINOv2 and v3, EVA-02, CLIP, SigLIP, Swin, others.

Its last feature map gives the tokens: a local one is the mean of its band of the body, the global one the mean of the
map or the network's class token. timm is never asked for weights, so nothing uses the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from mdfpipe.errors import ConfigError, one_line, refuse_lack_of_memory
from mdfpipe.learning.models.backbones.semantic_vit import (
    PARTS,
    Design,
    TokenBackbone,
    Tokens,
    band_targets,
    feed_forward,
    places,
)

Options = Mapping[Any, Any]
"""Arguments of timm: numbers, and lists of them."""


class MapLayout(NamedTuple):
    """Width d and grid (rows, columns) of the last feature map."""

    width: int
    grid: tuple[int, int]


class TimmViT(TokenBackbone):
    """`forward` gives the tokens of images, `fuse` the feature z of them.

    name, options: of timm and its arguments; image_size: (height, width) in pixels; drop_path: stochastic depth;
    parts: the local tokens in use, of PARTS; design: its `global_` and `fusion`; local tokens are means of bands.
    `vit` is timm's network without its head. Raises ConfigError.
    """

    def __init__(
        self,
        name: str,
        options: Options,
        *,
        image_size: tuple[int, int],
        drop_path: float = 0.0,
        parts: Sequence[str] = PARTS,
        design: Design,
    ) -> None:
        super().__init__()
        found = layout(name, options, image_size, global_=design.global_)
        self.name, self.image_size, self.design = name, image_size, design
        self.token_width, self.grid, self.chosen = found.width, found.grid, places(parts)
        self.vit = _network(name, options, image_size, drop_path)
        self.map = nn.Identity()  # gives the map as (B, d, rows, columns) to who watches modules
        self.ffn = feed_forward(self.token_width) if design.fusion == "ffn" else None

    def forward(self, images: Tensor) -> Tokens:
        """images: (B, 3, H, W), normalised as timm's data config has it. Raises ConfigError at another H or W."""
        if images.shape[-2:] != self.image_size:
            raise ConfigError(
                f"{self.name}: expected images of {self.image_size[0]}x{self.image_size[1]}, "
                f"got {images.shape[-2]}x{images.shape[-1]}: set the recipe's image size"
            )
        found, before = _last_map(self.vit, images)
        patches = self.map(found).flatten(2).transpose(1, 2)
        global_ = patches.mean(1) if self.design.global_ == "mean" or before is None else before[:, 0]
        local = band_targets(patches, self.grid)
        norm = getattr(self.vit, "fc_norm", None)  # of networks that normalise what is pooled, not the map
        return Tokens(global_, local, patches) if norm is None else Tokens(norm(global_), norm(local), patches)


def layout(name: str, options: Options, image_size: tuple[int, int], *, global_: str = "mean") -> MapLayout:
    """The layout of the network's last map for images of (height, width). Nothing is drawn.

    global_: of a Design. Raises ConfigError, which names the setting.
    """
    found, has_token = _layout(name, _frozen(options), image_size)
    if global_ == "token" and not has_token:
        raise ConfigError(f"global_token: {name} has no class token: set global_token=mean")
    return found


@cache
def _layout(name: str, options: tuple[tuple[str, Any], ...], image_size: tuple[int, int]) -> tuple[MapLayout, bool]:
    """The layout, and whether there is a class token."""
    with torch.device("meta"):
        vit = _network(name, dict(options), image_size, 0.0)
        images = torch.empty(1, 3, *image_size)
    patch: Any = getattr(getattr(vit, "patch_embed", None), "patch_size", 1)
    patches = patch if _is_list(patch) else (patch, patch)
    for side, pixels, least in zip(("height", "width"), image_size, patches, strict=True):
        if pixels % least:
            raise ConfigError(f"image_{side}_px: expected a multiple of the patch of {name}, {least} px, got {pixels}")
    try:
        with torch.no_grad():
            found, _ = _last_map(vit.eval(), images)
    except Exception as error:  # whatever a network of another kind makes timm raise
        raise ConfigError(
            f"backbone: {name} gives no feature map that can be normalised ({one_line(error, 120)}); take a ViT or Swin"
        ) from None
    _, width, rows, columns = found.shape
    if rows < len(PARTS):
        raise ConfigError(
            f"image_height_px: expected {image_size[0] // rows * len(PARTS)} or more for {name}, whose last map else "
            f"has fewer than {len(PARTS)} rows for the bands of the body, got {image_size[0]}"
        )
    return MapLayout(width, (rows, columns)), getattr(vit, "cls_token", None) is not None


def _network(name: str, options: Options, image_size: tuple[int, int], drop_path: float) -> Any:
    """timm's network, drawn at random, without the pooling and the classes of its head. Raises ConfigError."""
    given: dict[str, Any] = {option: tuple(value) if _is_list(value) else value for option, value in options.items()}
    try:
        vit: Any = timm.create_model(
            name, pretrained=False, num_classes=0, img_size=image_size, drop_path_rate=drop_path, **given
        )
        vit.reset_classifier(0, "")  # SigLIP's attention pooling is of its head
    except Exception as error:  # whatever a wrong option makes timm raise
        refuse_lack_of_memory(error)
        asked = ", ".join([f"images of {image_size[0]}x{image_size[1]}", *(f"{n} {v}" for n, v in given.items())])
        raise ConfigError(
            f"backbone: timm {timm.__version__} does not make {name} with {asked}: {one_line(error, 160)}; "
            "change options, or take a ViT or Swin"
        ) from None
    return vit


def _last_map(vit: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """(B, d, rows, columns) after the last norm, and the tokens before the patches (B, ..., d) where there are any."""
    more = {"return_prefix_tokens": True} if getattr(vit, "num_prefix_tokens", 0) else {}
    (found,) = vit.forward_intermediates(images, indices=1, norm=True, intermediates_only=True, **more)
    return found if more else (found, None)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence)


def _frozen(options: Options) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((name, tuple(v) if _is_list(v) else v) for name, v in options.items()))
