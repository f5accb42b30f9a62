"""dfw: its shapes and sizes, the rows of its Table 1, its terms put together and its defaults."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.learning.data.batches import CropBatch
from mdfpipe.learning.models.dfw import SegmentedNet, Weakening
from mdfpipe.learning.recipes import Losses, Recipe
from tests.learning.made_dfw import FOUR, WHERE, made_batch, slow_centre, slow_hetero_centre
from tests.learning.trained import tiny

# -- the network


def weights(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_sizes_and_shapes_of_the_published_network() -> None:
    """METHODS 6.1 and 8: streams of stages 0-1, shared 2-3, two of stage 4; the printed 23.74 M without the second."""
    recipe = Recipe.variant("dfw")()
    shapes: list[tuple[int, ...]] = []
    with torch.device("meta"):
        whole = recipe.model(0, ["NIR", "VIS"])
        whole.weakening.register_forward_hook(lambda module, given, made: shapes.append(tuple(made.shape)))
        found = whole(torch.zeros(2, 3, 288, 144), torch.tensor([0, 1], device="cpu"))
        plain = validate(Recipe.variant("dfw"), {"segmented": False}, "x").model(0, ["NIR", "VIS"])
        trained = recipe.model(395, ["NIR", "VIS"])
    assert shapes == [(2, 512, 36, 18), (2, 1024, 18, 9)]
    assert found["z"].shape == (2, 2, 2048)
    assert found["response"].shape == (2, 2, 18, 9)
    assert recipe.features == 4096
    assert weights(whole.backbone) == 38_698_112
    assert weights(plain.backbone) == 23_733_376
    assert weights(plain) == 23_733_376 + 2 * 2048  # a BN neck: 23.74 M as printed
    assert weights(trained) == 38_698_112 + 2 * (2 * 2048 + 395 * 2048)
    assert round(weights(plain) / 1e6, 2) == 23.74


def small(**more: Any) -> SegmentedNet:
    torch.manual_seed(0)
    return SegmentedNet("resnet18_half", ["IR", "VIS"], 3, **more)


def test_features_and_responses_are_gem_over_space_and_over_channels() -> None:
    net = small(weakening=Weakening()).eval()
    images, domain = torch.randn(3, 3, 64, 32), torch.tensor([0, 1, 0])
    with torch.no_grad():
        found = net(images, domain)
        x = net.backbone.begin(images, domain)
        x = net.backbone.shared.layer2(x)  # type: ignore[union-attr]
        x = net.backbone.shared.layer3(Weakening()(x))  # type: ignore[union-attr]
        last = net.backbone.branches["second"].layer4(Weakening()(x))  # type: ignore[union-attr,operator]
    feature = last.clamp_min(1e-6).pow(3).mean((2, 3)).pow(1 / 3)
    torch.testing.assert_close(found["z"][:, 1], feature)
    torch.testing.assert_close(found["response"][:, 1], last.clamp_min(1e-6).pow(3).mean(1).pow(1 / 3))


def test_a_tie_is_broken_once() -> None:
    net, images, domain = small(), torch.randn(4, 3, 64, 32), torch.tensor([0, 1, 0, 1])
    before = {n: v.clone() for n, v in net.named_parameters()}
    found = net(images, domain)["z"]
    assert torch.equal(found[:, 0], found[:, 1])
    torch.manual_seed(1)
    assert net.break_tie(0.01)
    moved = {n: ((v - before[n]).std() / before[n].std()).detach() for n, v in net.named_parameters() if v.ndim == 4}
    for name, share in moved.items():
        assert float(share) == pytest.approx(0.01 if ".second." in name else 0.0, rel=0.1)
    assert not net.break_tie(0.01)  # they differ: a system that goes on keeps its branches
    assert not small(segmented=False).break_tie(0.01)
    assert not torch.equal(*net(images, domain)["z"].unbind(1))


def test_the_overlap_moves_branches_apart_only_once_the_tie_is_broken() -> None:
    recipe = tiny("dfw", overlap={"weight": 1.0}, tie_noise=0.5)
    batch = made_batch(recipe, ["IR", "VIS"])

    def slope(net: Any) -> float:
        features = recipe.forward(net, batch)
        recipe.losses(net, features, batch, WHERE).terms["overlap"].backward()
        return max(float(p.grad.abs().max()) for p in net.backbone.branches.parameters() if p.grad is not None)

    torch.manual_seed(0)
    net = recipe.model(3, ["NIR", "VIS"]).train()
    assert slope(net) == 0
    net.zero_grad()
    recipe.before_training(net)
    assert slope(net) > 1e-4


# -- the recipe


def one_step(domains: list[str], **settings: Any) -> tuple[Any, Any, Losses]:
    recipe = tiny("dfw", **settings)
    torch.manual_seed(0)
    net = recipe.model(3, domains).train()
    recipe.before_training(net)
    batch = made_batch(recipe, domains)
    optimizer = recipe.optimiser.make(recipe.parameter_groups(net))
    losses = recipe.losses(net, recipe.forward(net, batch), batch, WHERE)
    torch.stack(list(losses.terms.values())).sum().backward()
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in net.parameters())
    return recipe, net, losses


REID = {"identity", "triplet"}
ALL = REID | {"hetero_centre", "overlap"}
ROWS = [  # Table 1: DFW, SLN, RE
    ((0, 0, 0), {"weakening": None, "segmented": False, "augment": {"erasing": 0.0}}, REID),
    ((1, 0, 0), {"segmented": False, "augment": {"erasing": 0.0}}, REID),
    ((0, 1, 0), {"weakening": None, "augment": {"erasing": 0.0}}, ALL),
    ((0, 0, 1), {"weakening": None, "segmented": False}, REID),
    ((1, 0, 1), {"segmented": False}, REID),
    ((1, 1, 0), {"augment": {"erasing": 0.0}}, ALL),
    ((0, 1, 1), {"weakening": None}, ALL),
    ((1, 1, 1), {}, ALL),
]


@pytest.mark.parametrize(("row", "given", "terms"), ROWS, ids=lambda v: str(v) if isinstance(v, tuple) else "")
def test_rows_of_table_1(row: tuple[int, int, int], given: dict[str, Any], terms: set[str]) -> None:
    recipe, net, losses = one_step(["NIR", "VIS"], **given)
    assert losses.terms.keys() == terms
    assert (net.weakening is not None, len(net.names) == 2, recipe.augment.erasing == 0.5) == row
    assert recipe.features == 256 * len(net.names)
    assert (recipe.augment.flip, recipe.augment.pad_px, recipe.augment.normalise) == (0.5, 13, "imagenet")


OPTIONS = [
    {"weakening": {"form": "gate"}},
    {"weakening": {"form": "elementwise"}},
    {"weakening": {"form": "literal"}},
    {"weakening": {"factor": "proportion"}},
    {"weakening": {"threshold": 0.8, "factor": "proportion", "training_only": True, "behind": [3]}},
    {"hc_triplet": "never", "overlap": {"weight": 0.0}},
    {"segmented": False, "hc_triplet": "always"},
    {"triplet_margin": "soft", "gem_power": 1.0, "tie_noise": 0.0},
    {"streams": "vis_ir", "pairs": "grouped"},
    {"streams": "shared", "pairs": "vis_ir"},
]


@pytest.mark.parametrize("given", OPTIONS, ids=str)
def test_options_train_in_four_domains(given: dict[str, Any]) -> None:
    recipe, net, losses = one_step(FOUR, **given)
    assert all(torch.isfinite(term) and term.ndim == 0 for term in losses.terms.values())
    assert ("hetero_centre" in losses.terms) == (given.get("hc_triplet") != "never")
    assert ("overlap" in losses.terms) == (recipe.segmented and recipe.overlap.weight > 0)
    weakened = {name for name in losses.figures if name.startswith(("spread/", "strong/"))}
    assert weakened == {f"{kind}/stage{n}" for kind in ("spread", "strong") for n in recipe.weakening.behind}
    streams = {"vis_ir": 2, "shared": 1}.get(recipe.streams, 4)
    assert len(net.backbone.own) == streams


@pytest.mark.parametrize("domains", [["NIR", "VIS"], FOUR])
def test_the_terms_are_those_of_equation_7(domains: list[str]) -> None:
    """Cross-entropy and triplets of each branch added, L_hc of both side by side, lambda L_op; figures."""
    recipe = tiny("dfw", overlap={"weight": 0.25, "separation_px": 450.0})
    torch.manual_seed(0)
    net = recipe.model(3, domains).train()
    net.break_tie(0.5)
    batch = made_batch(recipe, domains)
    features = recipe.forward(net, batch)
    found = recipe.losses(net, features, batch, WHERE)
    z, y, count = features["z"].detach().double(), batch.subject.tolist(), len(batch)
    identity = triplet = right = 0.0
    for n, name in enumerate(("first", "second")):
        f = z[:, n]
        h = (f - f.mean(0)) / (f.var(0, correction=0) + 1e-5).sqrt()
        logits = h @ net.classifier[name].weight.detach().double().T
        for i in range(count):
            identity += (math.log(sum(math.exp(v) for v in logits[i].tolist())) - float(logits[i, y[i]])) / count
            right += int(logits[i].argmax()) == y[i]
            d = [math.dist(f[i].tolist(), f[j].tolist()) for j in range(count)]
            hardest = max(d[j] for j in range(count) if j != i and y[j] == y[i])
            triplet += max(0.0, 0.3 + hardest - min(d[j] for j in range(count) if y[j] != y[i])) / count
    everything = {(a, b) for a in range(len(domains)) for b in range(a + 1, len(domains))}
    hc = slow_hetero_centre(z.flatten(1), y, batch.domain.tolist(), everything, 0.3)
    penalty, soft, s = 0.0, 0.0, 450 * 64 / 288
    for n in range(count):
        a, b = (slow_centre(features["response"][n, k].detach().double(), (16, 16), 0.05) for k in range(2))
        soft += math.sqrt(math.dist(a, b) ** 2 + 1e-6)
        penalty += max(0.0, s - math.sqrt(math.dist(a, b) ** 2 + 1e-6)) / count
    wanted = {"identity": identity, "triplet": triplet, "hetero_centre": hc, "overlap": 0.25 * penalty}
    assert {name: term.item() for name, term in found.terms.items()} == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    assert found.figures["accuracy"] == (right, 2 * count)
    assert found.figures["apart_px"] == pytest.approx((soft, count), rel=1e-4)
    share = wanted["overlap"] / sum(wanted.values())
    assert found.figures["overlap_share"] == (pytest.approx(share, rel=1e-4), 1.0)


def test_further_images_without_a_mate_are_left_out() -> None:
    """Visible images of other subjects (source 1) stand in the batch: negatives for all, anchors of no centre."""
    recipe = tiny("dfw")
    torch.manual_seed(0)
    net = recipe.model(5, ["NIR", "VIS"]).train()
    batch = made_batch(recipe, ["NIR", "VIS"], subjects=5)
    chosen = (batch.subject < 3) | (batch.domain == 1)
    part = CropBatch(**{name: value[chosen] for name, value in vars(batch).items()})
    features = recipe.forward(net, part)
    found = recipe.losses(net, features, part, WHERE)
    z = features["z"].detach().double().flatten(1)
    wanted = slow_hetero_centre(z, part.subject.tolist(), part.domain.tolist(), {(0, 1)}, 0.3)
    assert found.terms["hetero_centre"].item() == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    assert all(torch.isfinite(term) for term in found.terms.values())


def test_defaults_are_the_papers() -> None:
    recipe: Any = Recipe.variant("dfw")()
    assert (recipe.image_height_px, recipe.image_width_px, recipe.distance) == (288, 144, "cosine")
    assert (recipe.batches.subjects, recipe.batches.crops, recipe.batches.sampler) == (6, 6, "domain_aware")
    assert (recipe.optimiser.method, recipe.optimiser.rate, recipe.optimiser.weight_decay) == ("sgd", 0.1, 5e-4)
    assert (recipe.weakening.threshold, recipe.weakening.factor, recipe.weakening.form) == ("mean", 0.5, "mask")
    assert (recipe.weakening.behind, recipe.overlap.warm_up) == ([2, 3], 0)
    assert (recipe.overlap.weight, recipe.overlap.separation_px, recipe.schedule.length) == (0.5, 100, 60)
    rates = [recipe.schedule.share(epoch, 1) for epoch in (0, 10, 19, 20, 49, 50, 59)]
    assert rates == pytest.approx([0.1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    with torch.device("meta"):
        groups = {group.name: group.rate for group in recipe.parameter_groups(recipe.model(3, ["NIR", "VIS"]))}
    assert {rate for name, rate in groups.items() if name.startswith("backbone")} == {0.1}
    assert {rate for name, rate in groups.items() if name.startswith("head")} == {1.0}


def test_sweeps_are_plain_settings_and_out_of_range_is_refused() -> None:
    kind = Recipe.variant("dfw")
    given = {"weakening": {"factor": 0.2}, "overlap": {"weight": 1, "separation_px": 120}}
    recipe: Any = validate(kind, given, "here")
    assert (recipe.weakening.factor, recipe.weakening.threshold) == (0.2, "mean")  # the rest stays
    assert (recipe.overlap.weight, recipe.overlap.separation_px, recipe.overlap.temperature) == (1, 120, 0.05)
    wrongs: list[dict[str, Any]] = [{"threshold": 1.5}, {"factor": "e"}, {"form": "sum"}]
    for wrong in (*wrongs, {"behind": []}, {"behind": [3, 3]}, {"behind": [3, 2]}, {"behind": [1]}):
        with pytest.raises(ConfigError):
            validate(kind, {"weakening": wrong}, "here")


def test_the_test_feature(tmp_path: Path) -> None:
    recipe, net, _ = one_step(["NIR", "VIS"])
    batch = made_batch(recipe, ["NIR", "VIS"])
    net.eval()
    with torch.no_grad():
        raw = recipe.embed(net, batch)
        z = net(batch.images, batch.domain)["z"]
        after = tiny("dfw", test_feature="neck").embed(net, batch)
        both = tiny("dfw", flip_fusion=True).embed(net, batch)
        mirrored = recipe.feature(net, batch.images.flip(3), batch.domain)
    assert torch.equal(raw, torch.cat([z[:, 0], z[:, 1]], 1))
    assert torch.equal(after, torch.cat([net.neck["first"](z[:, 0]), net.neck["second"](z[:, 1])], 1).detach())
    torch.testing.assert_close(both, (raw + mirrored) / 2)
    assert type(recipe).only_embedding == ("test_feature", "flip_fusion")
