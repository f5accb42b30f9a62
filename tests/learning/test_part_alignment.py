"""Part alignment: bands of rows, tokens that are drawn to their own, and how many match it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.learning.models.backbones.semantic_vit import (
    PartAlignment,
    Tokens,
    band_rows,
    band_shares,
    band_targets,
    match_shares,
)
from mdfpipe.learning.recipes import Recipe
from tests.learning.scalars import normal as noise
from tests.learning.small_vit import some_tokens

# -- bands


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [(24, [4, 8, 12]), (12, [2, 4, 6]), (6, [1, 2, 3]), (18, [3, 6, 9]), (4, [1, 1, 2]), (3, [1, 1, 1])],
)
def test_band_rows(rows: int, sizes: list[int]) -> None:
    bands = band_rows(rows)
    assert [len(band) for band in bands] == sizes
    assert [row for band in bands for row in band] == list(range(rows))


@pytest.mark.parametrize("rows", range(3, 65))
def test_bands_hold_every_row_once(rows: int) -> None:
    bands = band_rows(rows)
    assert [row for band in bands for row in band] == list(range(rows))
    assert all(len(band) >= 1 for band in bands)
    assert abs(len(bands[0]) - rows / 6) <= 1
    assert abs(len(bands[0]) + len(bands[1]) - rows / 2) <= 1


@pytest.mark.parametrize(("grid", "means"), [((24, 8), [1.5, 7.5, 17.5]), ((12, 4), [0.5, 3.5, 8.5])])
def test_band_targets_by_hand(grid: tuple[int, int], means: list[float]) -> None:
    """Patches that hold their row and their column: the mean row of each band, the mean column of all."""
    rows, columns = grid
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    patches = torch.stack([row.flatten(), column.flatten()], dim=1).float()[None].repeat(2, 1, 1)
    expected = [[mean, (columns - 1) / 2] for mean in means]
    assert band_targets(patches, grid).tolist() == [expected, expected]


# -- part alignment


def test_alignment_by_hand() -> None:
    """Cosines of the three tokens with their bands of a 6 x 1 grid: 1, 0.6 and -1, so the mean of 1 - them is 0.8."""
    patches = torch.zeros(1, 6, 2)
    patches[0, 0] = torch.tensor([5.0, 0])  # face
    patches[0, 1], patches[0, 2] = torch.tensor([3.0, 0]), torch.tensor([0.0, 4])  # torso: mean (1.5, 2)
    patches[0, 3:] = torch.tensor([0.0, 1])  # lower body
    local = torch.tensor([[[2.0, 0], [7, 0], [0, -3]]])
    alignment = PartAlignment(2, (6, 1))
    assert alignment(Tokens(torch.zeros(1, 2), local, patches)).item() == pytest.approx((0 + 0.4 + 2) / 3)


def test_alignment_gradient() -> None:
    """It flows into tokens and predictor, not into what is predicted."""
    tokens = Tokens(*(part.requires_grad_() for part in some_tokens(width=8)))
    alignment = PartAlignment(8, (6, 2)).double()
    alignment(tokens).backward()
    assert tokens.patches.grad is None
    assert tokens.global_.grad is None
    assert tokens.local.grad is not None
    assert (tokens.local.grad.abs().sum(2) > 0).all()
    assert alignment.predictor.weight.grad is not None
    assert [name for name, _ in alignment.named_parameters()] == ["predictor.weight"]  # no bias


def test_alignment_asks_each_token_for_its_own_band() -> None:
    """Tokens that lie as their bands do cost nothing, in another order they do; other bands do not pull at a token."""
    patches, grid = noise(4, 12, 8), (6, 2)
    alignment, target = PartAlignment(8, grid).double(), band_targets(patches, grid)
    cost = {
        order: alignment(Tokens(target[:, 0], 3 * target[:, order], patches)).item()
        for order in ((0, 1, 2), (1, 0, 2), (2, 0, 1))
    }
    assert cost.pop((0, 1, 2)) == pytest.approx(0, abs=1e-12)
    assert all(value > 0.3 for value in cost.values())

    def pull(patches: Tensor) -> Tensor:
        local = noise(4, 3, 8, seed=5).requires_grad_()
        alignment(Tokens(local[:, 0], local, patches)).backward()
        assert local.grad is not None
        return local.grad

    moved = patches.clone()
    moved[:, 2:6] += 1  # rows 1 and 2: the torso
    differs = (pull(patches) - pull(moved)).abs().amax(dim=(0, 2))
    assert differs[[0, 2]].tolist() == [0, 0]
    assert differs[1] > 1e-4


def test_match_counts_the_tokens_that_lie_nearest_to_their_own_band() -> None:
    """Bands of three rows that point along x, y and z: a token that points along its own matches."""
    patches = torch.eye(3).repeat_interleave(torch.tensor([1, 2, 3]), dim=0)[None].expand(2, -1, -1)
    local = torch.stack([torch.eye(3), torch.eye(3)[[0, 2, 1]]])
    found = PartAlignment(3, (6, 1)).match(Tokens(torch.zeros(2, 3), local, patches))
    torch.testing.assert_close(found, torch.tensor([1.0, 1 / 3]))


def test_match_counts_what_differs_between_images() -> None:
    """Whatever is the same of every image says nothing; tokens that follow another band match none or one."""
    bands, constant = noise(40, 3, 16), 9 * noise(3, 16, seed=1)
    for order, expected in (((0, 1, 2), [1, 1, 1]), ((1, 0, 2), [0, 0, 1]), ((2, 2, 2), [0, 0, 1])):
        assert match_shares(0.1 * bands[:, order] + constant, bands + 5).tolist() == expected
    chance = match_shares(noise(3000, 3, 16, seed=2), noise(3000, 3, 16, seed=3))
    torch.testing.assert_close(chance, torch.full((3,), 1 / 3), rtol=0, atol=0.03)


def test_bands_of_any_height_weigh_alike() -> None:
    even, top = torch.full((12,), 1 / 12), torch.tensor([0.5, 0.5] + [0.0] * 10)
    face_and_torso = torch.tensor([0.25, 0.25, *[0.125] * 4, *[0.0] * 6])  # 1 and 2 of 6 rows
    found = band_shares(torch.stack([even, top, face_and_torso]), (6, 2))
    torch.testing.assert_close(found, torch.tensor([[1 / 3] * 3, [1, 0, 0], [2 / 3, 1 / 3, 0]]))


def test_tokens_are_unnamed_until_they_were_measured_or_came_with_a_name() -> None:
    from mdfpipe.learning.recipes.body import UNNAMED, Body

    vit, aligned = Body(), Body(part_alignment=0.5)
    assert Body(backbone="striped").notes([], {}) == []
    assert vit.notes([{"format": "PASS"}], {}) == []
    for parts, left_out in (
        (["torso", "lower_body"], "upper"),
        (["upper", "lower"], "middle"),
        ([], "upper and middle"),
    ):
        (said,) = Body(parts=parts).notes([{"format": "PASS"}, {"system": "body"}], {})  # type: ignore[arg-type]
        assert said.startswith(f"without its {left_out}")
        assert said.endswith("and not for face, torso and lower body")
    with pytest.raises(ConfigError, match="parts"):
        validate(Recipe, {"use": "body", "parts": ["face", "lower"]}, "study.yaml")  # type: ignore[arg-type]
    assert vit.notes([{"format": "DINO"}], {}) == [UNNAMED]
    assert aligned.notes([], {"part_match": 0.4}) == [f"{UNNAMED} (40 % of them match their own band, chance 33 %)"]
    assert aligned.notes([], {"part_match": 0.95}) == []
    assert vit.notes([{"figures": {"part_match": 0.95}}], {}) == []
    assert vit.notes([], {"validation/part_match": 0.4})[0].endswith("(40 % of them match their own band, chance 33 %)")
    assert aligned.notes([], {"part_match": 0.95, "validation/part_match": 0.4}) != []  # held-out crops decide
    assert Body(local="band").notes([], {}) == []
