"""The semantic ViT: against timm's plain ViT and a transcription of PASS, its order of tokens, fusions."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mdfpipe.errors import ConfigError
from mdfpipe.learning.models.backbones.semantic_vit import (
    PARTS,
    SIZES,
    Design,
    PartAlignment,
    SemanticViT,
    Tokens,
    places,
)
from tests.learning.scalars import normal as noise
from tests.learning.small_vit import HEIGHT, WIDTH, global_only, small, some_tokens

# -- against plain timm and PASS


def test_with_the_local_tokens_masked_it_is_a_plain_vit() -> None:
    torch.manual_seed(3)
    size = SIZES["mini"]
    plain = VisionTransformer(
        img_size=(HEIGHT, WIDTH),
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        num_classes=0,
        global_pool="token",
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    for name, value in plain.named_parameters():  # LayerNorms and biases that do something
        value.data.add_(0.05 * noise(*value.shape, seed=len(name), dtype=torch.float32))
    ours = small()
    state = plain.state_dict()
    own = ours.vit.state_dict()
    state["reg_token"] = own["reg_token"]
    state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], own["pos_embed"][:, 1:4], state["pos_embed"][:, 1:]], 1)
    ours.vit.load_state_dict(state, strict=True)
    plain, ours = plain.double().eval(), ours.double()
    images = noise(3, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        expected = plain.forward_features(images)[:, 0]
        masked, seen = global_only(ours, images), ours(images).global_
    torch.testing.assert_close(masked, expected, rtol=0, atol=1e-6)
    assert (seen - expected).abs().max() > 1e-3  # or the mask would prove nothing


def pass_state(width: int, depth: int, patches: int) -> dict[str, Tensor]:
    """A PASS checkpoint as PROTOCOLS 3.3 lists its keys, drawn at random."""
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, patches, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for name in ("cls_token", "part_token1", "part_token2", "part_token3"):
        shapes[name] = (1, 1, width)
    for name in ("cls_pos", "part1_pos", "part2_pos", "part3_pos"):
        shapes[name] = (1, 1, width)
    shapes |= {"patch_embed.proj.weight": (width, 3, 16, 16), "patch_embed.proj.bias": (width,)}
    linear = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for k in range(depth):
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{k}.{name}.{part}": (width,) for part in ("weight", "bias")}
        for name, (made, given) in linear.items():
            shapes |= {f"blocks.{k}.{name}.weight": (made * width, given * width)}
            shapes |= {f"blocks.{k}.{name}.bias": (made * width,)}
    return {name: 0.1 * noise(*shape, seed=k) for k, (name, shape) in enumerate(shapes.items())}


def pass_forward(state: dict[str, Tensor], images: Tensor, depth: int, heads: int) -> Tensor:
    """PASS's forward, written out: (B, 4 + N, d) after the last norm, in the order cls, parts, patches."""

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-6)
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    batch, width = len(images), state["cls_token"].shape[2]
    cut = images.unfold(2, 16, 16).unfold(3, 16, 16)  # B, 3, rows, columns, 16, 16
    cut = cut.permute(0, 2, 3, 1, 4, 5).reshape(batch, -1, 3 * 256)
    patches = cut @ state["patch_embed.proj.weight"].reshape(width, -1).T + state["patch_embed.proj.bias"]
    first = [state["cls_token"] + state["cls_pos"]]
    first += [state[f"part_token{k}"] + state[f"part{k}_pos"] for k in (1, 2, 3)]
    x = torch.cat([*(token.expand(batch, 1, width) for token in first), patches + state["pos_embed"]], dim=1)
    each = width // heads
    for k in range(depth):
        block = f"blocks.{k}"
        q, key, value = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").split(width, dim=2)
        mixed = torch.empty_like(x)
        for h in range(heads):
            own = slice(h * each, (h + 1) * each)
            weights = torch.softmax(q[..., own] @ key[..., own].transpose(1, 2) * each**-0.5, dim=2)
            mixed[..., own] = weights @ value[..., own]
        x = x + linear(mixed, f"{block}.attn.proj")
        inner = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        x = x + linear(inner, f"{block}.mlp.fc2")
    return norm(x, "norm")


