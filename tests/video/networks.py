"""Plain frames, and tiny ONNX networks whose answers are known. Import relatively: `from .networks import says`."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mdfpipe.video.detectors.onnx import Onnx
from mdfpipe.video.frames import Frames


def frames(pixels, first=0):
    pixels = np.asarray(pixels, np.uint8)
    return Frames(pixels, np.arange(first, first + len(pixels)), np.full(len(pixels), np.nan))


def plain(n=3, size=(64, 64), colour=(10, 20, 30)):
    return frames(np.broadcast_to(np.array(colour, np.uint8), (n, *size, 3)))


def save(path, nodes, output, *, shape=("b", 3, "h", "w"), dtype=TensorProto.FLOAT, constants=()):
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", dtype, shape)],
        [helper.make_tensor_value_info("output", dtype, output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def says(path, rows, *, shape=("b", 3, "h", "w"), half=False):
    """A network that answers (rows, columns) for every frame of the batch, whatever it shows."""
    kind, dtype = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    rows = np.asarray(rows, kind)
    nodes = [
        helper.make_node("Shape", ["images"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "ones"], ["size"], axis=0),
        helper.make_node("Expand", ["rows", "size"], ["output"]),
    ]
    constants = [("rows", rows[None]), ("ones", np.array([1, 1], np.int64))]
    return save(path, nodes, [None, *rows.shape], shape=shape, dtype=dtype, constants=constants)


def tells_its_input(path, shape=("b", 3, "h", "w"), at=(0, 0)):
    """A YOLOv10-shaped network whose one box is [channel 0, channel 1, 1000 + channel 2, 1000 + batch] of a pixel."""
    nodes = [
        helper.make_node("Slice", ["images", "from", "to", "axes"], ["pixel"]),
        helper.make_node("Reshape", ["pixel", "b3"], ["colour"]),
        helper.make_node("Shape", ["images"], ["batch"], start=0, end=1),
        helper.make_node("Cast", ["batch"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["batch", "one"], ["b1"], axis=0),
        helper.make_node("Expand", ["count", "b1"], ["counts"]),
        helper.make_node("Expand", ["certain", "b1"], ["score"]),
        helper.make_node("Sub", ["score", "score"], ["class"]),
        helper.make_node("Concat", ["colour", "counts", "score", "class"], ["flat"], axis=1),
        helper.make_node("Add", ["flat", "base"], ["row"]),
        helper.make_node("Unsqueeze", ["row", "one"], ["output"]),
    ]
    constants = [
        ("from", np.array(at, np.int64)),
        ("to", np.array(at, np.int64) + 1),
        ("axes", np.array([2, 3], np.int64)),
        ("b3", np.array([-1, 3], np.int64)),
        ("one", np.array([1], np.int64)),
        ("certain", np.array([[0.75]], np.float32)),
        ("base", np.array([0, 0, 1000, 1000, 0, 0], np.float32)),
    ]
    return save(path, nodes, [None, 1, 6], shape=shape, constants=constants)


def onnx_boxes(path, given=None, **settings):
    detect = Onnx(weights=str(path), **settings).open(path.parent, "v", device="cpu", threads=1)
    return detect(given or plain())


def v10_rows(*rows, n=8):
    return np.concatenate([np.array(rows, np.float32).reshape(-1, 6), np.zeros((n - len(rows), 6), np.float32)])
