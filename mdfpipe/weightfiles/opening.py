"""Opening checkpoints: tensors and plain values out of any file, and nothing in it is run.

A checkpoint of torch is a pickle, and a pickle can run anything. It is opened by torch's own reader of tensors, which
takes what it knows and what `plain.py` adds; what needs more is refused by name, unless the user trusts who made it.
"""

from __future__ import annotations

import _compat_pickle
import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from mdfpipe.errors import ConfigError, DataError, one_line, refuse_lack_of_memory, some
from mdfpipe.store.content import Content, Kind, content_of
from mdfpipe.store.limits import refuse_large_archive, refuse_larger
from mdfpipe.weightfiles.plain import PLAIN, PLAIN_NAMES, Refused

Load = Callable[[Path, bool], Any]
"""Opens a file of torch; True: tensors and plain values only."""


def open_tensors(path: Path, *, trust_pickle: bool = False, load: Load | None = None) -> Any:
    """What a checkpoint holds, on the CPU: of safetensors a dictionary of tensors, else what torch saved.

    The content decides, not the suffix. NumPy arrays come as `plain.Array`. trust_pickle: open with pickle, which runs
    what the file says, where tensors and plain values do not do. load: opens a file of torch in a library's own way.
    Raises ConfigError: what is no checkpoint, damaged, or not safe to open.
    """
    content = _expect_checkpoint(path)
    _refuse_large(path, content)
    if content.kind is Kind.SAFETENSORS:
        return _safetensors(path)
    if content.kind is Kind.TORCH and (record := _spoilt_record(path)) is not None:
        raise ConfigError(
            f"{path}: {content.what}, damaged: the bytes of {one_line(record, 80)} do not have the checksum that the "
            "file notes; get it again"
        )
    load = load or _load
    with _taking_plain():
        try:
            return _refuse_spread(load(path, True), path)
        except ConfigError:
            raise
        except Exception as error:  # torch and pickle raise whatever the file makes them raise
            refuse_lack_of_memory(error)
            refusal = error if isinstance(error, Refused) else _refusal(path, content, error)
    if refusal is None:
        raise _damaged(path, content)
    if not trust_pickle:
        raise ConfigError(
            f"{path}: refused: {refusal}; get the weights as a state_dict or as .safetensors, or, if you trust who "
            "made the file, add --trust-pickle"
        )
    try:
        return _refuse_spread(load(path, False), path)
    except ConfigError:
        raise
    except Exception as error:
        refuse_lack_of_memory(error)
        what = one_line(str(error).partition("\n")[0] or type(error).__name__, 160)
        raise ConfigError(
            f"{path}: expected {content.what} that pickle opens, it stops with {type(error).__name__} ({what}); "
            "install what the file was made with, or get the weights as a state_dict"
        ) from None


def _refuse_large(path: Path, content: Content) -> None:
    """Raise ConfigError where a file asks for too much memory; but an archive, none can ask for more than it holds."""
    try:
        if content.kind is Kind.TORCH:
            refuse_large_archive(path)
        else:
            size = path.stat().st_size
            refuse_larger(size, size, str(path))
    except DataError as error:
        raise ConfigError(str(error)) from None
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError):
        raise _damaged(path, content) from None


def _refuse_spread(found: Any, path: Path) -> Any:
    """The same. Raises ConfigError where its tensors claim too much: one number may be repeated any number of times."""
    claimed, waiting, seen = 0, [found], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor) and value.layout == torch.strided:
            claimed += value.numel() * value.element_size()
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
    try:
        refuse_larger(claimed, path.stat().st_size, str(path))
    except DataError as error:
        raise ConfigError(str(error)) from None
    return found


def _expect_checkpoint(path: Path) -> Content:
    """The content of a file that torch or safetensors can open. Raises ConfigError that says what any other is."""
    try:
        content = content_of(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or one_line(error, 160)}") from None
    wrong = f"{path}: expected a checkpoint of torch or safetensors, got {content.what}"
    if content.kind is Kind.ONNX:
        raise ConfigError(
            f"{wrong}; a detector runs as {{use: onnx, weights: FILE}}, a network to train needs its tensors"
        )
    if content.kind is Kind.PICKLE:
        needs = _needs(path, content)
        run = sorted(needs.names - _allowed()) if needs else []
        ran = f", refused: opening it would run {_some(run)}" if run else ""
        raise ConfigError(f"{wrong}{ran}; {content.advice}")
    if content.kind not in (Kind.TORCH, Kind.LEGACY, Kind.TAR, Kind.SAFETENSORS):
        raise ConfigError(f"{wrong}; {content.advice}")
    return content


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError):
        raise ConfigError(
            f"{path}: a safetensors file, truncated or damaged: {path.stat().st_size} bytes do not fit its header; get "
            "it again"
        ) from None


@contextmanager
def _taking_plain() -> Iterator[None]:
    """Let torch's reader of tensors take `PLAIN`, too; after that what it took before.

    `torch.serialization.safe_globals` takes back its own names only. ultralytics adds those that a file asks for, and a
    getattr of its own, for the whole process: the next file would be judged by what the last one needed.
    """
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(list(PLAIN))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _load(path: Path, safe: bool) -> Any:
    # As an open file: of a path torch goes by the suffix.
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own older formats
        # Python 2 wrote text as bytes: read as latin-1 they are the same letters
        return torch.load(file, map_location="cpu", weights_only=safe, encoding="latin1")


