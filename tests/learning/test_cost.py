"""Parameters and multiply-accumulates, against sums over the layers and the published numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.config import validate
from mdfpipe.learning.recipes import Recipe

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from recipe_cost import Cost, cost

sys.path.pop(0)

GROUPS = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 1))
"""Of a ResNet-50 with a last stride of 1: inner width, blocks, stride."""


def cost_of(name: str, **given: Any) -> Cost:
    return cost(validate(Recipe.variant(name), given, name))


def halved(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)


def stages(height: int, width: int) -> list[int]:
    """Multiply-accumulates of stages 0 to 4, by convolutions: places x k x k x channels in x channels out."""
    size = halved((height, width), 2)
    found = [size[0] * size[1] * 49 * 3 * 64]
    size, channels = halved(size, 2), 64
    for inner, blocks, stride in GROUPS:
        total = 0
        for block in range(blocks):
            before = size[0] * size[1]
            if block == 0:
                size = halved(size, stride)
            after = size[0] * size[1]
            total += before * channels * inner + after * 9 * inner * inner + after * inner * 4 * inner
            if block == 0:
                total += after * channels * 4 * inner
            channels = 4 * inner
        found.append(total)
    return found


@pytest.mark.parametrize(("size", "printed"), [((288, 144), 5.13), ((384, 128), 6.08), ((384, 144), 6.84)])
def test_a_resnet_50(size: tuple[int, int], printed: float) -> None:
    """METHODS 0, the table."""
    found = cost_of(
        "dfw", segmented=False, weakening=None, streams="shared", image_height_px=size[0], image_width_px=size[1]
    )
    assert found.image == sum(stages(*size))
    assert round(found.image / 1e9, 2) == printed
    assert found.pair == 2 * found.image
    assert found.parameters == 23_508_032 + 2 * 2048  # METHODS 0, and a BN neck


def normed(height: int, width: int) -> list[int]:
    """Values that the norms of stages 0 to 4 give."""
    size = halved((height, width), 2)
    found = [size[0] * size[1] * 64]
    size = halved(size, 2)
    for inner, blocks, stride in GROUPS:
        before, after = size[0] * size[1], halved(size, stride)[0] * halved(size, stride)[1]
        first = before * inner + after * (inner + 4 * inner + 4 * inner)  # of each block three, and the shortcut's
        found.append(first + (blocks - 1) * after * (inner + inner + 4 * inner))
        size = halved(size, stride)
    return found


def test_dfw_as_its_table_2() -> None:
    """Of a pair: by one more stage 4 from 10.301 to 15.150 G, as printed once two are added for each normed value."""
    baseline, whole = cost_of("dfw", segmented=False, weakening=None), cost_of("dfw")
    assert baseline.pair == 2 * sum(stages(288, 144)) == 10_259_841_024
    assert whole.pair - baseline.pair == 2 * stages(288, 144)[4] == 4_841_275_392
    norms = normed(288, 144)
    assert (baseline.pair + 2 * 2 * sum(norms)) / 1e9 == pytest.approx(10.301, abs=1e-3)
    assert (whole.pair + 2 * 2 * (sum(norms) + norms[4])) / 1e9 == pytest.approx(15.150, abs=1e-3)
    assert (baseline.parameters, whole.parameters) == (23_733_376 + 2 * 2048, 38_698_112 + 4 * 2048)
    assert cost_of("dfw", segmented=False) == baseline  # weakening has neither weights nor products


def test_a_vit_b_of_192_patches() -> None:
    tokens, width = 4 + 24 * 8, 768
    block = tokens * 12 * width * width + 2 * tokens * tokens * width  # q k v, output, MLP; q.k and a.v
    assert cost_of("body").image == 24 * 8 * 3 * 256 * width + 12 * block


def test_mirrored_images_cost_twice_and_classifiers_nothing() -> None:
    small: dict[str, Any] = dict(Recipe.variant("dfw").tiny)
    assert cost_of("dfw", **small, flip_fusion=True).image == 2 * cost_of("dfw", **small).image
    assert cost_of("dfw", **small).parameters == sum(p.numel() for p in _made(small))


def _made(given: dict[str, Any]) -> list[Any]:
    import torch

    with torch.device("meta"):
        net = validate(Recipe.variant("dfw"), given, "x").model(7, ["VIS", "NIR"])
    return [p for name, p in net.named_parameters() if not name.startswith("classifier.")]


@pytest.mark.parametrize("name", Recipe.methods())
def test_every_recipe_has_a_cost(name: str) -> None:
    found = cost_of(name, **Recipe.variant(name).tiny)
    assert found.parameters > 1000
    assert found.pair == 2 * found.image > 0
