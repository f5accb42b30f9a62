"""The striped ResNet: its size, its stripes, its gradients, its layouts in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mdfpipe.errors import ConfigError
from mdfpipe.learning.models.backbones.striped_resnet import StripedResNet, stripe_rows


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(**settings: int) -> StripedResNet:
    torch.manual_seed(0)
    return StripedResNet(**settings).eval()


def by_hand(w: int, stripes: int, features: int) -> int:
    """Parameters: convolutions, two a BatchNorm channel, the linear map."""
    count, given = 3 * 49 * w + 2 * w, w
    for k in range(4):
        made = w * 2**k
        count += 9 * given * made + 3 * 9 * made**2 + 4 * 2 * made  # four convolutions with their BatchNorms
        count += given * made + 2 * made if given != made else 0  # the shortcut's
        given = made
    return count + stripes * given * features


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [((144, 48), 5, 2), ((192, 64), 6, 2), ((384, 128), 12, 4), ((65, 20), 3, 1)]
)
def test_shapes(size: tuple[int, int], rows: int, columns: int) -> None:
    net = network(width=8, features=20)
    images = noise(2, 3, *size)
    assert net.trunk(images).shape == (2, 64, rows, columns)
    assert net.stripe_means(images).shape == (2, 6, 64)
    assert net(images).shape == (2, 20)


@pytest.mark.parametrize("settings", [{}, {"width": 16}, {"width": 64, "stripes": 4, "features": 512}])
def test_parameters(settings: dict[str, int]) -> None:
    with torch.device("meta"):
        net = StripedResNet(**settings)
    expected = by_hand(
        **{"w": settings.get("width", 32), "stripes": 6, "features": 256}
        | {name: value for name, value in settings.items() if name != "width"}
    )
    assert sum(p.numel() for p in net.parameters()) == expected
    if not settings:
        assert expected == 3_192_096


def test_a_residual_block_by_hand() -> None:
    """The second stage's first block: two convolutions, the shortcut of stride 2, ReLU after the sum."""
    net = network(width=8)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = 0.1 * noise(module.num_features)
            module.bias.data = 0.2 * noise(module.num_features, seed=1)
    block, x = net.trunk[4][0], noise(2, 8, 12, 6)

    def normed(x: Tensor, layers: nn.Sequential, stride: int) -> Tensor:
        convolution, norm = layers
        y = functional.conv2d(x, convolution.weight, stride=stride, padding=convolution.weight.shape[2] // 2)
        return (y - norm.running_mean[:, None, None]) / (1 + norm.eps) ** 0.5 + norm.bias[:, None, None]

    inner = normed(normed(x, block.first, 2).clamp_min(0), block.second, 1)
    expected = (inner + normed(x, block.shortcut, 2)).clamp_min(0)
    kept = x.clone()
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, kept)
    plain = net.trunk[4][1]
    y = noise(2, 16, 6, 3)
    expected = (normed(normed(y, plain.first, 1).clamp_min(0), plain.second, 1) + y).clamp_min(0)
    kept = y.clone()
    torch.testing.assert_close(plain(y), expected)
    assert torch.equal(y, kept)  # the block changes nothing in place but what is its own


# -- stripes


@pytest.mark.parametrize(
    ("rows", "stripes"), [(6, 6), (9, 6), (12, 6), (24, 6), (7, 6), (5, 6), (3, 6), (11, 4), (5, 1)]
)
def test_stripes_are_adaptive_pooling(rows: int, stripes: int) -> None:
    net = network(width=8, stripes=stripes)
    net.trunk = nn.Sequential(nn.Identity())
    image = noise(2, 5, rows, 3)
    expected = functional.adaptive_avg_pool2d(image, (stripes, 1)).squeeze(3).transpose(1, 2)
    torch.testing.assert_close(net.stripe_means(image), expected)
    covered = {row for band in stripe_rows(rows, stripes) for row in band}
    assert covered == set(range(rows))


def test_stripes_by_hand() -> None:
    """A map of 9 x 2 that holds its row: stripes of two rows, some shared."""
    net = network()
    net.trunk = nn.Sequential(nn.Identity())
    rows = torch.arange(9.0).reshape(1, 1, 9, 1).expand(1, 1, 9, 2)
    assert net.stripe_means(rows).flatten().tolist() == [0.5, 1.5, 3.5, 4.5, 6.5, 7.5]


