"""Trunk, streams, pairs of domains, pooling and non-local attention: what the cross-modal methods are built of."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mdfpipe.errors import ConfigError
from mdfpipe.learning.models.backbones.trunk import Kind, Trunk, fill
from mdfpipe.learning.models.parts.layers import GeM, NonLocal, gem
from mdfpipe.learning.models.weights import loading as weights
from mdfpipe.learning.streams import DomainPairs, place_in, stream_names
from mdfpipe.tracing.graphs import TracedGraph, onnx_model

DOMAINS = ["LWIR-30m", "SWIR-30m", "VIS-500m"]


def small(own: int = 2, **more: object) -> Trunk:
    torch.manual_seed(0)
    return Trunk("resnet18_half", ["IR", "IR", "VIS"], own=own, **more)  # type: ignore[arg-type]


# -- the trunk


@pytest.mark.parametrize(
    ("own", "split", "branches", "count"),
    [
        (0, 5, (), 23_508_032),  # METHODS 0
        (2, 5, (), 23_733_376),  # METHODS 8: stages 0-1 doubled
        (2, 4, ("first", "second"), 38_698_112),  # METHODS 8: and stage 4
    ],
)
def test_weights_of_a_resnet_50(own: int, split: int, branches: tuple[str, ...], count: int) -> None:
    with torch.device("meta"):
        trunk = Trunk("resnet50", ["IR", "VIS"], own=own, split=split, branches=branches)
    assert sum(p.numel() for p in trunk.parameters()) == count


@pytest.mark.parametrize(
    ("kind", "size", "shapes"),
    [  # METHODS 0, the table
        ("resnet50", (288, 144), [(64, 72, 36), (256, 72, 36), (512, 36, 18), (1024, 18, 9), (2048, 18, 9)]),
        ("resnet50", (384, 128), [(64, 96, 32), (256, 96, 32), (512, 48, 16), (1024, 24, 8), (2048, 24, 8)]),
        ("resnet18", (96, 32), [(64, 24, 8), (64, 24, 8), (128, 12, 4), (256, 6, 2), (512, 6, 2)]),
        ("resnet18_half", (96, 32), [(32, 24, 8), (32, 24, 8), (64, 12, 4), (128, 6, 2), (256, 6, 2)]),
        ("resnet18_quarter", (96, 32), [(16, 24, 8), (16, 24, 8), (32, 12, 4), (64, 6, 2), (128, 6, 2)]),
    ],
)
def test_maps_of_a_resnet(kind: Kind, size: tuple[int, int], shapes: list[tuple[int, ...]]) -> None:
    seen: dict[int, tuple[int, ...]] = {}

    def note(number: int, x: Tensor) -> Tensor:
        seen[number] = tuple(x.shape[1:])
        return x

    with torch.device("meta"):
        trunk = Trunk(kind, ["all"], own=0)
        trunk.go_on(torch.zeros(2, 3, *size), {n: lambda x, n=n: note(n, x) for n in range(5)})
    assert list(seen.values()) == shapes


def test_an_image_goes_through_its_stream_in_its_place() -> None:
    trunk = small().eval()
    for module, shift in zip(trunk.own.values(), (0.0, 1.0), strict=True):
        module.bn1.bias.data += shift  # copies start equal: tell them apart
    images, domain = torch.randn(5, 3, 32, 16), torch.tensor([2, 0, 1, 2, 0])
    together = trunk.begin(images, domain)
    for n, name in enumerate(["VIS", "IR", "IR", "VIS", "IR"]):
        alone = trunk.own[name](images[n : n + 1])
        torch.testing.assert_close(together[n : n + 1], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(trunk.begin(images, torch.full((5,), 2))[1], together[1])


def test_copies_start_equal_and_learn_apart() -> None:
    trunk = small(own=1, split=4, branches=("first", "second"))
    images, domain = torch.randn(4, 3, 32, 16), torch.tensor([0, 2, 0, 2])
    x = trunk.go_on(trunk.begin(images, domain))
    first, second = trunk.branch("first", x), trunk.branch("second", x)
    assert torch.equal(first, second)
    (first.mean() + 2 * second.mean()).backward()
    one, other = (next(trunk.branches[name].parameters()).grad for name in ("first", "second"))
    torch.testing.assert_close(2 * one, other)  # type: ignore[operator]
    with pytest.raises(ConfigError, match="expected 0 <= own 2"):
        small(split=1, branches=("one",))


def test_a_trunk_is_filled_from_another_of_other_streams() -> None:
    given = {name: torch.randn_like(t.float()) for name, t in small(own=1).state_dict().items()}
    wanted = small(own=2, split=4, branches=("first", "second")).state_dict()
    found = fill(wanted, given)
    assert found.keys() == wanted.keys()
    assert torch.equal(found["own.VIS.conv1.weight"], given["own.VIS.conv1.weight"])
    assert torch.equal(found["own.VIS.layer1.0.conv1.weight"], given["shared.layer1.0.conv1.weight"])
    assert torch.equal(found["branches.second.layer4.1.bn2.bias"], given["shared.layer4.1.bn2.bias"])


def test_an_imagenet_resnet_fills_every_stream_and_branch() -> None:
    from torchvision.models.resnet import BasicBlock, ResNet

    model = nn.Module()
    model.backbone = Trunk("resnet18", ["IR", "VIS"], own=2, split=4, branches=("first", "second"))
    public = ResNet(BasicBlock, [2, 2, 2, 2]).state_dict()
    state = {f"module.{name}": torch.rand_like(t.float()) for name, t in public.items()}  # no variance below 0
    report = weights.load_trunk(model, state)
    assert (report.format, report.coverage, report.missing, report.unexpected) == ("ImageNet ResNet", 1, (), ())
    assert report.ignored == ("fc.weight", "fc.bias")
    for name in ("own.IR.conv1.weight", "own.VIS.conv1.weight"):
        assert torch.equal(model.backbone.state_dict()[name], state["module.conv1.weight"])
    deeper = {f"module.{n}": t for n, t in ResNet(BasicBlock, [2, 2, 3, 2]).state_dict().items()}
    with pytest.raises(ConfigError, match=r"another one: it has .*layer3\.2"):
        weights.load_trunk(model, deeper)
    with pytest.raises(ConfigError, match="covers"):
        weights.load_trunk(model, {"a.weight": torch.ones(3)})


# -- streams and pairs


def test_a_domain_without_a_trained_stream_has_no_place() -> None:
    trained = ["SWIR-30m", "VIS-500m"]
    assert place_in("MWIR-30m", trained, "per_domain") is None
    assert place_in("MWIR-30m", trained, "vis_ir") == 0
    assert place_in("MWIR-30m", ["VIS-500m"], "vis_ir") is None
    assert place_in("MWIR-30m", ["VIS-500m"], "shared") == 0
    assert stream_names(["VIS-500m", "VIS-2.5m"], "per_domain") == ["VIS-500m", "VIS-2_5m"]


def test_pairs_of_four_domains() -> None:
    four = ["LWIR-30m", "MWIR-30m", "SWIR-30m", "VIS-500m"]
    assert len(DomainPairs.of(four, "all").pairs) == 6
    assert DomainPairs.of(four, "vis_ir").pairs == ((0, 3), (1, 3), (2, 3))
    grouped = DomainPairs.of(four, "grouped")
    assert (grouped.pairs, grouped.groups) == (((0, 1),), 2)
    assert grouped.of_images(torch.tensor([3, 0, 1])).tolist() == [1, 0, 0]
    assert list(DomainPairs.of(four, "all").within([0, 2])) == [(0, 2)]
    assert list(DomainPairs.of(four, "all").ordered_within([0, 2])) == [(0, 2), (2, 0)]
    for kind in ("all", "vis_ir", "grouped"):  # of two, all are what the papers have
        assert DomainPairs.of(["NIR", "VIS"], kind).pairs == ((0, 1),)  # type: ignore[arg-type]


# -- pooling and attention


def test_gem_against_scalars() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    for power in (1.0, 3.0, 5.5):
        found = gem(x, power)
        for n in range(2):
            for c in range(3):
                values = [max(float(v), 1e-6) for v in x[n, c].flatten()]
                wanted = (sum(v**power for v in values) / 20) ** (1 / power)
                assert float(found[n, c]) == pytest.approx(wanted, abs=1e-12)
    channels = gem(x, 3.0, dim=1)
    assert channels.shape == (2, 4, 5)
    torch.testing.assert_close(GeM(5.5)(x), gem(x, 5.5))


@pytest.mark.parametrize("inner", ["half", "one"])
@pytest.mark.parametrize("norm", ["softmax", "mean"])
def test_non_local_against_scalars(inner: str, norm: str) -> None:
    torch.manual_seed(0)
    block = NonLocal(4, inner=inner, norm=norm).double().eval()  # type: ignore[arg-type]
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    assert torch.equal(block(x), x)  # it starts as the identity
    nn.init.normal_(block.bn.weight)
    for layer in (block.u, block.v, block.g, block.w):
        nn.init.normal_(layer.weight)
    with torch.no_grad():
        found = block(x).numpy()
        u, v, g = (layer(x).flatten(2).numpy() for layer in (block.u, block.v, block.g))
        w, bias, scale = (t.detach().numpy() for t in (block.w.weight[:, :, 0, 0], block.w.bias, block.bn.weight))
    for n in range(2):
        for i in range(6):
            alike = np.array([u[n, :, i] @ v[n, :, j] for j in range(6)])
            a = np.exp(alike) / np.exp(alike).sum() if norm == "softmax" else alike / 6
            y = sum(a[j] * g[n, :, j] for j in range(6))
            z = scale * (w @ y + bias) / np.sqrt(1 + block.bn.eps)
            wanted = x[n].flatten(1)[:, i].numpy() + z
            np.testing.assert_allclose(found[n].reshape(4, 6)[:, i], wanted, atol=1e-9)


@pytest.mark.parametrize("inner", ["half", "one"])
def test_non_local_is_exported_for_any_number_of_images(inner: str) -> None:
    import onnxruntime

    block = NonLocal(4, inner=inner, norm="mean").eval()  # type: ignore[arg-type]
    nn.init.ones_(block.bn.weight)
    free = {"images": {0: "batch"}, "map": {0: "batch"}}
    file = onnx_model(TracedGraph(block, torch.zeros(2, 4, 3, 2), ("map",), free))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    x = torch.randn(5, 4, 3, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"images": x.numpy()})[0], block(x).numpy(), atol=1e-5)
