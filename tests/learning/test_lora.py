"""Low-rank terms: nothing changes before training, what is trained, what merging gives back."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from mdfpipe.errors import ConfigError
from mdfpipe.learning.models.backbones.semantic_vit import Design, SemanticViT
from mdfpipe.learning.models.backbones.striped_resnet import StripedResNet
from mdfpipe.learning.models.parts.lora import apply_lora, merge_lora
from tests.learning.small_vit import global_only


def small(fusion: str = "cat") -> SemanticViT:
    torch.manual_seed(0)
    return SemanticViT("mini", image_size=(48, 32), design=Design(fusion=fusion)).eval()  # type: ignore[arg-type]


def images() -> Tensor:
    return torch.randn(2, 3, 48, 32, generator=torch.Generator().manual_seed(7))


def feature(vit: SemanticViT) -> Tensor:
    with torch.no_grad():
        return vit.fuse(vit(images()))


def drawn(vit: SemanticViT) -> SemanticViT:
    """With low-rank terms that do something."""
    generator = torch.Generator().manual_seed(1)
    for name, value in vit.named_parameters():
        if "lora_" in name:
            value.data = 0.05 * torch.randn(value.shape, generator=generator)
    return vit


def test_nothing_changes_before_training() -> None:
    vit = small()
    before = feature(vit)
    assert apply_lora(vit) is vit
    torch.testing.assert_close(feature(vit), before, rtol=0, atol=0)


def test_base_trains_442368_of_its_weights() -> None:
    with torch.device("meta"):
        vit = apply_lora(SemanticViT("base"))
    trained = sum(p.numel() for p in vit.parameters() if p.requires_grad)
    assert trained == 12 * 8 * ((768 + 3 * 768) + (768 + 768)) == 442_368
    assert sum(p.numel() for p in vit.parameters()) - trained == 85_800_192


@pytest.mark.parametrize("rank", [1, 4])
def test_only_low_rank_terms_of_the_attention_are_trained(rank: int) -> None:
    vit = apply_lora(small(), rank=rank)
    shapes = {name: tuple(p.shape) for name, p in vit.named_parameters() if p.requires_grad}
    expected = {}
    for k in range(6):
        for name, made in (("qkv", 3 * 192), ("proj", 192)):
            expected[f"vit.blocks.{k}.attn.{name}.lora_A.default.weight"] = (rank, 192)
            expected[f"vit.blocks.{k}.attn.{name}.lora_B.default.weight"] = (made, rank)
    assert shapes == expected


def test_a_is_gaussian_and_b_zero() -> None:
    vit = apply_lora(small(), rank=8)
    state = vit.state_dict()
    a = torch.cat([value.flatten() for name, value in state.items() if "lora_A" in name])
    assert all(not value.any() for name, value in state.items() if "lora_B" in name)
    scaled = a / a.std()
    assert scaled.abs().max() > 3  # no uniform reaches beyond sqrt(3)
    assert (scaled.abs() < 1).float().mean().item() == pytest.approx(0.683, abs=0.02)


def test_the_term_is_scaled_by_alpha_over_rank() -> None:
    """W' = W + (alpha / r) B A, by hand, at every projection; nothing else has changed."""
    plain = small()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    vit = drawn(apply_lora(plain, rank=4, alpha=10))
    terms = {name: value.clone() for name, value in vit.state_dict().items() if "lora_" in name}
    after = merge_lora(vit).state_dict()
    for name, value in before.items():
        own = re.fullmatch(r"(.*\.attn\.(?:qkv|proj))\.weight", name)
        if own:
            a, b = (terms[f"{own[1]}.lora_{letter}.default.weight"] for letter in "AB")
            torch.testing.assert_close(after[name], value + 10 / 4 * b @ a)
            assert not torch.equal(after[name], value)
        else:
            assert torch.equal(after[name], value), name


def test_merged_is_unmerged() -> None:
    vit = small()
    before = feature(vit)
    unmerged = feature(drawn(apply_lora(vit)))
    assert merge_lora(vit) is vit
    assert (unmerged - before).abs().max() > 0.01
    torch.testing.assert_close(feature(vit), unmerged, rtol=1e-5, atol=1e-5)


def test_merged_is_a_plain_network() -> None:
    vit = merge_lora(drawn(apply_lora(small())))
    plain = SemanticViT("mini", image_size=(48, 32)).eval()
    assert list(vit.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in vit.modules()] == [type(module) for module in plain.modules()]
    assert vars(vit).keys() == vars(plain).keys()
    assert all(p.requires_grad for p in vit.parameters())
    plain.load_state_dict(vit.state_dict(), strict=True)
    assert torch.equal(feature(plain), feature(vit))
    again = drawn(apply_lora(vit))  # and can be adapted anew
    assert any("lora_" in name for name in again.state_dict())


def test_training_moves_the_terms_alone() -> None:
    vit = apply_lora(small()).train()
    before = copy.deepcopy(vit.state_dict())
    optimiser = torch.optim.AdamW([p for p in vit.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):  # after the first step alone no A has moved: B was 0
        optimiser.zero_grad()
        vit.fuse(vit(images())).square().sum().backward()
        optimiser.step()
    moved = {name for name, value in vit.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    assert all(p.grad is None for p in vit.parameters() if not p.requires_grad)


def test_dropout_stands_before_the_terms_and_only_in_training() -> None:
    vit = drawn(apply_lora(small(), dropout=0.5))
    assert torch.equal(feature(vit), feature(vit))
    vit.train()
    assert not torch.equal(feature(vit), feature(vit))
    quiet = apply_lora(small(), dropout=0.5).train()  # B is 0: dropout has nothing to drop
    torch.testing.assert_close(feature(quiet), feature(small()), rtol=0, atol=0)


def test_attention_masks_pass_through() -> None:
    vit = drawn(apply_lora(small()))
    with torch.no_grad():
        unmerged = global_only(vit, images())
        torch.testing.assert_close(global_only(merge_lora(vit), images()), unmerged, rtol=1e-5, atol=1e-5)


def test_a_new_fusion_is_trained_too() -> None:
    vit = apply_lora(small("ffn"))
    trained = {name for name, p in vit.named_parameters() if p.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {
        f"ffn.{name}" for name, _ in vit.ffn.named_parameters()
    }  # type: ignore[union-attr]
    assert list(merge_lora(vit).state_dict()) == list(small("ffn").state_dict())


def test_inside_another_module() -> None:
    """Names of a larger network, and state that is taken up again."""
    whole = nn.ModuleDict({"backbone": small(), "classifier": nn.Linear(384, 3)})
    names = list(whole.state_dict())
    apply_lora(whole["backbone"])
    assert all(p.requires_grad for p in whole["classifier"].parameters())
    drawn(whole["backbone"])  # type: ignore[arg-type]
    other = nn.ModuleDict({"backbone": apply_lora(small()), "classifier": nn.Linear(384, 3)})
    other.load_state_dict(whole.state_dict(), strict=True)
    assert torch.equal(feature(other["backbone"]), feature(whole["backbone"]))  # type: ignore[arg-type]
    merge_lora(whole["backbone"])
    assert list(whole.state_dict()) == names


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="self-attention, got a StripedResNet"):
        apply_lora(StripedResNet(width=8))
    vit = apply_lora(small())
    with pytest.raises(ConfigError, match="already"):
        apply_lora(vit)
    plain = small()
    plain.vit.norm.requires_grad_(False)
    merge_lora(plain)  # nothing to fold in: it stays as it is
    assert not plain.vit.norm.weight.requires_grad
