"""Cost of a network: parameters and multiply-accumulates, of shapes alone (the meta device: no memory, no time).

Convention: one multiplication with its addition counts as one, and convolutions and matrix products alone are counted;
norms, activations, pooling and sums are not. DFW's Table 2 prints as FLOPs those of a visible and an infrared image
together (METHODS 6.1), and two more for each value that a norm gives: its 10.301 and 15.150 G are 10.260 and 15.101 G
here. Elsewhere a multiplication and its addition are often counted as two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mdfpipe.learning.recipes import Recipe

PAIR = ("VIS", "NIR")


@dataclass(frozen=True)
class Cost:
    """Cost of the embedding network, without classifiers and parts for training only.

    parameters: weights, of a network for a visible and an infrared domain; image, pair: multiply-accumulates of a
    visible image, and of one of each domain.
    """

    parameters: int
    image: int
    pair: int


def cost(recipe: Recipe) -> Cost:
    """What the embedding network of a recipe has and does, at the recipe's size of images."""
    import torch

    with torch.device("meta"):
        model = recipe.model(0, PAIR).eval()
    return Cost(
        parameters=sum(value.numel() for value in model.parameters()),
        image=_multiply_accumulates(recipe, model, [0]),
        pair=_multiply_accumulates(recipe, model, [0, 1]),
    )


def _multiply_accumulates(recipe: Recipe, model: object, domains: Sequence[int]) -> int:
    """Cost of embedding one image of each of these domains."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mdfpipe.learning.data.batches import CropBatch

    count = len(domains)
    images = torch.empty(count, 3, recipe.image_height_px, recipe.image_width_px, device="meta")
    none = torch.zeros(count, dtype=torch.int64)  # labels stay on the CPU: streams are chosen by their values
    batch = CropBatch(images, none, torch.tensor(domains), none, none, none, none)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        recipe.embed(model, batch)
    return int(counted.get_total_flops()) // 2  # it counts two for a multiplication with its addition
