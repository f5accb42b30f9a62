"""What a weight file declares, without running or unpickling any of it.

ONNX is read with a few lines of protobuf (names, shapes, operators; never the weights), safetensors by its JSON
header, and a file of PyTorch by its members and by what opens without running anything.
"""

from __future__ import annotations

import json
import math
import mmap
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mdfpipe.errors import ConfigError, DataError, one_line
from mdfpipe.store.content import Content, Kind, content_of
from mdfpipe.store.hashing import file_sha256
from mdfpipe.weightfiles import describe_sets

SUFFIXES: Final = frozenset({".onnx", ".pt", ".pth", ".ckpt", ".safetensors"})
LONGEST_HEADER: Final = 100_000_000  # bytes of a safetensors header, as its own specification has it
_SHOWN = 20

_ONNX_TYPES: Final = {1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool"} | {
    10: "float16",
    11: "float64",
    16: "bfloat16",
}


def describe_weights(path: Path) -> tuple[dict[str, Any], list[str]]:
    """(facts, notes) of a weight file, by its content. Raises DataError where it is none, and says what it is."""
    size = path.stat().st_size
    content = content_of(path)
    if content.kind is Kind.ONNX:
        found, notes = _onnx(path)
    elif content.kind is Kind.SAFETENSORS:
        found, notes = _safetensors(path, size)
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


def _safetensors(path: Path, size: int) -> tuple[dict[str, Any], list[str]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise DataError(
                f"{path}: expected a safetensors file, got a header of {length} bytes in a file of {size}; get it again"
            )
        try:
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            tensors = {name: (str(t["dtype"]), [int(n) for n in t["shape"]]) for name, t in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise DataError(
                f"{path}: expected a safetensors file, got a header that is not its JSON; get it again"
            ) from None
    kinds: Counter[str] = Counter()
    for dtype, shape in tensors.values():
        kinds[dtype] += math.prod(shape)
    facts: dict[str, Any] = {"format": "safetensors", "tensors": len(tensors), "parameters": sum(kinds.values())}
    facts["parameters by type"] = dict(kinds)
    shown = list(tensors.items())[:_SHOWN]
    facts["first tensors"] = {one_line(name, 100): f"{dtype} {tuple(shape)}" for name, (dtype, shape) in shown}
    if isinstance(metadata, dict) and metadata:
        facts["metadata"] = {one_line(k, 60): one_line(v, 200) for k, v in list(metadata.items())[:_SHOWN]}
    return facts, []


# -- PyTorch


def _torch(path: Path, content: Content) -> tuple[dict[str, Any], list[str]]:
    """Its members, and its sets of tensors where they can be read without running anything."""
    facts: dict[str, Any] = {"format": content.what}
    if content.kind is Kind.TORCH:
        with zipfile.ZipFile(path) as archive:
            members = [(one_line(m.filename, 120), m.file_size) for m in archive.infolist()]
        largest = sorted(members, key=lambda m: (-m[1], m[0]))[:_SHOWN]
        facts |= {"format": "PyTorch zip", "members": len(members), "bytes unpacked": sum(n for _, n in members)}
        facts["pickles"] = [name for name, _ in members if name.endswith(".pkl")][:_SHOWN]
        facts["largest members"] = dict(largest)
    try:
        found = describe_sets(path)
    except ConfigError as error:
        why = str(error).removeprefix(f"{path}: ").partition("; ")[0]
        return facts, [f"its tensors are not listed, nothing in it was opened: {why}"]
    sizes = list(found.sizes.items())[:_SHOWN]
    facts["sets of tensors"] = {one_line(n, 100) or "bare": f"{k} tensors, {size} numbers" for n, (k, size) in sizes}
    facts |= {"declares": one_line(found.note, 200)} if found.note else {}
    return facts, [*found.lines, *found.doubts]


# -- ONNX: protobuf messages as (field number, value) pairs; see onnx.proto for the numbers


def _onnx(path: Path) -> tuple[dict[str, Any], list[str]]:
    wrong = f"{path}: expected an ONNX model, got a file that does not read as one; get or export it again"
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            facts = _model(memoryview(data))
    except (ValueError, IndexError, UnicodeDecodeError, TypeError, BufferError):
        raise DataError(wrong) from None
    if not facts["inputs"] and not facts["outputs"]:
        raise DataError(wrong)
    return facts, []


def _model(data: memoryview) -> dict[str, Any]:
    facts: dict[str, Any] = {"format": "ONNX", "producer": "", "opset": [], "inputs": {}, "outputs": {}}
    metadata: dict[str, str] = {}
    with data:
        for number, value in _fields(data):
            if number in (2, 3):
                facts["producer"] = f"{facts['producer']} {_text(value)}".strip()
            elif number == 7:
                facts |= _graph(value)
            elif number == 8:
                opset = dict(_fields(value))
                facts["opset"].append(f"{_text(opset[1]) if opset.get(1) else 'ai.onnx'} {opset.get(2, 0)}")
            elif number == 14:
                pair = dict(_fields(value))
                metadata[_text(pair[1])] = _text(pair.get(2, b""))
    if metadata:
        facts["metadata"] = dict(list(metadata.items())[:_SHOWN])
    return facts


def _graph(data: memoryview) -> dict[str, Any]:
    operators: Counter[str] = Counter()
    values: dict[int, dict[str, str]] = {11: {}, 12: {}}
    kept: set[str] = set()
    parameters = 0
    for number, value in _fields(data):
        if number == 1:
            operators[next((_text(v) for n, v in _fields(value) if n == 4), "?")] += 1
        elif number == 5:
            name, count = _initializer(value)
            kept.add(name)
            parameters += count
        elif number in values:
            name, shape = _value_info(value)
            values[number][name] = shape
    return {
        "inputs": {name: shape for name, shape in values[11].items() if name not in kept},
        "outputs": values[12],
        "parameters": parameters,
        "nodes": operators.total(),
        "operators": dict(operators.most_common(12)),
    }


def _initializer(data: memoryview) -> tuple[str, int]:
    dims: list[int] = []
    name = ""
    for number, value in _fields(data):
        if number == 1:
            dims += [value] if isinstance(value, int) else _varints(value)
        elif number == 8:
            name = _text(value)
    return name, math.prod(dims)


def _value_info(data: memoryview) -> tuple[str, str]:
    fields = dict(_fields(data))
    tensor = dict(_fields(dict(_fields(fields.get(2, b""))).get(1, b"")))
    kind = _ONNX_TYPES.get(tensor.get(1, 0), f"type {tensor.get(1, 0)}")
    dims = []
    for number, value in _fields(tensor.get(2, b"")):
        if number == 1:
            dim = dict(_fields(value))
            dims.append(str(dim[1]) if 1 in dim else _text(dim[2]) if 2 in dim else "?")
    return _text(fields[1]) if 1 in fields else "?", f"{kind} ({', '.join(dims)})"


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: numbers as int, everything of a length as a view. Raises ValueError."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire not in (1, 2, 5):
            raise ValueError("not a protobuf message")
        length = {1: 8, 5: 4}.get(wire, 0)
        if wire == 2:
            length, at = _varint(data, at)
        if at + length > len(data):
            raise ValueError("a field reaches beyond its message")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: Any, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without an end")


def _varints(data: Any) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value)
    return values


def _text(data: Any) -> str:
    return one_line(bytes(data).decode("utf-8"), 120)
