"""Recipe onnx: a network in an ONNX file as a system of a study, and for images of one's own; what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import mdfpipe
from mdfpipe.config import validate
from mdfpipe.export.embedder import export
from mdfpipe.learning.embedders import TorchEmbedder, batch_of, drawn_images
from mdfpipe.learning.embedding import open_model
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.system import System
from mdfpipe.store.run import Run
from tests.systems import STRIPED, copied, due, facts, runner, train, vectors

SIZE = {"image_height_px": 32, "image_width_px": 16}
MEANS = {"use": "onnx", **SIZE, "dimensions": 3}
VIDEO = "videos/VIS-500m_b"


def graph(path: Path, shape: list[Any], nodes: list[Any], *, outputs: tuple[str, ...] = ("v",), more: Any = ()) -> Path:
    """An ONNX file of these nodes, from `images`."""
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(more),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("vendor", 1)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=8), path)
    return path


def means(path: Path, shape: tuple[Any, ...] = ("n", 3, 32, 16), axes: tuple[int, int] = (2, 3)) -> Path:
    """The mean of each channel."""
    node = helper.make_node("ReduceMean", ["images"], ["v"], axes=list(axes), keepdims=0)
    return graph(path, list(shape), [node])


def one_at_a_time(path: Path) -> Path:
    """The same with a free axis, and a reshape to one image behind it."""
    shape = numpy_helper.from_array(np.array([1, 3], np.int64), "shape")
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Reshape", ["m", "shape"], ["v"]),
    ]
    return graph(path, ["n", 3, 32, 16], nodes, more=[shape])


GRAPHS: dict[str, Any] = {
    "free batch": means,
    "one image": lambda p: means(p, (1, 3, 32, 16)),
    "three images": lambda p: means(p, (3, 3, 32, 16)),
    "channels last": lambda p: means(p, ("n", 32, 16, 3), (1, 2)),
    "free size": lambda p: means(p, ("n", 3, "h", "w")),
    "reshape to one image": one_at_a_time,
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_layout_and_batch_are_those_of_the_graph(kind: str, tmp_path: Path) -> None:
    """Means of the channels, in the order of the images."""
    weights = GRAPHS[kind](tmp_path / "net.onnx")
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 255, (32, 16, 3)).astype(np.uint8) for _ in range(11)]
    expected = np.stack([image.reshape(-1, 3).mean(0) for image in images])
    plain = {**MEANS, "mean": [0, 0, 0], "std": [1 / 255] * 3}
    found = mdfpipe.Embedder(weights, recipe=plain)(images)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    bgr = mdfpipe.Embedder(weights, recipe={**plain, "augment": {"colour": "bgr"}, "flip_fusion": True})(images)
    np.testing.assert_allclose(bgr, expected[:, ::-1], rtol=1e-4)
    shifted = mdfpipe.Embedder(weights, recipe={**MEANS, "mean": [0.1, 0.2, 0.3], "std": [1, 2, 4]})(images)
    np.testing.assert_allclose(shifted, (expected / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4], rtol=1e-3, atol=1e-5)
    unit = mdfpipe.Embedder(weights, recipe={**plain, "unit_length": True})(images)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)


def test_a_system_of_a_study_gives_the_vectors_of_the_network_that_was_exported(labelled: Path, tmp_path: Path) -> None:
    """The same as the system itself up to rounding; another file is another system's weights; last.pt embeds alone."""
    home = copied(labelled, tmp_path / "home", data=True)
    assert train(home, {"a": {"recipe": STRIPED}})[0].complete
    own = home / "run" / "train" / "a" / "last.pt"
    net = home / "data" / "net.onnx"
    export(own, net)
    recipe, _ = open_model(own)
    vendor = {
        "recipe": {
            "use": "onnx",
            "image_height_px": recipe.image_height_px,
            "image_width_px": recipe.image_width_px,
            "dimensions": recipe.features,
            "augment": recipe.augment.model_dump(),
        },
        "weights": "net.onnx",
    }
    systems = {"a": {"recipe": STRIPED}, "vendor": vendor}
    outcome, _ = train(home, systems)
    assert outcome.complete
    assert facts(home, "vendor")["start"] == ["net.onnx: an ONNX network, kept whole"]
    make, _ = runner(home, systems)
    assert make.execute("embed", "embed").complete
    (names, one), (others, two) = vectors(home, "a", VIDEO), vectors(home, "vendor", VIDEO)
    assert names == others
    assert len(names) > 3
    cosine = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    assert cosine.min() > 0.9999
    receipt = Run(home / "run").receipt("embed/vendor", VIDEO)
    assert receipt is not None
    assert receipt.facts["engine"]["name"] == "onnxruntime"
    assert due(home, systems) == []
    image = np.full((200, 80, 3), 90, np.uint8)
    mine = mdfpipe.Embedder(home / "run" / "train" / "vendor" / "last.pt")(image)
    np.testing.assert_allclose(mine, mdfpipe.Embedder(own)(image), rtol=1e-3, atol=1e-4)
    with pytest.raises(mdfpipe.MdfError, match="expected a network of torch, got one that came from an ONNX file"):
        export(home / "run" / "train" / "vendor" / "last.pt", tmp_path / "again.onnx")
    means(net)
    assert any("vendor" in line for line in due(home, systems))
    weights = str(home / "run" / "train" / "vendor" / "last.pt")
    failure = train(home, {"vendor": {**vendor, "weights": weights}})[0].failures[0]
    assert "expected the file of a network, got a checkpoint of mdfpipe" in failure.message