def test_it_is_pass() -> None:
    size = SIZES["mini"]
    state = pass_state(size.width, size.depth, patches=12)
    mapped = {name: value for name, value in state.items() if name.startswith(("blocks.", "norm.", "patch_embed."))}
    mapped["cls_token"] = state["cls_token"]
    mapped["reg_token"] = torch.cat([state[f"part_token{k}"] for k in (1, 2, 3)], dim=1)
    places_of_tokens = [state["cls_pos"], state["part1_pos"], state["part2_pos"], state["part3_pos"]]
    mapped["pos_embed"] = torch.cat([*places_of_tokens, state["pos_embed"]], dim=1)
    ours = small().double()
    ours.vit.load_state_dict(mapped, strict=True)
    images = noise(2, 3, HEIGHT, WIDTH, seed=99)
    expected = pass_forward(state, images, size.depth, size.heads)
    with torch.no_grad():
        tokens = ours(images)
        feature = ours.fuse(tokens)
    torch.testing.assert_close(tokens.global_, expected[:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(tokens.local, expected[:, 1:4], rtol=0, atol=1e-6)
    torch.testing.assert_close(tokens.patches, expected[:, 4:], rtol=0, atol=1e-6)
    # FEAT_FUSION 'cat': cat(g, l1/3 + l2/3 + l3/3)
    thirds = expected[:, 1] / 3 + expected[:, 2] / 3 + expected[:, 3] / 3
    torch.testing.assert_close(feature, torch.cat([expected[:, 0], thirds], dim=1), rtol=0, atol=1e-6)


# -- design


@pytest.mark.parametrize(
    ("size", "patch", "image", "grid", "parameters"),
    [
        # d (768 conv + 1) + d (1 + 3 + 4 + N) + depth (12 d^2 + 13 d) + 2 d, by hand
        ("base", 16, (384, 128), (24, 8), 768 * 769 + 768 * 200 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768),
        ("base", 32, (384, 128), (12, 4), 768 * 3073 + 768 * 56 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768),
        ("small", 16, (384, 128), (24, 8), 384 * 769 + 384 * 200 + 12 * (12 * 384**2 + 13 * 384) + 2 * 384),
        ("tiny", 16, (192, 64), (12, 4), 192 * 769 + 192 * 56 + 12 * (12 * 192**2 + 13 * 192) + 2 * 192),
        ("mini", 16, (192, 64), (12, 4), 192 * 769 + 192 * 56 + 6 * (12 * 192**2 + 13 * 192) + 2 * 192),
    ],
)
def test_sizes(size: str, patch: int, image: tuple[int, int], grid: tuple[int, int], parameters: int) -> None:
    with torch.device("meta"):
        vit = SemanticViT(size, image_size=image, patch_px=patch)
    assert vit.grid == grid
    assert vit.width == 2 * SIZES[size][0]
    assert sum(p.numel() for p in vit.parameters()) == parameters
    assert vit.vit.blocks[0].attn.num_heads == SIZES[size].heads
    assert SIZES[size].width // SIZES[size].heads == 64
    assert {m.eps for m in vit.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


def test_order_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    vit = small()
    places_ = torch.arange(16.0).reshape(1, 16, 1).expand(2, 16, 192)
    monkeypatch.setattr(vit.vit, "forward_features", lambda images: places_)
    tokens = vit(torch.zeros(2, 3, HEIGHT, WIDTH))
    assert tokens.global_[:, 0].tolist() == [0, 0]
    assert tokens.local[1, :, 0].tolist() == [1, 2, 3]
    assert tokens.patches[1, :, 0].tolist() == list(range(4, 16))


def test_patches_stand_row_by_row() -> None:
    """What goes into the first block differs at the patch whose pixels differ, and nowhere else."""
    vit = small()
    seen: list[Tensor] = []
    vit.vit.blocks[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    images = torch.zeros(1, 3, HEIGHT, WIDTH)
    vit(images)
    images[:, :, 16 * 3 : 16 * 4, 16:32] = 1  # row 3, column 1 of 6 x 2
    vit(images)
    changed = (seen[0] != seen[1]).any(dim=2)[0].nonzero().flatten().tolist()
    assert changed == [4 + 3 * 2 + 1]


def test_local_tokens_start_apart() -> None:
    drawn = small().vit.reg_token
    assert drawn is not None
    local = drawn.detach()
    apart = torch.pdist(local[0])  # of N(0, 0.02^2) in 192 dimensions: 0.02 sqrt(2 * 192) = 0.392
    assert ((apart > 0.33) & (apart < 0.45)).all()
    assert local.std().item() == pytest.approx(0.02, rel=0.1)
    other = small(seed=1).vit.reg_token
    assert other is not None
    assert not torch.equal(local, other)
    again = small().vit.reg_token
    assert again is not None
    assert torch.equal(local, again)


def test_drop_path_rises_to_its_last_block() -> None:
    vit = small(drop_path=0.1)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.vit.blocks]
    assert rates == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])


@pytest.mark.parametrize("fusion", ["cat", "ffn"])
@pytest.mark.parametrize("parts", [PARTS, ("torso",), ()])
def test_gradient_reaches_every_parameter(fusion: str, parts: tuple[str, ...]) -> None:
    """Also where a local token is not in use: it is attended to."""
    vit = small(fusion=fusion, parts=parts)
    z = vit.fuse(vit(noise(2, 3, HEIGHT, WIDTH, dtype=torch.float32)))
    (z * noise(*z.shape, dtype=torch.float32)).sum().backward()
    without = [name for name, p in vit.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    reg = vit.vit.reg_token
    assert reg is not None
    assert reg.grad is not None
    assert (reg.grad.abs().sum(2) > 0).all()


# -- fusion


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (None, [1, 2, 40, 50]),
        (["face", "torso", "lower_body"], [1, 2, 40, 50]),
        (["lower_body", "face"], [1, 2, 45, 55]),  # over 2, not over 3
        (["torso"], [1, 2, 30, 40]),
        (["middle"], [1, 2, 30, 40]),  # the same token, by PASS's name
        (["lower", "upper"], [1, 2, 45, 55]),
        ([], [1, 2, 0, 0]),
    ],
)
def test_fusion_cat_by_hand(parts: list[str] | None, expected: list[float]) -> None:
    local = torch.tensor([[[10.0, 20], [30, 40], [80, 90]]])
    tokens = Tokens(torch.tensor([[1.0, 2]]), local, torch.zeros(1, 0, 2))
    given = {} if parts is None else {"parts": parts}
    assert small(**given).fuse(tokens).tolist() == [expected]