def test_stripes_reach_the_linear_map_in_order() -> None:
    net = network(width=1, stripes=2, features=1)
    net.trunk = nn.Sequential(nn.Identity())
    net.project.weight.data = torch.arange(16.0).reshape(1, 16)  # stripe 0: 0..7; stripe 1: 8..15
    image = torch.zeros(1, 8, 2, 1)
    image[0, 3, 0], image[0, 5, 1] = 1, 100
    assert net(image).item() == 3 + 100 * (8 + 5)


def test_a_stripe_sees_its_own_rows() -> None:
    """One place of the last map sees 435 rows. Of a far higher image the foot changes the lowest stripe only."""
    net = network(width=8)
    images = noise(1, 3, 3072, 32)
    before = net.stripe_means(images)
    images[:, :, -32:] += 1
    changed = (net.stripe_means(images) != before).any(dim=2)[0].tolist()
    assert changed == [False] * 5 + [True]
    images[:, :, :32] -= 1
    changed = (net.stripe_means(images) != before).any(dim=2)[0].tolist()
    assert changed == [True] + [False] * 4 + [True]


# -- training


def test_gradient_reaches_every_parameter() -> None:
    net = network(width=8, features=16).train()
    z = net(noise(4, 3, 144, 48))
    (z * noise(*z.shape, seed=1)).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_one_stripe_of_the_feature_pulls_at_its_weights_only() -> None:
    net = network(width=8, features=16)
    net.stripe_means(noise(2, 3, 144, 48))[:, 2].sum().backward()
    assert net.project.weight.grad is None
    assert net.trunk[0][0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("training", [False, True])
def test_channels_last_is_the_same(training: bool) -> None:
    net, other = network(width=16), network(width=16).to(memory_format=torch.channels_last)
    net.train(training)
    other.train(training)
    images = noise(4, 3, 144, 48)
    expected = net(images)
    found = other(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_weights_follow_the_seed() -> None:
    torch.manual_seed(1)
    other = StripedResNet(width=8)
    first, again = network(width=8), network(width=8)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.project.weight, other.project.weight)


def test_a_fresh_network_keeps_its_signal() -> None:
    """He initialisation: features of different images differ, and neither vanish nor explode."""
    net = network().train()
    spread = net.stripe_means(noise(8, 3, 144, 48)).std(0).mean().item()
    assert 0.05 < spread < 5


# -- errors


def test_too_low_an_image() -> None:
    net = network(width=8)
    assert net(noise(1, 3, 65, 32)).shape == (1, 256)
    with pytest.raises(
        ConfigError, match="at least 3 rows in the last map, got 2 of images 64 px high: expected 65 px"
    ):
        net(noise(1, 3, 64, 32))


@pytest.mark.parametrize("settings", [{"width": 0}, {"stripes": 0}, {"features": 0}])
def test_wrong_settings(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected at least 1"):
        StripedResNet(**settings)


def test_bf16_on_a_cpu_does_not_depend_on_what_is_in_memory() -> None:
    """Images of 96x32 leave maps of width 2 and 1: see `SAFE_WIDTH`. What the network is given lies in freed NaN."""
    images = torch.randn(8, 3, 96, 32, generator=torch.Generator().manual_seed(0))

    def gradients() -> list[Tensor]:
        torch.manual_seed(0)
        net = StripedResNet().to(memory_format=torch.channels_last).train()
        for kind in (torch.float32, torch.bfloat16):
            dirty = [torch.full((size,), float("nan"), dtype=kind) for size in (1_000, 30_000, 200_000, 1_000_000)]
            del dirty
        with torch.autocast("cpu", torch.bfloat16):
            net(images.contiguous(memory_format=torch.channels_last)).float().square().sum().backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    first = gradients()
    for _ in range(5):
        for one, other in zip(first, gradients(), strict=True):
            assert torch.isfinite(one).all()
            torch.testing.assert_close(one, other, rtol=0, atol=0)
