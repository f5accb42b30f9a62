"""Necks and classifier: BN written out, biases that stay 0, running statistics, gradients, what multi needs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mdfpipe.errors import ConfigError
from mdfpipe.learning.losses.identity import cross_entropy
from mdfpipe.learning.models.parts.heads import BNNeck, Classifier, Neck

EPS = 1e-5


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def standard(x: Tensor) -> Tensor:
    """By the batch, with the deviation of a population."""
    mean = x.sum(0) / len(x)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).sum(0) / len(x) + EPS)


def some_tokens(images: int = 6, width: int = 5) -> tuple[Tensor, Tensor]:
    """z = [z_g ; mean_k z_k] and tokens, each of another scale and offset."""
    tokens = noise(images, 4, width) * torch.tensor([1.0, 2, 5, 10])[:, None] + torch.tensor([0.0, 3, -7, 1])[:, None]
    return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1), tokens


# -- BN neck


def test_bn_by_hand() -> None:
    """Of 1 and 3: mean 2, population variance 1; running mean 0.1 * 2, running variance 0.9 + 0.1 * 2 (of a sample)."""
    neck = BNNeck(1).double()
    z = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    high = 1 / (1 + EPS) ** 0.5
    assert neck(z).flatten().tolist() == pytest.approx([-high, high])
    assert neck.running_mean is not None
    assert neck.running_var is not None
    assert neck.running_mean.item() == pytest.approx(0.2)
    assert neck.running_var.item() == pytest.approx(1.1)
    assert neck.num_batches_tracked == 1
    scale = 1 / (1.1 + EPS) ** 0.5
    expected = pytest.approx([0.8 * scale, 2.8 * scale])
    assert neck.eval()(z).flatten().tolist() == expected
    assert neck(z).flatten().tolist() == expected  # evaluation moves nothing
    assert neck.num_batches_tracked == 1


def test_the_bias_stays_zero() -> None:
    """No gradient, and so no optimiser's step or decay; the scale has both."""
    neck = BNNeck(4).double()
    assert neck.bias is not None
    assert [name for name, p in neck.named_parameters() if p.requires_grad] == ["weight"]
    optimiser = torch.optim.SGD(neck.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5)
    for seed in range(3):
        optimiser.zero_grad()
        (neck(noise(6, 4, seed=seed)) * noise(6, 4, seed=9)).sum().backward()
        optimiser.step()
    assert neck.bias.grad is None
    assert neck.bias.tolist() == [0] * 4
    assert (neck.weight != 1).all()


def test_a_feature_of_low_precision_is_standardised_in_the_weights() -> None:
    neck, z = BNNeck(3), 100 + noise(8, 3)
    low = z.to(torch.bfloat16)
    found = neck(low)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), standard(low.double()), rtol=1e-4, atol=1e-4)


# -- classifier


def test_classifier() -> None:
    torch.manual_seed(0)
    head = Classifier(300, 200)
    assert head.bias is None
    assert head.weight.shape == (200, 300)
    assert head.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert abs(head.weight.mean().item()) < 2e-5
    assert head.weight.abs().max() > 0.003  # a normal, not a uniform
    assert list(head.state_dict()) == ["weight"]
    with pytest.raises(ConfigError, match="at least one training subject"):
        Classifier(8, 0)


def test_classifier_gradient_by_hand() -> None:
    """(softmax - one-hot)^T h / B, and h from the row of each class."""
    torch.manual_seed(0)
    head, h, subject = Classifier(5, 4).double(), noise(3, 5).requires_grad_(), torch.tensor([2, 0, 2])
    logits = head(h)
    torch.testing.assert_close(logits, h @ head.weight.T)
    cross_entropy(logits, subject).backward()
    error = logits.detach().softmax(1) - torch.eye(4, dtype=torch.float64)[subject]
    torch.testing.assert_close(head.weight.grad, error.T @ h.detach() / 3)
    torch.testing.assert_close(h.grad, error @ head.weight.detach() / 3)


# -- necks


@pytest.mark.parametrize("local", [(0, 1, 2), (1,), (2, 0)])
def test_multi_by_hand(local: tuple[int, ...]) -> None:
    z, tokens = some_tokens()
    neck = Neck("multi", 10, 5, local).double()
    for k, norm in enumerate(neck.norms):
        norm.weight.data = noise(5, seed=20 + k)
    expected = [standard(tokens[:, k]) * neck.norms[k].weight for k in range(4)]
    mean = sum(expected[1 + k] for k in local) / len(local)
    assert isinstance(mean, Tensor)
    torch.testing.assert_close(neck(z, tokens), torch.cat([expected[0], mean], dim=1))


