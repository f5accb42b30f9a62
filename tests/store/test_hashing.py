"""Content hashes of files."""

import os

import pytest

from mdfpipe.errors import DataError
from mdfpipe.store.hashing import file_sha256


def test_file_sha256(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    stamp = path.stat().st_mtime_ns
    path.write_bytes(b"abd")
    os.utime(path, ns=(stamp + 1, stamp + 1))
    assert file_sha256(path) != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(DataError, match="cannot be read: No such file"):
        file_sha256(tmp_path / "b")
