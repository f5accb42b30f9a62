"""dfw: each setting reaches the loss or the part that it names, which meet their scalars in files of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mdfpipe.learning.losses.dfw import hetero_centre_triplet, soft_centre
from mdfpipe.learning.losses.ranking import mine, triplet
from mdfpipe.learning.models.parts.layers import gem
from mdfpipe.learning.recipes import Losses, Progress, Recipe
from mdfpipe.learning.streams import DomainPairs
from tests.learning.made_dfw import FOUR, WHERE, made_batch, slow_centre
from tests.learning.scalars import normal
from tests.learning.trained import tiny

BATCH = made_batch(tiny("dfw"), FOUR)  # three subjects, four domains, two images each


def features(height: int = 4, width: int = 2) -> dict[str, torch.Tensor]:
    """What `forward` would give, drawn; the centres of the responses lie anywhere."""
    return {"z": normal(24, 2, 256).float(), "response": normal(24, 2, height, width, seed=1).abs().float()}


def losses(given: dict[str, torch.Tensor], **settings: Any) -> Losses:
    recipe = tiny("dfw", **settings)
    torch.manual_seed(0)
    return recipe.losses(recipe.model(3, FOUR).train(), given, BATCH, WHERE)


@pytest.mark.parametrize("pairs", ["all", "vis_ir", "grouped"])
def test_margins_and_pairs(pairs: Any) -> None:
    given = features()
    together = DomainPairs.of(FOUR, pairs)
    z = given["z"]
    for margin in (0.3, 5.0):
        found = losses(given, pairs=pairs, hc_margin=margin, triplet_margin=margin).terms
        wanted = hetero_centre_triplet(z.flatten(1), BATCH.subject, BATCH.domain, together, margin)
        torch.testing.assert_close(found["hetero_centre"], wanted)
        ranked = sum(float(triplet(mine(z[:, n], BATCH.subject), margin)) for n in range(2))
        assert found["triplet"].item() == pytest.approx(ranked, rel=1e-5)
    soft = losses(given, triplet_margin="soft").terms["triplet"].item()
    assert soft == pytest.approx(sum(float(triplet(mine(z[:, n], BATCH.subject), "soft")) for n in range(2)), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_places_are_pixels_of_an_input_that_is_not_of_the_maps_proportions(temperature: float) -> None:
    """4x3 cells of 64x32 px: 16 high, 32 / 3 wide; S is for a height of 288."""
    given = features(4, 3)
    found = losses(given, overlap={"weight": 2.0, "separation_px": 200.0, "temperature": temperature})
    apart = [
        torch.dist(*(torch.tensor(slow_centre(r.double(), (16.0, 32 / 3), temperature)) for r in pair)).item()
        for pair in given["response"]
    ]
    assert found.figures["apart_px"] == (pytest.approx(sum(apart), rel=1e-4), 24)
    penalty = sum(max(0.0, 200 * 64 / 288 - d) for d in apart) / 24
    assert found.terms["overlap"].item() == pytest.approx(2 * penalty, rel=1e-4)
    cells = [[divmod(int(r.argmax()), 3) for r in pair] for pair in given["response"]]
    hard = [((16 * (a[0] - b[0])) ** 2 + (32 / 3 * (a[1] - b[1])) ** 2) ** 0.5 for a, b in cells]
    assert found.figures["apart_hard_px"] == (pytest.approx(sum(hard), abs=0.05), 24)


def test_a_response_that_is_flat_but_for_round_off_has_its_place_in_the_middle() -> None:
    """Brought to 0..1 as others are, its centre would leap across the image, with a slope to match."""
    response = torch.ones(1, 4, 2, dtype=torch.float64)
    response[0, 0, 0] += 1e-9
    response.requires_grad_()
    found = soft_centre(response, (16, 16), 0.05)
    assert found[0].tolist() == pytest.approx([32, 16], abs=0.01)
    (slope,) = torch.autograd.grad(found.sum(), response)
    assert slope.abs().max() < 1e7


def test_hetero_centres_come_with_two_branches_unless_said_otherwise() -> None:
    for kind, with_two, with_one in (("with_sln", True, False), ("always", True, True), ("never", False, False)):
        for segmented, wanted in ((True, with_two), (False, with_one)):
            recipe = tiny("dfw", hc_triplet=kind, segmented=segmented)
            given = {name: value[:, : 1 + segmented] for name, value in features().items()}
            found = recipe.losses(recipe.model(3, FOUR).train(), given, BATCH, WHERE)
            assert ("hetero_centre" in found.terms) == wanted, (kind, segmented)


def test_settings_of_the_network_reach_it() -> None:
    given: dict[str, Any] = {"threshold": 0.2, "factor": "proportion", "form": "gate", "training_only": True}
    net: Any = tiny("dfw", gem_power=2.0, weakening=given).model(0, FOUR).eval()
    found = {name: getattr(net.weakening, name) for name in given}
    assert found == given
    net.weakening = None
    images, domain = torch.randn(2, 3, 64, 32), torch.tensor([0, 3])
    with torch.inference_mode():
        made = net(images, domain)
        last = net.backbone.branch("second", net.backbone.go_on(net.backbone.begin(images, domain)))
    torch.testing.assert_close(made["z"][:, 1], gem(last, 2.0))
    torch.testing.assert_close(made["response"][:, 1], gem(last, 2.0, dim=1))


def test_what_is_ours_among_the_defaults() -> None:
    """METHODS 6.1, 6.3 and 6.4."""
    recipe: Any = Recipe.variant("dfw")()
    assert (recipe.hc_margin, recipe.triplet_margin, recipe.gem_power, recipe.tie_noise) == (0.3, 0.3, 3.0, 0.01)
    assert (recipe.overlap.temperature, recipe.hc_triplet, recipe.test_feature) == (0.05, "with_sln", "raw")
    assert (recipe.optimiser.momentum, recipe.streams, recipe.weakening.training_only) == (0.9, "per_domain", False)


def test_the_penalty_may_rise_from_nothing() -> None:
    given = features()
    whole = losses(given).terms["overlap"].item()
    recipe = tiny("dfw", overlap={"warm_up": 0.5})
    torch.manual_seed(0)
    net = recipe.model(3, FOUR).train()
    found = [recipe.losses(net, given, BATCH, Progress(step, 8, 0, 1)).terms["overlap"].item() for step in (0, 1, 4, 7)]
    assert found == pytest.approx([0, whole / 4, whole, whole])


@pytest.mark.parametrize("behind", [[2, 3], [3], [2]])
def test_it_weakens_behind_the_stages_that_are_named(behind: list[int]) -> None:
    recipe = tiny("dfw", weakening={"behind": behind, "factor": 0.0})
    torch.manual_seed(0)
    net = recipe.model(3, FOUR).train()
    seen: dict[int, torch.Tensor] = {}
    for stage in (3, 4):
        layer = net.backbone.shared.layer3 if stage == 3 else net.backbone.branches["first"].layer4
        layer.register_forward_pre_hook(lambda module, x, stage=stage: seen.update({stage - 1: x[0].detach()}))
    made = recipe.forward(net, BATCH)
    assert {stage for stage, x in seen.items() if (x == 0).all(1).any()} == set(behind)  # whole places are 0
    assert made["weakened"].shape == (24, len(behind), 2)
    found = recipe.losses(net, made, BATCH, WHERE).figures
    for n, stage in enumerate(behind):
        for kind, name in enumerate(("spread", "strong")):
            assert found[f"{name}/stage{stage}"] == pytest.approx((float(made["weakened"][:, n, kind].sum()), 24))
    assert "weakened" not in recipe.forward(net.eval(), BATCH)
