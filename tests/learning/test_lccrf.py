"""lccrf: its network's shapes, its terms on two domains, its options, and the rows of its table of ablations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mdfpipe.errors import ConfigError
from mdfpipe.learning.data.batches import ANCHOR, NEGATIVE, POSITIVE, CropBatch
from mdfpipe.learning.losses import lccrf
from mdfpipe.learning.losses.lccrf import cross_modality_distillation
from mdfpipe.learning.models.lccrf import LccrfNet
from mdfpipe.learning.models.parts.layers import gem
from mdfpipe.learning.recipes import Progress, Recipe
from mdfpipe.learning.streams import DomainPairs
from tests.learning.test_recipes import first_batch
from tests.learning.test_together import ends, train
from tests.learning.test_tuple_losses import FOUR, TWO, Row, batch_of, normal, pair_values, rows_of, slow_e
from tests.learning.trained import crops_in, tiny, together

NOW = Progress(0, 2, 0, 1)


def walked(count: int, domains: int) -> list[Row]:
    """Tuples as the recipe's sampler has them: the visible domain, which is the last by name, first."""
    rows = rows_of(count, domains)
    return sorted(rows, key=lambda row: (row["tuple"], row["domain"] != domains - 1, row["domain"], row["role"]))


# -- the network


def test_shapes_and_weights_at_the_papers_size() -> None:
    """METHODS 4.1: M (256, 96, 32), z 2048; 23,733,376 weights of the trunk, beside blocks, neck and classifier."""
    with torch.device("meta"):
        model = LccrfNet("resnet50", ["IR", "VIS"], DomainPairs.of(TWO, "all"), 395)
        model.backbone.begin = lambda images, domain: model.backbone.own["IR"](images)  # type: ignore[method-assign]
        found = model(torch.zeros(2, 3, 384, 128), torch.zeros(2, dtype=torch.int64), "elements", True)
        pooled = model(torch.zeros(2, 3, 384, 128), torch.zeros(2, dtype=torch.int64), "pooled")
    assert {name: tuple(t.shape) for name, t in found.items()} == {
        "z": (2, 2048),
        "map": (2, 256, 96, 32),
        "compactness": (2,),
    }
    assert pooled["map"].shape == (2, 256)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    attention = sum(3 * (c * c // 2 + c // 2) + c // 2 * c + c + 2 * c for c in (512, 1024))
    assert count == {
        "backbone": 23_733_376,
        "non_local": attention,
        "pool": 0,
        "neck": 2 * 2048,
        "classifier": 395 * 2048,
    }


@pytest.mark.parametrize(
    ("kind", "place", "names"),
    [
        ("resnet18_half", "two", ["2_1", "3_1"]),
        ("resnet50", "agw", ["2_2", "2_3", "3_3", "3_4", "3_5"]),
        ("resnet18_half", "agw", ["2_0", "2_1", "3_0", "3_1"]),
        ("resnet18_half", None, []),
    ],
)
def test_places_of_the_non_local_blocks(kind: Any, place: Any, names: list[str]) -> None:
    with torch.device("meta"):
        model = LccrfNet(kind, ["all"], DomainPairs.of([], "all"), 0, blocks=place, inner="one", norm="mean")
    assert list(model.non_local) == names
    assert model.classifier is None


def test_non_local_blocks_act_where_they_stand() -> None:
    torch.manual_seed(0)
    model = LccrfNet("resnet18_half", ["all"], DomainPairs.of([], "all"), 0).eval()
    images, domain = torch.randn(2, 3, 64, 32), torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        m = model.backbone.begin(images, domain)
        plain = model(images, domain)["z"]  # they start as the identity
        torch.testing.assert_close(plain, model.pool(model.backbone.go_on(m)))
        for block in model.non_local.values():
            torch.nn.init.normal_(block.bn.weight)  # type: ignore[union-attr, arg-type]
        after = {2: model.non_local["2_1"], 3: model.non_local["3_1"]}
        moved = model(images, domain)["z"]
        torch.testing.assert_close(moved, model.pool(model.backbone.go_on(m, after)))
    assert not torch.allclose(plain, moved)


# -- the recipe


def run_once(tmp_path: Path, domains: Sequence[str] = TWO, **more: Any) -> tuple[Any, Any, Any, CropBatch]:
    """(losses, recipe, model, batch) of one step on synthetic crops, gradient included."""
    recipe = tiny("lccrf", **more)
    crops = crops_in(tmp_path / "run", recipe, subjects=4, domains=tuple(domains))
    torch.manual_seed(0)
    model = recipe.model(len(crops.subjects), crops.domains).train()
    batch = first_batch(recipe, crops)
    found = recipe.losses(model, recipe.forward(model, batch), batch, NOW)
    torch.stack(list(found.terms.values())).sum().backward()
    return found, recipe, model, batch


ROWS = {  # Table 1: EAT, non-local, CMKD
    "none": ({"eat": None, "non_local": None, "cmkd": None}, {"identity"}),
    "eat": ({"non_local": None, "cmkd": None}, {"identity", "eat", "compactness"}),
    "eat, non-local": ({"cmkd": None}, {"identity", "eat", "compactness"}),
    "eat, cmkd": ({"non_local": None}, {"identity", "eat", "compactness", "cmkd"}),
    "all": ({}, {"identity", "eat", "compactness", "cmkd"}),
}
OPTIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "literal": ({"eat": {"clamp_positive": True, "compactness": "literal"}}, ROWS["all"][1]),
    "element": ({"eat": {"hinge": True, "margin": 0.3, "compactness": "element"}}, ROWS["all"][1]),
    "released": (
        {
            "eat": {"form": "released", "compactness": "none"},
            "non_local": {"place": "agw", "inner": "one", "norm": "mean"},
            "classifier_input": "dropout_elu",
        },
        {"identity", "eat", "cmkd"},
    ),
    "pooled": ({"cmkd": {"of": "pooled", "relative": True}}, ROWS["all"][1]),
    "batch": ({"tuples": "batch"}, ROWS["all"][1]),
    "by role": ({"normalised": "by_role"}, ROWS["all"][1]),
    "random": ({"tuples": "batch", "batches": {"sampler": "random"}}, ROWS["all"][1]),
    "vis_ir": ({"streams": "vis_ir", "pairs": "vis_ir"}, ROWS["all"][1]),
    "grouped": ({"pairs": "grouped"}, ROWS["all"][1]),
    "shared": ({"streams": "shared", "cmkd": None}, ROWS["eat"][1]),
}


@pytest.mark.parametrize("name", [*ROWS, *OPTIONS])
def test_rows_and_options_train(name: str, tmp_path: Path) -> None:
    changed, terms = (ROWS | OPTIONS)[name]
    found, _, model, _ = run_once(tmp_path, TWO if name in ROWS else FOUR, **changed)
    assert set(found.terms) == terms
    assert all(torch.isfinite(term) and term.item() > 0 for term in found.terms.values())
    assert bool(len(model.non_local)) is ("non_local" not in changed or changed["non_local"] is not None)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert {"accuracy"} <= set(found.figures)
    assert ("map_square" in found.figures) == ("cmkd" in terms)


def test_the_terms_are_sums_over_two_domains(tmp_path: Path) -> None:
    """The whole recipe on made-up features, against eq. 5, 15-21 image by image."""
    recipe = tiny("lccrf")
    model = recipe.model(5, TWO).train()
    torch.nn.init.normal_(model.classifier.weight)
    rows, z = walked(4, 2), normal(24, 256).float()
    maps, compact = normal(24, 3, 2, 2, seed=1), normal(24, seed=2).abs()
    found = recipe.losses(model, {"z": z, "map": maps, "compactness": compact}, batch_of(rows), NOW)
    x = z.double()
    v = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()  # a BN neck that was just made
    logits = (v @ model.classifier.weight.double().T).tolist()
    identity = c = eat = 0.0
    for i, row in enumerate(rows):
        if row["role"] == ANCHOR:
            top = math.log(sum(math.exp(value) for value in logits[i]))
            own = -(logits[i][row["subject"]] - top)
            spread = -sum(value - top for value in logits[i]) / 5
            identity += (0.9 * own + 0.1 * spread) / 4
            c += compact[i].item() / 4
    for s, t in ((0, 1), (1, 0)):
        for a, p, *negatives in pair_values(rows, range(2), s, t):
            eat += sum(slow_e(v.tolist(), a, n, p, 1.0, False, False) for n in negatives) / 4
    assert found.terms["identity"].item() == pytest.approx(identity, rel=1e-5)
    assert found.terms["compactness"].item() == pytest.approx(c, rel=1e-5)
    assert found.terms["eat"].item() == pytest.approx(eat, rel=1e-5)
    assert found.figures["map_square"][0] == pytest.approx(maps.square().mean().item(), rel=1e-5)


def terms_of(**given: Any) -> tuple[dict[str, float], Tensor]:
    """The terms of made-up features under some settings; V (24, 256)."""
    recipe = tiny("lccrf", **given)
    torch.manual_seed(0)
    model = recipe.model(5, TWO).eval()  # the neck has no look at the batch
    torch.nn.init.normal_(model.classifier.weight)
    features = {
        "z": normal(24, 256).float(),
        "map": normal(24, 3, 2, 2, seed=1).float(),
        "compactness": normal(24, seed=2).abs().float(),
    }
    found = recipe.losses(model, features, batch_of(walked(4, 2)), NOW)
    return {name: term.item() for name, term in found.terms.items()}, model.neck(features["z"]).detach()


def test_weights_scale_their_terms() -> None:
    plain, _ = terms_of()
    given = {"eat": {"weight": 0.5, "compactness_weight": 3.0}, "cmkd": {"weight": 0.25}}
    scaled, _ = terms_of(**given)
    factors = {"identity": 1.0, "eat": 0.5, "compactness": 3.0, "cmkd": 0.25}
    assert scaled == pytest.approx({name: factors[name] * value for name, value in plain.items()}, rel=1e-5)
    alone, _ = terms_of(eat={"weight": 0})
    assert alone == {name: value for name, value in plain.items() if name != "eat"}


def test_options_reach_their_losses() -> None:
    """Each form of a term is that of `losses`, which has its scalars in test_tuple_losses.py."""
    rows = walked(4, 2)
    batch, pairs = batch_of(rows), DomainPairs.of(TWO, "all")
    v = terms_of()[1]
    c, maps = lccrf.cosines(v), normal(24, 3, 2, 2, seed=1).float()
    own, whole = (
        (matches := lccrf.matches(batch, pairs, number), lccrf.triples(batch, pairs, matches, number))
        for number in (torch.tensor([row["tuple"] for row in rows]), None)
    )
    cases: list[tuple[dict[str, Any], str, Tensor]] = [
        ({"eat": {"margin": 0.3}}, "eat", lccrf.enumerate_angular_triplet(c, own[1], margin=0.3)),
        ({"eat": {"clamp_positive": True}}, "eat", lccrf.enumerate_angular_triplet(c, own[1], clamp_positive=True)),
        (
            {"eat": {"hinge": True, "margin": 0.0}},
            "eat",
            lccrf.enumerate_angular_triplet(c, own[1], hinge=True, margin=0.0),
        ),
        (
            {"eat": {"form": "released", "margin": 0.5}},
            "eat",
            lccrf.exponential_angular_triplet(c, own[1], margin=0.5),
        ),
        ({"tuples": "batch"}, "eat", lccrf.enumerate_angular_triplet(c, whole[1])),
        (
            {"eat": {"compactness": "element"}},
            "compactness",
            lccrf.of_anchors(lccrf.compactness_of_elements(v), batch, 2),
        ),
        (
            {"eat": {"compactness": "literal"}},
            "compactness",
            lccrf.of_anchors(lccrf.compactness_as_printed(v), batch, 2, summed=True),
        ),
        ({"cmkd": {"relative": True}}, "cmkd", cross_modality_distillation(maps, own[0], relative=True)),
        ({"tuples": "batch"}, "cmkd", cross_modality_distillation(maps, whole[0])),
    ]
    usual = terms_of()[0]
    for given, name, wanted in cases:
        found = terms_of(**given)[0][name]
        assert found == pytest.approx(wanted.item(), rel=1e-5), given
        assert found != pytest.approx(usual[name], rel=1e-4), given  # such features tell the forms apart


def test_what_the_classifier_is_given() -> None:
    """V of the anchors; or half of it twice as large, the rest 0, through ELU."""
    seen: list[Tensor] = []
    for kind in ("plain", "dropout_elu"):
        recipe = tiny("lccrf", classifier_input=kind, eat=None, cmkd=None)
        torch.manual_seed(0)
        model = recipe.model(5, TWO).eval()
        model.classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
        recipe.losses(model, {"z": normal(24, 256).float()}, batch_of(walked(4, 2)), NOW)
    v, changed = seen
    assert v.shape == changed.shape == (8, 256)
    kept = changed != 0
    assert 0.4 < kept.float().mean() < 0.6
    torch.testing.assert_close(changed[kept], torch.where(v > 0, 2 * v, torch.exp(2 * v) - 1)[kept])


def test_roles_may_be_normalised_by_themselves() -> None:
    """Six passes of a batch, as the released code has them: a shift between domains is gone, the neck's included."""
    recipe, rows = tiny("lccrf", normalised="by_role"), walked(3, 2)
    torch.manual_seed(0)
    model: Any = recipe.model(5, TWO).train()
    batch = replace(batch_of(rows), images=torch.randn(18, 3, 64, 32))
    found = recipe.forward(model, batch)
    plain = {n: b for n, b in model.state_dict().items() if n.endswith("num_batches_tracked") and ".shared." in n}
    assert {int(count) for count in plain.values()} == {6}
    for domain, role in ((0, ANCHOR), (1, NEGATIVE)):
        of = torch.tensor([row["domain"] == domain and row["role"] == role for row in rows])
        alone = model(batch.images[of], batch.domain[of], "elements", True)
        for name, value in alone.items():
            torch.testing.assert_close(found[name][of], value, rtol=1e-4, atol=1e-5)
    shift = torch.where(batch.domain == 0, 5.0, 0.0)[:, None]
    z = normal(18, 256).float()
    by_role, together = (tiny("lccrf", normalised=kind) for kind in ("by_role", "together"))
    moved = [
        r.losses(model, {**found, "z": z + by * shift}, batch, NOW).terms["eat"]
        for by in (0, 1)
        for r in (by_role, together)
    ]
    torch.testing.assert_close(moved[0], moved[2], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(moved[1], moved[3], rtol=1e-2)
    few = {name: value[1:] for name, value in found.items()}  # of one role a single image is left
    part = torch.tensor([0, *[1] * 16])
    assert torch.isfinite(model.necked(few["z"], part)).all()


def test_settings_of_the_network_reach_it() -> None:
    model = tiny("lccrf", non_local={"place": "agw", "inner": "one", "norm": "mean"}).model(0, TWO)
    assert {(block.norm, block.u.out_channels) for block in model.non_local.values()} == {("mean", 1)}
    assert {(block.norm, block.u.out_channels) for block in tiny("lccrf").model(0, TWO).non_local.values()} == {
        ("softmax", 32),
        ("softmax", 64),
    }
    torch.manual_seed(0)
    images, domain = torch.randn(2, 3, 64, 32), torch.tensor([0, 1])
    batch = replace(batch_of([{"subject": 0, "domain": d, "source": 0, "role": 0} for d in (0, 1)]), images=images)
    for of in ("elements", "pooled"):
        recipe = tiny("lccrf", cmkd={"of": of})
        m = model.backbone.begin(images, domain)
        torch.testing.assert_close(recipe.forward(model, batch)["map"], m if of == "elements" else gem(m))


@pytest.mark.parametrize("streams", ["vis_ir", "per_domain"])
def test_distillation_leaves_out_pairs_of_one_stream(streams: str) -> None:
    """Between infrared domains there is nothing to compare where they have one stream."""
    recipe = tiny("lccrf", streams=streams, eat=None)
    model = recipe.model(5, FOUR)
    rows = walked(4, 4)
    features = {"z": normal(48, 256).float(), "map": normal(48, 2, 2, 2)}
    infrared = torch.tensor([row["domain"] != 3 for row in rows])
    few = {name: tensor[infrared] for name, tensor in features.items()}
    alone = recipe.losses(model, few, batch_of([row for row in rows if row["domain"] != 3]), NOW)
    whole = recipe.losses(model, features, batch_of(rows), NOW)
    assert (alone.terms["cmkd"].item() == 0) == (streams == "vis_ir")
    flat, values = features["map"].flatten(1).tolist(), []
    for s, t in permutations(range(4), 2):
        if streams == "per_domain" or 3 in (s, t):
            for a, p, *_ in pair_values(rows, range(4), s, t):
                values.append(sum((x - y) ** 2 for x, y in zip(flat[a], flat[p], strict=True)) / 8)
    assert whole.terms["cmkd"].item() == pytest.approx(2 * sum(values) / len(values), rel=1e-5)


def test_further_crops_count_for_identity_alone() -> None:
    recipe = tiny("lccrf")
    model = recipe.model(9, TWO).eval()  # the neck has no look at the batch
    torch.nn.init.normal_(model.classifier.weight)
    rows = walked(3, 2)
    further = [{"tuple": -1, "domain": 1, "role": ANCHOR, "subject": 5 + n, "source": 1} for n in range(4)]
    whole = {"z": normal(22, 256).float(), "map": normal(22, 2, 2, 2), "compactness": normal(22).abs()}
    alone = recipe.losses(model, {n: t[:18] for n, t in whole.items()}, batch_of(rows), NOW)
    beside = recipe.losses(model, whole, batch_of(rows + further), NOW)
    for name in ("eat", "compactness", "cmkd"):
        assert beside.terms[name].item() == pytest.approx(alone.terms[name].item(), rel=1e-5)
    assert beside.terms["identity"].item() != pytest.approx(alone.terms["identity"].item(), rel=1e-3)
    assert (alone.figures["accuracy"][1], beside.figures["accuracy"][1]) == (6, 10)


def test_batches_are_tuples_with_further_crops_beside(tmp_path: Path) -> None:
    recipe = tiny("lccrf", batches={"subjects": 3, "further_subjects": 2, "further_crops": 2})
    crops = crops_in(tmp_path / "run", recipe, subjects=4, domains=tuple(TWO))
    half = len(crops) // 2
    crops = replace(crops, source=(crops.subject >= 2).astype(np.int64))
    assert 0 < int((crops.source == 1).sum()) == half
    draw = next(iter(recipe.sampler(crops, 0).epoch(0)))
    assert crops.source[draw.row].tolist() == [0] * 18 + [1] * 4
    assert draw.role.tolist() == [ANCHOR, POSITIVE, NEGATIVE] * 6 + [ANCHOR] * 4
    assert [crops.domains[d] for d in crops.domain[draw.row[:18:3]]] == [TWO[1], TWO[0]] * 3  # VIS is walked over
    plain = tiny("lccrf", batches={"subjects": 3}).sampler(crops, 0)
    assert len(next(iter(plain.epoch(0)))) == 18


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"streams": "shared"}, "set cmkd to null, or streams"),
        ({"batches": {"sampler": "random"}}, "set tuples to batch"),
        (
            {"batches": {"sampler": "random", "crops": 4}, "tuples": "batch", "normalised": "by_role"},
            "set normalised to together",
        ),
        ({"batches": {"crops": 4}}, "set batches.subjects to the number of tuples"),
        ({"eat": {"form": "released", "hinge": True}}, "leave clamp_positive and hinge out"),
        ({"eat": {"weight": 0, "compactness": "none"}}, "set eat to null"),
    ],
)
def test_what_means_nothing_is_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        tiny("lccrf", **settings)


