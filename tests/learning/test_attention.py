"""What a network looks at: nothing but the places that its answer comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mdfpipe.errors import DataError
from mdfpipe.learning.attention import cam, look
from mdfpipe.learning.data.crops import Crops, from_manifest
from mdfpipe.learning.recipes import Recipe
from tests.learning.made import write_run
from tests.learning.trained import Toy


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Crops:
    folder = tmp_path_factory.mktemp("attention")
    return first_of(folder)


def first_of(folder: Path, damaged: int = 0) -> Crops:
    """One crop, of a subject in visible light."""
    run = write_run(folder, 2, clips=1, frames=1, damaged=damaged)
    return from_manifest(run.table("manifest", "manifest"), folder, modality="body").take(np.array([0]))


class PlaceNet(nn.Module):
    """A map of 4x4 places of 6 channels; the answer is the channels of one of them."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 6, 4, stride=4)
        self.place = row, column

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk(images)[:, :, self.place[0], self.place[1]]


class Looks(Toy):
    """Toy with a network that tells places apart."""

    flip_fusion: bool = False
    place: tuple[int, int] = (1, 2)

    def model(self, classes: int, domains: Sequence[str]) -> nn.Module:
        return PlaceNet(*self.place)

    def embed(self, model: Any, batch: Any) -> Tensor:
        found = model(batch.images)
        return found + model(batch.images.flip(3)) if self.flip_fusion else found


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("place", [(1, 2), (0, 0), (3, 1)])
def test_only_the_place_that_the_answer_comes_from_lights_up(crops: Crops, place: tuple[int, int], flip: bool) -> None:
    torch.manual_seed(0)
    recipe = Looks(flip_fusion=flip, place=place)
    model = recipe.model(0, ()).eval().requires_grad_(False)
    lit = []
    for sign in (1, -1):
        wanted = sign * np.random.default_rng(0).normal(size=6).astype(np.float32)
        heat = look(recipe, model, crops, wanted)
        assert heat is not None
        assert heat.shape == (4, 4)
        elsewhere = heat.copy()
        elsewhere[place] = 0
        assert not elsewhere.any()
        lit.append(float(heat[place]))
    assert all(value == pytest.approx(1) or value == 0 for value in lit)
    again = look(recipe, model, crops, wanted)
    assert again is not None
    assert np.array_equal(again, heat)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"image_height_px": 96, "image_width_px": 32, "backbone": "striped", "width": 8}, (3, 1)),
        ({"image_height_px": 64, "image_width_px": 32, "backbone": "mini"}, (4, 2)),
    ],
)
def test_maps_of_real_networks(crops: Crops, settings: dict[str, Any], shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    recipe = Recipe.variant("body").model_validate(settings)
    model = recipe.model(0, ("VIS-500m",)).eval()
    wanted = np.random.default_rng(1).normal(size=recipe.features).astype(np.float32)
    heat = look(recipe, model, crops, wanted, ("VIS-500m",))
    assert heat is not None
    assert heat.shape == shape
    assert 0 <= heat.min() <= heat.max() <= 1
    assert not any(hooks for module in model.modules() for hooks in [module._forward_hooks])


def test_by_hand() -> None:
    activation = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])
    gradient = torch.tensor([[[[1.0, 1.0]], [[-0.5, -2.0]]]])
    assert cam(activation, gradient, None).tolist() == [[0.0, 1.0]]  # 1 - 1.5 below 0; 2 + 2 the greatest
    tokens = torch.arange(10.0).reshape(1, 5, 2)  # one before the patches
    ones = torch.ones(1, 5, 2)
    assert cam(tokens, ones, (2, 2)) == pytest.approx(np.array([[5, 9], [13, 17]]) / 17)


def test_what_cannot_be_looked_at(crops: Crops, tmp_path: Path) -> None:
    recipe = Looks()
    with pytest.raises(DataError, match="expected a vector of 6 numbers, got 5"):
        look(recipe, recipe.model(0, ()), crops, np.ones(5, np.float32))
    with pytest.raises(DataError, match="found neither"):
        look(Toy(), Toy().model(2, ()), crops, np.ones(6, np.float32))
    assert look(recipe, recipe.model(0, ()), first_of(tmp_path, damaged=6), np.ones(6, np.float32)) is None
