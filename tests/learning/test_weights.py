"""Public checkpoints: read safely, converted exactly, compared strictly. State dicts are made here by public names."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as f

from mdfpipe.errors import ConfigError
from mdfpipe.learning.models import public, weights
from mdfpipe.learning.models.iresnet import IResNet

State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _steady() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


class Vit(nn.Module):
    """The names of a SemanticViT, and a part that is not of the backbone."""

    def __init__(self, size: tuple[int, int] = (256, 128), width: int = 24, depth: int = 2, **more: Any) -> None:
        super().__init__()
        self.vit = VisionTransformer(
            img_size=size,
            patch_size=16,
            embed_dim=width,
            depth=depth,
            num_heads=2,
            class_token=True,
            reg_tokens=3,
            num_classes=0,
            global_pool="",
            **more,
        )
        self.fusion = nn.Linear(2, 2)


def plain_vit(width: int = 24, depth: int = 2, patches: int = 196) -> State:
    """The tensors of a plain ViT with 16x16 patches, drawn."""
    return {
        "cls_token": torch.randn(1, 1, width),
        "pos_embed": torch.randn(1, 1 + patches, width),
        "patch_embed.proj.weight": torch.randn(width, 3, 16, 16) * 0.05,
        "patch_embed.proj.bias": torch.randn(width) * 0.1,
        **{k: v for i in range(depth) for k, v in block(f"blocks.{i}", width).items()},
        "norm.weight": torch.rand(width) + 0.5,
        "norm.bias": torch.randn(width) * 0.1,
    }


def block(at: str, width: int) -> State:
    shapes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    shapes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    found = {f"{at}.{n}.weight": torch.randn(shape) * shape[1] ** -0.5 for n, shape in shapes.items()}
    found |= {f"{at}.{n}.bias": torch.randn(shape[0]) * 0.1 for n, shape in shapes.items()}
    for norm in ("norm1", "norm2"):
        found |= {f"{at}.{norm}.weight": torch.rand(width) + 0.5, f"{at}.{norm}.bias": torch.randn(width) * 0.1}
    return found


def pass_state(width: int = 24, depth: int = 2) -> State:
    """PASS (PROTOCOLS 3.3): position embeddings of the patches alone, 16x8; those of the four tokens by themselves."""
    state = plain_vit(width, depth, 128)
    state["pos_embed"] = torch.randn(1, 128, width)
    for name in ("part_token1", "part_token2", "part_token3", "cls_pos", "part1_pos", "part2_pos", "part3_pos"):
        state[name] = torch.randn(1, 1, width)
    return state


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


def test_local_tokens_may_start_from_the_class_token() -> None:
    state, model = plain_vit(patches=128), Vit()
    report = weights.load_vit(model, state, grid=(16, 8), local_tokens="class")
    away = (model.vit.reg_token - state["cls_token"]).detach()
    assert 0.01 < away.std() < 0.03
    assert len({tuple(row) for row in away[0].tolist()}) == 3  # equal tokens would stay equal
    assert torch.equal(model.vit.pos_embed[:, 1:4], state["pos_embed"][:, :1].expand(-1, 3, -1))
    assert "copies of the class token" in report.lines()[-1]


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
    report = weights.load_own(new := Vit(), old.state_dict())
    assert report.format == "mdfpipe"
    assert all(torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True))


def test_a_stem_that_does_not_fit_leaves_the_network_as_it_was() -> None:
    model = Vit()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"vit\.patch_embed\.conv\.0\.weight: expected the shape \(64, 3, 7, 7\)"):
        weights.load_vit(model, ics_state() | {"patch_embed.conv.0.weight": torch.ones(64, 3, 3, 3)}, grid=(16, 8))
    assert {k: v.tolist() for k, v in before.items()} == {k: v.tolist() for k, v in model.state_dict().items()}


# --- faces -----------------------------------------------------------------------------------------------------------


def small_face() -> IResNet:
    return IResNet(18, width=2, image_size=32)


@pytest.mark.parametrize(
    ("prefix", "beside", "kind", "colour"),
    [
        ("model.", {"head.kernel": (512, 9), "head.t": (1,), "head.batch_mean": (1,)}, "AdaFace", "BGR"),
        ("net.", {}, "CVLFace", "RGB"),
        ("model.net.", {}, "CVLFace", "RGB"),
        ("", {}, "IR network", None),
    ],
)
def test_face_networks(tmp_path: Path, prefix: str, beside: dict[str, Any], kind: str, colour: str | None) -> None:
    old, new = small_face(), small_face()
    state = {prefix + k: v for k, v in old.state_dict().items()}
    state |= {name: torch.randn(shape) for name, shape in beside.items()}
    torch.save({"state_dict": state, "epoch": 3, "global_step": 4}, tmp_path / "a.ckpt")
    report = weights.load_iresnet(new, weights.read_state(tmp_path / "a.ckpt"), source="a.ckpt")
    assert (report.format, report.colour, report.coverage, report.missing) == (kind, colour, 1, ())
    assert (report.ignored, report.unexpected) == (tuple(beside), ())
    assert report.lines()[0] == f"a.ckpt: {kind}, {len(old.state_dict())} tensors, 100 % of the weights"
    assert ("colour order BGR" in report.lines()) == (colour == "BGR")
    assert all(torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True))


def test_a_face_network_of_another_kind_is_refused() -> None:
    with torch.device("meta"):
        deeper = IResNet(50, width=2, image_size=32)
    with pytest.raises(ConfigError, match=r"body\.2\.res_layer.*: expected the shape"):  # a third unit before it widens
        weights.load_iresnet(small_face(), {f"net.{k}": v for k, v in deeper.state_dict().items()})
    squeezed = small_face().state_dict() | {"body.0.res_layer.se_block.fc1.weight": torch.ones(1, 2, 1, 1)}
    with pytest.raises(ConfigError, match=r"another one: it has 1 tensors .*se_block"):
        weights.load_iresnet(small_face(), squeezed)


# --- ResNet-50 -------------------------------------------------------------------------------------------------------


def test_imagenet_resnet_into_streams_below_a_prefix() -> None:
    from torchvision.models import resnet50

    with torch.device("meta"):
        names = {name: t.shape for name, t in resnet50().state_dict().items()}
    assert {"conv1.weight", "bn1.running_var", "layer4.2.conv3.weight", "fc.bias"} <= names.keys()

    class Streams(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            from torchvision.models.resnet import BasicBlock, ResNet

            self.shared = ResNet(BasicBlock, [1, 1, 1, 1])
            del self.shared.fc
            self.infrared = nn.ModuleDict({"conv1": nn.Conv2d(3, 64, 7, 2, 3, bias=False), "bn1": nn.BatchNorm2d(64)})
            self.classifier = nn.Linear(3, 3)

    state = {f"module.{k}": torch.randn_like(v.float()) for k, v in Streams().shared.state_dict().items()}
    state |= {"module.fc.weight": torch.ones(1000, 512), "module.fc.bias": torch.ones(1000)}
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}  # as in the oldest ones
    model = Streams()
    report = weights.load_resnet(model, state, prefix="shared.")
    assert (report.format, report.coverage, report.missing, report.unexpected) == ("ImageNet ResNet", 1, (), ())
    assert report.ignored == ("fc.weight", "fc.bias")
    stream = weights.load_resnet(model, state, prefix="infrared.")
    assert stream.coverage == 1
    assert stream.unexpected[0].startswith("infrared.layer1.")
    assert torch.equal(model.infrared["conv1"].weight, state["module.conv1.weight"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"no conv1, bn1 or layer1\.\.4 below 'classifier\.'"):
        weights.load_resnet(model, state, prefix="classifier.")


# --- strictness ------------------------------------------------------------------------------------------------------


def test_another_networks_checkpoint_is_refused_with_what_it_covers() -> None:
    model = Vit()
    with pytest.raises(ConfigError) as caught:
        weights.load_vit(model, small_face().state_dict(), grid=(16, 8), source="face.ckpt")
    said = str(caught.value)
    assert said.startswith("face.ckpt: a checkpoint of unknown kind covers 0.0 % of the network's weights")
    assert "missing vit.cls_token, vit.reg_token, vit.pos_embed and" in said
    with pytest.raises(ConfigError, match=r"unknown kind covers 0\.0 %.*missing input_layer"):
        weights.load_iresnet(small_face(), plain_vit())
    with pytest.raises(ConfigError, match=r"unknown kind covers 0\.0 %"):
        weights.load_vit(model, {"weight": torch.ones(1)}, grid=(16, 8))


def test_a_shape_that_differs_is_an_error_that_names_it() -> None:
    state = pass_state() | {"blocks.1.mlp.fc1.weight": torch.ones(80, 24)}
    with pytest.raises(
        ConfigError, match=r"vit\.blocks\.1\.mlp\.fc1\.weight: expected the shape \(96, 24\), got \(80, 24\)"
    ):
        weights.load_vit(Vit(), state, grid=(16, 8))
    with pytest.raises(ConfigError, match=r"expected the shape \(1, 1, 24\), got \(1, 1, 32\)"):
        weights.load_vit(Vit(), plain_vit(32), grid=(16, 8))


@pytest.mark.parametrize(
    "more", ["blocks.2.norm1.weight", "blocks.0.ls1.gamma", "norm_pre.weight", "blocks.1.attn.q_norm.weight"]
)
def test_a_network_with_more_in_it_is_another_network(more: str) -> None:
    with pytest.raises(ConfigError, match=rf"another one: it has 1 tensors .*{more}"):
        weights.load_vit(Vit(), pass_state() | {more: torch.ones(24)}, grid=(16, 8))


def test_what_has_no_place_elsewhere_is_told() -> None:
    report = weights.load_vit(Vit(), pass_state() | {"camera.bias": torch.ones(2)}, grid=(16, 8))
    assert report.unexpected == ("vit.camera.bias",)
    assert "unexpected: vit.camera.bias" in report.lines()


def test_coverage_counts_weights_not_names() -> None:
    state, model = pass_state(), Vit()
    gone = [name for name in state if name.startswith("blocks.1.")]
    total = sum(t.numel() for t in model.vit.state_dict().values())
    share = 1 - sum(state[name].numel() for name in gone) / total
    left = {name: t for name, t in state.items() if name not in gone}
    with pytest.raises(ConfigError, match=rf"covers {int(share * 1000) / 10:.1f} %.*expected at least 90\.0 %"):
        weights.load_vit(model, left, grid=(16, 8))
    report = weights.load_vit(model, left, grid=(16, 8), min_coverage=0.5)
    assert report.coverage == pytest.approx(share, abs=1e-12)
    assert set(report.missing) == {f"vit.{name}" for name in gone}


def test_nothing_changes_where_loading_fails() -> None:
    model = Vit()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"NaN or infinity in vit\.norm\.bias"):
        weights.load_vit(model, pass_state() | {"norm.bias": torch.full((24,), torch.nan)}, grid=(16, 8))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with pytest.raises(ConfigError, match="the network has 128 patches"):
        weights.load_vit(model, pass_state(), grid=(24, 8))
    incomplete = pass_state()
    del incomplete["part2_pos"]
    with pytest.raises(ConfigError, match="some are missing"):
        weights.load_vit(model, incomplete, grid=(16, 8))


def test_half_precision_becomes_the_networks() -> None:
    state = {name: t.half() for name, t in pass_state().items()}
    weights.load_vit(model := Vit((384, 128)), state, grid=(24, 8))
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.vit.norm.weight, state["norm.weight"].float())


def test_our_own_is_strict() -> None:
    state = Vit().state_dict()
    assert weights.load_own(Vit(), state).coverage == 1
    del state["fusion.bias"]
    with pytest.raises(ConfigError, match=r"missing fusion\.bias; unknown other"):
        weights.load_own(Vit(), state | {"other": torch.ones(1)}, source="own.pt")
    with pytest.raises(ConfigError, match="expected the shape"):
        weights.load_own(Vit((384, 128)), Vit().state_dict())


# --- files -----------------------------------------------------------------------------------------------------------


class Hostile:
    """A pickle of it makes a folder when it is opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_by_name_and_not_run(tmp_path: Path, zipped: bool) -> None:
    trap, path = tmp_path / "trap", tmp_path / "weights.pth"
    content = {"state_dict": {"a.weight": torch.ones(2)}, "extra": Hostile(trap)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match=r"weights\.pth: refused: opening it would run posix\.mkdir.*--trust-pickle"):
        weights.read_state(path)
    assert not trap.exists()
    assert weights.read_state(path, trust_pickle=True)["a.weight"].tolist() == [1, 1]
    assert trap.is_dir()  # whoever trusts a file runs it: the first half of this test can fail


