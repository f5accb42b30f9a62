"""DI2L: the network's shapes, auxiliary images, each option and ablation row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.learning.data.batches import AUXILIARY, PLAIN, CropBatch
from mdfpipe.learning.data.crops import Crops, from_manifest, join
from mdfpipe.learning.data.loader import CropReader, Loader
from mdfpipe.learning.models.di2l import DI2LModel, PartAggregation
from mdfpipe.learning.recipes import Losses, Progress, Recipe
from mdfpipe.learning.recipes.di2l import DI2L
from mdfpipe.learning.streams import is_visible
from mdfpipe.learning.train.loop import fit, seed_everything
from tests.learning import test_recipes
from tests.learning.made import write_run
from tests.learning.test_identity_losses import slow_focal
from tests.learning.test_ranking_losses import slow_weighted
from tests.learning.test_together import ends, train
from tests.learning.trained import crops_in, job, tiny, together

FOUR = ("VIS-500m", "LWIR-30m", "MWIR-30m", "SWIR-30m")
START = Progress(0, 1, 0, 1)
Made = Callable[[tuple[str, ...]], Crops]


def of(**settings: Any) -> DI2L:
    made = tiny("di2l", **settings)
    assert isinstance(made, DI2L)
    return made


def batch_of(recipe: Recipe, crops: Crops) -> CropBatch:
    reader = CropReader(crops, recipe.image_height_px, recipe.image_width_px, recipe.depth)
    draws = recipe.sampler(crops, 0).epoch(0)
    return next(iter(Loader(crops, reader, recipe.augment, seed=0, threads=1).batches(draws, 0, 0)))


def step(recipe: DI2L, crops: Crops, batch: CropBatch | None = None) -> tuple[Any, Losses, CropBatch]:
    """A network of the recipe, the losses of its first step, after their gradient."""
    seed_everything(0)
    model: Any = recipe.model(len(crops.subjects), crops.domains).train()
    for block in model.non_local.values():  # it starts as the identity, which would hide its options
        torch.nn.init.ones_(block.bn.weight)
    batch = batch or batch_of(recipe, crops)
    losses = recipe.losses(model, recipe.forward(model, batch), batch, START)
    torch.stack(list(losses.terms.values())).sum().backward()
    assert all(torch.isfinite(term) for term in losses.terms.values())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    return model, losses, batch


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Crops of these domains, written once."""
    return cache(lambda domains: crops_in(tmp_path_factory.mktemp("crops") / "run", of(), domains=domains))


@pytest.fixture(scope="module")
def usual(made: Made) -> Losses:
    """The first step of four domains with the recipe as it is."""
    return step(of(), made(FOUR))[1]


# -- the network

NON_LOCAL = {c: 3 * (c * (c // 2) + c // 2) + (c // 2 * c + c) + 2 * c for c in (512, 1024)}
DPA = 2 * 2048 * 512 + 2048 * 2048 + 3


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, sum(NON_LOCAL.values()) + DPA),
        ({"dpa": False}, sum(NON_LOCAL.values())),
        ({"dpa": False, "non_local": None}, 0),
        ({"non_local": {"inner": "one"}}, sum(7 * c + 3 for c in (512, 1024)) + DPA),
    ],
    ids=str,
)
def test_weights_of_a_resnet_50(settings: dict[str, Any], count: int) -> None:
    """METHODS 0: 23,508,032 with one stage 0; two streams have a second one of 9,536."""
    recipe = validate(DI2L, settings, "di2l")
    with torch.device("meta"):
        model = recipe.model(395, ["NIR", "VIS"])
        shared = validate(DI2L, {**settings, "streams": "shared"}, "di2l").model(395, ["NIR", "VIS"])
    neck_and_classifier = 2 * 2048 + 395 * 2048
    total = sum(p.numel() for p in model.parameters())
    assert total == 23_508_032 + 9_536 + count + neck_and_classifier
    assert sum(p.numel() for p in shared.parameters()) == total - 9_536
    assert not model.neck.bias.requires_grad


