"""The directories of a TIFF: where its pages are, and what their tags say. Nothing is decoded here.

Read by hand, because neither library gives them: OpenCV only counts and decodes pages, and Pillow refuses pages whose
samples it does not know (12 bits, 16-bit RGB, planes), before their size is known. EXIF data are a TIFF of their own,
so that this reads them, too. Sources: TIFF 6.0, the BigTIFF proposal (both as libtiff documents them).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from mdfpipe.errors import DataError

_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_CODES = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q", 18: "Q"}  # of whole numbers that have no sign
_MOST_VALUES = 1 << 24  # of one tag: the strips of a page, one a row, of the tallest picture

SUFFIXES = frozenset({".tif", ".tiff"})
HEADS = frozenset(_ORDERS)  # the first four bytes of a TIFF, classic and big, of either byte order


@dataclass(frozen=True)
class Tiff:
    """An open TIFF. order: "<" or ">", as struct names it; big: whether it is a BigTIFF, whose fields are wider."""

    file: BinaryIO
    order: str
    big: bool

    @classmethod
    def of(cls, file: BinaryIO) -> Tiff | None:
        """The TIFF that a file holds; None where it is none."""
        file.seek(0)
        head = file.read(4)
        return cls(file, _ORDERS[head], b"+" in head) if head in _ORDERS else None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.file.seek(0, io.SEEK_END)

    def pages(self) -> Iterator[int]:
        """The offset of each page's directory, following the chain. Raises DataError where the file ends before."""
        count_code, offset_code, entry = ("Q", "Q", 20) if self.big else ("H", "I", 12)
        self.file.seek(8 if self.big else 4)
        seen: set[int] = set()
        while (offset := self._number(offset_code)) and offset not in seen:
            seen.add(offset)
            yield offset
            self._seek(offset)
            self._seek(offset + struct.calcsize(count_code) + self._number(count_code) * entry)

    def tags(self, offset: int, wanted: Collection[int]) -> dict[int, tuple[int, ...]]:
        """Tag -> whole numbers, of the wanted tags that the directory at `offset` holds. Raises DataError."""
        self._seek(offset)
        count = self._number("Q" if self.big else "H")
        size, width, code = (20, 8, "Q") if self.big else (12, 4, "I")
        entries = self.file.read(size * count) if count < 1 << 16 else b""
        if len(entries) < size * count or not count:
            raise DataError("the TIFF ends before its list of tags does")
        found: dict[int, tuple[int, ...]] = {}
        for at in range(0, size * count, size):
            tag, kind = struct.unpack_from(f"{self.order}HH", entries, at)
            if tag not in wanted or kind not in _CODES:
                continue
            (number,) = struct.unpack_from(f"{self.order}{code}", entries, at + 4)
            if number:
                found[tag] = self._values(kind, number, entries[at + size - width : at + size])
        return found

    def bytes_at(self, place: int, length: int) -> bytes:
        """The bytes of the file there, as many as there are."""
        end = self.size
        if place >= end:
            return b""
        self.file.seek(place)
        return self.file.read(min(length, end - place))  # a damaged length may be of any size

    def _values(self, kind: int, number: int, field: bytes) -> tuple[int, ...]:
        """The values of an entry: in its last field where they fit, else where that points."""
        form = f"{self.order}{number}{_CODES[kind]}"
        if number > _MOST_VALUES:
            raise DataError(f"a tag of the TIFF claims {number} values")
        length = struct.calcsize(form)
        if length > len(field):
            (place,) = struct.unpack(f"{self.order}{'Q' if self.big else 'I'}", field)
            field = self.bytes_at(place, length)
            if len(field) < length:
                raise DataError("the TIFF ends before the values of a tag do")
        return struct.unpack(form, field[:length])

    def _seek(self, place: int) -> None:
        try:
            self.file.seek(place)
        except OverflowError:
            raise DataError(f"the TIFF refers to byte {place}, which no file has") from None

    def _number(self, code: str) -> int:
        data = self.file.read(struct.calcsize(code))
        if len(data) < struct.calcsize(code):
            raise DataError("the TIFF ends before its list of pages does")
        return int(struct.unpack(self.order + code, data)[0])


def has_pages(path: Path) -> bool:
    """Whether a file is a TIFF of two pages or more, which makes it a video; what cannot be read is none."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():  # reading a pipe would wait for ever
        return False
    try:
        with path.open("rb") as file:
            tiff = Tiff.of(file)
            return tiff is not None and len(list(islice(tiff.pages(), 2))) == 2
    except (OSError, DataError):
        return False