def test_trust_is_not_used_where_it_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "a.pth")
    real, asked = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *a, **k: asked.append(k["weights_only"]) or real(*a, **k))
    weights.read_state(tmp_path / "a.pth", trust_pickle=True)
    assert asked == [True]


def test_a_whole_network_needs_trust(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 3)}, path := tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"would run torch\.nn\.modules\.linear\.Linear"):
        weights.read_state(path)
    assert weights.read_state(path, trust_pickle=True).keys() == {"weight", "bias"}


def _truncated(share: float) -> Any:
    def make(path: Path) -> None:
        torch.save({"a.weight": torch.ones(1000)}, path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return make


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("none.pth", lambda path: None, "no such file"),
        ("folder.pth", lambda path: path.mkdir(), "a folder"),
        ("empty.pth", lambda path: path.touch(), "an empty file"),
        ("page.pth", lambda path: path.write_text("\n<!DOCTYPE html><html>Sign in</html>"), "a web page"),
        ("lfs.pth", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
        ("half.pth", _truncated(0.5), "truncated"),
        ("text.pth", lambda path: path.write_text("these are no weights"), "cannot be read"),
        ("noise.bin", lambda path: path.write_bytes(bytes(range(256)) * 9), "cannot be read"),
        ("noise.safetensors", lambda path: path.write_bytes(bytes(range(256)) * 9), "cannot be read"),
        ("numbers.pth", lambda path: torch.save({"epoch": 3}, path), "got no tensors, but .*epoch"),
        ("list.pth", lambda path: torch.save([1, 2], path), "got no tensors, but a list"),
    ],
)
def test_what_is_no_checkpoint_is_one_clear_line(tmp_path: Path, name: str, make: Any, said: str) -> None:
    make(path := tmp_path / name)
    for trust in (False, True):
        with pytest.raises(ConfigError, match=said) as caught:
            weights.read_state(path, trust_pickle=trust)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_truncated_older_files_and_safetensors(tmp_path: Path) -> None:
    older, safe = tmp_path / "a.pth", tmp_path / "a.safetensors"
    torch.save({"a.weight": torch.ones(1000)}, older, _use_new_zipfile_serialization=False)
    save_file({"a.weight": torch.ones(1000)}, safe)
    for path in (older, safe):
        assert weights.read_state(path)["a.weight"].shape == (1000,)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(ConfigError, match="2000 bytes that cannot be read"):
            weights.read_state(path)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"a.b": 1}, ["a.b"]),
        ({"state_dict": {"module.a": 1, "module.b": 1}}, ["a", "b"]),
        (
            {"model": {"module.base.a": 1, "module.base.b": 1, "module.classifier.weight": 1}},
            ["a", "b", "classifier.weight"],
        ),
        ({"student": {"backbone.s": 1}, "teacher": {"module.backbone.t": 1, "module.head.w": 1}}, ["t", "head.w"]),
        ({"student": {"module.backbone.s": 1}}, ["s"]),
        ({"net": {"module.a": 1}, "best": 0.5}, ["a"]),
        (
            {"state_dict": {"model.input_layer.0.weight": 1, "head.kernel": 1}},
            ["model.input_layer.0.weight", "head.kernel"],
        ),
        ({"net.body.0": 1, "net.body.1": 1}, ["net.body.0", "net.body.1"]),
        ({"backbone.a": 1, "stem.a": 1, "stem.b": 1}, ["backbone.a", "stem.a", "stem.b"]),  # not nearly all
        ({"base.a": 1, "base.b": 1, "base.head.w": 1, "head.w": 1}, ["base.a", "base.b", "base.head.w", "head.w"]),
        ({"format": "mdfpipe checkpoint 1", "model": {"backbone.a": 1}, "recipe": {}}, ["backbone.a"]),
    ],
)
def test_what_holds_the_tensors_is_taken_off(tmp_path: Path, content: dict[str, Any], names: list[str]) -> None:
    def tensors(entry: Any) -> Any:
        if isinstance(entry, dict):
            return {key: tensors(value) for key, value in entry.items()}
        return torch.ones(1) if isinstance(entry, int) else entry

    torch.save(tensors(content), tmp_path / "a.pth")
    assert list(weights.read_state(tmp_path / "a.pth")) == names
