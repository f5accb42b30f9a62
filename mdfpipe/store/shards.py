"""Crops in an uncompressed tar, read back by offset.

`tar tf` lists a shard and WebDataset tools read it; the crops table says shard, offset and size, so that
any crop is one `pread`, and the CRC-32 that its bytes must have: one function reads them, and gives no byte of a
damaged crop. A member's name is the crop_id with `/` written `__`, a dot `%2E` (WebDataset
cuts a name at its first dot), and the codec as suffix.
The same crops give the same bytes: members carry no time, owner or mode of this machine.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tarfile
import zlib
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from mdfpipe.errors import DataError, StoreError, cannot_write
from mdfpipe.store.naming import file_name
from mdfpipe.store.run import refuse_damaged

CHECKSUM: Final = "crc32"
"""The column of CROPS and MANIFEST that holds the checksums; tables of earlier versions have none."""


_SIZE, _SUM = slice(124, 136), slice(148, 156)  # of a header, in bytes


class Place(NamedTuple):
    """Place of the bytes of one image in a shard, and their CRC-32."""

    offset: int
    size: int
    crc32: int


@cache
def _blank() -> bytes:
    """The header of a member without name and size."""
    return _info("", 0).tobuf(tarfile.GNU_FORMAT)


def _info(name: str, size: int) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.size, found.mode = size, 0o644
    return found


def _member(name: str, size: int) -> bytes:
    """The header of a member as `tarfile` writes it; it takes as long as encoding a face if `tarfile` does."""
    raw = name.encode()
    if len(raw) > tarfile.LENGTH_NAME or not name.isascii() or size >= 8**11:
        return _info(name, size).tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    head = bytearray(_blank())
    head[: len(raw)] = raw
    head[_SIZE] = b"%011o\0" % size
    head[_SUM] = b" " * 8
    head[_SUM] = b"%06o\0 " % sum(head)
    return bytes(head)


class ShardWriter:
    """Appends encoded images to a tar. Use as a context; the file is whole and synced when it ends well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("wb")
            self._tar = tarfile.open(  # noqa: SIM115 - closed by __exit__
                fileobj=self._file, mode="w", format=tarfile.GNU_FORMAT
            )
        except OSError as error:
            raise StoreError(cannot_write(path, error)) from error

    def add(self, crop_id: str, codec: str, data: bytes) -> Place:
        """Append one image; gives the place of its bytes in the tar. Raises StoreError."""
        suffix = "jpg" if codec == "jpeg" else codec
        name = f"{file_name(crop_id).replace('.', '%2E')}.{suffix}"
        rest = -len(data) % tarfile.BLOCKSIZE
        try:
            head = _member(name, len(data))
            self._file.write(head)
            self._file.write(data)
            self._file.write(bytes(rest))
        except OSError as error:
            raise StoreError(cannot_write(self.path, error)) from error
        offset = self._tar.offset + len(head)
        self._tar.offset = offset + len(data) + rest  # closing it writes the end of the archive behind that
        return Place(offset, len(data), zlib.crc32(data))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._tar.close()
                self._file.flush()
                os.fsync(self._file.fileno())
        except OSError as trouble:
            raise StoreError(cannot_write(self.path, trouble)) from trouble
        finally:
            with contextlib.suppress(OSError):  # on a full disk, closing writes the rest once more and fails again
                self._file.close()


def read_crop(shard: Path, offset: int, size: int, crc32: int | None) -> bytes:
    """The encoded bytes of one crop. crc32: as its table has it; None where the table is of an earlier version.

    Raises Damaged where the shard is not the one that its run made, so that crop is due; DataError where the bytes are
    not those that were stored, or it is unknown which shard was made.
    """
    try:
        handle = os.open(shard, os.O_RDONLY)
    except OSError as error:
        refuse_lost(shard, error)
        raise DataError(f"{shard}: cannot be read: {error.strerror}") from None
    try:
        return read_stored(handle, offset, size, crc32)
    except Spoilt as error:
        refuse_damaged(shard)
        raise DataError(f"{shard}: {error}; {AGAIN}") from None
    finally:
        os.close(handle)


def refuse_lost(shard: Path, error: OSError) -> None:
    """Raise Damaged where a shard that its run made cannot be opened because it is gone, or its disk is damaged."""
    if error.errno in (errno.ENOENT, errno.EIO):
        refuse_damaged(shard)


AGAIN: Final = "the shard is damaged; delete it and run crop again"
UNVERIFIED: Final = "an earlier version stored them; damage in them is found only if they do not decode"


class Spoilt(Exception):  # noqa: N818 - no error of the user's: its readers say which crop it is
    """Bytes of a shard that are not those of the crop, and why."""


class NotRead(Spoilt):
    """The disk or the server did not read them: another time it may."""


def read_stored(handle: int, offset: int, size: int, crc32: int | None) -> bytes:
    """The bytes of one crop in an open shard. crc32: None is not verified. Raises Spoilt."""
    try:
        there = min(size, max(os.fstat(handle).st_size - offset, 0))  # memory is asked for by what there is
        data = os.pread(handle, there, offset)
    except OSError as error:
        raise NotRead(f"{size} bytes at {offset} cannot be read: {error.strerror}") from None
    except OverflowError as error:
        raise Spoilt(f"{size} bytes at {offset} cannot be read: {error}") from None
    if len(data) != size:
        raise Spoilt(f"expected {size} bytes at {offset}, got {len(data)}")
    if crc32 is not None and zlib.crc32(data) != crc32:
        raise Spoilt(f"the {size} bytes at {offset} are not those that were stored: their checksum differs")
    return data