def _spoilt_record(path: Path) -> str | None:
    """The first record of a zip archive whose bytes have another CRC-32 than the archive says; torch does not look.

    A CRC of 0 is none: `torch.serialization.set_crc32_options(False)` writes it. Torch judges what zipfile cannot read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.CRC and info.compress_type == zipfile.ZIP_STORED:
                    with archive.open(info) as record:
                        try:
                            while record.read(1 << 20):
                                pass
                        except zipfile.BadZipFile:
                            return info.filename
    except MemoryError:
        raise
    except Exception:  # whatever a damaged file makes zipfile raise
        return None
    return None


def _damaged(path: Path, content: Content) -> ConfigError:
    return ConfigError(
        f"{path}: {content.what}, truncated or damaged: torch cannot read its {path.stat().st_size} bytes; get it again"
    )


# --- what a pickle needs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Needs:
    """What pickles ask for: functions and classes by their names, and instructions."""

    names: set[str]
    instructions: set[str]


_INSTRUCTIONS: Final = frozenset(
    {
        *("GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "MARK", "PROTO", "STOP"),
        *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
        *("NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"),
        *("BINUNICODE", "SHORT_BINSTRING", "BINPERSID", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT"),
    }
)
"""What torch's reader of tensors knows: all that `torch.save` writes."""


def _refusal(path: Path, content: Content, error: BaseException) -> str | None:
    """Why a sound file is refused: what opening it would run; None where the file is not sound.

    error: with what its reader stopped.
    """
    if content.kind is Kind.TAR:
        return "torch opens files of before 0.1.10 with pickle alone, which can run anything"
    needs = _needs(path, content)
    if needs is None:
        return None
    if unknown := sorted(needs.names - _allowed()):
        return f"opening it would run {_some(unknown)}, which is neither a tensor nor a plain value"
    if more := sorted(needs.instructions - _INSTRUCTIONS):
        return (
            f"torch's reader of tensors lacks instructions of its pickle ({_some(more)}), which torch.save does not use"
        )
    if content.kind is Kind.TORCH and (words := _blocked(error)):  # its bytes have their checksums: nothing is damaged
        return f"opening it would run more than a reader of tensors does ({words})"
    return None


def _blocked(error: BaseException | None) -> str | None:
    """The words of a reader that knows all names in a file, and stops at what is done with them; None: no such end."""
    while error is not None and not isinstance(error, pickle.UnpicklingError):
        error = error.__cause__
    found = re.search(r"WeightsUnpickler error:\s+(.+)", str(error))
    return one_line(found[1], 120) if found else None


def _some(names: list[str]) -> str:
    return some([one_line(name, 80) for name in names], 3)


def _allowed() -> set[str]:
    """The names that `weights_only` takes at this moment."""
    reader: Any = torch._weights_only_unpickler
    return {*reader._get_allowed_globals(), *reader._get_user_allowed_globals(), *PLAIN_NAMES}


def _needs(path: Path, content: Content) -> _Needs | None:
    """What the pickles of a file ask for; None where they are cut off or damaged."""
    try:
        if content.kind is Kind.TORCH:
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.partition("/")[2] == "data.pkl")
                return _read_through(io.BytesIO(archive.read(name)))
        with path.open("rb") as file:
            # before 1.6: magic number, protocol, machine; then what was saved
            found = [_read_through(file) for _ in range(4 if content.kind is Kind.LEGACY else 1)]
            return _Needs(set().union(*(f.names for f in found)), set().union(*(f.instructions for f in found)))
    except MemoryError:
        raise
    except Exception:  # whatever a damaged file makes zipfile and pickletools raise
        return None


def _read_through(file: Any) -> _Needs:
    """What one pickle asks for, of which nothing is run. Raises where it does not end well."""
    # By hand: torch's get_globals_in_pkl stops at instructions that torch.save does not use, and those are to be named.
    names: set[str] = set()
    instructions: set[str] = set()
    memo: dict[int, str | None] = {}
    texts: list[str | None] = [None, None]  # the last values that were pushed, where they are texts
    value: Any
    for opcode, value, _ in pickletools.genops(file):
        instructions.add(opcode.name)
        if opcode.name in ("GLOBAL", "INST"):
            module, _, name = value.partition(" ")
            names.add(_of_today(module, name))
        elif opcode.name == "STACK_GLOBAL":
            names.add(_of_today(str(texts[-2]), str(texts[-1])))
        if opcode.name == "MEMOIZE":
            memo[len(memo)] = texts[-1]
        elif "PUT" in opcode.name:
            memo[int(value)] = texts[-1]
        elif "GET" in opcode.name:
            texts.append(memo.get(int(value)))
        else:
            texts.append(value if isinstance(value, str) else None)
        del texts[:-2]
    return _Needs(names, instructions)


def _of_today(module: str, name: str) -> str:
    """The name that Python 3 has for what Python 2 called so, as pickle and torch read it."""
    today = _compat_pickle.IMPORT_MAPPING.get(module, module)
    return ".".join(_compat_pickle.NAME_MAPPING.get((module, name), (today, name)))