def two_outputs(path: Path) -> Path:
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["v"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMax", ["images"], ["w"], axes=[2, 3], keepdims=0),
    ]
    return graph(path, ["n", 3, 32, 16], nodes, outputs=("v", "w"))


def single(path: Path, kind: str, outputs: tuple[str, ...] = ("v",), **more: Any) -> Path:
    return graph(path, ["n", 3, 32, 16], [helper.make_node(kind, ["images"], ["v"], **more)], outputs=outputs)


def no_input(path: Path) -> Path:
    node = helper.make_node("Constant", [], ["v"], value=numpy_helper.from_array(np.ones((2, 3), np.float32)))
    made = helper.make_graph([node], "tiny", [], [helper.make_tensor_value_info("v", TensorProto.FLOAT, None)])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def still(path: Path, kinds: tuple[str, ...], **values: float) -> Path:
    """Means that other nodes then change, each with a value where there is one of its turn."""
    more = [numpy_helper.from_array(np.float32(value), name) for name, value in values.items()]
    nodes, name, left = [helper.make_node("ReduceMean", ["images"], ["m"], axes=[2, 3], keepdims=0)], "m", [*values]
    for number, kind in enumerate(kinds):
        last = number + 1 == len(kinds)
        inputs = [name] if kind.startswith("Random") else [name, left.pop(0)]
        name = "v" if last else f"n{number}"
        nodes.append(helper.make_node(kind, inputs, [name]))
    return graph(path, ["n", 3, 32, 16], nodes, more=more)


def no_numbers(path: Path) -> Path:
    nodes = [
        helper.make_node("Sub", ["images", "images"], ["z"]),
        helper.make_node("Div", ["z", "z"], ["q"]),
        helper.make_node("ReduceMean", ["q"], ["v"], axes=[2, 3], keepdims=0),
    ]
    return graph(path, ["n", 3, 32, 16], nodes)


def second_file(path: Path) -> Path:
    value = numpy_helper.from_array(np.ones((3, 64), np.float32), "w")
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["v"]),
    ]
    graph(path, ["n", 3, 32, 16], nodes, more=[value])
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


def torn(path: Path) -> Path:
    path.write_bytes(means(path).read_bytes()[:60])
    return path


