"""Every error that mdfpipe raises on purpose.

    MdfError
    ├── ConfigError         a setting is unknown, of the wrong type, or contradicts another
    │   └── CopyError       srun or mpirun started a training several times
    ├── DataError           the user's data, tables or folders are not what was promised
    │   └── DecodeError     a video (or one crop) does not decode
    ├── ProtocolError       an evaluation protocol that would give a wrong number
    ├── StoreError          the run folder cannot be written, read or locked
    │   └── Damaged             a file that a run made is not what was made: its part is made again
    └── MissingDependency   an optional package is not installed

A message is one line: where, what was expected, what was found, what to do. The library raises;
only the command line catches `MdfError`, prints that line, and exits with 2.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class MdfError(Exception):
    """The root: everything that mdfpipe raises on purpose is one of these. Its text is one printable line."""

    def __str__(self) -> str:
        return one_line(super().__str__(), 10_000)

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again in another process as it is: the arguments of a kind's own `__init__` are others."""
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[MdfError], args: tuple[Any, ...]) -> MdfError:
    return kind.__new__(kind, *args)


class ConfigError(MdfError):
    """A setting is unknown, has the wrong type, or contradicts another."""


class CopyError(ConfigError):
    """The command was started several times, as if that made one training. number: which of them this is, from 0."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class DataError(MdfError):
    """The user's data are not what was promised."""


class DecodeError(DataError):
    """A video or an image does not decode, or does not decode whole."""


class ProtocolError(MdfError):
    """The protocol would give a wrong number, or none."""


class StoreError(MdfError):
    """The run folder cannot be written, read or locked. The whole run stops, not one video."""


class Damaged(StoreError):  # noqa: N818 - the name says it
    """A file is not what was written. stage, key: the part that it is, or belongs to, of the run folder `run`; "" and
    None where it is of no run.
    """

    def __init__(self, message: str, stage: str = "", key: str = "", run: Path | None = None) -> None:
        super().__init__(message)
        self.stage, self.key, self.run = stage, key, run


class MissingDependency(MdfError):  # noqa: N818 - the name says it
    """An optional package is needed and not installed."""

    def __init__(self, package: str, needed_by: str, extra: str | None = None) -> None:
        install = f"pip install 'mdfpipe[{extra}]'" if extra else f"pip install {package}"
        super().__init__(f"{needed_by} needs the package {package}, which is not installed: {install}")


def not_loaded(error: ImportError, package: str, needed_by: str, extra: str | None = None) -> MdfError:
    """What to raise where a package does not import: it is not installed, or it is and cannot be loaded.

    >>> str(not_loaded(ImportError("libcudart.so.13: cannot open shared object file"), "torch", "the detector yolo"))
    'the detector yolo needs the package torch, which does not load: libcudart.so.13: cannot open shared object file'
    """
    name = error.name or ""
    if isinstance(error, ModuleNotFoundError) and name and "." not in name:  # torch._C: of a package that is there
        return MissingDependency(name, needed_by, extra if name == package else None)
    return ConfigError(f"{needed_by} needs the package {package}, which does not load: {one_line(error)}")


# Letters, marks and symbols by their class that leave no ink: fillers, joiners, variation selectors, the empty Braille.
_NO_INK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {chr(c) for c in range(0xFE00, 0xFE10)}


_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, marks that turn the direction of writing, halves of characters."""


def is_obeyed(text: str) -> bool:
    """Whether a text holds what a terminal or a page would obey instead of showing it."""
    return _OBEYED.search(text) is not None


def unobeyed(text: str) -> str:
    """The text with what a terminal would obey written out; it may have several lines.

    >>> unobeyed("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def is_visible(character: str) -> bool:
    """Whether a character leaves ink: no blank, control, joiner or filler does.

    >>> [is_visible(c) for c in ("a", " ", "\\u00a0", "\\u200b", "\\u3164")]
    [True, False, False, False, False]
    """
    return character.isprintable() and character != " " and character not in _NO_INK


def one_line(text: object, limit: int = 300) -> str:
    """The text of an error as one printable line of at most `limit` characters.

    Line breaks become a space. A tab, a no-break space and other invisible characters are escaped.

    >>> one_line("a\\n  b\\x00c"), one_line("a\\u00a0b")
    ('a b\\\\x00c', 'a\\\\xa0b')
    """
    words = re.sub(r"[ \t]*[\r\n]\s*", " ", str(text).strip(" \r\n"))
    safe = "".join(c if c == " " or is_visible(c) else c.encode("unicode_escape").decode() for c in words)
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


def some(names: Iterable[str], limit: int = 5) -> str:
    """The first names, and how many there are besides.

    >>> some(["a", "b"]), some("abcd", 2)
    ('a, b', 'a, b and 2 more')
    """
    every = list(names)
    return ", ".join(every[:limit]) + (f" and {len(every) - limit} more" if len(every) > limit else "")


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun in the right number, and with its verb where both forms are given.

    >>> counted(1, "video"), counted(2, "annotated body"), counted(0, "box"), counted(1, "video has", "videos have")
    ('1 video', '2 annotated bodies', '0 boxes', '1 video has')
    """
    if count == 1:
        return f"1 {one}"
    if many is None and one.endswith("y") and one[-2] not in "aeiou":
        many = f"{one[:-1]}ies"
    return f"{count} {many or one + ('es' if one.endswith(('x', 's', 'ch', 'sh')) else 's')}"


def cannot_write(place: Path, error: OSError) -> str:
    """One line for an OSError while writing: where, what, what to do."""
    advice = {
        errno.ENOSPC: "free some space and give the same command again: finished parts are kept",
        errno.EDQUOT: "raise the quota and give the same command again: finished parts are kept",
        errno.EROFS: "choose a --run folder that can be written",
        errno.EACCES: "choose a --run folder that can be written",
    }.get(error.errno or 0, "give the same command again once that is mended")
    return f"{place}: cannot be written: {error.strerror or one_line(error)}; {advice}"


_NO_MEMORY = re.compile(r"out of memory|bad.?alloc|insufficient memory|(can't|cannot|failed to) allocate memory", re.I)


def refuse_lack_of_memory(error: BaseException) -> None:
    """Raise MemoryError where that is what a library's error means, so that no file is blamed for it.

    >>> refuse_lack_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    Traceback (most recent call last):
    MemoryError: CUDA out of memory. Tried to allocate 2 GiB
    """
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        raise MemoryError(one_line(error, 200)) from None
