"""ViTs of timm as backbones: a small member of each family, trained, stored, exported; weights; what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.export import export
from mdfpipe.learning.attention import look
from mdfpipe.learning.data.batches import CropBatch
from mdfpipe.learning.embedders import batch_of
from mdfpipe.learning.embedding import open_model
from mdfpipe.learning.models.backbones.semantic_vit import band_rows
from mdfpipe.learning.models.backbones.timm_vit import layout
from mdfpipe.learning.models.weights.loading import read_state
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.system import Start, System, checkpoint_of
from mdfpipe.learning.train.loop import fit
from tests.learning.trained import crops_in, job

SMALL = {"depth": 2, "embed_dim": 64, "num_heads": 2}
SWIN = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]}
FAMILIES: dict[str, tuple[str, dict[str, Any], tuple[int, int], str]] = {
    "DINOv2": ("vit_small_patch14_reg4_dinov2", SMALL, (56, 28), "imagenet"),
    "DINOv3": ("vit_small_patch16_dinov3", SMALL, (64, 32), "imagenet"),
    "EVA-02": ("eva02_tiny_patch14_224", SMALL, (56, 28), "clip"),
    "CLIP": ("vit_base_patch16_clip_224.openai", SMALL, (64, 32), "clip"),
    "SigLIP": ("vit_base_patch16_siglip_224", SMALL, (64, 32), "half"),
    "Swin": ("swin_tiny_patch4_window7_224", SWIN, (96, 32), "imagenet"),
}
EACH = pytest.mark.parametrize("family", FAMILIES)


def settings(family: str, **more: Any) -> dict[str, Any]:
    name, options, (height, width), _ = FAMILIES[family]
    given = {"backbone": {"use": "timm", "name": name, "options": options}}
    return {**given, "image_height_px": height, "image_width_px": width, **more}


def made(family: str, **more: Any) -> Recipe:
    return validate(Recipe.variant("body"), settings(family, **more), "recipe")


def network(recipe: Recipe, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return recipe.model(0, []).eval()


def pictures(recipe: Recipe, count: int = 3) -> Tensor:
    size = (recipe.image_height_px, recipe.image_width_px)
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(5))


def vectors(recipe: Recipe, model: Any, batch: CropBatch) -> Tensor:
    with torch.inference_mode():
        return recipe.embed(model, batch)


@EACH
def test_ten_steps_stored_and_exported(family: str, tmp_path: Path) -> None:
    training = {
        "optimiser": {"method": "adamw", "rate": 1e-3},
        "schedule": {"length": 10, "unit": "steps", "warm_up": 0},
        "batches": {"subjects": 2, "crops": 2},
    }
    recipe = made(family, **training)
    crops = crops_in(tmp_path / "run", recipe)
    given = job(crops, recipe, tmp_path / "state.pt")
    before = {name: value.clone() for name, value in given.model.state_dict().items()}
    fitted = fit(given)
    learned = {name for name, value in given.model.named_parameters() if value.requires_grad}
    assert [name for name in learned if torch.equal(fitted.last[name], before[name])] == []
    path = tmp_path / "last.pt"
    who = {"subjects": list(crops.subjects), "trained_domains": list(crops.domains)}
    checkpoint_of("it", System(recipe=recipe), fitted.last, Start(), **who).save(path)
    found, opened = open_model(path)
    assert found == recipe
    batch = batch_of(pictures(recipe), 0)
    torch.testing.assert_close(
        vectors(found, opened, batch), vectors(recipe, given.model.eval(), batch), rtol=1e-5, atol=1e-5
    )
    done = export(str(path), tmp_path / "a.onnx")
    assert done.difference < 1e-4
    assert done.facts["normalise"] == FAMILIES[family][3]


@EACH
def test_tokens_are_what_timm_pools(family: str) -> None:
    """The global token against timm's own head without classes; local ones against means of its map; nothing drawn."""
    recipe = made(family, **{"global": "token" if family in ("DINOv2", "CLIP") else "mean", "fusion": "four"})
    before = torch.get_rng_state()
    assert recipe.features == 4 * layout(FAMILIES[family][0], FAMILIES[family][1], FAMILIES[family][2]).width
    assert torch.equal(torch.get_rng_state(), before)
    backbone = network(recipe).backbone
    name, options, size, _ = FAMILIES[family]
    theirs = timm.create_model(name, num_classes=0, img_size=size, **options).eval()
    theirs.load_state_dict(backbone.vit.state_dict(), strict=family != "SigLIP")  # which has an attention in its head
    images = pictures(recipe)
    with torch.no_grad():
        found, pooled, whole = backbone(images), theirs(images), theirs.forward_features(images)
    rows, columns = backbone.grid
    patches = whole[:, -rows * columns :] if whole.ndim == 3 else whole
    patches = patches.reshape(3, rows, columns, -1)
    bands = torch.stack([patches[:, band.start : band.stop].mean((1, 2)) for band in band_rows(rows)], 1)
    pooled = patches.mean((1, 2)) if family == "SigLIP" else pooled
    torch.testing.assert_close(found.global_, pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        found.local, getattr(theirs, "fc_norm", torch.nn.Identity())(bands), rtol=1e-5, atol=1e-5
    )


