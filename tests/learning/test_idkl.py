"""IDKL: what it embeds, its total, every option and every row of its table of ablations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from torch import Tensor, nn

from mdfpipe.learning.data.batches import CropBatch
from mdfpipe.learning.losses import idkl
from mdfpipe.learning.losses.identity import cross_entropy
from mdfpipe.learning.losses.idkl import discrepancy_reducing, discrimination_enhancing
from mdfpipe.learning.losses.ranking import mine, triplet
from mdfpipe.learning.models.idkl import (
    ramp,
    without_running,
)
from mdfpipe.learning.recipes import Losses, Progress
from mdfpipe.learning.train.loop import fit
from tests.learning.scalars import normal, slow_reducing
from tests.learning.trained import crops_in, job, tiny

TWO = ["LWIR-30m", "VIS-500m"]
FOUR = ["LWIR-30m", "MWIR-30m", "SWIR-30m", "VIS-500m"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_embedding_is_the_shared_feature_behind_its_neck() -> None:
    torch.manual_seed(0)
    recipe = tiny("idkl")
    model = recipe.model(3, TWO)
    images = torch.randn(4, 3, 64, 32)
    model.train()
    model.neck(model(images)["shared"])  # move the running statistics
    model.eval()
    assert model(images).keys() == {"shared"}
    batch = labels(torch.zeros(4, dtype=torch.int64), torch.tensor([0, 1, 0, 1]), images)
    found = recipe.embed(model, batch)
    neck, z = model.neck, model(images)["shared"]
    torch.testing.assert_close(found, (z - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight)
    flipped = recipe.embed(model, labels(batch.subject, batch.domain, images.flip(3)))
    both = tiny("idkl", flip_fusion=True).embed(model, batch)
    torch.testing.assert_close(both, (found + flipped) / 2)
    embedding = recipe.model(0, TWO).eval()
    embedding.load_state_dict({n: t for n, t in model.state_dict().items() if n in embedding.state_dict()})
    torch.testing.assert_close(recipe.embed(embedding, batch), found)


# -- the recipe


def labels(subject: Tensor, domain: Tensor, images: Tensor | None = None, source: Tensor | None = None) -> CropBatch:
    none = torch.zeros(len(subject), dtype=torch.int64)
    empty = torch.zeros(0, 3, 64, 32)
    return CropBatch(
        empty if images is None else images, subject, domain, none if source is None else source, none, none, none
    )


def grid(subjects: int, domains: int, each: int) -> tuple[Tensor, Tensor]:
    """Subject by subject, domain by domain."""
    subject = torch.arange(subjects).repeat_interleave(domains * each)
    return subject, torch.arange(domains).repeat_interleave(each).repeat(subjects)


def vectors(count: int, recipe: Any, seed: int = 0) -> dict[str, Tensor]:
    """What `forward` would give of so many images, drawn; no backbone has to run."""
    names = ["shared", "specific", "shared_stage3", "specific_stage3"]
    names += ["instance", "enhanced", "reduced", "purified"] if recipe.ip.weight else []
    return {
        name: (normal(count, 128 if name.endswith("3") else 256, seed=seed + n).abs().float()).requires_grad_()
        for n, name in enumerate(names)
    }


class NoTrunk(nn.Module):
    """Of the same channels. Where vectors are drawn no backbone has to be."""

    channels = (32, 32, 64, 128, 256)

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__()


def headed(recipe: Any, classes: int, domains: Sequence[str]) -> Any:
    """The recipe's network in training, without its backbone."""
    torch.manual_seed(0)
    with mock.patch("mdfpipe.learning.models.idkl.Trunk", NoTrunk):
        return recipe.model(classes, domains).train()


def run(recipe: Any, domains: Sequence[str], subject: Tensor, domain: Tensor) -> tuple[Losses, Any, dict[str, Tensor]]:
    model = headed(recipe, int(subject.max()) + 1, domains)
    nn.init.normal_(model.classifier.weight)
    nn.init.normal_(model.training_only.classifier.weight)
    features = vectors(len(subject), recipe)
    made = recipe.losses(model, features, labels(subject, domain), Progress(1, 3, 0, 1))
    for name, term in made.terms.items():
        assert term.ndim == 0, name
        assert torch.isfinite(term), name
    torch.stack(list(made.terms.values())).sum().backward()
    for value in (*features.values(), *model.parameters()):
        assert value.grad is None or torch.isfinite(value.grad).all()
    made.terms = {name: term.detach() for name, term in made.terms.items()}
    return made, model, features