def test_shapes_of_a_resnet_50() -> None:
    """METHODS 3.1: 648 positions after stage 2, 162 after stage 3, 2048 channels of 18 x 9 at the end."""
    seen: dict[str, tuple[int, ...]] = {}
    recipe = validate(DI2L, {}, "di2l")
    model: Any = recipe.model(0, ["NIR", "VIS"]).eval()
    for name, module in {"2": model.non_local["2"], "3": model.non_local["3"], "end": model.aggregation}.items():
        module.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: tuple(given[0].shape)}))
    with torch.inference_mode():
        z = model(torch.zeros(1, 3, 288, 144), torch.tensor([1]))["z"]
    assert seen == {"2": (1, 512, 36, 18), "3": (1, 1024, 18, 9), "end": (1, 2048, 18, 9)}
    assert z.shape == (1, recipe.features) == (1, 2048)
    assert (model.aggregation.u.out_channels, model.aggregation.z.out_channels) == (512, 2048)
    assert model.classifier is None


def test_an_auxiliary_image_goes_through_the_stream_of_its_own() -> None:
    """The stream follows the domain, which an auxiliary image has from its image; stage 0 alone is a stream's own."""
    torch.manual_seed(0)
    model = DI2LModel("resnet18_half", ["LWIR", "VIS"], ["LWIR", "VIS"], 0, parts=2).eval()
    images = torch.randn(2, 3, 64, 32)
    domain = torch.tensor([1, 1])
    before = model(images, domain)["z"]
    for name, parameter in model.backbone.own.named_parameters():
        parameter.data += 0.5 * name.startswith("LWIR.")
    torch.testing.assert_close(model(images, domain)["z"], before)
    assert not torch.allclose(model(images, domain - 1)["z"], before)
    assert {name.split(".")[1] for name, _ in model.backbone.own.named_parameters()} == {"conv1", "bn1"}


# -- the recipe


