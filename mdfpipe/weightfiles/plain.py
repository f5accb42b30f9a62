"""Values that may be stored with tensors: plain data that can run nothing.

torch's own reader of tensors (`weights_only`) takes tensors, numbers, text, lists and dictionaries. People keep more in
their checkpoints: best accuracies as NumPy scalars, curves as arrays, dates, paths, the command line. `PLAIN` lets that
pass, by stand-ins where the class itself can do more than hold a value. An array of objects is refused.
"""

from __future__ import annotations

import argparse
import datetime
import decimal
import fractions
import pathlib
import types
import uuid
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch

from mdfpipe.errors import one_line


class Refused(Exception):  # noqa: N818 - why, in words
    """A value that appears plain and is not."""


class _Dtype:
    """The type of an array's elements as a pickle builds it: numbers, text, dates, records of these; never objects."""

    def __init__(self, name: Any = "V", *_: Any) -> None:
        self.name = _decoded(name)
        self.found = self._of(self.name)

    @staticmethod
    def _of(name: Any) -> np.dtype[Any]:
        if isinstance(name, type) and issubclass(name, np.generic):
            name = np.dtype(name).str
        if not isinstance(name, str) or len(name) > 40:
            raise Refused(f"it holds a NumPy type {one_line(repr(name), 40)}")
        found = np.dtype(name)
        if found.hasobject or found.fields:
            raise Refused("it holds a NumPy array of objects, which can be anything")
        return found

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Byte order, names, fields, size: what NumPy writes after the type's name."""
        _, order, inner, names, fields, size = state[:6]
        if inner is not None:
            base, shape = inner
            self.found = np.dtype((base.found, tuple(int(n) for n in shape)))
        elif names is not None:
            parts = [(fields[name][0].found, int(fields[name][1])) for name in names]
            made = {"names": [_decoded(n) for n in names], "formats": [p for p, _ in parts], "itemsize": int(size)}
            record: Any = {**made, "offsets": [at for _, at in parts]}
            self.found = np.dtype(record)
        elif self.found.kind in "mM" and len(state) > 8:
            unit, number, *_ = state[8][1]
            self.found = np.dtype(f"{self.found.kind}8[{int(number)}{_decoded(unit)}]")
        if (order := _decoded(order)) in "<>" and inner is None and names is None:
            self.found = self.found.newbyteorder(order)


class Array:
    """An array as a pickle builds it. value: the array; None where it never got one."""

    def __init__(self, *_: Any) -> None:
        self.value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Version, shape, type, order of its axes, bytes."""
        shape, kind, by_columns, data = state[-4:]
        if not isinstance(kind, _Dtype) or not isinstance(data, str | bytes | bytearray):
            raise Refused("it holds a NumPy array of objects, which can be anything")
        data = data.encode("latin1") if isinstance(data, str) else bytes(data)
        flat = np.frombuffer(data, kind.found)
        self.value = flat.reshape(tuple(map(int, shape)), order="F" if by_columns else "C")


def _array(*_: Any) -> Array:
    return Array()


def _list(values: Any = (), *_: Any) -> list[Any]:
    return list(values)


def _dict(*_: Any) -> dict[Any, Any]:
    return {}


def _scalar(kind: Any, data: Any = None) -> Any:
    if not isinstance(kind, _Dtype) or not isinstance(data, str | bytes):
        raise Refused("it holds a NumPy scalar that is an object, which can be anything")
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, kind.found)[0] if kind.found.itemsize else kind.found.type()


def _decoded(text: Any) -> Any:
    return text.decode("latin1") if isinstance(text, bytes) else text


def _path(*parts: Any) -> pathlib.PurePath:
    return pathlib.PurePosixPath(*map(str, parts))


def _windows_path(*parts: Any) -> pathlib.PurePath:
    return pathlib.PureWindowsPath(*map(str, parts))


def _plain() -> Iterator[tuple[Any, str]]:
    """(what is called, the name in a pickle)."""
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        yield from ((_array, f"{module}._reconstruct"), (_scalar, f"{module}.scalar"))
    yield from ((Array, "numpy.ndarray"), (Array, "numpy.memmap"), (_Dtype, "numpy.dtype"))
    numbers = [np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
    numbers += [np.float16, np.float32, np.float64, np.complex64, np.complex128]
    for number in numbers:
        yield number, f"numpy.{number.__name__}"
    yield np.bool_, "numpy.bool_"
    for module in ("pathlib", "pathlib._local", "pathlib._abc"):
        yield from ((_path, f"{module}.{name}") for name in ("Path", "PosixPath", "PurePath", "PurePosixPath"))
        yield from ((_windows_path, f"{module}.{name}") for name in ("WindowsPath", "PureWindowsPath"))
    yield from ((_dict, "collections.defaultdict"), (_list, "collections.deque"))  # torch fills plain ones only
    held: list[Any] = [
        *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone),
        *(argparse.Namespace, types.SimpleNamespace, decimal.Decimal, fractions.Fraction, uuid.UUID),
        torch.torch_version.TorchVersion,
        *(list, dict, tuple, frozenset, bytes, str, int, float, bool, range, slice),
    ]
    for kind in held:
        yield kind, f"{kind.__module__}.{kind.__qualname__}"


PLAIN: Final = tuple(_plain())
"""What may accompany tensors, for `torch.serialization.safe_globals`: it holds values, and can run nothing."""
PLAIN_NAMES: Final = frozenset(name for _, name in PLAIN)