BASE = {"identity", "triplet", "specific_identity", "specific_triplet", "discriminators", "confusers"}
IP = {"purified_identity", "purified_triplet", "enhancing", "reducing"}
OFF = {"weight": 0}
STUDY = yaml.safe_load((Path(__file__).parents[2] / "pipelines/sysu/idkl-released.yaml").read_text())
OF_ITS_SIZE = ("use", "configuration", "image_width_px")
RELEASED = {n: v for n, v in STUDY["systems"]["idkl-released"]["recipe"].items() if n not in OF_ITS_SIZE}
ROWS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "L_b": ({"ip": OFF, "tgsa": OFF, "csa": OFF, "mdr": OFF}, BASE),
    "L_b + tgsa": ({"ip": OFF, "csa": OFF, "mdr": OFF}, BASE | {"tgsa"}),
    "L_b + ip": ({"tgsa": OFF, "csa": OFF, "mdr": OFF}, BASE | IP),
    "L_b + ip + tgsa": ({"csa": OFF, "mdr": OFF}, BASE | IP | {"tgsa"}),
    "L_b + ip + csa": ({"tgsa": OFF, "mdr": OFF}, BASE | IP | {"csa"}),
    "L_b + ip + mdr": ({"tgsa": OFF, "csa": OFF}, BASE | IP | {"mdr"}),
    "all": ({}, BASE | IP | {"tgsa", "csa", "mdr"}),
}
"""Table 4, and the row that it lacks."""
OPTIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "mask full": ({"ip": {"mask": "full"}}, ROWS["all"][1]),
    "affine": ({"ip": {"affine": True}}, ROWS["all"][1]),
    "released L_r": ({"ip": {"unit": False, "hinge": "relu"}}, ROWS["all"][1]),
    "purified alone": ({"specific_identity": "purified"}, ROWS["all"][1] - {"specific_identity", "specific_triplet"}),
    "literal affinity": ({"affinity": {"sign": 1}}, ROWS["all"][1]),
    "within": ({"tgsa": {"cross": False}}, ROWS["all"][1]),
    "teacher first": ({"csa": {"kl": "teacher_first", "detach_teacher": True}}, ROWS["all"][1]),
    "symmetric": ({"csa": {"kl": "symmetric"}}, ROWS["all"][1]),
    "class": ({"mdr": {"pairing": "class"}}, ROWS["all"][1]),
    "three of each": ({"adversary": {"depths": ["stage3", "stage4", "neck"]}}, ROWS["all"][1]),
    "shuffled": ({"adversary": {"confuser": "shuffled"}}, ROWS["all"][1]),
    "discriminators": ({"adversary": {"confusers": 0, "depths": ["stage3"]}}, ROWS["all"][1] - {"confusers"}),
    "confusers": ({"adversary": {"discriminators": 0, "depths": ["stage3"]}}, ROWS["all"][1] - {"discriminators"}),
    "released": (RELEASED, ROWS["all"][1] - {"specific_identity", "specific_triplet"}),
    "no adversary": ({"adversary": {"depths": []}}, ROWS["all"][1] - {"discriminators", "confusers"}),
    "ramp": ({"adversary": {"ramp": True, "strength": 2}}, ROWS["all"][1]),
    "soft": ({"margin": "soft"}, ROWS["all"][1]),
}


@pytest.mark.parametrize("domains", [TWO, FOUR], ids=["2", "4"])
@pytest.mark.parametrize("name", [*ROWS, *OPTIONS])
def test_rows_and_options_have_their_terms(name: str, domains: list[str]) -> None:
    given, wanted = (ROWS | OPTIONS)[name]
    made, model, _ = run(tiny("idkl", **given), domains, *grid(3, len(domains), 2))
    assert made.terms.keys() == wanted
    # nothing lies idle: several processes would wait for it
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None and "backbone" not in n]
    masks = [n for n in idle if n.startswith("training_only.purifier.")]  # behind vectors that were drawn here
    assert idle == masks
    assert (model.training_only.purifier is None) == (name in ("L_b", "L_b + tgsa"))


