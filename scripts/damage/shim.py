"""The library of `calls.c` in this process: calls that fail, a full disk, an end at a call, what is unsynced.

It has to be loaded before Python starts, so that `preload` starts the script again. Without it, of all calls only those
of Python's own `os` fail that make, name, remove and sync files.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CALLS = (
    *("any", "open", "make", "read", "write", "fsync", "rename", "link", "unlink", "mkdir", "cut", "close", "list"),
    "stat",
)
_OF_PYTHON = {"fsync": "fsync", "replace": "rename", "rename": "rename", "link": "link", "unlink": "unlink"}
_OF_PYTHON |= {"mkdir": "mkdir"}
ONCE, FROM_THEN_ON, KILL = range(3)
_VARIABLE = "FAULTS_LIBRARY"  # the tests' package takes away those that begin with MDFPIPE
_ENTRY, _ENTRIES = struct.Struct("LL"), 4096
_replaced: dict[str, Any] = {}
_count: Counter[str] = Counter()
_table = mmap.mmap(-1, _ENTRY.size * _ENTRIES)  # shared with the processes that are forked


def preload() -> bool:
    """Start this script again under the library, if it is not; False where no C compiler is there to make it."""
    if _VARIABLE in os.environ:
        os.environ.pop("LD_PRELOAD", None)  # not for the commands that are started from here
        shutil.rmtree(os.environ[_VARIABLE])
        return True
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return False
    folder = tempfile.mkdtemp(prefix="mdfpipe-faults-")
    made, source = Path(folder, "calls.so"), Path(__file__).with_name("calls.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(made), _VARIABLE: folder}
    return bool(os.execve(sys.executable, [sys.executable, *sys.argv], environment))  # noqa: S606


def arm(folder: Path, call: str = "", which: int = 0, number: int = 0, mode: int = ONCE, room: int = -1) -> None:
    """From now on: the call number `which` of that kind to a file below `folder` fails with `number`, or ends us.

    room: bytes that can still be written before the disk is full; -1: any number.
    """
    _table[:] = bytes(len(_table))
    if not is_loaded():
        _replace(os.fspath(folder), call, which, number, mode)
        return
    address = ctypes.addressof(ctypes.c_char.from_buffer(_table))
    kind = CALLS.index(call) if call else -1
    ctypes.CDLL(None).faults_arm(
        os.fsencode(folder),
        kind,
        *(ctypes.c_long(which), number, mode, ctypes.c_long(room)),
        *(ctypes.c_void_p(address), ctypes.c_long(_ENTRIES)),
    )


def is_loaded() -> bool:
    """Whether this process runs under the library."""
    return _VARIABLE in os.environ


def disarm() -> None:
    """Nothing fails from now on."""
    if is_loaded():
        ctypes.CDLL(None).faults_disarm()
    for name, real in _replaced.items():
        setattr(os, name, real)
    _replaced.clear()


def _replace(folder: str, call: str, which: int, number: int, mode: int) -> None:
    """The same for what Python itself calls."""
    _count.clear()

    def instead(name: str, real: Any) -> Any:
        def tried(*given: Any, **more: Any) -> Any:
            kind, path = _OF_PYTHON[name], str(given[0])
            if path.startswith(folder) or name == "fsync":
                _count.update((kind, "any"))
                now = _count[call]
                if call in (kind, "any") and (now == which or (now > which > 0 and mode == FROM_THEN_ON)):
                    if mode == KILL:
                        os._exit(1)
                    raise OSError(number, os.strerror(number), path)
            return real(*given, **more)

        return tried

    for name in _OF_PYTHON:
        _replaced[name] = getattr(os, name)
        setattr(os, name, instead(name, _replaced[name]))


def counted() -> Mapping[str, int]:
    """How many calls of each kind there were; and "room": how many bytes were written."""
    if not is_loaded():
        return Counter(_count)
    library = ctypes.CDLL(None)
    library.faults_count.restype = ctypes.c_long
    return {name: library.faults_count(n) for n, name in enumerate((*CALLS, "room"))}


def unsynced(folder: Path) -> list[Path]:
    """The files below a folder that were written, and not synced after that."""
    entries = (_ENTRY.unpack_from(_table, n * _ENTRY.size) for n in range(_ENTRIES))
    dirty = {inode for inode, written in entries if written}
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_ino in dirty]
