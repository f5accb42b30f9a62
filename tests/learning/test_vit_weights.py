"""Public vision transformers: known by their names, converted exactly, their positions resized."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as f

from mdfpipe.errors import ConfigError
from mdfpipe.learning.models.weights import loading as weights
from mdfpipe.learning.models.weights import public
from tests.learning.published import State, Vit, block, pass_state, plain_vit


@pytest.fixture(autouse=True)
def _steady() -> None:
    torch.manual_seed(0)


def pass_forward(state: State, images: Tensor, heads: int, positions: Tensor) -> Tensor:
    """PASS from its tensors alone: (B, 4, D), the class token and the three part tokens after the last norm."""

    def norm(x: Tensor, at: str) -> Tensor:
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-6).sqrt() * state[f"{at}.weight"] + state[f"{at}.bias"]

    def linear(x: Tensor, at: str) -> Tensor:
        return x @ state[f"{at}.weight"].T + state[f"{at}.bias"]

    patches = f.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    patches = patches.flatten(2).transpose(1, 2) + positions
    tokens = [state["cls_token"] + state["cls_pos"]]
    tokens += [state[f"part_token{k}"] + state[f"part{k}_pos"] for k in (1, 2, 3)]
    x = torch.cat([*(t.expand(len(images), -1, -1) for t in tokens), patches], dim=1)
    width = x.shape[-1]
    for i in range(sum(name.endswith("norm1.weight") for name in state)):
        qkv = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        parts = []
        for head in range(heads):
            cut = slice(head * width // heads, (head + 1) * width // heads)
            q, k, v = (qkv[..., n * width : (n + 1) * width][..., cut] for n in range(3))
            parts.append((q @ k.transpose(1, 2) * (width // heads) ** -0.5).softmax(-1) @ v)
        x = x + linear(torch.cat(parts, dim=-1), f"blocks.{i}.attn.proj")
        hidden = f.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        x = x + linear(hidden, f"blocks.{i}.mlp.fc2")
    return norm(x, "norm")[:, :4]


# --- PASS ------------------------------------------------------------------------------------------------------------


def test_pass_at_its_own_size_is_exact() -> None:
    state, model = pass_state(), Vit().eval()
    report = weights.load_vit(model, state, grid=(16, 8))
    images = torch.randn(2, 3, 256, 128)
    with torch.no_grad():
        expected = pass_forward(state, images, 2, state["pos_embed"])
        torch.testing.assert_close(model.vit(images)[:, :4], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(  # float64 tells rounding from a mistake
            model.double().vit(images.double())[:, :4],
            pass_forward({k: v.double() for k, v in state.items()}, images.double(), 2, state["pos_embed"].double()),
            rtol=0,
            atol=1e-10,
        )
    assert (report.format, report.coverage, report.missing, report.unexpected, report.resized) == (
        "PASS",
        1,
        (),
        (),
        (),
    )
    assert len(report.loaded) == len(model.vit.state_dict())


def test_pass_at_384x128_is_exact_with_resized_positions() -> None:
    state, model = {k: v.double() for k, v in pass_state().items()}, Vit((384, 128)).double().eval()
    report = weights.load_vit(model, {k: v.float() for k, v in state.items()}, grid=(24, 8))
    square = state["pos_embed"][0].T.reshape(1, 24, 16, 8)
    moved = f.interpolate(square.float(), (24, 8), mode="bilinear", align_corners=False).double()
    images = torch.randn(2, 3, 384, 128, dtype=torch.float64)
    with torch.no_grad():
        expected = pass_forward(state, images, 2, moved.reshape(1, 24, 192).transpose(1, 2))
        torch.testing.assert_close(model.vit(images)[:, :4], expected, rtol=0, atol=1e-10)
    assert report.resized == (("pos_embed", (16, 8), (24, 8)),)
    assert "pos_embed: resized from 16x8 to 24x8 patches" in report.lines()


def test_the_full_names_and_shapes_of_pass_vit_base_fit() -> None:
    with torch.device("meta"):
        model = Vit((384, 128), 768, 12)
        state = pass_state(768, 12)
    assert len(state) == 4 + 7 + 12 * 12 + 2  # class token, positions, patches; parts; blocks; norm
    converted = public.vit(state, (24, 8))
    expected = {name: t.shape for name, t in model.state_dict().items() if name.startswith("vit.")}
    assert {name: t.shape for name, t in converted.tensors.items()} == expected


def test_a_raw_pass_checkpoint_of_dino_is_read_whole(tmp_path: Path) -> None:
    state = pass_state()
    teacher = {f"backbone.{k}": v for k, v in state.items()}
    teacher |= {"head.mlp.0.weight": torch.randn(3, 24), "head.last_layer.weight_g": torch.randn(5, 1)}
    student = {f"module.{k}": torch.zeros_like(v) for k, v in teacher.items()}
    content = {"student": student, "teacher": teacher, "epoch": 100, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "checkpoint.pth")
    report = weights.load_vit(model := Vit(), weights.read_state(tmp_path / "checkpoint.pth"), grid=(16, 8))
    assert report.format == "PASS"
    assert report.ignored == ("head.mlp.0.weight", "head.last_layer.weight_g")
    assert torch.equal(model.vit.blocks[1].mlp.fc2.weight, state["blocks.1.mlp.fc2.weight"])
    assert torch.equal(model.vit.reg_token[0, 2], state["part_token3"][0, 0])
    assert torch.equal(model.vit.pos_embed[0, 2], state["part2_pos"][0, 0])


# --- other vision transformers ---------------------------------------------------------------------------------------


def transreid() -> State:
    """A fine-tuned TransReID at 256x128, with camera embeddings and part branches."""
    inner = plain_vit(patches=128) | {"sie_embed": torch.randn(6, 1, 24)}
    necks = {
        "bottleneck.weight": torch.ones(24),
        "bottleneck_1.bias": torch.ones(24),
        "classifier.weight": torch.ones(9, 24),
    }
    return {f"base.{k}": v for k, v in inner.items()} | block("b1.0", 24) | necks


def dino() -> State:
    return plain_vit() | {"head.mlp.0.weight": torch.ones(2, 24), "head.last_layer.weight_v": torch.ones(9, 2)}


@pytest.mark.parametrize(
    ("state", "kind", "source", "ignored"),
    [
        (transreid, "TransReID", (16, 8), {"sie_embed", "bottleneck.weight", "bottleneck_1.bias", "classifier.weight"}),
        (lambda: plain_vit(patches=128), "TransReID-SSL", (16, 8), set()),
        (dino, "DINO", (14, 14), {"head.mlp.0.weight", "head.last_layer.weight_v"}),
        (lambda: plain_vit() | {"head.weight": torch.ones(1000, 24)}, "timm ViT", (14, 14), {"head.weight"}),
    ],
)
def test_other_vits_are_known_and_leave_the_local_tokens(
    state: Any, kind: str, source: tuple[int, int], ignored: set[str]
) -> None:
    made, model = state(), Vit((384, 128))
    drawn = model.vit.reg_token.clone(), model.vit.pos_embed[:, 1:4].clone()
    report = weights.load_vit(model, made, grid=(24, 8))
    assert (report.format, report.resized) == (kind, (("pos_embed", source, (24, 8)),))
    assert {name for name in report.ignored if not name.startswith("b1.")} == ignored
    assert report.missing == ("vit.reg_token",)
    assert report.unexpected == ()
    assert report.notes == ("local tokens are new: as they were drawn",)
    assert torch.equal(model.vit.reg_token, drawn[0])
    assert torch.equal(model.vit.pos_embed[:, 1:4], drawn[1])
    plain = {name.removeprefix("base."): t for name, t in made.items()}
    assert torch.equal(model.vit.pos_embed[:, :1], plain["pos_embed"][:, :1])  # the class token's is not resized
    moved = f.interpolate(plain["pos_embed"][0, 1:].T.reshape(1, 24, *source), (24, 8), mode="bilinear")
    torch.testing.assert_close(model.vit.pos_embed[:, 4:], moved.reshape(1, 24, 192).transpose(1, 2))
    total = sum(t.numel() for t in model.vit.state_dict().values())
    assert report.coverage == pytest.approx(1 - 6 * 24 / total, abs=1e-12)  # three tokens and their positions


def test_a_distilled_vit_loses_its_second_token() -> None:
    state = plain_vit(patches=129) | {"dist_token": torch.ones(1, 1, 24), "head_dist.bias": torch.ones(9)}
    weights.load_vit(model := Vit(), state, grid=(16, 8))
    assert torch.equal(model.vit.pos_embed[:, 4:], state["pos_embed"][:, 2:])


def test_what_we_saved_comes_back() -> None:
    torch.nn.init.normal_((old := Vit((384, 128))).vit.reg_token)
    state = {f"backbone.{k}": v for k, v in old.state_dict().items() if not k.startswith("fusion.")}
    report = weights.load_vit(new := Vit(), state | {"neck.bn.weight": torch.ones(3)}, grid=(16, 8))
    assert (report.format, report.missing, report.coverage) == ("mdfpipe", (), 1)
    assert torch.equal(new.vit.reg_token, old.vit.reg_token)
    assert report.resized == (("pos_embed", (24, 8), (16, 8)),)


def test_the_ratio_of_the_source_may_be_given() -> None:
    state = plain_vit(patches=210)  # TransReID with a stride of 12 at 256x128: 21x10
    with pytest.raises(ConfigError, match=r"here\.pth: pos_embed: .* got 210 patches"):
        weights.load_vit(Vit(), state, grid=(16, 8), source="here.pth")
    report = weights.load_vit(Vit(), state, grid=(16, 8), source_hw_ratio=2.1)
    assert report.resized == (("pos_embed", (21, 10), (16, 8)),)


@given(st.integers(1, 30), st.sampled_from([1, 2, 3]))
def test_a_grid_of_a_known_ratio_is_found(columns: int, ratio: int) -> None:
    grid = ratio * columns, columns
    assert public.patch_grid(grid[0] * grid[1], ratio) == grid
    assert public.patch_grid(grid[0] * grid[1]) == grid  # no count is of two of these ratios


def test_resizing_keeps_rows_and_columns_apart() -> None:
    rows = torch.arange(16.0)[:, None].expand(16, 8).reshape(1, 128, 1)
    moved = public.resized_positions(rows, (16, 8), (24, 8)).reshape(24, 8)
    assert torch.equal(moved, moved[:, :1].expand(24, 8))  # a pattern of rows stays one
    # corners are not aligned: row 1 of 24 lies at (1 + .5) * 16 / 24 - .5 = .5 of 16; the ends stay
    assert moved[:, 0][[0, 1, 4, 23]].tolist() == pytest.approx([0.0, 0.5, 2.5, 15.0])


# --- the convolution stem of TransReID-SSL ---------------------------------------------------------------------------


def ics_state() -> State:
    state = plain_vit(patches=128)
    state["patch_embed.proj.weight"] = torch.randn(24, 64, 8, 8) * 0.02
    for i, channels, size in ((0, 3, 7), (3, 64, 3), (6, 64, 3)):
        state[f"patch_embed.conv.{i}.weight"] = torch.randn(64, channels, size, size) * 0.05
    for at, channels in (("1.BN", 32), ("4.BN", 32), ("7", 64)):
        state[f"patch_embed.conv.{at}.running_mean"] = torch.randn(channels) * 0.1
        state[f"patch_embed.conv.{at}.running_var"] = torch.rand(channels) + 0.5
        state[f"patch_embed.conv.{at}.num_batches_tracked"] = torch.tensor(7)
    for at, channels in (("1.IN", 32), ("1.BN", 32), ("4.IN", 32), ("4.BN", 32), ("7", 64)):
        state[f"patch_embed.conv.{at}.weight"] = torch.rand(channels) + 0.5
        state[f"patch_embed.conv.{at}.bias"] = torch.randn(channels) * 0.1
    return state


def stem_forward(state: State, x: Tensor) -> Tensor:
    """The stem from its tensors alone: (B, patches, D)."""
    get = {name.removeprefix("patch_embed."): t for name, t in state.items()}.__getitem__

    def batch(x: Tensor, at: str) -> Tensor:
        mean, var, weight, bias = (
            get(f"conv.{at}.{n}")[:, None, None] for n in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def half(x: Tensor, at: str) -> Tensor:
        one, two = x[:, :32], x[:, 32:]
        mean, var = one.mean((2, 3), keepdim=True), one.var((2, 3), keepdim=True, unbiased=False)
        one = (one - mean) / (var + 1e-5).sqrt()
        one = one * get(f"conv.{at}.IN.weight")[:, None, None] + get(f"conv.{at}.IN.bias")[:, None, None]
        return torch.cat([one, batch(two, f"{at}.BN")], dim=1)

    x = half(f.conv2d(x, get("conv.0.weight"), stride=2, padding=3), "1").relu()
    x = half(f.conv2d(x, get("conv.3.weight"), padding=1), "4").relu()
    x = batch(f.conv2d(x, get("conv.6.weight"), padding=1), "7").relu()
    return f.conv2d(x, get("proj.weight"), get("proj.bias"), stride=8).flatten(2).transpose(1, 2)


def test_a_transreid_ssl_stem_replaces_the_patches() -> None:
    state, model = ics_state(), Vit((384, 128)).eval()
    report = weights.load_vit(model, state, grid=(24, 8))
    assert (report.format, report.unexpected, report.missing) == ("TransReID-SSL", (), ("vit.reg_token",))
    model.double()
    images = torch.randn(2, 3, 384, 128, dtype=torch.float64)
    with torch.no_grad():
        found = model.vit.patch_embed(images)
        expected = stem_forward({k: v.double() for k, v in state.items()}, images)
        assert model.vit(images).shape == (2, 196, 24)
    assert found.shape == (2, 192, 24)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_a_network_built_anew_gets_the_stem_of_its_checkpoint() -> None:
    weights.load_vit(old := Vit(), ics_state(), grid=(16, 8))
    weights.fit_stems(new := Vit(), old.state_dict())
    new.load_state_dict(old.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True))


def test_a_stem_that_does_not_fit_leaves_the_network_as_it_was() -> None:
    model = Vit()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"vit\.patch_embed\.conv\.0\.weight: expected the shape \(64, 3, 7, 7\)"):
        weights.load_vit(model, ics_state() | {"patch_embed.conv.0.weight": torch.ones(64, 3, 3, 3)}, grid=(16, 8))
    assert {k: v.tolist() for k, v in before.items()} == {k: v.tolist() for k, v in model.state_dict().items()}