def test_domains_without_a_pair_are_refused() -> None:
    infrared = FOUR[:3]
    with pytest.raises(ConfigError, match=r"pairs: vis_ir: there is none among LWIR"):
        tiny("lccrf", pairs="vis_ir").model(5, infrared)
    with pytest.raises(ConfigError, match=r"share the stream IR"):
        tiny("lccrf", streams="vis_ir").model(5, infrared)
    tiny("lccrf", pairs="vis_ir").model(0, infrared)  # to embed with


def test_rates_schedule_and_length_are_the_papers(tmp_path: Path) -> None:
    recipe = Recipe.variant("lccrf")()
    shares = [recipe.schedule.share(step, 77) for step in (0, 500, 9_999, 10_000, 20_000)]
    assert shares == pytest.approx([1 / 3, 1, 1, 0.1, 0.01])
    assert recipe.schedule.steps(77) == 30_000
    model = tiny("lccrf").model(5, TWO)
    groups = {g.name: (g.rate, g.weight_decay) for g in recipe.parameter_groups(model)}
    assert groups["backbone biases"] == (2.0, 0.0)
    assert groups["backbone matrices"] == groups["backbone vectors"] == groups["head matrices"] == (1.0, None)
    unlike = tiny("lccrf", backbone_rate=0.5, bias_rate=3.0, bias_decay=None, decay_vectors=False)
    groups = {g.name: (g.rate, g.weight_decay) for g in unlike.parameter_groups(model)}
    assert groups["backbone biases"] == (1.5, 0.0)
    assert groups["backbone vectors"] == (0.5, 0.0)
    assert groups["head matrices"] == (1.0, None)
    assert type(recipe).distance == "euclidean"