def test_size_and_normalisation_are_those_of_timm() -> None:
    body = Recipe.variant("body")
    usual = body.model_validate({"backbone": {"use": "timm", "name": "vit_base_patch16_clip_224.openai"}})
    assert (usual.image_height_px, usual.image_width_px, usual.augment.normalise) == (224, 224, "clip")
    assert usual.augment.flip == 0.5
    given = {"image_height_px": 64, "augment": {"normalise": "half", "flip": 0}}
    other = body.model_validate({"backbone": {"use": "timm", "name": "vit_base_patch16_clip_224.openai"}, **given})
    assert (other.image_height_px, other.image_width_px, other.augment.normalise) == (64, 224, "half")
    assert Recipe.model_validate(usual.model_dump()) == usual


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"backbone": {"use": "timm", "name": "vit_bse_patch14_dinov2"}}, "close to it: vit_base_patch14_dinov2, "),
        ({"backbone": {"use": "timm", "name": "hf-hub:timm/vit_base_patch16"}}, "expected a network of timm"),
        ({"backbone": {"use": "timm", "name": "vit_base_patch14_dinov2.x"}}, "tags: vit_base_patch14_dinov2.lvd142m"),
        ({"backbone": {"use": "timm", "name": "resnet50"}}, "resnet50.*take a ViT or Swin"),
        ({"backbone": "bse"}, r"backbone: expected base, .* or \{use: timm, name: \.\.\.\}, got 'bse'"),
        ({"stem": "conv", "blocks": 2}, "blocks, stem: a backbone of timm does not take it"),
        ({"positions": "sincos"}, "positions: a backbone of timm"),
        ({"initialisation": "mimetic"}, "initialisation: a backbone of timm"),
        ({"part_alignment": 0.1}, "part_alignment: a backbone of timm"),
        ({"local": "token"}, "local: a backbone of timm has no local tokens"),
        ({"global": "token"}, "global_token: swin_tiny_patch4_window7_224 has no class token"),
        ({"image_height_px": 64}, "image_height_px: expected 96 or more for swin_tiny"),
        ({"image_width_px": 33}, "image_width_px: expected a multiple of the patch of swin_tiny.*, 4 px, got 33"),
        ({"backbone": {"use": "timm", "name": "vit_base_patch16_224", "options": {"num_heads": 5}}}, "num_heads 5"),
        ({"backbone": {"use": "timm", "name": "mobilevit_s"}}, "augment.normalise: timm's data config of mobilevit_s"),
    ],
)
def test_what_does_not_fit_names_the_setting(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made("Swin", **given)


# -- weights


def test_weights_of_another_size_under_timms_names(tmp_path: Path) -> None:
    recipe = made("DINOv2")
    source = timm.create_model(FAMILIES["DINOv2"][0], num_classes=7, img_size=(98, 98), **SMALL)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = network(recipe, seed=1)
    report = recipe.load(model, read_state(tmp_path / "w.safetensors"), "w.safetensors", 0.9)
    assert (report.coverage, report.missing, report.unexpected) == (1, (), ())
    assert report.resized == (("pos_embed", (7, 7), (4, 2)),)
    assert set(report.ignored) == {"head.weight", "head.bias"}
    assert torch.equal(model.backbone.vit.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)


def test_weights_under_the_names_of_their_authors() -> None:
    """DINOv3: registers are storage tokens, layer scale is `ls1.gamma`; wrapped by DDP."""
    recipe = made("DINOv3")
    model, source = network(recipe, seed=1), network(recipe).backbone.vit
    named = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}

    def theirs(name: str) -> str:
        for ours, other in named.items():
            name = name.replace(ours, other)
        return f"module.{name}"

    state = {theirs(name): value for name, value in source.state_dict().items()}
    state |= {"module.mask_token": torch.zeros(1, 64), "module.rope_embed.periods": torch.zeros(8)}
    report = recipe.load(model, state, "w.pth", 0.9)
    assert (report.coverage, report.missing, report.unexpected) == (1, (), ())
    assert all(torch.equal(a, b) for a, b in zip(model.backbone.vit.parameters(), source.parameters(), strict=True))


