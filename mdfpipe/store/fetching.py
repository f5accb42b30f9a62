"""Fetching: a remote file's size and version, and its bytes, through fsspec (the extra `remote`).

Nothing is imported, looked up or asked before a URL is given. Every error is a DataError of one line, without users,
passwords and queries.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from mdfpipe.errors import DataError, StoreError, one_line
from mdfpipe.store.urls import shown

_CHUNK: Final = 1 << 20
_SILENCE: Final = 60.0  # seconds without a byte
_WAITS: Final = [1.0, 4.0]  # seconds before the second and the third attempt; tests shorten it
_VERSIONS: Final = (
    *("etag", "content-md5", "md5hash", "md5", "checksum", "generation"),
    *("lastmodified", "last-modified", "last_modified", "updated", "mtime"),
)
"""What servers call the version of a file, in lower case; the first that is given counts."""
_WEB: Final = ("http", "https")
_PACKAGES: Final = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub"}
_PACKAGES_MORE: Final = {"sftp": "paramiko", "webdav": "webdav4", "hdfs": "pyarrow"}


@dataclass(frozen=True)
class Version:
    """What a server says of a file. size: bytes; None where it does not say. mark: ETag, checksum or time, or ""."""

    size: int | None
    mark: str

    @property
    def stamp(self) -> str:
        """Text that differs between versions of a file: `1234:"a1b2"`."""
        return f"{'?' if self.size is None else self.size}:{self.mark}"


_Got = TypeVar("_Got")


class _PassingError(Exception):
    """An error that may be gone in a moment."""


def version(url: str) -> Version:
    """Ask a server for size and version of a file. Raises DataError."""

    def ask() -> Version:
        system = _system(url)
        found = _info_from_web(url, system) if url.partition(":")[0] in _WEB else system.info(url)
        info = {name.lower(): value for name, value in found.items()}
        mark = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
        return Version(info.get("size"), mark.removeprefix("W/"))

    return _tried(url, ask)


def download(url: str, expected: Version, place: Path, progress: Callable[[int], None]) -> None:
    """Fetch a file to `place`, behind what is already there, and sync it. progress: is called with the bytes so far.

    Raises DataError where the file is another one than `expected`, or does not arrive. Raises StoreError where it
    cannot be written.
    """

    def get() -> None:
        try:
            if url.partition(":")[0] in _WEB:
                _get_from_web(url, expected, place, progress)
            else:
                _get(url, place, progress)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES) and _is_of(error, place):
                raise StoreError(
                    f"{place.parent}: cannot be written: {error.strerror}; free some space, lower "
                    "MDFPIPE_VIDEO_CACHE_GB, or set MDFPIPE_VIDEO_CACHE to another folder"
                ) from None
            raise
        size = place.stat().st_size
        if expected.size is not None and size < expected.size:
            raise _PassingError(f"the connection ended at {size} of {expected.size} bytes")

    _tried(url, get)
    size = place.stat().st_size
    if expected.size is not None and size != expected.size:
        place.unlink()
        raise DataError(f"{shown(url)}: expected {expected.size} bytes, got {size}; give the same command again")


def _info_from_web(url: str, system: Any) -> dict[str, Any]:
    """What the headers of HTTP say of a file."""
    from fsspec.asyn import sync

    async def ask(method: str) -> dict[str, Any]:
        session = await system.set_session()
        headers = {"Accept-Encoding": "identity"}
        asked = session.request(method, system.encode_url(url), headers=headers, allow_redirects=True)
        async with asked as answer:
            if method == "HEAD" and answer.status in (400, 403, 405, 501):  # some servers know GET alone
                return await ask("GET")
            system._raise_not_found_for_status(answer, url)
            size = answer.headers.get("Content-Length", "")
            whole = size.isdecimal() and answer.headers.get("Content-Encoding", "identity") in ("identity", "")
            if answer.headers.get("Content-Type", "").startswith("text/html"):
                raise DataError(f"{shown(url)}: expected a video, got a web page, as for a login; give access first")
            return {**answer.headers, "size": int(size) if whole else None}

    found: dict[str, Any] = sync(system.loop, ask, "HEAD")
    return found


def _is_of(error: OSError, place: Path) -> bool:
    """Whether an error is of writing here, and not of the server."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) or str(place) == str(error.filename)


def _get(url: str, place: Path, progress: Callable[[int], None]) -> None:
    """Fetch by any protocol, in ranges behind what is there."""
    have = place.stat().st_size if place.exists() else 0
    with _system(url).open(url, "rb") as source, place.open("ab") as file:
        source.seek(have)
        while block := source.read(4 * _CHUNK):
            file.write(block)
            progress(file.tell())


