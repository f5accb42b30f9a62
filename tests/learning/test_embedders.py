"""Embedders: each recipe's network gives the same vectors under another engine, whatever is in a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mdfpipe.errors import ConfigError
from mdfpipe.learning.data.batches import CropBatch
from mdfpipe.learning.embedders import (
    CPU_BATCH,
    TorchEmbedder,
    TracedEmbedder,
    agreement,
    batch_of,
    drawn_images,
)
from mdfpipe.learning.recipes import Recipe
from mdfpipe.machine.engines import EngineAsked, is_present
from tests.learning.made import DOMAINS
from tests.learning.trained import Toy, tiny

NEEDS_OPENVINO = pytest.mark.skipif(not is_present("openvino"), reason="NOT TESTED: OpenVINO needs the extra openvino")
TWO = DOMAINS[:2]
STRIPED: dict[str, Any] = {"backbone": "striped", "width": 8, "image_height_px": 96}
CASES = [
    ("openvino", "body", {"parts": ["torso"], "fusion": "ffn", "test_feature": "neck"}),
    ("openvino", "body", {**STRIPED, "flip_fusion": True}),
    ("openvino", "dfw", {"test_feature": "neck"}),
    ("openvino", "lccrf", {"normalise": True, "streams": "vis_ir"}),
    ("onnxruntime", "body", {**STRIPED, "flip_fusion": True}),
    ("onnxruntime", "di2l", {}),
    ("onnxruntime", "face", {}),
    ("onnxruntime", "idkl", {}),
]
assert {use for _, use, _ in CASES} == set(Recipe.methods())


def made(recipe: Recipe) -> nn.Module:
    """A network whose streams and statistics differ."""
    torch.manual_seed(3)
    network = recipe.model(0, TWO)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.dtype.is_floating_point:
                value.add_(torch.randn_like(value) * 0.02)
    return network.to(memory_format=torch.channels_last).eval()


def both(
    recipe: Recipe, engine: str, precision: str = "fp32", network: nn.Module | None = None
) -> tuple[TorchEmbedder, TracedEmbedder]:
    network = network or made(recipe)
    asked = EngineAsked(engine, "torch", "systems.a.engine", "embed/a")
    return TorchEmbedder(recipe, network), TracedEmbedder(recipe, network, TWO, engine, precision, asked, "a.pt")


def mixed(recipe: Recipe) -> CropBatch:
    """A crop of each domain in turn."""
    places = torch.arange(CPU_BATCH) % len(TWO)
    none = torch.zeros_like(places)
    return CropBatch(drawn_images(recipe), none, places, none, none, none, none)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(("engine", "use", "settings"), CASES, ids=str)
def test_vectors_of_each_engine_are_those_of_torch_each_by_the_stream_of_its_domain(
    engine: str, use: str, settings: dict[str, Any]
) -> None:
    if not is_present(engine):
        pytest.skip(f"NOT TESTED: {engine} is an extra")
    recipe = tiny(use, **settings)
    one, other = both(recipe, engine)
    batch = mixed(recipe)
    expected, found = one(batch), other(batch)
    assert found.dtype == np.float32
    cosine, length = agreement(found, expected)
    assert cosine > 0.999999
    assert length < 1e-4
    streams = len({recipe.stream_at(place, TWO) for place in range(len(TWO))})
    assert len(other.runs) == streams
    if streams > 1:  # the streams differ, or this says nothing
        assert agreement(one(batch_of(batch.images, 0)), one(batch_of(batch.images, 1)))[0] < 0.9999


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", pytest.param("openvino", marks=NEEDS_OPENVINO)])
@pytest.mark.parametrize(("use", "settings"), [("body", STRIPED), ("body", {})], ids=str)
def test_a_vector_depends_on_nothing_else_in_its_batch(engine: str, use: str, settings: dict[str, Any]) -> None:
    """To the last bit: with other neighbours, at another place."""
    recipe = tiny(use, **settings)
    plain, traced = both(recipe, engine)
    embedder = plain if engine == "torch" else traced
    images = drawn_images(recipe)
    expected = embedder(batch_of(images, 0))
    for change in (images.flip(0), torch.cat([images[:1], 1 - images[1:]])):
        found = embedder(batch_of(change, 0))
        rows = slice(None, None, -1) if torch.equal(change, images.flip(0)) else slice(None)
        assert found[rows][0].tobytes() == expected[0].tobytes()


@NEEDS_OPENVINO
def test_a_precision_of_openvino() -> None:
    from mdfpipe.machine.engines import openvino

    if "BF16" not in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("NOT TESTED: this processor does not compute in bf16")
    recipe = tiny("body", **STRIPED)
    one, other = both(recipe, "openvino", "bf16")
    cosine, length = agreement(other(mixed(recipe)), one(mixed(recipe)))
    assert 0.99 < cosine < 0.9999999
    assert length < 0.05


class OfEach(nn.Module):
    """A network in Python's own hands: one vector, however many images there are."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"z": images.mean((0, 2, 3))[None]}


@pytest.mark.parametrize(
    ("engine", "precision", "said"),
    [
        ("onnxruntime", "bf16", r"systems\.a\.precision bf16: engine onnxruntime runs this network in fp32; take"),
        ("tensorrt", "fp32", r"systems\.a\.engine tensorrt: runs on a GPU, got --device cpu"),
        ("onnxruntime", "fp32", r"a\.pt: expected vectors of \(8, \d+\) from onnxruntime, got \(1, 3\): .*take engine"),
    ],
)
def test_what_an_engine_cannot_do_is_one_line(engine: str, precision: str, said: str) -> None:
    network = OfEach() if (engine, precision) == ("onnxruntime", "fp32") else None
    recipe = tiny("body", **STRIPED)
    _, traced = both(recipe, engine, precision, network)
    with pytest.raises(ConfigError, match=said) as caught:
        traced(mixed(recipe))
    assert "\n" not in str(caught.value)


def test_agreement_of_vectors() -> None:
    one = np.array([[3, 4], [0, 0]], np.float32)
    assert agreement(one, one) == (1.0, 0.0)
    cosine, length = agreement(np.array([[4, 3], [0, 0]], np.float32) * 1.1, one)
    assert (cosine, length) == pytest.approx((0.96, 0.1), abs=1e-6)
    assert not agreement(np.array([[np.nan, 1], [0, 0]], np.float32), one)[0] >= 0.9


def test_networks_of_images_alone_have_one_stream() -> None:
    assert {Toy().stream_at(place, DOMAINS) for place in range(3)} == {0}
    recipe = tiny("lccrf", streams="vis_ir")
    assert [recipe.stream_at(place, ["MWIR-30m", "VIS-500m", "SWIR-30m"]) for place in range(3)] == [0, 1, 0]