def test_the_defaults_are_those_of_the_paper() -> None:
    r = validate(DI2L, {}, "di2l")
    assert (r.image_height_px, r.image_width_px, r.backbone, r.features) == (288, 144, "resnet50", 2048)
    assert (r.batches.subjects, r.batches.crops, r.gamma, r.parts, r.focal, r.dpa) == (8, 4, 2.0, 3, True, True)
    assert (r.optimiser.method, r.optimiser.weight_decay, r.optimiser.nesterov) == ("sgd", 5e-4, True)
    assert round(r.augment.pad_px * 288 / 384) == 10
    assert (r.augment.flip, r.augment.uncropped, r.augment.erasing) == (0.5, 0.5, 0.5)
    rates = [r.optimiser.rate * r.schedule.share(epoch, 1) for epoch in (0, 10, 19, 20, 49, 50, 119)]
    assert rates == pytest.approx([0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert r.schedule.steps(1) == 120


def test_neck_and_classifier_learn_ten_times_as_fast() -> None:
    recipe = of()
    model = recipe.model(5, ["VIS", "LWIR"])
    names = {id(p): n for n, p in model.named_parameters()}
    optimizer = recipe.optimiser.make(recipe.parameter_groups(model))
    rates: dict[str, set[float]] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            rates.setdefault(names[id(p)].split(".")[0], set()).add(round(group["lr"], 9))
    slow, fast = {0.01}, {0.1}
    assert rates == {"backbone": slow, "non_local": slow, "aggregation": slow, "neck": fast, "classifier": fast}


@pytest.mark.parametrize("settings", [{"parts": 3}, {"pairs": "vis_ir"}, {"gamma": -2}], ids=str)
def test_what_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        of(**settings)
    assert of(parts=3, dpa=False).parts == 3  # nothing is divided


@pytest.mark.parametrize("domains", [("VIS-500m", "LWIR-30m"), FOUR, ("VIS-500m", "VIS-10m", "SWIR-30m")], ids=str)
def test_a_batch_holds_an_auxiliary_image_of_each_visible_one(domains: tuple[str, ...], made: Made) -> None:
    recipe = of()
    crops = made(domains)
    batch = batch_of(recipe, crops)
    visible = torch.tensor([is_visible(name) for name in crops.domains])[batch.domain]
    auxiliary = batch.view == AUXILIARY
    assert len(batch) == 2 * 2 * (len(domains) + sum(map(is_visible, domains)))  # P x K x (D + visible domains)
    assert auxiliary.sum() == (visible & ~auxiliary).sum() == 4 * sum(map(is_visible, domains))
    assert visible[auxiliary].all()
    (places,) = torch.nonzero(auxiliary, as_tuple=True)
    for name in ("row", "subject", "domain"):
        assert torch.equal(getattr(batch, name)[places], getattr(batch, name)[places - 1])
    spread, mean = (torch.tensor(v)[:, None, None] for v in ((0.229, 0.224, 0.225), (0.485, 0.456, 0.406)))
    unerased = batch_of(of(augment={"erasing": 0}), crops).images
    levels = (unerased * spread + mean) * 255
    grey = (levels.amax(1) - levels.amin(1)).amax((1, 2)) < 0.5
    assert torch.equal(grey, auxiliary)  # made crops are coloured in every domain
    assert not (batch_of(of(channel_augmentation=False), crops).view != PLAIN).any()


def test_further_visible_manifests_get_auxiliary_images_too(made: Made, tmp_path: Path) -> None:
    """Subjects of further manifests lack every other domain; the terms cope."""
    recipe = of(batches={"further_subjects": 2, "further_crops": 2})
    own = made(FOUR[:2])
    run = write_run(tmp_path / "more", domains=FOUR[:1], subjects=3, first=50)
    further = from_manifest(run.table("manifest", "manifest"), tmp_path / "more", modality="body", source=1)
    crops = join([own, further])
    _, losses, batch = step(recipe, crops)
    assert set(batch.source.tolist()) == {0, 1}
    assert ((batch.view == AUXILIARY) & (batch.source == 1)).sum() == 4
    assert losses.figures["with_triplet"] == (len(batch), len(batch))


ROWS: dict[str, tuple[dict[str, Any], set[str], bool]] = {
    "Baseline": ({"dpa": False, "focal": False}, {"identity", "triplet"}, False),
    "Baseline + DPA": ({"dpa": True, "focal": False}, {"identity", "triplet"}, True),
    "Baseline + DPA + I2L": ({}, {"focal", "triplet"}, True),
}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("domains", [FOUR[:2], FOUR], ids=len)
def test_each_row_of_table_2_has_its_terms(row: str, domains: tuple[str, ...], made: Made) -> None:
    settings, names, parts = ROWS[row]
    recipe = of(**settings)
    crops = made(domains)
    model, losses, batch = step(recipe, crops)
    assert set(losses.terms) == names
    assert isinstance(model.aggregation, PartAggregation) == parts
    with torch.no_grad():
        z = recipe.forward(model, batch)["z"].double()
        logits = model.classifier(model.neck(z.float())).double()
    subject = batch.subject.tolist()
    gamma = 2.0 if "focal" in names else 0.0
    identity = losses.terms["focal" if "focal" in names else "identity"].item()
    assert identity == pytest.approx(slow_focal(logits, subject, gamma, False), rel=1e-4)
    assert losses.terms["triplet"].item() == pytest.approx(slow_weighted(z, subject, True, False), rel=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"focal_over": "all"},
        {"gamma": 0.5},
        {"phi": "identity"},
        {"positive_itself": True},
        {"epsilon": 0.01},
        {"scaled": False},
        {"parts": 4},
        {"gem_power": 1.0},
        {"non_local": None},
        {"non_local": {"inner": "one", "norm": "mean"}},
        {"non_local": {"norm": "mean"}},
        {"streams": "vis_ir"},
        {"streams": "shared"},
        {"channel_augmentation": False},
        {"augment": {"auxiliary_last": True}},
        {"batches": {"sampler": "random"}},
        {"batches": {"sampler": "uniform"}},
    ],
    ids=str,
)
def test_every_option_trains_a_step(settings: dict[str, Any], made: Made, usual: Losses) -> None:
    """And changes something: streams that start alike have batch norms of their own."""
    losses = step(of(**settings), made(FOUR))[1]
    assert any(not torch.equal(usual.terms[name], losses.terms[name]) for name in usual.terms)


@pytest.mark.parametrize("settings", [ROWS["Baseline"][0], {"non_local": {"inner": "one", "norm": "mean"}}], ids=str)
def test_every_weight_of_other_networks_learns(settings: dict[str, Any], tmp_path: Path) -> None:
    test_recipes.test_every_weight_learns_within_three_steps(of(**settings), tmp_path)


