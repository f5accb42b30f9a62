"""What a weight file declares, without running or unpickling any of it.

ONNX and safetensors are read by their libraries, and a file of PyTorch by its members and by what opens without running
anything.
"""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mdfpipe.errors import ConfigError, DataError, counted, not_loaded, one_line
from mdfpipe.store.content import Content, Kind, content_of
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.limits import refuse_larger

if TYPE_CHECKING:
    import onnx

SUFFIXES: Final = frozenset({".onnx", ".pt", ".pth", ".ckpt", ".safetensors"})
_SHOWN = 20


def describe_weights(path: Path) -> tuple[dict[str, Any], list[str]]:
    """(facts, notes) of a weight file, by its content. Raises DataError if it is none."""
    size = path.stat().st_size
    content = content_of(path)
    if content.kind is Kind.ONNX:
        found, notes = _onnx(path, size)
    elif content.kind is Kind.SAFETENSORS:
        found, notes = _safetensors(path)
    elif content.kind in (Kind.TORCH, Kind.LEGACY, Kind.TAR):
        found, notes = _torch(path, content)
    elif content.kind is Kind.PICKLE:
        found, notes = (
            {"format": content.what},
            [f"it is not opened: opening a pickle runs what it says; {content.advice}"],
        )
    else:
        raise DataError(f"{path}: expected weights of torch, safetensors or ONNX, got {content.what}; {content.advice}")
    return {"bytes": size} | found | {"sha256": file_sha256(path)}, notes


# -- safetensors


def _safetensors(path: Path) -> tuple[dict[str, Any], list[str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:  # maps the file and checks its header; reads no tensor
            metadata = file.metadata() or {}
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it has no iterator
            tensors = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        why = one_line(error, 160)
        raise DataError(f"{path}: expected a whole safetensors file, got a damaged one ({why}); get it again") from None
    kinds: Counter[str] = Counter()
    for dtype, shape in tensors.values():
        kinds[dtype] += math.prod(shape)
    facts: dict[str, Any] = {"format": "safetensors", "tensors": len(tensors), "parameters": sum(kinds.values())}
    facts["parameters by type"] = dict(kinds)
    shown = list(tensors.items())[:_SHOWN]
    facts["first tensors"] = {one_line(name, 100): f"{dtype} {tuple(shape)}" for name, (dtype, shape) in shown}
    if metadata:
        facts["metadata"] = {one_line(k, 60): one_line(v, 200) for k, v in list(metadata.items())[:_SHOWN]}
    return facts, []


# -- PyTorch


def _torch(path: Path, content: Content) -> tuple[dict[str, Any], list[str]]:
    """Its members, and its sets of tensors where they can be read without running anything."""
    from mdfpipe.weightfiles import describe_sets  # loads torch

    facts: dict[str, Any] = {"format": content.what}
    if content.kind is Kind.TORCH:
        with zipfile.ZipFile(path) as archive:
            members = [(one_line(m.filename, 120), m.file_size) for m in archive.infolist()]
        largest = sorted(members, key=lambda m: (-m[1], m[0]))[:_SHOWN]
        facts |= {"format": "PyTorch zip", "members": len(members), "bytes unpacked": sum(n for _, n in members)}
        facts["pickles"] = [name for name, _ in members if name.endswith(".pkl")][:_SHOWN]
        facts["largest members"] = dict(largest)
    try:
        sets, taken = describe_sets(path)
    except ConfigError as error:
        why = str(error).removeprefix(f"{path}: ").partition("; ")[0]
        return facts, [f"its tensors are not listed, nothing in it was opened: {why}"]
    sizes = list(sets.items())[:_SHOWN]
    facts["sets of tensors"] = {
        one_line(n, 100) or "bare": f"{counted(k, 'tensor')}, {counted(size, 'number')}" for n, (k, size) in sizes
    }
    facts |= {"declares": one_line(taken.note, 200)} if taken.note else {}
    return facts, [*taken.lines, *taken.doubts]


# -- ONNX


def _onnx(path: Path, size: int) -> tuple[dict[str, Any], list[str]]:
    refuse_larger(2 * size, size, str(path))  # its bytes, and the message made of them
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise not_loaded(error, "onnx", "mdfpipe inspect of an ONNX model", extra="onnx") from None
    wrong = f"{path}: expected an ONNX model, got a file that does not read as one; get or export it again"
    try:
        facts = _model(onnx.load(path, load_external_data=False))
    except (DecodeError, ValueError):
        raise DataError(wrong) from None
    if not facts["inputs"] and not facts["outputs"]:
        raise DataError(wrong)
    return facts, []


def _model(model: onnx.ModelProto) -> dict[str, Any]:
    graph = model.graph
    kept = {tensor.name for tensor in graph.initializer}
    operators = Counter(_text(node.op_type) or "?" for node in graph.node)
    facts = {
        "format": "ONNX",
        "producer": f"{_text(model.producer_name)} {_text(model.producer_version)}".strip(),
        "opset": [f"{_text(opset.domain) or 'ai.onnx'} {opset.version}" for opset in model.opset_import],
        "inputs": {_text(value.name): _shape(value) for value in graph.input if value.name not in kept},
        "outputs": {_text(value.name): _shape(value) for value in graph.output},
        "parameters": sum(math.prod(tensor.dims) for tensor in graph.initializer),
        "nodes": operators.total(),
        "operators": dict(operators.most_common(12)),
    }
    metadata = {_text(pair.key): _text(pair.value) for pair in model.metadata_props[:_SHOWN]}
    return facts | ({"metadata": metadata} if metadata else {})


def _shape(value: onnx.ValueInfoProto) -> str:
    """Type and shape of an input or output, such as `float32 (1, 3, height, width)`."""
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    try:
        kind = tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError:
        kind = f"type {tensor.elem_type}"
    dims = [str(getattr(dim, dim.WhichOneof("value") or "", "?")) for dim in tensor.shape.dim]
    return f"{kind} ({_text(', '.join(dims))})"


def _text(text: str) -> str:
    return one_line(text, 120)
