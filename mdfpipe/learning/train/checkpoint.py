"""A checkpoint that describes itself: weights, and everything one needs to know to use or doubt them.

Written with `torch.save`, read with `weights_only=True`: tensors, numbers, text, lists and dictionaries; nothing runs.
A digest of all bytes is at the end of the file, as the comment of the zip archive that it is. Torch reads it as any
other file of its own; `load` refuses a file of which one bit differs.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError, DataError, StoreError, cannot_write, counted, one_line
from mdfpipe.store.content import Kind, content_of
from mdfpipe.store.files import given_path, opened
from mdfpipe.store.owner import temporary

if TYPE_CHECKING:
    from torch import Tensor

    from mdfpipe.learning.recipes import Recipe

FORMAT = "mdfpipe checkpoint 1"
_MARK: Final = b"mdfpipe blake2b "
_MARKED: Final = re.compile(re.escape(_MARK) + rb"([0-9a-f]{64})\n")
_MARK_BYTES: Final = len(_MARK) + 64 + 1
_PLAIN_END: Final = re.compile(rb"PK\x05\x06.{16}\x00\x00", re.DOTALL)  # of a zip archive without a comment
_BLOCK: Final = 1 << 20


@dataclass(eq=False, repr=False)
class Checkpoint:
    """A trained (or only loaded) system.

    recipe: its settings, as in a study; model: state dict; subjects: who was trained on, in the order of the classes;
    trained_domains: which domains; history: every system or file it comes from, the first first; crops: fingerprint of
    the training crops; epoch, step: how far it was trained; threads, precision, device, version, commit: what computed
    it; figures: of the last epoch; notes: what a reader of its numbers should know.
    """

    system: str
    recipe: dict[str, Any]
    model: dict[str, Tensor]
    subjects: list[str] = field(default_factory=list)
    trained_domains: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    crops: str = ""
    epoch: int = 0
    step: int = 0
    threads: int = 0
    precision: str = ""
    device: str = ""
    version: str = ""
    commit: str | None = None
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def domains(self) -> list[str]:
        """The domains that its network was made for: those it was trained on or, with no training, those before it."""
        trained = [self.trained_domains, *(entry.get("trained_domains", []) for entry in reversed(self.history))]
        return next(filter(None, trained), [])

    @property
    def all_subjects(self) -> set[str]:
        """Everybody that these weights were ever trained on, here or in what they started from."""
        return set(self.subjects).union(*(entry.get("subjects", []) for entry in self.history))

    def save(self, path: str | PathLike[str]) -> None:
        """Write it to `path`, synced. The same checkpoint gives the same bytes under any name. Raises StoreError."""
        place = given_path("path", path)
        try:
            save(place, {"format": FORMAT, **self._without()})
        except OSError as error:
            raise StoreError(cannot_write(place, error)) from None

    def __repr__(self) -> str:
        of = f"{self.recipe.get('use')} of system {self.system}"
        people, domains = counted(len(self.subjects), "subject"), counted(len(self.domains), "domain")
        return f"Checkpoint({of}, {people}, {domains})"

    def _without(self, *names: str) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in names}

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """The checkpoint in a file. Raises ConfigError where it is none of ours."""
        found = load(given_path("path", path))
        if found.pop("format", None) != FORMAT:
            raise ConfigError(f"{path}: expected a checkpoint of `mdfpipe train` ({FORMAT}), found another file")
        known = {f.name for f in fields(cls)}
        if found.keys() - known or not {"system", "recipe", "model"} <= found.keys():
            raise ConfigError(
                f"{path}: expected the entries {', '.join(sorted(known))}, got {', '.join(sorted(map(str, found)))}"
            )
        made = cls(**found)
        for name, kind in _KINDS.items():
            if not isinstance(value := getattr(made, name), kind):
                wanted = kind.__name__ if isinstance(kind, type) else "str"
                raise ConfigError(f"{path}: expected {name} of type {wanted}, got {type(value).__name__}")
        if odd := made._odd():
            raise ConfigError(f"{path}: expected a checkpoint of `mdfpipe train`, found {odd}")
        return made

    def _odd(self) -> str:
        """What of it no training writes, in a few words; "" where all is as it should be."""
        import torch

        model: dict[Any, Any] = self.model
        history: list[Any] = self.history
        for name, value in model.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                return f"{one_line(repr(name), 60)}, a {type(value).__name__}, in its weights"
        for entry in history:
            if not isinstance(entry, dict) or not _texts(entry, "subjects") or not _texts(entry, "trained_domains"):
                return "a history that lists no systems"
        own = vars(self)
        wrong = next((n for n in ("subjects", "trained_domains", "notes") if not _texts(own, n)), "")
        return f"{wrong} that are no texts" if wrong else ""

    @classmethod
    def is_one(cls, path: str | PathLike[str]) -> bool:
        """Whether the file is a checkpoint of ours. Raises DataError where it is a damaged one."""
        path = given_path("path", path)
        if path.is_file() and content_of(path).kind is Kind.TORCH:
            _check(path)
        try:
            said = load(path).get("format")
        except (ConfigError, DataError):
            return False
        if said != FORMAT and str(said).startswith(FORMAT.rpartition(" ")[0]):
            raise DataError(f"{path}: expected a {FORMAT}, got a {said:.60}; use the version that wrote it")
        return bool(said == FORMAT)

    def open_recipe(self) -> Recipe:
        """The recipe that the checkpoint was made with. Raises ConfigError."""
        from mdfpipe.learning.recipes import Recipe

        family: Any = Recipe  # abstract: validating picks the variant
        found: Recipe = validate(family, self.recipe, f"checkpoint of {self.system}")
        return found

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, for people and machines."""
        counts = {"subjects": len(self.subjects), "weights": sum(t.numel() for t in self.model.values())}
        return self._without("model", "subjects") | counts

    def entry(self) -> dict[str, Any]:
        """What a checkpoint that starts from this one keeps of it in its history."""
        return self._without("model", "history", "threads", "precision", "device", "notes")


