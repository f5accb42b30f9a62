"""dfw: its losses against scalar transcriptions of the equations, its shapes and sizes, the rows of its Table 1."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.learning.batches import CropBatch
from mdfpipe.learning.losses.centres import centres, hetero_centre_triplet
from mdfpipe.learning.losses.overlap import hard_centre, overlap, soft_centre
from mdfpipe.learning.models.segmented import SegmentedNet
from mdfpipe.learning.models.weakening import Weakening
from mdfpipe.learning.recipes import Losses, Progress, Recipe
from mdfpipe.learning.streams import DomainPairs
from tests.learning.trained import tiny

TWO = DomainPairs.of(["NIR", "VIS"], "all")
FOUR = ["LWIR", "MWIR", "SWIR", "VIS"]
FORMS = ["mask", "gate", "elementwise", "literal"]
RULES = [("mean", 0.5), ("mean", 0.2), (0.5, "proportion"), (0.2, 0.8), ("mean", "proportion")]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- weakening


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_weakening(image: Tensor, threshold: Any, factor: Any, form: str) -> list[list[list[float]]]:
    """One image (C, H, W), place by place (DFW eq. 1-3, METHODS 6.2)."""
    channels, height, width = image.shape
    value = image.tolist()
    places = [(i, j) for i in range(height) for j in range(width)]
    f = {}
    for i, j in places:
        column = [value[c][i][j] for c in range(channels)]
        f[i, j] = sum(column) / channels + max(column)
    if threshold == "mean":
        compared, least = f, sum(f.values()) / len(places)
    else:
        low, high = min(f.values()), max(f.values())
        compared, least = {at: (v - low) / (high - low) for at, v in f.items()}, threshold
    strong = {at: v >= least for at, v in compared.items()}
    e = sum(strong.values()) / len(places)
    m = {at: (e if factor == "proportion" else factor) if strong[at] else 1.0 for at in places}
    made = {
        "mask": lambda c, at: value[c][at[0]][at[1]] * m[at],
        "gate": lambda c, at: value[c][at[0]][at[1]] * sigmoid(f[at] * m[at]),
        "elementwise": lambda c, at: sigmoid(value[c][at[0]][at[1]] * m[at]),
        "literal": lambda c, at: sigmoid(f[at] * m[at]),
    }[form]
    return [[[made(c, (i, j)) for j in range(width)] for i in range(height)] for c in range(channels)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("threshold", "factor"), RULES)
def test_weakening_against_scalars(threshold: Any, factor: Any, form: Any) -> None:
    x = normal(3, 5, 4, 3).relu()
    found = Weakening(threshold, factor, form)(x)
    wanted = [slow_weakening(image, threshold, factor, form) for image in x]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-9)


def test_weakening_by_hand() -> None:
    """One channel, so f = 2F: 0, 2, 4, 10, mean 4. Of the third, 4 >= 4: two of four places are strong."""
    x = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]]])
    assert Weakening("mean", 0.5)(x).flatten().tolist() == [0, 1, 1, 2.5]  # M_D1
    assert Weakening("mean", "proportion")(x).flatten().tolist() == [0, 1, 1, 2.5]  # M_D3: e = 1/2
    assert Weakening(0.2, "proportion")(x).flatten().tolist() == [0, 0.75, 1.5, 3.75]  # M_D2: f' = 0, .2, .4, 1
    assert Weakening(0.9, "proportion")(x).flatten().tolist() == [0, 1, 2, 1.25]


@pytest.mark.parametrize("value", [0.1, 1.0, 1e-3, 7.7, 3e4])
@pytest.mark.parametrize("size", [(5, 3), (18, 9), (36, 18)])
def test_a_constant_map(value: float, size: tuple[int, int]) -> None:
    """METHODS 8: every place is at the mean, whatever round-off says: e = 1, M_D3 the identity, M_D1 alpha."""
    x = torch.full((2, 7, *size), value)
    assert torch.equal(Weakening("mean", "proportion")(x), x)
    assert torch.equal(Weakening("mean", 0.5)(x), x * 0.5)
    assert torch.equal(Weakening(0.5, "proportion")(x), x)  # no range: nothing reaches beta


def test_the_matrix_has_no_gradient_and_the_map_has() -> None:
    x = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]]], requires_grad=True)
    Weakening("mean", "proportion")(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1, 1, 0.5, 0.5]
    for form in ("gate", "elementwise", "literal"):
        smooth = normal(2, 3, 3, 2, seed=3).abs().requires_grad_()
        assert torch.autograd.gradcheck(Weakening("mean", 0.5, form), smooth)  # type: ignore[arg-type]


def test_weakening_at_test_and_in_half_precision() -> None:
    x = normal(2, 8, 4, 3).relu().float()
    always, trained = Weakening(), Weakening(training_only=True)
    assert torch.equal(always.eval()(x), always.train()(x))
    assert torch.equal(trained.eval()(x), x)
    assert torch.equal(trained.train()(x), always(x))
    for form in FORMS:
        assert Weakening(form=form)(x.bfloat16()).dtype == torch.bfloat16  # type: ignore[arg-type]
    assert not list(always.parameters())


# -- overlap penalty


def slow_centre(response: Tensor, cell: tuple[float, float], t: float) -> tuple[float, float]:
    rows = response.tolist()
    flat = [v for row in rows for v in row]
    low, high = min(flat), max(flat)
    y = x = total = 0.0
    for i, row in enumerate(rows):
        for j, v in enumerate(row):
            weight = math.exp((v - low) / (high - low) / t)
            y += weight * (i + 0.5) * cell[0]
            x += weight * (j + 0.5) * cell[1]
            total += weight
    return y / total, x / total


@pytest.mark.parametrize("t", [0.05, 0.5])
def test_overlap_against_scalars(t: float) -> None:
    first, second = normal(4, 6, 3).abs(), normal(4, 6, 3, seed=1).abs()
    cell, s = (16.0, 12.0), 60.0
    a, b = soft_centre(first, cell, t), soft_centre(second, cell, t)
    terms = []
    for n in range(4):
        (y1, x1), (y2, x2) = slow_centre(first[n], cell, t), slow_centre(second[n], cell, t)
        assert a[n].tolist() == pytest.approx([y1, x1], abs=1e-9)
        terms.append(max(0.0, s - math.sqrt((y1 - y2) ** 2 + (x1 - x2) ** 2 + 1e-6)))
    assert float(overlap(a, b, s)) == pytest.approx(sum(terms) / 4, abs=1e-9)
    assert 0 < sum(terms) < 4 * s


def test_overlap_by_hand() -> None:
    """METHODS 8: coincident centres S; centres 30 and 40 px apart S - 50; farther than S nothing."""
    here = torch.tensor([[100.0, 60.0]])
    there = here + torch.tensor([[30.0, -40.0]])
    assert float(overlap(here, here, 100.0)) == pytest.approx(100, abs=2e-3)
    assert float(overlap(here, there, 100.0)) == pytest.approx(50, abs=1e-4)
    assert float(overlap(here, there, 40.0)) == 0
    assert float(overlap(here.repeat(2, 1), torch.cat([here, there]), 100.0)) == pytest.approx(75, abs=2e-3)


def test_places_are_pixels_of_the_input() -> None:
    """A map of 18x9 for 288x144: a peak in row 2, column 7 is at 40, 120 px."""
    response = torch.zeros(1, 18, 9)
    response[0, 2, 7] = 3.0
    assert hard_centre(response, (16, 16)).tolist() == [[40.0, 120.0]]
    assert soft_centre(response, (16, 16), 0.02)[0].tolist() == pytest.approx([40, 120], abs=1e-3)
    assert hard_centre(torch.ones(1, 2, 2), (10, 10)).tolist() == [[5, 5]]  # of ties the first


def test_gradient_of_the_overlap() -> None:
    def loss(a: Tensor, b: Tensor) -> Tensor:
        return overlap(soft_centre(a, (16, 16), 0.3), soft_centre(b, (16, 16), 0.3), 100.0)

    assert torch.autograd.gradcheck(loss, (normal(2, 4, 3).requires_grad_(), normal(2, 4, 3, seed=1).requires_grad_()))


def test_flat_and_equal_responses_have_finite_gradients() -> None:
    flat, same = torch.ones(2, 4, 3, requires_grad=True), torch.rand(2, 4, 3, requires_grad=True)
    for first, second in [(flat, flat), (flat, same), (same, same)]:
        found = overlap(soft_centre(first, (16, 16), 0.05), soft_centre(second, (16, 16), 0.05), 100.0)
        (slope,) = torch.autograd.grad(found, first)
        assert torch.isfinite(slope).all()
    assert soft_centre(flat, (16, 16), 0.05)[0].tolist() == pytest.approx([32, 24])


# -- hetero-centre triplets


def slow_hetero_centre(
    features: Tensor, subject: list[int], group: list[int], pairs: set[tuple[int, int]], margin: float
) -> float:
    """Eq. 6 with its hinges and a mean, centre by centre."""
    rows = features.tolist()
    middle: dict[tuple[int, int], list[float]] = {}
    for key in sorted(set(zip(subject, group, strict=True))):
        own = [row for row, *of in zip(rows, subject, group, strict=True) if tuple(of) == key]
        middle[key] = [sum(column) / len(own) for column in zip(*own, strict=True)]
    terms = []
    for (y, d), c in middle.items():
        positive = [math.dist(c, o) for (z, g), o in middle.items() if z == y and (min(d, g), max(d, g)) in pairs]
        negative = [math.dist(c, o) for (z, _), o in middle.items() if z != y]
        if positive and negative:
            terms.append(max(0.0, margin + max(positive) - min(negative)))
    return sum(terms) / max(len(terms), 1)


def test_hetero_centres_by_hand() -> None:
    """METHODS 8: visible 0 and 4, infrared 1 and 6: no hinge is open; with 9 for 6: 2.3 of four."""
    subject, domain = torch.tensor([0, 1, 0, 1]), torch.tensor([1, 1, 0, 0])
    for last, wanted in [(6.0, 0.0), (9.0, 2.3 / 4)]:
        x = torch.tensor([[0.0], [4.0], [1.0], [last]])
        assert float(hetero_centre_triplet(x, subject, domain, TWO, 0.3)) == pytest.approx(wanted, abs=1e-6)


def test_centres_are_means_of_what_there_is() -> None:
    x = torch.tensor([[1.0, 0.0], [5.0, 5.0], [3.0, 2.0], [0.0, 9.0]])
    means, whose, where = centres(x, torch.tensor([2, 0, 2, 2]), torch.tensor([1, 0, 1, 0]))
    assert means.tolist() == [[5, 5], [0, 9], [2, 1]]
    assert (whose.tolist(), where.tolist()) == ([0, 2, 2], [0, 0, 1])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_hetero_centres_are_their_definition(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 14))
    subject = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    domain = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    kind = data.draw(st.sampled_from(["all", "vis_ir", "grouped"]))
    pairs = DomainPairs.of(FOUR, kind)
    x = normal(size, 3, seed=data.draw(st.integers(0, 99))).requires_grad_()
    found = hetero_centre_triplet(x, torch.tensor(subject), torch.tensor(domain), pairs, 0.3)
    wanted = slow_hetero_centre(x.detach(), subject, [pairs.group[d] for d in domain], set(pairs.pairs), 0.3)
    assert found.item() == pytest.approx(wanted, abs=1e-9)
    found.backward()  # also where no centre counts
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("kind", ["all", "vis_ir", "grouped"])
def test_gradient_of_hetero_centres(kind: Any) -> None:
    pairs, subject = DomainPairs.of(FOUR, kind), torch.arange(3).repeat(5)
    domain = torch.tensor([0, 1, 2, 3, 3]).repeat_interleave(3)
    x = normal(15, 4).requires_grad_()
    assert hetero_centre_triplet(x, subject, domain, pairs, 0.3) > 0
    assert torch.autograd.gradcheck(lambda v: hetero_centre_triplet(v, subject, domain, pairs, 0.3), x)


def test_one_domain_has_no_positive_centre() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    found = hetero_centre_triplet(x, torch.tensor([0, 0, 1, 1]), torch.zeros(4, dtype=torch.int64), TWO, 0.3)
    found.backward()
    assert found.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_hetero_centres_in_half_precision_are_those_of_float32() -> None:
    x, subject, domain = normal(12, 64).float(), torch.arange(3).repeat(4), torch.arange(2).repeat_interleave(6)
    outside = hetero_centre_triplet(x, subject, domain, TWO, 5.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert hetero_centre_triplet(x, subject, domain, TWO, 5.0) == outside
        response = x[:4].reshape(4, 8, 8)
        assert soft_centre(response, (16, 16), 0.05).dtype == torch.float32


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

WHERE = Progress(0, 2, 0, 1)


def made_batch(recipe: Recipe, domains: list[str], subjects: int = 3, each: int = 2) -> CropBatch:
    """Subjects x domains x each noise images."""
    cells = [(y, d) for y in range(subjects) for d in range(len(domains)) for _ in range(each)]
    subject, domain = (torch.tensor([cell[i] for cell in cells]) for i in range(2))
    none = torch.zeros(len(cells), dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(cells), 3, recipe.image_height_px, recipe.image_width_px, generator=generator)
    return CropBatch(images, subject, domain, none, none, none, none)


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
    {"weakening": {"threshold": 0.8, "factor": "proportion", "training_only": True}},
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
    for wrong in ({"threshold": 1.5}, {"factor": "e"}, {"form": "sum"}):
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
