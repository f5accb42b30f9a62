"""The domain probe: what a new linear classifier finds in vectors that hold a domain, and in vectors that do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mdfpipe.learning.probe import RIDGE, domain_probe
from mdfpipe.learning.recipes import Progress
from tests.learning.test_idkl import TWO, headed, labels
from tests.learning.trained import tiny

SUBJECTS = np.repeat(np.arange(40), 6)
DOMAINS = np.tile([2, 1, 0], 80)


def drawn(width: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(240, width)).astype(np.float32)


@pytest.mark.parametrize("width", [6, 300])  # fewer numbers than images to fit, and more
def test_a_domain_is_found_where_it_is_and_not_where_it_is_not(width: int) -> None:
    x = drawn(width)
    chance = domain_probe(x, SUBJECTS, DOMAINS)
    assert chance == pytest.approx(1 / 3, abs=0.1)
    x[:, 0] += 8 * (DOMAINS == 2)
    x[:, 1] += 8 * (DOMAINS == 0)
    assert (domain_probe(x, SUBJECTS, DOMAINS) or 0) > 0.95


def test_subjects_are_asked_that_were_not_fitted() -> None:
    """A direction of each subject's own tells its domain: nothing that another subject's images say."""
    x = np.zeros((240, 40), np.float32)
    for n, (subject, domain) in enumerate(zip(SUBJECTS, DOMAINS, strict=True)):
        x[n, subject] = 1 if domain == 2 else -1
    assert domain_probe(x, SUBJECTS, DOMAINS) == pytest.approx(1 / 3, abs=0.01)


def test_domains_weigh_the_same() -> None:
    """A domain is found as well where nine of ten images are of the other."""
    rare, even = np.arange(2400) % 10 == 0, np.arange(2400) % 2 == 0
    noise, subject = np.random.default_rng(0).normal(size=(2400, 6)), np.arange(2400) // 10
    for domain in (rare, even):
        found = domain_probe(noise + np.outer(domain, [1, 0, 0, 0, 0, 0]), subject, domain)
        assert found == pytest.approx(0.69, abs=0.03)  # the normal distribution up to 1/2
        assert domain_probe(noise, subject, domain) == pytest.approx(0.5, abs=0.04)


def test_the_solution_is_that_of_the_ridge() -> None:
    """Two equal systems of equations: the primal one by hand, over more numbers than images."""
    x = drawn(300).astype(np.float64)
    half = SUBJECTS % 2
    shares = []
    for side in (0, 1):
        own, asked = x[half == side], x[half != side]
        own, asked = own - own.mean(0), asked - own.mean(0)
        wanted = np.eye(3)[DOMAINS]
        y = wanted[half == side] - wanted[half == side].mean(0)
        penalty = RIDGE * np.square(own).sum(1).mean()
        found = asked @ np.linalg.solve(own.T @ own + penalty * np.eye(300), own.T @ y)
        right = found.argmax(1) == wanted[half != side].argmax(1)
        shares.append(np.mean([right[wanted[half != side][:, n] == 1].mean() for n in range(3)]))
    assert domain_probe(x, SUBJECTS, DOMAINS) == pytest.approx(np.mean(shares), abs=0.01)


def test_there_is_no_figure_without_two_domains_in_both_halves() -> None:
    for subject, domain in (([0, 0, 1, 1], [0, 0, 0, 0]), ([0, 0, 1, 1], [0, 1, 0, 0]), ([0, 0], [0, 1])):
        assert domain_probe(drawn(3)[: len(subject)], np.array(subject), np.array(domain)) is None


# -- what the adversaries of idkl do to it


class Branches(nn.Module):
    """Two branches of a small MLP over one trunk, as wide as the recipe's heads expect."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = layer(32, 128)
        self.stages = nn.ModuleDict({name: layer(128, 256) for name in ("shared", "specific")})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        behind = self.trunk(x)
        return {name: stage(behind) for name, stage in self.stages.items()}


def layer(given: int, made: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(given, made), nn.BatchNorm1d(made), nn.ReLU())


def patterns(people: int, each: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vectors (N, 32) of subjects in two domains, which see them through maps that are half alike; subject, domain."""
    generator = np.random.default_rng(0)
    common, own = generator.normal(size=(12, 32)) / 3, generator.normal(size=(2, 12, 32)) / 5
    shift = generator.normal(size=(2, 32)) / 2
    generator = np.random.default_rng(seed)
    subject, domain = np.repeat(np.arange(people), 2 * each), np.tile(np.repeat([0, 1], each), people)
    hidden = generator.normal(size=(people, 12))[subject] + 0.45 * generator.normal(size=(len(subject), 12))
    seen = np.tanh(np.einsum("nk,nkj->nj", hidden, (common + own)[domain]) + shift[domain])
    x = torch.tensor(seen + 0.3 * generator.normal(size=seen.shape), dtype=torch.float32)
    return x, torch.tensor(subject), torch.tensor(domain)


def probe_after(steps: int, **adversary: Any) -> float:
    """The probe of subjects that a training by L_b did not see."""
    off = {name: {"weight": 0} for name in ("ip", "tgsa", "csa", "mdr")}
    recipe: Any = tiny("idkl", optimiser={"rate": 2e-3, "weight_decay": 5e-4}, adversary=adversary, **off)
    model = headed(recipe, 40, TWO)
    model.branches = Branches()
    optimizer = recipe.optimiser.make(recipe.parameter_groups(model))
    x, subject, domain = patterns(40, 8, 1)
    cells = torch.arange(len(x)).view(40, 2, 8)
    for step in range(steps):
        drawn = cells[torch.randperm(40)[:8]][:, :, torch.randperm(8)[:2]].flatten()
        progress = Progress(step, steps, 0, 1)
        made = recipe.losses(model, model.branches(x[drawn]), labels(subject[drawn], domain[drawn]), progress)
        optimizer.zero_grad()
        torch.stack(list(made.terms.values())).sum().backward()
        optimizer.step()
    model.eval()
    x, subject, domain = patterns(120, 2, 2)
    with torch.inference_mode():
        vectors = model.neck(model.branches(x)["shared"])
    found = domain_probe(vectors.numpy(), subject.numpy(), domain.numpy())
    assert found is not None
    return found


def test_the_default_adversary_does_not_make_the_domain_easier_to_find() -> None:
    """Slow heads do, whose own loss is near chance. More measurements are in the recipe's docstring."""
    torch.set_num_threads(1)
    without = probe_after(60, depths=[])
    assert probe_after(60) <= without
    assert probe_after(60, discriminators=1.0) <= without  # as in the studies of its paper
    slow = {"dropout": 0.5, "rate": 1.0, "strength": 1.0, "discriminators": 1.0}
    assert probe_after(60, depths=["stage4", "neck"], **slow) > without + 0.04