def test_subjects_that_lack_domains_and_batches_without_triplets_are_finite(made: Made) -> None:
    recipe = of()
    crops = made(FOUR[:2])
    whole = batch_of(recipe, crops)
    one = torch.nonzero(whole.subject == whole.subject[0]).flatten()[:3]  # a subject alone: nothing is ranked
    few = CropBatch(**{name: value[one] for name, value in vars(whole).items()})
    _, losses, _ = step(recipe, crops, few)
    assert losses.terms["triplet"] == 0
    assert losses.figures["with_triplet"] == (0.0, 3.0)
    lacking = replace(whole, domain=torch.zeros_like(whole.domain))  # of one domain only
    _, losses, _ = step(recipe, crops, lacking)
    assert [n for n in losses.figures if n.startswith("focal_weight/")] == [
        f"focal_weight/{crops.domains[0]}",
        "focal_weight/auxiliary",
    ]


@pytest.mark.parametrize("settings", [{}, {"focal": False}, {"gamma": 5.0}], ids=str)
def test_the_focal_weight_is_logged_by_domain(settings: dict[str, Any], made: Made) -> None:
    """Of cross-entropy, too, which has none: what it would be."""
    recipe = of(**settings)
    crops = made(FOUR)
    model, losses, batch = step(recipe, crops)
    with torch.no_grad():
        p = model.classifier(model.neck(recipe.forward(model, batch)["z"])).softmax(1)
    expected: dict[str, list[float]] = {}
    for n in range(len(batch)):
        name = "auxiliary" if batch.view[n] == AUXILIARY else crops.domains[int(batch.domain[n])]
        weight = (1 - float(p[n, batch.subject[n]])) ** recipe.gamma
        expected.setdefault(f"focal_weight/{name}", []).append(weight)
    found = {name: pair for name, pair in losses.figures.items() if name.startswith("focal_weight/")}
    assert set(found) == {f"focal_weight/{name}" for name in (*FOUR, "auxiliary")} == set(expected)
    for name, weights in expected.items():
        assert found[name] == (pytest.approx(sum(weights), rel=1e-4), len(weights))


def test_a_training_logs_it_and_the_test_feature_is_that_of_the_neck(made: Made, tmp_path: Path) -> None:
    recipe = of(schedule={"length": 2, "unit": "steps"})
    crops = made(FOUR[:2])
    training = job(crops, recipe, tmp_path / "state.pt")
    fitted = fit(training)
    line = json.loads(json.dumps(fitted.lines[-1]))
    assert {f"focal_weight/{name}" for name in (*FOUR[:2], "auxiliary")} <= set(line)
    model: Any = training.model.eval()
    batch = batch_of(recipe, crops)
    with torch.inference_mode():
        found = recipe.embed(model, batch)
        np.testing.assert_allclose(found, model.neck(model(batch.images, batch.domain)["z"]), atol=1e-6)
        other = of(flip_fusion=True).embed(model, batch)
        mirrored = recipe.embed(model, replace(batch, images=batch.images.flip(3)))
    torch.testing.assert_close(other, (found + mirrored) / 2)
    assert found.shape == (len(batch), recipe.features)
    assert recipe.embedded_as("SWIR-30m", crops.domains) is None
    assert of(streams="vis_ir").embedded_as("SWIR-30m", crops.domains) is not None


def test_two_processes_share_visible_and_auxiliary_images_alike(tmp_path: Path) -> None:
    """Each has a subject of two: the terms and the figures are those of the whole batch, in both."""
    recipe = of(schedule={"length": 2, "unit": "steps"})
    crops = crops_in(tmp_path / "run", recipe, domains=FOUR[:2], subjects=2, clips=1)
    first, second = ends(together(train, tmp_path / "run", recipe, tmp_path / "state.pt"))
    assert first.lines == second.lines
    learned = [name for name in first.last if "running" not in name]  # a BN within the backbone sees a share
    assert all(torch.equal(first.last[name], second.last[name]) for name in learned)
    assert {f"focal_weight/{name}" for name in (*crops.domains, "auxiliary")} <= set(first.lines[-1])
    assert all(math.isfinite(first.lines[-1][name]) for name in ("loss/focal", "loss/triplet"))