def text(path: Path) -> Path:
    path.write_text("not a network")
    return path


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (means, {"dimensions": 512}, r"expected vectors of 512 numbers, got 3; set recipe.dimensions to 3"),
    (means, {"image_height_px": 64}, r"expected images of 64x16 as set, .* set recipe.image_height_px to 32"),
    (means, {"layout": "nhwc"}, "expected an input of 3 channels, got 16 .* set recipe.layout to nchw"),
    (lambda p: means(p, ("n", 1, 32, 16)), {}, "expected an input of 3 channels, got 1 "),
    (lambda p: means(p, ("n", 3, 32), (1, 2)), {}, "expected one input of images, four axes"),
    (lambda p: single(p, "ReduceMean", axes=[1], keepdims=0), {}, r"expected output v of shape \(B, D\), .* got \("),
    (lambda p: single(p, "ReduceMean", axes=[2, 3], keepdims=1), {}, r"got \(1, 3, 1, 1\) of float32; name the output"),
    (two_outputs, {}, "expected one output, or recipe.output with one of 2, got v, w"),
    (two_outputs, {"output": "x"}, "expected an output 'x', got v, w; set recipe.output"),
    (no_input, {}, "expected one input of images, .* got none; export"),
    (lambda p: single(p, "ReduceMean", outputs=(), axes=[2, 3]), {}, "expected an output with vectors, got none"),
    (lambda p: still(p, ("Mul", "Add"), zero=0, one=1), {}, "gives a grey and a noisy image the same vector"),
    (lambda p: still(p, ("RandomUniformLike", "Add"), one=1), {}, "gives an image another vector at another time"),
    (no_numbers, {}, "gives vectors of a grey image that are no numbers"),
    (lambda p: single(p, "RunMe", domain="vendor"), {}, "expected an ONNX network of standard operators .*RunMe"),
    (second_file, {"dimensions": 64}, "whose weights lie in a second file"),
    (torn, {}, "net.onnx: an ONNX network, truncated or damaged"),
    (text, {}, "net.onnx: expected an ONNX network, got "),
    (means, {"schedule": {"length": 3}}, "expected schedule.length 0, got 3: an ONNX network is not trained"),
    (means, {"mean": [0, 0, 0]}, "expected mean and std, or neither"),
    (means, {"mean": [0, 0, 0], "std": [1, 0, 1]}, "expected std above 0"),
    (means, {"mean": [0, 0, 0], "std": [1, 1, 1], "augment": {"normalise": "imagenet"}}, "got both"),
]


@pytest.mark.parametrize(("make", "settings", "words"), REFUSED)
def test_each_fault_is_one_clear_line(
    make: Any, settings: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # in which a second file lies, if there is one
    with pytest.raises(mdfpipe.MdfError, match=words) as caught:
        mdfpipe.Embedder(make(tmp_path / "net.onnx"), recipe={**MEANS, **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "recipe onnx: expected weights"),
        ({"weights": "a", "engine": "openvino"}, "runs under onnxruntime, got engine openvino"),
        ({"weights": "a", "precision": "fp16"}, "runs as its file has it, got precision fp16"),
        ({"weights": "a", "validation": {"subjects": 2}, "keep": "best"}, "keep: best needs"),
    ],
)
def test_a_system_says_what_it_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(mdfpipe.MdfError, match=words):
        validate(System, {"recipe": MEANS, **settings}, "systems.vendor")


def test_one_of_several_outputs_and_a_missing_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = two_outputs(tmp_path / "net.onnx")
    recipe: Any = validate(Recipe.variant("onnx"), {**SIZE, "dimensions": 3, "output": "w"}, "")
    network = recipe.model(0, [])
    recipe.load(network, recipe.read(weights, None, trust_pickle=False).tensors, "net.onnx", 0.9)
    images = drawn_images(recipe)
    found = TorchEmbedder(recipe, network)(batch_of(images, 0))
    np.testing.assert_allclose(found, torch.amax(images, (2, 3)).numpy(), rtol=1e-5)
    with pytest.raises(mdfpipe.MdfError, match="precision fp16: recipe onnx runs as its file has it"):
        mdfpipe.Embedder(weights, recipe={**MEANS, "output": "w"}, precision="fp16")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(mdfpipe.MdfError, match=r"onnx"):
        mdfpipe.Embedder(weights, recipe={**MEANS, "output": "w"})
