"""Crops in an uncompressed tar, read back by offset.

`tar tf` lists a shard and WebDataset tools read it; the crops table says shard, offset and size, so that
any crop is one `pread`. A member's name is the crop_id with `/` written `__`, a dot `%2E` (WebDataset
cuts a name at its first dot), and the codec as suffix.
The same crops give the same bytes: members carry no time, owner or mode of this machine.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Self

from mdfpipe.errors import DataError, StoreError
from mdfpipe.store.naming import file_name
from mdfpipe.store.run import cannot_write


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

    def add(self, crop_id: str, suffix: str, data: bytes) -> tuple[int, int]:
        """Append one image; gives (offset, size) of its bytes in the tar. Raises StoreError."""
        member = tarfile.TarInfo(f"{file_name(crop_id).replace('.', '%2E')}.{suffix}")
        member.size = len(data)
        member.mode = 0o644
        try:
            self._tar.addfile(member, io.BytesIO(data))
        except OSError as error:
            raise StoreError(cannot_write(self.path, error)) from error
        self._tar.members.clear()  # type: ignore[attr-defined] # it would keep every member, 350 bytes each
        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return self._tar.offset - padded, len(data)

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


def read_crop(shard: Path, offset: int, size: int) -> bytes:
    """The encoded bytes of one crop. Raises DataError where the shard is shorter than its table says."""
    try:
        handle = os.open(shard, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{shard}: cannot be read: {error.strerror}") from None
    try:
        data = os.pread(handle, size, offset)
    finally:
        os.close(handle)
    if len(data) != size:
        raise DataError(
            f"{shard}: expected {size} bytes at {offset}, got {len(data)}: the shard is damaged; delete it and run "
            "crop again"
        )
    return data
