"""URLs of remote videos: which a table may name, how they are written, and what is never written.

A table is not trusted. A URL in it is taken only where the setting `dataset.remote` allows it, by its protocol or by
how it begins. A URL never names a file of this machine, a file inside another one (`zip://...::https://...`), a user, a
password or a query, because a query is where signatures and tokens are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from mdfpipe.errors import DataError, one_line
from mdfpipe.store.naming import LONGEST_PATH

PROTOCOLS: Final = ("https", "http", "s3", "gs", "az", "abfs", "hf", "sftp", "ftp", "webdav", "hdfs")
"""Protocols of fsspec that reach another machine; no other one is ever opened for a video."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_SECRETS = re.compile(r"(?<=://)[^/?#\s@]*@")
_QUERY = re.compile(r"[?#]\S*")


def is_url(path: str) -> bool:
    """Whether a video's path is a URL, written with one slash or two.

    >>> is_url("https://data.org/a.mp4"), is_url("videos/a.mp4"), is_url("C:/a.mp4")
    (True, False, False)
    """
    return _URL.match(path) is not None


def shown(text: object) -> str:
    """A text without the users, passwords and queries of the URLs in it.

    >>> shown("https://ann:pass@data.org/a.mp4?X-Amz-Signature=12 is gone")
    'https://data.org/a.mp4 is gone'
    """
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]+://\S+", lambda url: _QUERY.sub("", _SECRETS.sub("", url[0])), str(text))


def plain_url(url: str, what: str, allowed: Sequence[str]) -> str:
    """A URL of a video as it is stored: protocol and host in lower case.

    what: its origin, for messages. allowed: protocols, and beginnings of URLs. Raises DataError for a URL that is not
    allowed, or that could name something else than one file of that server.
    """
    if not allowed:
        raise DataError(
            f"{what}: expected a path relative to the data root, got the URL '{one_line(shown(url), 120)}'; "
            "dataset.remote allows URLs, by default none"
        )
    protocol, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    found = f"{protocol.lower()}://{host.lower() if protocol.lower().startswith('http') else host}{slash}{path}"
    if problem := _problem(url, found, host, path):
        raise DataError(f"{what}: expected the URL of one file, got '{one_line(shown(url), 120)}', which {problem}")
    if not any(_begins(found, start) for start in allowed):
        raise DataError(
            f"{what}: got the URL '{one_line(shown(url), 120)}', and dataset.remote allows {', '.join(allowed)}; "
            f"allow it there ({found.partition('://')[0]}://{host}/), or name a file of the data root"
        )
    return found


def _problem(url: str, found: str, host: str, path: str) -> str | None:
    protocol = found.partition("://")[0]
    if len(url) > LONGEST_PATH:
        return f"has {len(url)} characters (at most {LONGEST_PATH})"
    if protocol not in PROTOCOLS:
        return f"is of a protocol that is never opened (these are: {', '.join(PROTOCOLS)})"
    if not url.isprintable() or " " in host or "\\" in url:
        return "holds a backslash, a blank or a character that one does not see"
    if "@" in host:
        return "names a user or a password: put them into ~/.netrc or the environment, a table is passed on"
    if "?" in url or "#" in url:
        return "has a query: signatures and tokens in it expire; give access by ~/.netrc or the environment"
    if "::" in url:
        return "names a file inside another one"
    parts = [re.sub("%2e", ".", part, flags=re.IGNORECASE) for part in path.split("/")]
    if not host or not parts[-1]:
        return "names no file"
    return "climbs with '.' or '..'" if {".", "..", ""} & set(parts) else None


def _begins(url: str, start: str) -> bool:
    """Whether a URL is of an allowed protocol, or begins as allowed, up to the end of a name in it."""
    if "://" not in start:
        return url.startswith(f"{start}://")
    return url.startswith(start if start.endswith("/") else f"{start}/")


def allowed_start(text: str) -> str:
    """An entry of `dataset.remote` in plain form. Raises ValueError where it is neither protocol nor beginning.

    >>> allowed_start("HTTPS"), allowed_start("https://Data.org/ijb")
    ('https', 'https://data.org/ijb')
    """
    protocol, _, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    plain = f"{protocol.lower()}://{host.lower()}{slash}{path}" if rest else protocol.lower()
    if protocol.lower() not in PROTOCOLS:
        raise ValueError(f"expected a protocol ({', '.join(PROTOCOLS)}) or how a URL begins, got '{shown(text)}'")
    if rest and ("@" in host or {"?", "#", "\\"} & set(text) or ".." in path.split("/") or "::" in text):
        raise ValueError(f"expected how a URL begins, without user, password, query and '..', got '{shown(text)}'")
    return plain


def name_of(url: str) -> str:
    """The path by which a URL's video is named in a run: host and path, without the port.

    >>> name_of("https://data.org:8080/ijb/a.mp4")
    'data.org/ijb/a.mp4'
    """
    found = urlsplit(url)
    host = found.netloc.rpartition("@")[2].partition(":")[0]
    return f"{host}{found.path}".lstrip("/")