@pytest.mark.parametrize("name", ["L_b", "L_b + ip", "mask full", "released", "confusers", "no adversary"])
def test_rows_and_options_train_every_weight(name: str) -> None:
    """A step through the whole network, in which each weight takes part."""
    torch.manual_seed(0)
    recipe = tiny("idkl", **(ROWS | OPTIONS)[name][0])
    model = recipe.model(2, TWO).train()
    subject, domain = grid(2, 2, 2)
    batch = labels(subject, domain, torch.randn(8, 3, 64, 32))
    features = recipe.forward(model, batch)
    assert all(value.ndim == 2 and len(value) == 8 for value in features.values())
    made = recipe.losses(model, features, batch, Progress(1, 3, 0, 1))
    torch.stack(list(made.terms.values())).sum().backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_total_is_eq_21() -> None:
    """Each term from the parts it is made of, over two domains; visible light first, whatever the order of names."""
    recipe = tiny("idkl", adversary={"dropout": 0.0, "discriminators": 1.0})
    subject, domain = grid(3, 2, 2)
    made, model, features = run(recipe, TWO, subject, domain)
    only = model.training_only
    ir, vis = domain == 0, domain == 1
    with torch.no_grad():
        for part in (model.neck, only.specific_neck, only.purified_neck):
            part.momentum = 0.0
        f = {name: value.detach() for name, value in features.items()}
        h, h_raw, h_p = model.neck(f["shared"]), only.specific_neck(f["specific"]), only.purified_neck(f["purified"])
        z, z_raw, z_p = model.classifier(h), only.classifier(h_raw), only.classifier(h_p)
        z_d = only.classifier(only.specific_neck(f["enhanced"]))

        def ranked(name: str) -> Tensor:
            return triplet(mine(f[name], subject), 0.3)

        t = [idkl.structure(f["purified"][of], f["shared"][of]) for of in (vis, ir)]
        c = [idkl.class_semantic_alignment(z[of], z_p[of]) for of in (vis, ir)]
        mdr = idkl.modality_discrepancy(
            (f["shared"][vis], f["shared"][ir]), (z[vis], z[ir]), (subject[vis], subject[ir])
        )
        turned = idkl.modality_discrepancy(
            (f["shared"][ir], f["shared"][vis]), (z[ir], z[vis]), (subject[ir], subject[vis])
        )
        assert mdr is not None
        assert turned is not None
        assert float(mdr[0]) != pytest.approx(float(turned[0]), rel=1e-4)
        sp = {"stage3": f["specific_stage3"], "stage4": f["specific"], "neck": h_raw}
        sh = {"stage3": f["shared_stage3"], "stage4": f["shared"], "neck": h}
        wanted = {
            "identity": cross_entropy(z, subject),
            "triplet": ranked("shared"),
            "specific_identity": cross_entropy(z_raw, subject),
            "specific_triplet": ranked("specific"),
            "discriminators": only.discriminators.loss(sp, domain),
            "confusers": only.confusers.loss(sh, domain),
            "purified_identity": 0.1 * cross_entropy(z_p, subject),
            "purified_triplet": 0.1 * ranked("purified"),
            "enhancing": 0.1 * discrimination_enhancing(z_d, z_raw),
            "reducing": 0.1 * discrepancy_reducing(f["reduced"], f["instance"], subject, domain, [(1, 0)]),
            "tgsa": 0.6 * (t[0] + t[1]),
            "csa": 0.8 * (c[0] + c[1]),
            "mdr": mdr[0],
        }
    assert made.terms.keys() == wanted.keys()
    for name, value in wanted.items():
        assert float(made.terms[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def test_of_two_domains_the_order_of_names_makes_no_difference() -> None:
    """MDR is not symmetric: the visible domain is first in it, wherever its name stands."""
    recipe = tiny("idkl", adversary={"depths": []})
    subject, domain = grid(3, 2, 2)
    first = run(recipe, TWO, subject, domain)[0].terms
    other = run(recipe, TWO[::-1], subject, 1 - domain)[0].terms
    for name in first:
        assert float(first[name]) == pytest.approx(float(other[name]), rel=1e-5), name


@pytest.mark.parametrize("pairs", ["all", "vis_ir", "grouped"])
def test_terms_of_four_domains_are_means(pairs: Any) -> None:
    pairing = "class" if pairs == "grouped" else "index"
    adversary = {"dropout": 0.0, "depths": ["stage3", "stage4", "neck"]}
    recipe = tiny("idkl", pairs=pairs, mdr={"pairing": pairing}, adversary=adversary)
    subject, domain = grid(3, 4, 2)
    made, model, f = run(recipe, FOUR, subject, domain)
    group = torch.where(domain == 3, 1, 0) if pairs == "grouped" else domain
    groups = 2 if pairs == "grouped" else 4
    wanted = {
        "all": [(0, 1), (0, 2), (1, 2), (3, 0), (3, 1), (3, 2)],
        "vis_ir": [(3, 0), (3, 1), (3, 2)],
        "grouped": [(1, 0)],
    }[pairs]
    assert set(model.pairs.pairs) == set(wanted)
    with torch.no_grad():
        z = model.classifier(without_running(model.neck, f["shared"]))
        mdr = [
            idkl.modality_discrepancy(
                (f["shared"][group == a], f["shared"][group == b]),
                (z[group == a], z[group == b]),
                (subject[group == a], subject[group == b]),
                pairing,
            )
            for a, b in wanted
        ]
        t = [idkl.structure(f["purified"][group == g], f["shared"][group == g]) for g in range(groups)]
    assert float(made.terms["mdr"]) == pytest.approx(sum(float(m[0]) for m in mdr if m) / len(wanted), rel=1e-4)
    assert float(made.terms["tgsa"]) == pytest.approx(0.6 * 2 * sum(map(float, t)) / groups, rel=1e-4)
    reducing = slow_reducing(f["reduced"], f["instance"], subject.tolist(), group.tolist(), wanted, by="unit")
    assert float(made.terms["reducing"]) == pytest.approx(0.1 * reducing, rel=1e-4)
    assert model.training_only.confusers["neck"][-1].out_features == groups
    assert made.figures["chance_loss"] == (pytest.approx(math.log(groups)), 1.0)
    assert made.figures["mdr_paired"][0] == made.figures["mdr_paired"][1] > 0
    assert made.figures["confuser_loss"][0] == pytest.approx(float(made.terms["confusers"]) / 3)


@pytest.mark.parametrize("pairing", ["index", "class"])
def test_a_batch_may_lack_things(pairing: str) -> None:
    """Subjects without some domain, a domain with a single image, one that is not there, visible-only subjects."""
    recipe = tiny("idkl", mdr={"pairing": pairing})
    subject = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 4])
    domain = torch.tensor([3, 3, 0, 0, 3, 0, 1, 3, 3, 3, 3, 3])
    made, _, _ = run(recipe, FOUR, subject, domain)
    paired, asked = made.figures["mdr_paired"]
    assert paired < asked
    alone, _, _ = run(recipe, FOUR, torch.tensor([0, 0, 1, 1]), torch.tensor([3, 3, 3, 3]))  # nothing to bring together
    assert float(alone.terms["mdr"]) == 0
    assert float(alone.terms["reducing"]) == 0
    strangers, _, _ = run(recipe, FOUR, torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 3]))
    assert float(strangers.terms["tgsa"]) == float(strangers.terms["mdr"]) == 0


