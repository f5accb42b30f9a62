"""IDKL: each setting reaches the loss or the part that it names, which have their scalars in files of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mdfpipe.errors import ConfigError
from mdfpipe.learning.losses import idkl as of_idkl
from mdfpipe.learning.losses.idkl import discrepancy_reducing
from mdfpipe.learning.losses.ranking import mine, triplet
from mdfpipe.learning.models.idkl import without_running
from mdfpipe.learning.recipes import Progress
from mdfpipe.learning.recipes.idkl import CONFIGURATIONS
from tests.learning.scalars import normal
from tests.learning.test_idkl import TWO, grid, headed, labels, run, vectors
from tests.learning.test_idkl_network import idkl
from tests.learning.trained import tiny

SUBJECT, DOMAIN = grid(3, 2, 2)
IR, VIS = DOMAIN == 0, DOMAIN == 1


def terms_of(**given: Any) -> tuple[dict[str, float], dict[str, Tensor], dict[str, Tensor]]:
    """The terms, the vectors that they are of, and the logits behind each neck."""
    made, model, features = run(tiny("idkl", **given), TWO, SUBJECT, DOMAIN)
    f, only = {name: value.detach() for name, value in features.items()}, model.training_only
    with torch.no_grad():
        logits = {
            "shared": model.classifier(without_running(model.neck, f["shared"])),
            "purified": only.classifier(without_running(only.purified_neck, f["purified"])),
        }
    return {name: term.item() for name, term in made.terms.items()}, f, logits


def structures(f: dict[str, Tensor], *settings: Any, cross: bool = True) -> float:
    pairs = [(f["purified"][of], f["shared"][of]) for of in (VIS, IR)]
    return 0.6 * sum(float(of_idkl.structure(a, b, *settings, cross=cross)) for a, b in pairs)


def slow_affinity(a: Tensor, b: Tensor) -> Tensor:
    """Eq. 15 as it is printed: of raw features, plus the distance."""
    return torch.stack([torch.cdist(a, b)[n, torch.arange(len(b)) != n].softmax(0) for n in range(len(a))])


def both_ways(p: Tensor, q: Tensor) -> float:
    return float(((p - q) * (p.log() - q.log())).sum(1).mean())


def discrepancy(f: dict[str, Tensor], z: Tensor, *settings: Any) -> float:
    both = [(x[VIS], x[IR]) for x in (f["shared"], z, SUBJECT)]
    made = of_idkl.modality_discrepancy(both[0], both[1], both[2], *settings)
    assert made is not None
    return float(made[0])


def test_forms_of_the_distillations() -> None:
    usual, f, logits = terms_of()
    z, taught = logits["shared"], logits["purified"]

    def alignment(kind: Any) -> float:
        return 0.8 * sum(float(of_idkl.class_semantic_alignment(z[of], taught[of], kind)) for of in (VIS, IR))

    def reducing(**more: Any) -> float:
        return 0.1 * float(discrepancy_reducing(f["reduced"], f["instance"], SUBJECT, DOMAIN, [(1, 0)], **more))

    cases: list[tuple[dict[str, Any], str, float]] = [
        ({"affinity": {"temperature": 0.5}}, "tgsa", structures(f, 0.5)),
        ({"affinity": {"sign": 1}}, "tgsa", structures(f, 0.1, 1)),
        ({"affinity": {"unit": False}}, "tgsa", structures(f, 0.1, -1, False)),
        ({"affinity": {"unit": False}}, "mdr", discrepancy(f, z, "index", 0.1, -1, False)),
        ({"tgsa": {"kl": "symmetric"}}, "tgsa", structures(f, 0.1, -1, True, "symmetric")),
        ({"mdr": {"kl": "symmetric"}}, "mdr", discrepancy(f, z, "index", 0.1, -1, True, "symmetric")),
        ({"affinity": {"temperature": 0.5}}, "mdr", discrepancy(f, z, "index", 0.5)),
        ({"affinity": {"sign": 1}}, "mdr", discrepancy(f, z, "index", 0.1, 1)),
        ({"mdr": {"pairing": "class"}}, "mdr", discrepancy(f, z, "class")),
        ({"tgsa": {"cross": False}}, "tgsa", structures(f, cross=False)),
        ({"csa": {"kl": "teacher_first"}}, "csa", alignment("teacher_first")),
        ({"csa": {"kl": "symmetric"}}, "csa", alignment("symmetric")),
        ({"ip": {"unit": False}}, "reducing", reducing(unit=False)),
        ({"ip": {"unit": False, "hinge": "relu"}}, "reducing", reducing(unit=False, hinge="relu")),
    ]
    for given, name, wanted in cases:
        found = terms_of(**given)[0][name]
        assert found == pytest.approx(wanted, rel=2e-5), given
        assert found != pytest.approx(usual[name], rel=2e-4), given  # such features tell the forms apart


def test_alignment_as_released_and_eq_15_as_printed() -> None:
    """Written out: TGSA within branches, both ways, over unscaled distances of raw features."""
    terms, f, logits = terms_of(
        affinity={"temperature": 1.0, "sign": 1, "unit": False},
        tgsa={"cross": False, "kl": "symmetric"},
        csa={"kl": "symmetric"},
    )
    wanted = sum(
        both_ways(*(slow_affinity(f[name][of], f[name][of]) for name in ("shared", "purified"))) for of in (VIS, IR)
    )
    assert terms["tgsa"] == pytest.approx(0.6 * wanted, rel=1e-4)
    wanted = sum(both_ways(logits["shared"][of].softmax(1), logits["purified"][of].softmax(1)) for of in (VIS, IR))
    assert terms["csa"] == pytest.approx(0.8 * wanted, rel=1e-4)


@pytest.mark.parametrize("detach", [True, False])
def test_purification_as_released(detach: bool) -> None:
    """exp(relu(H - H)) - 1 of features before any neck; with detach: false also a gradient to what is compared with."""
    recipe = tiny("idkl", ip={"enhancing": "released", "detach": detach})
    model, features = headed(recipe, 3, TWO), vectors(12, recipe)
    torch.nn.init.normal_(model.training_only.classifier.weight)
    terms = recipe.losses(model, features, labels(SUBJECT, DOMAIN), Progress(0, 1, 0, 1)).terms
    classify = model.training_only.classifier
    excess = [torch.distributions.Categorical(logits=classify(features[n])).entropy() for n in ("enhanced", "specific")]
    wanted = 0.1 * ((excess[0] - excess[1]).clamp_min(0).exp() - 1).mean()
    assert terms["enhancing"].item() == pytest.approx(wanted.item(), rel=1e-4)
    assert wanted.item() > 0
    (terms["enhancing"] + terms["reducing"]).backward()
    assert ((features["specific"].grad is None), (features["instance"].grad is None)) == (detach, detach)


def test_the_margin_is_that_of_every_triplet() -> None:
    for margin in (1.3, "soft"):
        found, f, _ = terms_of(margin=margin)
        for name, weight in (("shared", 1.0), ("specific", 1.0), ("purified", 0.1)):
            term = "triplet" if name == "shared" else f"{name}_triplet"
            wanted = weight * float(triplet(mine(f[name], SUBJECT), margin))  # type: ignore[arg-type]
            assert found[term] == pytest.approx(wanted, rel=1e-5), (margin, name)


def test_the_purified_feature_alone_counts_whole() -> None:
    both, alone = terms_of()[0], terms_of(specific_identity="purified")[0]
    for name in ("purified_identity", "purified_triplet"):
        assert alone[name] == pytest.approx(10 * both[name], rel=1e-5)


@pytest.mark.parametrize("detached", [False, True])
def test_csa_may_spare_the_purified_branch(detached: bool) -> None:
    recipe = tiny("idkl", csa={"detach_teacher": detached})
    features = vectors(12, recipe)
    model = headed(recipe, 3, TWO)
    recipe.losses(model, features, labels(SUBJECT, DOMAIN), Progress(0, 1, 0, 1)).terms["csa"].backward()
    assert features["shared"].grad is not None
    assert (features["purified"].grad is None) == detached


def test_shuffled_confusers_are_told_another_order_and_turn_nothing_round() -> None:
    adversary = {"confuser": "shuffled", "depths": ["stage4"], "discriminators": 1.0}
    recipe = tiny("idkl", adversary=adversary)
    model, features = headed(recipe, 3, TWO), vectors(12, recipe)
    torch.manual_seed(5)
    terms = recipe.losses(model, features, labels(SUBJECT, DOMAIN), Progress(0, 1, 0, 1)).terms
    (found,) = torch.autograd.grad(terms["confusers"], features["shared"], retain_graph=True)
    torch.manual_seed(5)
    told = DOMAIN[torch.randperm(12)]
    assert not torch.equal(told, DOMAIN)
    seen = {"stage4": features["shared"]}
    wanted = model.training_only.confusers.loss(seen, told)
    torch.testing.assert_close(terms["confusers"], wanted)
    torch.testing.assert_close(found, torch.autograd.grad(wanted, features["shared"])[0])
    true = model.training_only.discriminators.loss({"stage4": features["specific"]}, DOMAIN)
    torch.testing.assert_close(terms["discriminators"], true)  # these are told the truth


def test_discriminators_may_take_the_purified_feature() -> None:
    for depth in ("stage4", "neck"):
        recipe = tiny("idkl", adversary={"discriminate": "purified", "depths": [depth], "discriminators": 1.0})
        model, f = headed(recipe, 3, TWO), vectors(12, recipe)
        terms = recipe.losses(model, f, labels(SUBJECT, DOMAIN), Progress(0, 1, 0, 1)).terms
        given = (
            f["purified"] if depth == "stage4" else without_running(model.training_only.purified_neck, f["purified"])
        )
        torch.testing.assert_close(
            terms["discriminators"], model.training_only.discriminators.loss({depth: given}, DOMAIN)
        )


def test_adversaries_have_a_rate_of_their_own_and_none_where_their_weight_is_0() -> None:
    model = tiny("idkl").model(3, TWO)
    groups = tiny("idkl", adversary={"rate": 7.0}).parameter_groups(model)
    fast = {id(p) for group in groups if group.rate == 7 for p in group.parameters}
    only = model.training_only
    assert fast == {id(p) for part in (only.discriminators, only.confusers) for p in part.parameters()}
    assert {group.rate for group in tiny("idkl", adversary={"rate": 1.0}).parameter_groups(model)} == {1.0}
    for left, out in (("discriminators", "confusers"), ("confusers", "discriminators")):
        made = tiny("idkl", adversary={out: 0.0}).model(3, TWO).training_only
        assert len(getattr(made, left)) == len(tiny("idkl").adversary.depths)  # type: ignore[attr-defined]
        assert len(getattr(made, out)) == 0


def test_settings_of_the_network_reach_it() -> None:
    given = {"mask": "full", "reduction": 4, "affine": True}
    recipe = tiny("idkl", ip=given, power=2.0, adversary={"hidden": 7, "dropout": 0.25, "depths": ["neck"]})
    model = recipe.model(3, TWO)
    purifier, heads = model.training_only.purifier, model.training_only.confusers
    assert (purifier.enhance.kind, purifier.reduce.kind) == ("full", "full")
    assert (purifier.enhance.squeeze.out_channels, purifier.norm.affine) == (256 // 4, True)
    assert (model.pool.power, purifier.power, purifier.enhance.power) == (2.0, 2.0, 2.0)
    assert [tuple(p.shape) for p in heads["neck"].parameters() if p.ndim == 2] == [(7, 256), (7, 7), (2, 7)]
    assert [layer.p for layer in heads["neck"] if isinstance(layer, torch.nn.Dropout)] == [0.25] * 2
    assert list(heads) == ["neck"]


def test_an_evaluated_network_computes_the_shared_branch_alone() -> None:
    """Also one that has what is for training only: validation while it is trained."""
    model = tiny("idkl").model(3, TWO)
    images = normal(2, 3, 64, 32).float()
    assert set(model.eval()(images)) == {"shared"}
    assert {"specific", "purified"} < set(model.train()(images))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_by_name_with_the_rate_of_another_is_refused(name: str) -> None:
    """As a sweep of `recipe.configuration` would have it, which writes every setting out and changes the name alone."""
    (other,) = CONFIGURATIONS.keys() - {name}
    told = idkl(configuration=other, schedule={"length": 3}).model_dump(mode="json")
    del told["use"]
    with pytest.raises(ConfigError, match=f"configuration {name}: .* are those of {other}"):
        idkl(**told | {"configuration": name})
    rate = CONFIGURATIONS[other]["optimiser"].rate
    assert idkl(configuration=name, optimiser={"rate": rate}).optimiser.rate == rate  # one of the two may be given


def test_terms_that_brought_no_domains_together_are_named() -> None:
    (line,) = tiny("idkl").notes([], {"loss/reducing": 0.0, "loss/mdr": 0.0, "loss/identity": 0.0})
    assert line.startswith("loss/reducing and loss/mdr: 0 throughout its last epoch")
    assert tiny("idkl").notes([], {"loss/reducing": 0.1, "loss/mdr": 1e-9}) == []
    assert tiny("di2l").notes([], {"loss/identity": 0.0}) == []