def _texts(entry: dict[str, Any], name: str) -> bool:
    """Whether an entry is a list of texts, or is not there."""
    found = entry.get(name, [])
    return isinstance(found, list) and all(isinstance(text, str) for text in found)


_KINDS: Final[dict[str, type | tuple[type, ...]]] = {
    **dict.fromkeys(("system", "crops", "precision", "device", "version"), str),
    **dict.fromkeys(("recipe", "model", "figures"), dict),
    **dict.fromkeys(("subjects", "trained_domains", "history", "notes"), list),
    **dict.fromkeys(("epoch", "step", "threads"), int),
    "commit": (str, type(None)),
}


def save(path: Path, document: dict[str, Any]) -> None:
    """Write tensors and plain values atomically (temporary file, synced, renamed), with a digest at the end."""
    import torch

    buffer = io.BytesIO()  # in a file, torch writes the file's name into it: the bytes would depend on the name
    torch.save(_alike(document), buffer)
    beside = temporary(path)
    try:
        with beside.open("wb") as file:
            with buffer.getbuffer() as data:
                mark = _mark_of(data)
                file.write(data)
            file.write(mark)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)  # a full disk needs the room
        raise


def _mark_of(data: memoryview) -> bytes:
    """What follows the bytes of a zip archive; its last two bytes, the length of the comment, are changed in `data`."""
    data[-2:] = _MARK_BYTES.to_bytes(2, "little")
    return _MARK + hashlib.blake2b(data, digest_size=32).hexdigest().encode() + b"\n"


def _check(path: Path) -> None:
    """Raise DataError where the bytes are not those that `save` wrote. A file of before there were digests has none."""
    try:
        with opened(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _MARK_BYTES, 0))
            tail = file.read()
            marked = _MARKED.fullmatch(tail)
            file.seek(0)
            if marked is None:
                wrong = file.read(4) == b"PK\x03\x04" and not _PLAIN_END.fullmatch(tail[-22:])
            else:
                wrong = _digest(file, size - _MARK_BYTES) != marked.group(1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or one_line(error, 160)}") from None
    if wrong:
        raise DataError(f"{path}: is damaged: its {size} bytes are not those that were written")


def _digest(file: BinaryIO, size: int) -> bytes:
    """The digest of so many bytes, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=32)
    while size > 0 and (block := file.read(min(_BLOCK, size))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest().encode()


def _alike(value: Any) -> Any:
    """The same in containers and strings of its own: pickle writes one that it meets twice, as object, only once."""
    if isinstance(value, str):
        return sys.intern(str(value))
    if isinstance(value, dict):
        return {_alike(name): _alike(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_alike(inner) for inner in value)
    return value


def load(path: Path) -> dict[str, Any]:
    """The document in a file of `save`; nothing in it runs. Raises ConfigError; DataError where it is damaged."""
    from mdfpipe.weightfiles import open_tensors

    if not path.exists():
        raise ConfigError(f"{path}: expected a checkpoint, found no such file")
    _check(path)
    try:
        found = open_tensors(path)
    except ConfigError as error:
        why = str(error).removeprefix(f"{path}: ")
        raise DataError(f"{path}: cannot be read as a checkpoint of `mdfpipe train`: {why}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a checkpoint, found a {type(found).__name__}")
    return found