def test_terms_do_not_depend_on_the_size_of_the_batch() -> None:
    """Each image twice: the terms are the same (the released code has other weights where a batch is not of 120)."""
    recipe = tiny("idkl", mdr={"pairing": "class"}, adversary={"dropout": 0.0})
    subject, domain = grid(3, 2, 2)
    features = {name: value.detach() for name, value in vectors(12, recipe).items()}
    made = []
    for times in (1, 2):
        model = headed(recipe, 3, TWO)
        given = {name: value.repeat(times, 1) for name, value in features.items()}
        batch = labels(subject.repeat(times), domain.repeat(times))
        made.append(recipe.losses(model, given, batch, Progress(0, 3, 0, 1)).terms)
    for name in made[0].keys() - {"tgsa", "mdr"}:  # whose neighbours are others then
        torch.testing.assert_close(made[1][name], made[0][name], rtol=1e-4, atol=1e-6)


def test_entropies_leave_the_running_statistics_alone() -> None:
    """`losses` moves each neck once, by the feature that it is for."""
    recipe = tiny("idkl")
    _, model, f = run(recipe, TWO, *grid(3, 2, 2))
    necks = {"shared": model.neck, "specific": model.training_only.specific_neck}
    necks["purified"] = model.training_only.purified_neck
    for name, neck in necks.items():
        assert int(neck.num_batches_tracked) == 1, name
        torch.testing.assert_close(neck.running_mean, 0.1 * f[name].detach().mean(0))