def test_parts_of_the_network_are_its_default() -> None:
    tokens = some_tokens()
    whole, without = small(), small(parts=["torso", "lower_body"])
    assert not torch.equal(without.fuse(tokens), whole.fuse(tokens))
    assert without.state_dict().keys() == whole.state_dict().keys()


@pytest.mark.parametrize("dropped", [None, 0, 1, 2])
def test_fusion_ffn_by_hand(dropped: int | None) -> None:
    parts = [part for k, part in enumerate(PARTS) if k != dropped]
    vit, tokens = small(fusion="ffn", parts=parts).double(), some_tokens()
    assert vit.ffn is not None
    for value in vit.ffn.parameters():
        value.data = 0.1 * noise(*value.shape, seed=value.numel())
    scale, shift, w1, b1, w2, b2 = vit.ffn.parameters()
    local = tokens.local.clone()
    if dropped is not None:
        local[:, dropped] = 0
    x = torch.cat([tokens.global_, local[:, 0], local[:, 1], local[:, 2]], dim=1)
    x = (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, unbiased=False, keepdim=True) + 1e-6) * scale + shift
    x = x @ w1.T + b1
    x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    found = vit.fuse(tokens)
    assert found.shape == (2, vit.width)
    torch.testing.assert_close(found, x @ w2.T + b2, rtol=1e-9, atol=1e-9)


# -- errors


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": "huge"}, "base, small, tiny, mini"),
        ({"design": Design(fusion="sum")}, "fusion of cat, ffn, four, got 'sum'"),  # type: ignore[arg-type]
        ({"design": Design(stem="conv"), "patch_px": 24}, "image sides"),
        (
            {"design": Design(stem="conv"), "patch_px": 12, "image_size": (96, 24)},
            "stem conv: expected patches of 2, 4",
        ),
        ({"design": Design(stem="resnet"), "patch_px": 4}, "stem resnet: expected patches of 8, 16"),
        ({"design": Design(local="band"), "image_size": (32, 32)}, "at least 3 rows of patches, got 2"),
        ({"image_size": (100, 32)}, "multiples of the patch of 16 px, got 100x32"),
        ({"image_size": (0, 32)}, "got 0x32"),
        ({"parts": ["head"]}, "lower_body, or of upper, middle, lower, got 'head'"),
        ({"parts": "face"}, "got 'f'"),
        ({"parts": ["face", "face"]}, "each part once"),
    ],
)
def test_wrong_settings(given: dict[str, object], message: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        SemanticViT(**{"size": "mini", "image_size": (HEIGHT, WIDTH), **given})  # type: ignore[arg-type]


def test_wrong_images_and_parts() -> None:
    vit = small()
    with pytest.raises(ConfigError, match="expected images of 96x32, got 32x96"):
        vit(torch.zeros(1, 3, WIDTH, HEIGHT))
    with pytest.raises(ConfigError, match="got 48x32"):
        vit(torch.zeros(1, 3, 48, WIDTH))
    with pytest.raises(ConfigError, match="at least 3 rows"):
        PartAlignment(192, (2, 4))
    assert places([]) == []