def _get_from_web(url: str, expected: Version, place: Path, progress: Callable[[int], None]) -> None:
    """Fetch by HTTP in one stream, from where the file ends where the server allows that, else from its beginning."""
    from fsspec.asyn import sync

    system = _system(url)

    async def stream() -> None:
        session = await system.set_session()
        have = place.stat().st_size if place.exists() else 0
        if have and have == expected.size:
            return
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        async with session.get(system.encode_url(url), headers=headers) as answer:
            if answer.status == 416:  # what is there is longer than the file
                place.unlink()
                raise _PassingError("the server does not know the range that is left")
            system._raise_not_found_for_status(answer, url)
            mark = answer.headers.get("ETag", "").removeprefix("W/")
            if mark and expected.mark.startswith('"') and mark != expected.mark:
                raise DataError(f"{shown(url)}: has changed while it was fetched; give the same command again")
            resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            with place.open("ab" if resumed else "wb") as file:
                async for block in answer.content.iter_chunked(_CHUNK):
                    file.write(block)
                    if expected.size is not None and file.tell() > expected.size:
                        return
                    progress(file.tell())

    sync(system.loop, stream)


def _system(url: str) -> Any:
    """The file system of fsspec for a URL. Raises DataError where a package is missing."""
    protocol = url.partition("://")[0]
    try:
        import fsspec

        if protocol not in _WEB:
            return fsspec.filesystem(protocol)
        import aiohttp

        return fsspec.filesystem(protocol, client_kwargs=_client(aiohttp, protocol))
    except ImportError as error:
        package = {**_PACKAGES, **_PACKAGES_MORE}.get(protocol, "")
        install = f"pip install 'mdfpipe[remote]'{f' {package}' if package else ''}"
        raise DataError(f"{shown(url)}: {one_line(error, 120)}: needs more packages: {install}") from None


_clients: dict[str, dict[str, Any]] = {}


def _client(aiohttp: Any, protocol: str) -> dict[str, Any]:
    """Settings of the HTTP client: limits of waiting, proxies and ~/.netrc, no step down from TLS at a redirect."""
    if protocol not in _clients:

        async def watch(_session: Any, _context: Any, params: Any) -> None:
            target = params.response.headers.get("Location", "")
            if "://" in target and target.partition("://")[0].lower() not in (protocol, "https"):
                raise DataError(
                    f"{shown(params.url)}: the server redirects from {protocol} to '{one_line(shown(target), 120)}', "
                    "which is refused; name the file by its own URL"
                )

        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(watch)
        waits = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_SILENCE)
        _clients[protocol] = {"timeout": waits, "trust_env": True, "trace_configs": [trace]}
    return _clients[protocol]


def _tried(url: str, do: Callable[[], _Got]) -> _Got:
    """What `do` returns; errors that may be gone in a moment are tried again. Raises DataError."""
    for number in range(len(_WAITS) + 1):
        try:
            return do()
        except (DataError, StoreError, KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:
            if number == len(_WAITS) or not _passes(error):
                _refuse(url, error)
            time.sleep(_WAITS[number])
    raise AssertionError("unreachable")


def _passes(error: Exception) -> bool:
    """Whether another attempt may help."""
    name, status = type(error).__name__, getattr(error, "status", 0)
    if isinstance(error, _PassingError | ConnectionError) or status in (408, 425, 429, 500, 502, 503, 504):
        return True
    return name in ("ClientPayloadError", "ServerDisconnectedError", "ClientOSError")


def _refuse(url: str, error: Exception) -> NoReturn:
    """Raise a DataError that says what is wrong with a remote file, and what to do."""
    name, status = type(error).__name__, getattr(error, "status", 0)
    words = one_line(shown(error), 160)
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error, FileNotFoundError):
        why = "no such file on the server; correct its name, or leave it out with dataset.leave_out"
    elif status in (401, 403, 407) or isinstance(error, PermissionError):
        why = f"the server refuses access{f' ({status})' if status else ''}; give it by ~/.netrc or the environment"
    elif "Certificate" in name:
        why = f"the server's certificate is not trusted: {words}; name your site's certificates in SSL_CERT_FILE"
    elif "SSL" in name:
        why = (
            f"the server does not speak TLS as expected: {words}; does its URL begin with http, or is a proxy between?"
        )
    elif isinstance(error, TimeoutError):
        why = f"no answer for {_SILENCE:g} s; check the network, and give the same command again"
    elif "Redirect" in name:
        why = f"the server redirects to where it may not: {words}; name the file by its own URL"
    elif isinstance(error, _PassingError) or (_passes(error) and not status):
        why = f"the connection broke off: {words}; give the same command again: it resumes"
    elif status:
        why = f"the server answers {status}; give the same command again later"
    else:
        why = f"cannot be fetched: {name}: {words}; check its name and the network"
    raise DataError(f"{shown(url)}: {why}") from None