def test_without_a_purifier_the_specific_feature_takes_its_place() -> None:
    recipe = tiny("idkl", ip=OFF, mdr=OFF, adversary={"depths": []})
    subject, domain = grid(3, 2, 2)
    made, model, f = run(recipe, TWO, subject, domain)
    with torch.no_grad():
        z = model.classifier(without_running(model.neck, f["shared"]))
        z_raw = model.training_only.classifier(without_running(model.training_only.specific_neck, f["specific"]))
        t = sum(idkl.structure(f["specific"][domain == d], f["shared"][domain == d]) for d in (0, 1))
        c = sum(idkl.class_semantic_alignment(z[domain == d], z_raw[domain == d]) for d in (0, 1))
    assert float(made.terms["tgsa"]) == pytest.approx(0.6 * float(t), rel=1e-4)
    assert float(made.terms["csa"]) == pytest.approx(0.8 * float(c), rel=1e-4)


def shared_gradient(recipe: Any, where: Progress) -> Tensor:
    """Of the confusers alone."""
    subject, domain = grid(3, 2, 2)
    model = headed(recipe, 3, TWO)
    features = vectors(12, recipe)
    recipe.losses(model, features, labels(subject, domain), where).terms["confusers"].backward()
    grad = features["shared"].grad
    assert grad is not None
    return grad


def test_confusers_deceive_by_turned_gradients() -> None:
    without = {"adversary": {"strength": 1.0, "depths": ["stage4"]}}
    start, late = Progress(0, 10, 0, 1), Progress(5, 10, 0, 1)
    plain = shared_gradient(tiny("idkl", **without), start)
    twice = shared_gradient(tiny("idkl", adversary=without["adversary"] | {"strength": 2.0}), start)
    torch.testing.assert_close(twice, 2 * plain)
    growing = tiny("idkl", adversary=without["adversary"] | {"ramp": True})
    assert shared_gradient(growing, start).abs().max() == 0
    torch.testing.assert_close(shared_gradient(growing, late), ramp(0.5) * plain)
    shuffled = tiny("idkl", adversary=without["adversary"] | {"confuser": "shuffled"})
    assert not torch.allclose(shared_gradient(shuffled, start), plain)


def test_weights_scale_their_terms() -> None:
    """The three lambdas, for sweeps."""
    subject, domain = grid(3, 2, 2)
    plain_made = run(tiny("idkl"), TWO, subject, domain)[0]
    plain = plain_made.terms
    given: dict[str, Any] = {
        "ip": {"weight": 0.3},
        "tgsa": {"weight": 1.2},
        "csa": {"weight": 0.4},
        "mdr": {"weight": 2.0},
    }
    scaled = run(tiny("idkl", **given), TWO, subject, domain)[0].terms
    given["adversary"] = {"discriminators": 0.5, "confusers": 3.0}
    both, figures = run(tiny("idkl", **given), TWO, subject, domain)[0], plain_made.figures
    for name, factor in (("discriminators", 5.0), ("confusers", 3.0)):  # times 0.1 and 1
        assert float(both.terms[name]) == pytest.approx(factor * float(plain[name]), rel=1e-5)
        assert both.figures[f"{name[:-1]}_loss"] == pytest.approx(figures[f"{name[:-1]}_loss"], rel=1e-5)  # of a head
    factors = {**dict.fromkeys(IP, 3.0), "tgsa": 2.0, "csa": 0.5, "mdr": 2.0, **dict.fromkeys(BASE, 1.0)}
    for name, factor in factors.items():
        assert float(scaled[name]) == pytest.approx(factor * float(plain[name]), rel=1e-5), name


# -- training


def test_trains_where_crops_do_not_decode(tmp_path: Path) -> None:
    """Their counterparts are left out of MDR, and counted."""
    recipe = tiny("idkl", schedule={"length": 1})
    crops = crops_in(tmp_path / "run", recipe, subjects=3, damaged=3)
    fitted = fit(job(crops, recipe, tmp_path / "state.pt"))
    assert all(math.isfinite(value) for value in fitted.lines[-1].values() if isinstance(value, float))
    assert {"chance_loss", "confuser_loss", "discriminator_loss"} <= fitted.lines[-1].keys()
    assert "validation/domain_probe" not in fitted.lines[-1]
    assert 0.5 < fitted.lines[-1]["mdr_paired"] < 1
