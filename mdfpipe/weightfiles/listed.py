"""Weight files that mdfpipe knows by name, the rows of `benchmarks/weights.yaml`; is a file the listed one?"""

from __future__ import annotations

import contextlib
from enum import StrEnum
from functools import cache
from pathlib import Path

from pydantic import Field, model_validator

from mdfpipe.config import Config, find_file, read_yaml, validate
from mdfpipe.errors import ConfigError
from mdfpipe.store.hashing import bytes_sha256
from mdfpipe.store.shipped import SHIPPED, demo_weights

FILE = Path("benchmarks") / "weights.yaml"
UNKNOWN = "unknown"
_WHOLE = 64


class Checksum(StrEnum):
    """What comparing a file with the list says."""

    AS_LISTED = "as listed"
    BEGINS_AS_LISTED = "begins as listed"
    ANOTHER = "another file"
    UNKNOWN = "no checksum is known"


class Weights(Config):
    """A weight file."""

    name: str = Field(description="what it is")
    file: str = Field(pattern=r"^[\w.+-]+$", description="its name, as studies name it")
    source: str = Field(description="who publishes it, and where")
    sha256: str = Field(UNKNOWN, pattern=r"^([0-9a-f]{8,64}|unknown)$", description="or its first digits, or unknown")
    licence: str = Field(UNKNOWN, description="of the weights; unknown if no available text states it")
    verified: bool = Field(False, description="whether the sha256 was taken from the file itself")

    @model_validator(mode="after")
    def _verified_is_whole(self) -> Weights:
        if self.verified and len(self.sha256) != _WHOLE:
            raise ValueError(f"{self.file}: verified needs all {_WHOLE} digits of its sha256, got {self.sha256}")
        return self

    def compare(self, sha256: str) -> Checksum:
        """Whether a file with this checksum is the listed one.

        >>> Weights(name="a", file="a.pt", source="b", sha256="0123abcd").compare("0123abcd" + 56 * "0").value
        'begins as listed'
        """
        if self.sha256 == UNKNOWN:
            return Checksum.UNKNOWN
        if not sha256.startswith(self.sha256):
            return Checksum.ANOTHER
        return Checksum.AS_LISTED if len(self.sha256) == _WHOLE else Checksum.BEGINS_AS_LISTED

    def here(self, data: Path) -> tuple[Path, str] | None:
        """Where the file is, and its sha256; None where studies on this data root would not find it."""
        for name in (self.file, f"weights/{self.file}"):
            with contextlib.suppress(ConfigError, OSError):
                place = demo_weights() if self.file == demo_weights().name else find_file(name, data, "weights")
                return place, bytes_sha256(place)
        return None


class _List(Config):
    weights: list[Weights]


@cache
def listed() -> tuple[Weights, ...]:
    """Every listed file. Raises ConfigError where the list is not as it should be."""
    place = SHIPPED / FILE
    return tuple(validate(_List, read_yaml(place), str(place)).weights)


def listed_as(file: str) -> Weights | None:
    """The row of a file name; None where it is not listed."""
    return next((one for one in listed() if one.file == file), None)
