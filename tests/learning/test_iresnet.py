"""AdaFace's IR networks: their names, sizes and what they compute, by a second transcription from the names alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as f

from mdfpipe.errors import ConfigError
from mdfpipe.learning.models.face import IResNet


@pytest.fixture(autouse=True)
def _steady() -> None:
    torch.manual_seed(0)


def worked(units: tuple[int, ...], width: int, side: int) -> int:
    """Parameters by hand: a unit a -> b has 2a + 9ab + 2b + b + 9bb + 2b, and ab + 2b aside where it widens."""

    def unit(a: int, b: int) -> int:
        return 2 * a + 9 * a * b + 5 * b + 9 * b * b + (0 if a == b else a * b + 2 * b)

    widths = [width * 2**stage for stage, count in enumerate(units) for _ in range(count)]
    body = sum(unit(a, b) for a, b in zip([width, *widths[:-1]], widths, strict=True))
    return 27 * width + 3 * width + body + 16 * width + 8 * width * side * side * 512 + 512


@pytest.mark.parametrize(
    ("layers", "units", "millions"),
    [(18, (2, 2, 2, 2), 24.02), (50, (3, 4, 14, 3), 43.59), (101, (3, 13, 30, 3), 65.15)],
)
def test_sizes_are_those_of_the_public_networks(layers: int, units: tuple[int, ...], millions: float) -> None:
    with torch.device("meta"):
        found = sum(p.numel() for p in IResNet(layers).parameters())
    assert found == worked(units, 64, 7)
    assert round(found / 1e6, 2) == millions


def test_sizes_of_a_small_one() -> None:
    found = sum(p.numel() for p in IResNet(18, width=3, image_size=48).parameters())
    assert found == worked((2, 2, 2, 2), 3, 3)


def test_names_and_shapes_of_ir_101() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in IResNet(101).state_dict().items()}
    assert {int(name.split(".")[1]) for name in shapes if name.startswith("body.")} == set(range(49))
    with_convolution = {name.split(".")[1] for name in shapes if ".shortcut_layer." in name}
    assert with_convolution == {"3", "16", "46"}  # where the channels grow: not in the first stage
    assert {name for name in shapes if name.startswith("body.3.") and not name.endswith("num_batches_tracked")} == {
        *(f"body.3.shortcut_layer.{end}" for end in ("0.weight", *BN_AT[1])),
        *(f"body.3.res_layer.{end}" for end in (*BN_AT[0], "1.weight", *BN_AT[2], "3.weight", "4.weight", *BN_AT[5])),
    }
    assert {n: s for n, s in shapes.items() if n.startswith(("input_layer.", "output_layer.")) and len(s)} == {
        "input_layer.0.weight": (64, 3, 3, 3),
        **{f"input_layer.{end}": (64,) for end in (*BN_AT[1], "2.weight")},
        **{f"output_layer.{end}": (512,) for end in BN_AT[0]},
        "output_layer.3.weight": (512, 25088),
        "output_layer.3.bias": (512,),
        "output_layer.4.running_mean": (512,),
        "output_layer.4.running_var": (512,),
    }
    assert shapes["body.3.res_layer.1.weight"] == (128, 64, 3, 3)
    assert shapes["body.3.shortcut_layer.0.weight"] == (128, 64, 1, 1)


BN_AT = {i: tuple(f"{i}.{end}" for end in ("weight", "bias", "running_mean", "running_var")) for i in range(6)}


def second_transcription(state: dict[str, Tensor], units: tuple[int, ...], x: Tensor) -> Tensor:
    """The network from its tensors alone, in evaluation mode: ArcFace's improved residual units."""

    def bn(x: Tensor, at: str) -> Tensor:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean, var = state[f"{at}.running_mean"].view(shape), state[f"{at}.running_var"].view(shape)
        x = (x - mean) / (var + 1e-5).sqrt()
        if f"{at}.weight" in state:
            x = x * state[f"{at}.weight"].view(shape) + state[f"{at}.bias"].view(shape)
        return x

    def prelu(x: Tensor, at: str) -> Tensor:
        return torch.where(x > 0, x, x * state[f"{at}.weight"].view(1, -1, 1, 1))

    x = prelu(bn(f.conv2d(x, state["input_layer.0.weight"], padding=1), "input_layer.1"), "input_layer.2")
    firsts = {sum(units[:stage]) for stage in range(4)}
    for i in range(sum(units)):
        stride, at = 2 if i in firsts else 1, f"body.{i}.res_layer"
        y = prelu(bn(f.conv2d(bn(x, f"{at}.0"), state[f"{at}.1.weight"], padding=1), f"{at}.2"), f"{at}.3")
        y = bn(f.conv2d(y, state[f"{at}.4.weight"], stride=stride, padding=1), f"{at}.5")
        aside = f"body.{i}.shortcut_layer"
        if f"{aside}.0.weight" in state:
            x = bn(f.conv2d(x, state[f"{aside}.0.weight"], stride=stride), f"{aside}.1")
        else:
            x = x[:, :, ::stride, ::stride]
        x = x + y
    x = bn(x, "output_layer.0").reshape(len(x), -1)
    return bn(x @ state["output_layer.3.weight"].T + state["output_layer.3.bias"], "output_layer.4")


@pytest.mark.parametrize("size", [32, 112])
def test_it_computes_what_a_second_transcription_does(size: int) -> None:
    network = IResNet(18, width=4, image_size=size).double().eval()
    for module in network.modules():  # running values, slopes and biases that differ from their start
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        if isinstance(module, nn.BatchNorm2d | nn.PReLU):
            for parameter in module.parameters():
                nn.init.uniform_(parameter, 0.1, 1.5)
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        found, expected = network(images), second_transcription(network.state_dict(), (2, 2, 2, 2), images)
    assert found.shape == (2, 512)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_embedding_is_raw_and_learns() -> None:
    network = IResNet(18, width=4, image_size=32)
    embedding = network(torch.randn(4, 3, 32, 32))
    assert not torch.allclose(embedding.norm(dim=1), torch.ones(4))
    embedding.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"layers": 34}, "18, 50, 101"), ({"image_size": 100}, "multiple of 16"), ({"width": 0}, "at least 1")],
)
def test_what_there_is_none_of_is_refused(settings: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        IResNet(**{"layers": 18, **settings})