def test_unit_length_is_a_switch() -> None:
    torch.manual_seed(0)
    model = tiny("lccrf").model(0, TWO).eval()
    images, domain = torch.randn(3, 3, 64, 32), torch.tensor([0, 1, 1])
    batch = replace(batch_of([{"subject": 0, "domain": int(d), "source": 0, "role": 0} for d in domain]), images=images)
    with torch.inference_mode():
        raw = tiny("lccrf", flip_fusion=True).embed(model, batch)
        unit = tiny("lccrf", flip_fusion=True, normalise=True).embed(model, batch)
        once = tiny("lccrf").embed(model, batch)
    torch.testing.assert_close(unit, raw / raw.norm(dim=1, keepdim=True))
    assert not torch.allclose(raw.norm(dim=1), torch.ones(3))
    assert not torch.allclose(once, raw)


def test_two_processes_train_as_one_network(tmp_path: Path) -> None:
    """The maps are gathered with their gradient, also where a tuple is cut by the processes' shares."""
    recipe = tiny("lccrf", batches={"subjects": 3}, schedule={"length": 1})
    crops_in(tmp_path / "run", recipe, subjects=3, domains=tuple(TWO), clips=1)
    first, second = ends(together(train, tmp_path / "run", recipe, tmp_path / "state.pt"))
    assert first.lines == second.lines
    learned = [name for name in first.last if "running" not in name]  # a BN within the backbone sees a share
    assert all(torch.equal(first.last[name], second.last[name]) for name in learned)
    losses = {name: value for name, value in first.lines[-1].items() if name.startswith("loss/")}
    assert losses.keys() >= {"loss/identity", "loss/eat", "loss/compactness", "loss/cmkd"}
    assert all(math.isfinite(value) and value > 0 for value in losses.values())


def test_how_far_subjects_are_spread() -> None:
    """By hand: two subjects at 0 and 10, images 1 on either side; points are 0; one subject says nothing."""
    from mdfpipe.learning.losses.lccrf import spread

    subject = torch.tensor([0, 0, 1, 1])
    v = torch.tensor([[-1.0], [1.0], [9.0], [11.0]])
    assert spread(v, subject) == pytest.approx(2 / (2 + 10))  # to its other image 2; to the other mean 11, 9, 9, 11
    assert spread(torch.tensor([[0.0], [0.0], [5.0], [5.0]]), subject) == 0
    assert spread(v, torch.zeros(4, dtype=torch.int64)) is None
    chance = spread(torch.randn(400, 8, generator=torch.Generator().manual_seed(0)), torch.arange(400) % 2)
    assert chance == pytest.approx(0.5, abs=0.02)