def solider(swin: Any) -> dict[str, Tensor]:
    """Swin's tensors as SOLIDER's network has them: `nn.Unfold` gives each channel's four patches, row by row."""
    found: dict[str, Tensor] = {}
    for name, value in swin.state_dict().items():
        words = name.split(".")
        if words[0] == "layers":
            words[0] = "stages"
            if words[2] == "downsample":
                words[1] = str(int(words[1]) - 1)
                channels = value.shape[-1] // 4
                places = torch.arange(4 * channels, dtype=torch.float64).reshape(2, 2, channels)  # [column][row]
                image = places.permute(2, 1, 0)[None]
                order = torch.nn.functional.unfold(image, 2).flatten().long()
                value = value[..., order]
            name = ".".join(words)
            name = name.replace(".attn.", ".attn.w_msa.").replace(".mlp.fc1.", ".ffn.layers.0.0.")
            name = name.replace(".mlp.fc2.", ".ffn.layers.1.")
        name = name.replace("patch_embed.proj.", "patch_embed.projection.")
        found["backbone." + (f"norm3.{words[1]}" if words[0] == "norm" else name)] = value
    return found


def test_swin_in_the_layout_of_solider(tmp_path: Path) -> None:
    recipe = made("Swin")
    model, source = network(recipe, seed=1), network(recipe)
    state = solider(source.backbone.vit) | {"backbone.norm0.weight": torch.ones(16)}
    state |= {"backbone.semantic_embed_w.0.weight": torch.ones(32, 2)}
    torch.save({"teacher": state}, tmp_path / "w.pth")
    report = recipe.load(model, read_state(tmp_path / "w.pth"), "w.pth", 0.9)
    assert (report.format, report.coverage, report.missing, report.unexpected) == ("SOLIDER", 1, (), ())
    assert "1 tensors of SOLIDER's semantic weight are left out" in report.notes[0]
    batch = batch_of(pictures(recipe), 0)
    assert torch.equal(vectors(recipe, model, batch), vectors(recipe, source, batch))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"conv1.weight": torch.ones(3)}, r"w\.pth: .*covers 0.0 % of the network's weights.*missing vit\.cls_token"),
        ("other size", r"w\.pth: vit\..*: expected the shape .*; choose the size that the checkpoint was trained with"),
        ("half", r"w\.pth: .*covers \d+\.\d % .*expected at least 90.0 %"),
        ({"pos_embed": torch.ones(1, 9, 64)}, r"w\.pth: .*(cannot make these fit|covers 0)"),
    ],
)
def test_weights_that_do_not_fit(state: Any, words: str) -> None:
    recipe = made("DINOv2")
    model = network(recipe)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if state == "other size":
        options = {**SMALL, "embed_dim": 32}
        state = timm.create_model(FAMILIES["DINOv2"][0], num_classes=0, img_size=(56, 28), **options).state_dict()
    elif state == "half":
        state = {name: value for name, value in model.backbone.vit.state_dict().items() if "blocks.1" not in name}
    with pytest.raises(ConfigError, match=words):
        recipe.load(model, state, "w.pth", 0.9)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# -- low-rank terms, parts, maps


@pytest.mark.parametrize(("name", "terms"), [("DINOv2", 2 * 2), ("eva02_base_patch14_224", 2 * 4), ("Swin", 5 * 2)])
def test_low_rank_terms_reach_every_projection(name: str, terms: int) -> None:
    family, other = (name, {}) if name in FAMILIES else ("EVA-02", {"use": "timm", "name": name, "options": SMALL})
    recipe = made(family, lora={"rank": 2}, **({"backbone": other} if other else {}))
    model = network(recipe).train()
    names = set(model.state_dict())
    recipe.before_training(model)
    trained = {name: value for name, value in model.backbone.named_parameters() if value.requires_grad}
    assert len(trained) == 2 * terms
    assert all("lora_" in name for name in trained)
    z = model(pictures(recipe))["z"]
    (z * torch.randn(z.shape)).sum().backward()
    assert all(value.grad is not None and value.grad.any() for name, value in trained.items() if "lora_B" in name)
    recipe.after_training(model)
    assert set(model.state_dict()) == names


def test_low_rank_terms_that_would_do_nothing_are_refused() -> None:
    given = {"use": "timm", "name": "beit_base_patch16_224", "options": SMALL}
    recipe = made("SigLIP", backbone=given, lora={})
    with pytest.raises(ConfigError, match=r"lora: the attention of this network .* past low-rank terms"):
        recipe.before_training(network(recipe))


def test_parts_out_of_use_are_zero_and_the_map_is_shown(tmp_path: Path) -> None:
    recipe = made("Swin", parts=["torso"], fusion="four")
    model = network(recipe)
    z = vectors(recipe, model, batch_of(pictures(recipe), 0)).reshape(3, 4, 128)
    assert [bool(token.any()) for token in z.transpose(0, 1)] == [True, False, True, False]
    assert recipe.notes([], {}) == []
    wanted = np.random.default_rng(1).normal(size=recipe.features).astype(np.float32)
    heat = look(recipe, model, crops_in(tmp_path / "run", recipe, subjects=1, frames=1), wanted)
    assert heat is not None
    assert heat.shape == (3, 1)
