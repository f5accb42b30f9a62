"""Designs of the semantic ViT that are ours: masks and bands against a transcription, how weights start, settings."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mdfpipe.errors import ConfigError
from mdfpipe.learning.embedders import batch_of
from mdfpipe.learning.models.backbones.semantic_vit import (
    CHOICES,
    band_rows,
    band_shares,
    band_targets,
    part_figures,
)
from mdfpipe.learning.models.parts.heads import Neck
from mdfpipe.learning.recipes import Progress, Recipe
from tests.learning.published import State, pass_state, plain_vit
from tests.learning.scalars import normal as noise
from tests.learning.small_vit import HEIGHT, WIDTH, small, some_tokens

STRIPED: dict[str, Any] = {"backbone": "striped", "width": 8, "image_height_px": 96}
BANDS: dict[str, Any] = {"local": "band", "global_": "mean", "fusion": "four"}


def transcribed(vit: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens (B, 4 + N, d) after the last norm, and (B, 4, N) what the first four attend to among the patches, the
    mean over heads and blocks: attention by loops over who attends to whom.
    """
    inner = vit.vit
    x = inner._pos_embed(inner.patch_embed(images))
    rows, columns = vit.grid
    bands = [[4 + row * columns + column for row in band for column in range(columns)] for band in band_rows(rows)]
    patches, everything = list(range(4, x.shape[1])), list(range(x.shape[1]))
    is_band, looks = vit.design.local == "band", torch.zeros(len(images), 4, x.shape[1], dtype=x.dtype)
    for block in inner.blocks:
        normed = block.norm1(x)
        width, heads = x.shape[2], block.attn.num_heads
        q, k, v = block.attn.qkv(normed).chunk(3, dim=2)
        made = torch.zeros_like(x)
        for token in range(x.shape[1]):
            others = [token, *bands[token - 1]] if 1 <= token <= 3 else [0, *patches]
            others = others if is_band else everything
            for head in range(heads):
                part = slice(head * width // heads, (head + 1) * width // heads)
                logits = (k[:, others, part] @ q[:, token, part, None])[..., 0] / (width // heads) ** 0.5
                weights = logits.softmax(1)
                made[:, token, part] = (weights[..., None] * v[:, others, part]).sum(1)
                if token < 4:
                    looks[:, token, others] += weights
        x = x + block.attn.proj(made)
        x = x + block.mlp(block.norm2(x))
    return inner.norm(x), looks[..., 4:] / looks[..., 4:].sum(2, keepdim=True)


@torch.no_grad()
def test_local_tokens_keep_to_their_band() -> None:
    vit, images = small(**BANDS).double(), noise(2, 3, HEIGHT, WIDTH)
    found, (expected, _) = vit(images), transcribed(vit, images)
    patches = expected[:, 4:].reshape(2, *vit.grid, -1)
    means = torch.stack([patches[:, band.start : band.stop].mean((1, 2)) for band in band_rows(vit.grid[0])], 1)
    torch.testing.assert_close(found.patches, expected[:, 4:], rtol=0, atol=1e-12)
    torch.testing.assert_close(found.local, expected[:, 1:4] + means, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.global_, expected[:, 4:].mean(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(means, band_targets(expected[:, 4:], vit.grid), rtol=0, atol=1e-12)
    assert vit.fuse(found).shape == (2, 4 * 192)


@pytest.mark.parametrize("design", [{}, {"local": "band"}, {"global_": "mean"}], ids=str)
def test_what_tokens_attend_to(design: dict[str, str]) -> None:
    """Against the transcription; watching changes no token and leaves no hook."""
    vit, images = small(**design).double(), noise(2, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        plain, (_, looks) = vit(images), transcribed(vit, images)
    tokens, attention = vit.attended(images)
    assert all(torch.equal(a, b) for a, b in zip(tokens, plain, strict=True))
    if "global_" in design:
        looks[:, 0] = 1 / looks.shape[2]
    torch.testing.assert_close(attention, looks, rtol=0, atol=1e-6, check_dtype=False)
    assert not any(module._forward_pre_hooks for module in vit.modules())
    own = band_shares(attention[:, 1:], vit.grid).diagonal(dim1=1, dim2=2)
    assert bool((own == 1).all()) == (design.get("local") == "band")
    figures = part_figures(vit, [noise(4, 3, HEIGHT, WIDTH), noise(2, 3, HEIGHT, WIDTH, seed=1)])
    assert figures.keys() == {"part_match", "part_attention"}
    assert (figures["part_attention"] == 1) == (design.get("local") == "band")
    if "local" in design:
        assert figures["part_match"] > 0.9
    assert part_figures(vit, [images]) == part_figures(small(parts=[]), [images, images]) == {}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in CHOICES.items() for value in values[1:]] + [("all", "")]
)
def test_gradient_reaches_every_parameter(name: str, value: str) -> None:
    everything = {name: values[-1] for name, values in CHOICES.items()}
    vit = small(**(everything if name == "all" else {name: value})).train()
    z = vit.fuse(vit(noise(3, 3, HEIGHT, WIDTH, dtype=torch.float32)))
    (z * noise(*z.shape, dtype=torch.float32)).sum().backward()
    assert [name for name, p in vit.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(("stem", "patch_px"), [("conv", 8), ("conv", 16), ("resnet", 8), ("resnet", 16)])
def test_a_stem_gives_a_vector_for_each_patch(stem: str, patch_px: int) -> None:
    """And what is right of an image changes what is right in the grid, within the reach of the convolutions."""
    vit = small(stem=stem, patch_px=patch_px, image_size=(96, 192))
    images = noise(1, 3, 96, 192, dtype=torch.float32)
    other = images.clone()
    other[..., 176:] = 0
    with torch.no_grad():
        made, changed = (vit.vit.patch_embed(x).reshape(*vit.grid, -1) for x in (images, other))
    different = (made != changed).any(2).any(0)
    assert made.shape == (96 // patch_px, 192 // patch_px, 192)
    assert different[-1]
    assert not different[:1].any()


def test_positions_start_as_sines() -> None:
    """Row and column of a patch as sines and cosines of wavelengths that grow geometrically to 100, times .5."""
    vit = small(positions="sincos")
    rows, columns = vit.grid
    assert vit.vit.pos_embed is not None
    found = vit.vit.pos_embed[0].detach().numpy()
    steps = 1 / 100 ** (np.arange(48) / 48)
    expected = [
        np.concatenate([f(place * steps) for place in (column, row) for f in (np.sin, np.cos)])
        for row, column in itertools.product(range(rows), range(columns))
    ]
    assert not found[:4].any()
    np.testing.assert_allclose(np.sort(found[4:], axis=1), 0.5 * np.sort(expected, axis=1), atol=1e-6)


def test_attention_starts_as_in_trained_networks() -> None:
    """Query and key alike and orthogonal in each head; value times output is -.4 I + .4 N, N of variance 1 / d."""
    vit = small(initialisation="mimetic")
    for block in vit.vit.blocks:
        q, k, v = block.attn.qkv.weight.detach().double().chunk(3)
        assert torch.equal(q, k)
        for head in q.reshape(3, 64, 192):
            torch.testing.assert_close(head @ head.T, 0.25 * torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-5)
        drawn = (block.attn.proj.weight.detach().double() @ v + 0.4 * torch.eye(192)) * 192**0.5 / 0.4
        assert abs(float(drawn.mean())) < 0.03
        assert float(drawn.std()) == pytest.approx(1, abs=0.03)
        assert not block.attn.qkv.bias.any()
    first, second = vit.vit.blocks[0], vit.vit.blocks[1]
    assert not torch.equal(first.attn.qkv.weight, second.attn.qkv.weight)


@pytest.mark.parametrize(
    ("kind", "parts"), [("single", (0, 1, 2)), ("single", (1,)), ("multi", (0, 2)), ("multi", ()), ("plain", (0,))]
)
def test_the_neck_of_four_tokens(kind: Any, parts: tuple[int, ...]) -> None:
    """Tokens out of use are 0 before it and after it."""
    vit = small(fusion="four", parts=[("face", "torso", "lower_body")[k] for k in parts])
    tokens = some_tokens(5)
    z = vit.fuse(tokens)
    both = torch.cat([tokens.global_[:, None], tokens.local], dim=1)
    h = Neck(kind, 768, 192, parts, apart=True).double()(z, both).reshape(5, 4, 192)
    used = [0, *(1 + k for k in parts)]
    assert [bool(token.any()) for token in h.transpose(0, 1)] == [k in used for k in range(4)]
    if kind != "plain":
        standard = (both - both.mean(0)) / (both.var(0, unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(h[:, used], standard[:, used])


@pytest.mark.parametrize("changes", [{"image_height_px": 32}, {"parts": []}, STRIPED], ids=str)
def test_a_network_without_bands_measures_mining_alone(changes: dict[str, Any]) -> None:
    recipe = Recipe.variant("body").model_validate({**Recipe.variant("body").tiny, **changes})
    batch = replace(
        batch_of(noise(4, 3, recipe.image_height_px, 32, dtype=torch.float32), 0), subject=torch.tensor([0, 0, 1, 1])
    )
    with torch.no_grad():
        found = recipe.measure(recipe.model(2, ["VIS"]).eval(), [batch])
    assert found == {"pos_other": 0, "pos_other_chance": 0, "neg_same": 1, "neg_same_chance": 1}


def test_settings() -> None:
    body = Recipe.variant("body")
    assert body.model_validate({"global": "mean"}).model_dump()["global_token"] == "mean"  # type: ignore[attr-defined]
    assert body.model_validate({"fusion": "four", "backbone": "mini"}).features == 768
    for given, words in (
        ({"backbone": "striped", "local": "band"}, "local: belongs to a ViT"),
        ({"local": "band", "part_alignment": 0.5}, "see nothing but their band"),
    ):
        with pytest.raises(ValueError, match=words):
            body.model_validate(given)


def public_state(kind: str) -> State:
    """A checkpoint of this kind, of the width of the mini ViT and two blocks."""
    torch.manual_seed(1)
    if kind == "PASS":
        return pass_state(192)
    state = plain_vit(192, patches=196 if kind == "timm ViT" else 128)
    if kind == "TransReID":
        state |= {"sie_embed": torch.ones(6, 1, 192), "bottleneck.weight": torch.ones(192)}
        state |= {"classifier.weight": torch.ones(9, 192)}
    return state


@pytest.mark.parametrize("kind", ["PASS", "TransReID", "TransReID-SSL", "timm ViT"])
@pytest.mark.parametrize(
    ("option", "value", "note"),
    [
        ("stem", "conv", None),
        ("stem", "resnet", None),
        (
            "local",
            "band",
            "local: band: the checkpoint's local tokens are taken, trained to see every patch",
        ),
        ("global", "mean", "global: mean: the checkpoint's class token is taken, and is no part of the feature"),
        ("fusion", "ffn", "fusion: ffn is new: as it was drawn"),
        ("fusion", "four", ""),
        ("positions", "sincos", "positions: sincos has no effect: the checkpoint's own are taken"),
        ("initialisation", "mimetic", "initialisation: mimetic has no effect: the checkpoint's own are taken"),
    ],
)
def test_public_weights_with_each_option(option: str, value: str, note: str | None, kind: str) -> None:
    """A stem is refused by the name of its setting; whatever else is loaded, the report says what was left."""
    recipe = Recipe.variant("body").model_validate({**Recipe.variant("body").tiny, "blocks": 2, option: value})
    model, state = recipe.model(0, ["VIS"]), public_state(kind)
    before = model.backbone.vit.reg_token.clone()
    if note is None:
        with pytest.raises(ConfigError, match=rf"w\.pth: no public checkpoint has a stem of {value}: set stem=patch"):
            recipe.load(model, state, "w.pth", 0.9)
        return
    report = recipe.load(model, state, "w.pth", 0.9)
    new = [] if kind == "PASS" else ["local tokens are new: as they were drawn"]
    told = [note] if note and (option != "local" or kind == "PASS") else []
    assert list(report.notes) == [*new, *told]
    assert (report.format, set(report.notes) <= set(report.lines())) == (kind, True)
    heads = {"sie_embed", "bottleneck.weight", "classifier.weight"}
    assert set(report.ignored) == (heads if kind == "TransReID" else set())
    vit = model.backbone.vit
    assert torch.equal(vit.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])
    assert torch.equal(vit.pos_embed[:, :1], state["cls_pos" if kind == "PASS" else "pos_embed"][:, :1])
    assert not torch.equal(vit.pos_embed[:, 4:], torch.zeros_like(vit.pos_embed[:, 4:]))
    assert torch.equal(vit.reg_token[:, 1:2], state["part_token2"] if kind == "PASS" else before[:, 1:2])


PAIRS = [
    {
        "stem": stem,
        "fusion": fusion,
        "local": ("token", "band")[(i + j) % 2],
        "global": ("token", "mean")[(i // 2 + j) % 2],
        **({"positions": "sincos", "initialisation": "mimetic"} if i == 1 else {}),
    }
    for i, stem in enumerate(("patch", "conv", "resnet"))
    for j, fusion in enumerate(("cat", "ffn", "four"))
]
"""Designs among which any two values of two options meet."""


@pytest.mark.parametrize("design", PAIRS, ids=lambda design: " ".join(design.values()))
def test_low_rank_terms_part_masks_and_measures_of_each_design(design: dict[str, str]) -> None:
    settings = {**Recipe.variant("body").tiny, "blocks": 1, "lora": {"rank": 2}, **design}
    recipe = Recipe.variant("body").model_validate(settings)
    torch.manual_seed(0)
    model = recipe.model(2, ["VIS"])
    images, subject = noise(6, 3, 64, 32, dtype=torch.float32), torch.tensor([0, 0, 0, 1, 1, 1])
    batch = replace(batch_of(images, 0), subject=subject)
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    recipe.before_training(model)
    optimizer = recipe.optimiser.make(recipe.parameter_groups(model))
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    for step in range(2):
        model.train()
        losses = recipe.losses(model, recipe.forward(model, batch), batch, Progress(step, 2, 0, 1))
        torch.stack(list(losses.terms.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    moved = {n for n, value in plain.items() if n.startswith("backbone.") and not torch.equal(value, trained[n])}
    assert {name.split(".")[1] for name in moved} == ({"ffn"} if design["fusion"] == "ffn" else set())
    with torch.no_grad():
        vectors = recipe.embed(model.eval(), batch)
        measured = recipe.measure(model, [batch])
        assert {"part_match", "part_attention", "neg_same"} <= measured.keys()
        assert measured["neg_same"] == measured["neg_same_chance"] == 1  # one domain
        recipe.after_training(model)
        torch.testing.assert_close(recipe.embed(model, batch), vectors, rtol=0, atol=2e-4)
    merged = model.state_dict()
    assert list(merged) == list(plain)
    assert any(not torch.equal(merged[name], plain[name]) for name in merged if "attn.qkv" in name)
    body = {name: value for name, value in merged.items() if not name.startswith("classifier.")}
    for parts in (["face", "torso", "lower_body"], ["torso"], []):  # Table III, and the global token alone
        masked = Recipe.variant("body").model_validate({**settings, "parts": parts})
        network = masked.model(0, ["VIS"]).eval()
        network.load_state_dict(body)
        with torch.no_grad():
            found = masked.embed(network, batch)
        assert found.shape == vectors.shape == (6, recipe.features)
        assert bool(found.isfinite().all())
        assert (float((found - vectors).abs().max()) < 2e-4) == (len(parts) == 3)
        assert ("part_match" in masked.measure(network, [batch])) == bool(parts)
