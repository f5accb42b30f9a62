"""Attention of a network: HiResCAM of its last feature map, with respect to a vector's similarity to a given one; and,
where it has tokens, what these attend to.

A convolutional network gives its last map of more than one place. A vision transformer gives the patch tokens that
enter its last block, because nothing uses those that leave it.
Draelos and Carin 2020: each place's channels times their gradient there, summed; what speaks against is cut off at 0.
Grad-CAM weighs a channel alike everywhere, by its mean gradient: for networks that distinguish places, as stripes and
flattened maps do, that shows where they do not look.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mdfpipe.errors import DataError
from mdfpipe.learning.data.loader import CropReader, read_plain
from mdfpipe.learning.embedding import network_of
from mdfpipe.learning.models.backbones.semantic_vit import HALVES, PARTS, SemanticViT, band_shares
from mdfpipe.learning.train.checkpoint import Checkpoint

if TYPE_CHECKING:
    from mdfpipe.learning.data.batches import CropBatch
    from mdfpipe.learning.data.crops import Crops
    from mdfpipe.learning.recipes import Recipe


class TokenMaps(NamedTuple):
    """What the tokens of a network attend to in one image.

    names: global, unless that is the mean of the patches, and the local tokens in use. maps: (n, rows, columns), each
    of sum 1, the mean over heads and blocks. shares: (n, 3) of the attention on face, torso and lower body, these bands
    weighed alike. own: the place of each token's own band, None of the global one and of PASS's halves.
    """

    names: tuple[str, ...]
    maps: NDArray[np.float32]
    shares: NDArray[np.float32]
    own: tuple[int | None, ...]

    def pictures(self) -> Iterator[tuple[str, str, NDArray[np.float32]]]:
        """(name, share on its own band in words or "", map with 1 where it attends most) of each token."""
        for name, heat, shares, own in zip(self.names, self.maps, self.shares, self.own, strict=True):
            yield name.replace("_", " "), "" if own is None else f"{shares[own]:.0%}", heat / heat.max()


class Watcher:
    """A checkpoint, opened for attention maps of an image, without its mirror image.

    recipe: as in `network_of`, which raises ConfigError and DataError.
    """

    def __init__(self, checkpoint: Path, recipe: Recipe | None = None) -> None:
        found = Checkpoint.load(checkpoint)
        self.domains = found.domains
        self.recipe, self.model = network_of(found, checkpoint, recipe)
        self.has_halves = any(entry.get("format") == "PASS" for entry in found.history)

    def look(self, crops: Crops, wanted: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Attention map of one crop: see `look`."""
        return look(self.recipe, self.model, crops, wanted, self.domains)

    def tokens(self, crops: Crops) -> TokenMaps | None:
        """What the tokens attend to in one crop: see `token_maps`."""
        return token_maps(self.recipe, self.model, crops, self.domains, has_halves=self.has_halves)


def look(
    recipe: Recipe, model: nn.Module, crops: Crops, wanted: NDArray[np.float32], domains: Sequence[str] = ()
) -> NDArray[np.float32] | None:
    """(h, w) in 0..1, 1 where it counts most, of one crop; None where the crop does not decode.

    The network must be in eval mode. wanted: (D,) the vector that the crop's own is compared with, by cosine. domains:
    those that the network was made for. Raises DataError where `wanted` has another length than the network's vectors,
    the network has no map to look at, or none of its streams is for the crop's domain.
    """
    if len(wanted) != recipe.features:
        raise DataError(f"attention: expected a vector of {recipe.features} numbers, got {len(wanted)}")
    batch = _first(recipe, crops, domains)
    if batch is None:
        return None
    if hasattr(recipe, "flip_fusion"):
        recipe = recipe.model_copy(update={"flip_fusion": False})
    images = batch.images.requires_grad_()  # whatever is frozen: the maps then have a gradient
    told = replace(batch, images=images)
    with _one_thread(), torch.enable_grad(), _watched(model) as maps:
        vector = recipe.embed(model, told).float()
        similarity = functional.cosine_similarity(vector, torch.from_numpy(wanted)[None].float()).sum()
        if not maps:
            raise DataError("attention: expected a network with a feature map or patch tokens, found neither")
        activation, grid = maps[-1]
        (gradient,) = torch.autograd.grad(similarity, activation)
    return cam(activation.detach(), gradient, grid)