def test_multi_is_not_single() -> None:
    """A token of a large scale owns the mean of tokens, not the mean of standardised tokens."""
    z, tokens = some_tokens()
    multi, single = Neck("multi", 10, 5).double()(z, tokens), Neck("single", 10, 5).double()(z, tokens)
    torch.testing.assert_close(multi[:, :5], single[:, :5])
    assert (multi[:, 5:] - single[:, 5:]).abs().max() > 0.1


def test_single_and_plain_by_hand() -> None:
    z, tokens = some_tokens()
    single = Neck("single", 10).double()
    torch.testing.assert_close(single(z, None), standard(z))
    plain = Neck("plain", 10)
    assert plain(z, tokens) is z
    assert list(plain.parameters()) == []


def test_multi_of_no_local_token() -> None:
    z, tokens = some_tokens()
    h = Neck("multi", 10, 5, []).double()(z, tokens)
    torch.testing.assert_close(h, torch.cat([standard(tokens[:, 0]), torch.zeros(6, 5, dtype=torch.float64)], dim=1))


def test_names_do_not_depend_on_the_parts() -> None:
    names = Neck("multi", 10, 5).state_dict().keys()
    assert Neck("multi", 10, 5, [1]).state_dict().keys() == names
    assert len(names) == 4 * 5


@pytest.mark.parametrize("local", [[0, 1, 2], [2, 0], [1], []])
def test_what_is_trained_are_the_scales_of_tokens_in_use(local: list[int]) -> None:
    neck = Neck("multi", 10, 5, local)
    trained = [name for name, value in neck.named_parameters() if value.requires_grad]
    assert trained == [f"norms.{place}.weight" for place in [0, *(1 + k for k in sorted(local))]]
    assert [value.requires_grad for value in Neck("single", 10, 5, local).parameters()] == [True, False]


@pytest.mark.parametrize(("kind", "norms"), [("multi", 4), ("single", 1), ("plain", 0)])
def test_running_statistics_move_once_a_call_in_training(kind: str, norms: int) -> None:
    z, tokens = some_tokens()
    neck = Neck(kind, 10, 5).double()  # type: ignore[arg-type]
    assert [int(norm.num_batches_tracked) for norm in neck.norms] == [0] * norms
    neck(z, tokens)
    neck(z, tokens)
    assert [int(norm.num_batches_tracked) for norm in neck.norms] == [2] * norms
    seen = [z] if kind == "single" else [tokens[:, k] for k in range(norms)]
    for norm, x in zip(neck.norms, seen, strict=True):
        torch.testing.assert_close(norm.running_mean, (1 - 0.9**2) * x.mean(0))
        torch.testing.assert_close(norm.running_var, 0.9**2 + (1 - 0.9**2) * x.var(0))
    kept = {name: value.clone() for name, value in neck.state_dict().items()}
    neck.eval()
    found = neck(z, tokens)
    assert all(torch.equal(value, kept[name]) for name, value in neck.state_dict().items())
    assert torch.equal(neck(z[:1], tokens[:1]), found[:1]) or torch.allclose(neck(z[:1], tokens[:1]), found[:1])


@pytest.mark.parametrize("kind", ["multi", "single"])
def test_gradient_reaches_scales_and_features_alone(kind: str) -> None:
    z, tokens = some_tokens()
    z.requires_grad_()
    tokens.requires_grad_()
    neck = Neck(kind, 10, 5).double()  # type: ignore[arg-type]
    (neck(z, tokens) * noise(6, 10, seed=3)).sum().backward()
    for name, value in neck.named_parameters():
        assert value.requires_grad == name.endswith(".weight")
        assert (value.grad is not None and bool((value.grad != 0).any())) == name.endswith(".weight")
    used, unused = (tokens, z) if kind == "multi" else (z, tokens)
    assert unused.grad is None
    assert used.grad is not None
    assert used.grad.abs().flatten(0, -2).sum(0).min() > 0
    # BN takes no notice of an offset: the gradients of a batch sum to 0
    torch.testing.assert_close(used.grad.sum(0), torch.zeros_like(used.grad[0]), rtol=0, atol=1e-9)


# -- errors


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("multi", 10, None), "a ViT's tokens, fused by cat, got neither"),
        (("multi", 10, 10), "a feature of 2 tokens of 10, got 10"),
        (("multi", 10, 5, [3]), r"local tokens of 0..2, got \[3\]"),
        (("double", 10), "multi, single or plain, got 'double'"),
    ],
)
def test_wrong_settings(given: tuple[object, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Neck(*given)  # type: ignore[arg-type]


def test_multi_without_tokens() -> None:
    z, tokens = some_tokens()
    neck = Neck("multi", 10, 5).double()
    with pytest.raises(ConfigError, match="expected 4 tokens of each image, got none"):
        neck(z)
    with pytest.raises(ConfigError, match="got 3"):
        neck(z, tokens[:, :3])