def token_maps(
    recipe: Recipe, model: nn.Module, crops: Crops, domains: Sequence[str] = (), *, has_halves: bool = False
) -> TokenMaps | None:
    """What the tokens of the network attend to in one crop; None where it does not decode, the network has no such
    tokens, or too few rows of patches for bands of the body. The network must be in eval mode. has_halves: its local
    tokens are from PASS, also where `parts` has other names.
    """
    vit: Any = next((module for module in model.modules() if isinstance(module, SemanticViT)), None)
    batch = _first(recipe, crops, domains) if vit is not None and vit.grid[0] >= len(PARTS) else None
    if batch is None:
        return None
    beside: Any = getattr(model, "side", None)
    with _one_thread(), torch.no_grad():
        side = None if beside is None else beside(batch.domain, batch.camera)
        attention = vit.attended(batch.images, side)[1][0]
    own: list[int | None] = [*([None] if vit.design.global_ == "token" else []), *vit.chosen]
    rows = attention[[0 if place is None else 1 + place for place in own]]
    are_halves = has_halves or bool(set(getattr(recipe, "parts", ())) & set(HALVES))
    names = tuple("global" if place is None else (HALVES if are_halves else PARTS)[place] for place in own)
    shares: NDArray[np.float32] = band_shares(rows, vit.grid).numpy()
    bands = tuple(None if are_halves else place for place in own)
    return TokenMaps(names, rows.reshape(len(rows), *vit.grid).numpy(), shares, bands)


def _first(recipe: Recipe, crops: Crops, domains: Sequence[str]) -> CropBatch | None:
    """One crop as the network is given it; None where it does not decode. Raises DataError without a stream for it."""
    places = [recipe.embedded_as(name, domains) for name in crops.domains]
    if None in places:
        raise DataError(f"attention: the network has no stream for {crops.domains[places.index(None)]}")
    reader = CropReader(crops, recipe.image_height_px, recipe.image_width_px, recipe.depth)
    try:
        batch = next(iter(read_plain(crops, reader, recipe.augment, rows_per_batch=1, threads=1)), None)
    finally:
        reader.close()
    if batch is None:
        return None
    return replace(batch, domain=torch.tensor(places, dtype=torch.int64)[batch.domain])


def cam(activation: Tensor, gradient: Tensor, grid: tuple[int, int] | None) -> NDArray[np.float32]:
    """HiResCAM (h, w) of one image, its greatest value 1, or all 0 where nothing speaks for it.

    activation, gradient: (1, C, h, w), with no grid; or tokens (1, N, C), of which the last rows x columns of `grid`
    are the patches, row by row.
    """
    if grid is not None:
        rows, columns = grid
        activation, gradient = (
            values[:, -rows * columns :].transpose(1, 2).reshape(1, -1, rows, columns)
            for values in (activation, gradient)
        )
    found = (gradient * activation).sum(dim=1)[0].clamp(min=0)
    most = float(found.max())
    heat: NDArray[np.float32] = (found / most if most > 0 else found).float().numpy()
    return heat


Maps = list[tuple[Tensor, tuple[int, int] | None]]


@contextmanager
def _watched(model: nn.Module) -> Iterator[Maps]:
    """The feature maps that the network computes within the block, in their order, with their grid where tokens."""
    maps: Maps = []

    def keep(module: nn.Module, given: Any, made: Any) -> None:
        if isinstance(made, Tensor) and made.ndim == 4 and made.shape[2] * made.shape[3] > 1 and made.requires_grad:
            maps.append((made, None))

    with ExitStack() as stack:
        transformers = [m for m in model.modules() if hasattr(m, "blocks") and hasattr(m, "patch_embed")]
        for transformer in transformers:
            vit: Any = transformer
            grid: tuple[int, int] = vit.patch_embed.grid_size

            def keep_tokens(module: nn.Module, given: Any, made: Tensor, grid: tuple[int, int] = grid) -> None:
                maps.append((made, grid))

            stack.callback(vit.blocks[-1].norm1.register_forward_hook(keep_tokens).remove)
        if not transformers:
            for module in model.modules():
                stack.callback(module.register_forward_hook(keep).remove)
        yield maps


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, so that the same weights give the same map."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
