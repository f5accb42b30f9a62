"""Band and Domain: the spectral band of a camera, and its distance; and the order of domains."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, total_ordering
from numbers import Real
from typing import Any, Final

from mdfpipe.errors import DataError, one_line


class Band(StrEnum):
    """The spectral bands, by wavelength."""

    VIS = "VIS"  # 0.4-0.7 um
    NIR = "NIR"  # 0.7-1.0 um
    SWIR = "SWIR"  # 1-3 um, reflected light
    MWIR = "MWIR"  # 3-5 um, emitted and reflected
    LWIR = "LWIR"  # 8-14 um, emitted

    @property
    def is_thermal(self) -> bool:
        """Whether the band shows emitted heat rather than reflected light.

        >>> Band.LWIR.is_thermal, Band.SWIR.is_thermal
        (True, False)
        """
        return self in (Band.MWIR, Band.LWIR)


_PATTERN = re.compile(r"(?P<band>[A-Za-z]+)(?:-(?P<range>\d+(?:\.\d+)?)m)?")


_FARTHEST_M: Final = 999_999  # names of domains have no exponents


@total_ordering
@dataclass(frozen=True)
class Domain:
    """A band, at a range where it is known: `VIS-500m`, `SWIR-30m`, `LWIR`. Sorted as `by_wavelength`.

    >>> Domain.parse("swir-30m")
    Domain('SWIR-30m')
    >>> Domain.parse("VIS").range_m is None
    True
    """

    band: Band
    range_m: float | None = None

    def __post_init__(self) -> None:
        """Take a band as text, too. Raises DataError for what is no band or range."""
        metres: Any = self.range_m
        if self.band not in list(Band):
            raise DataError(f"domain: expected a band of {', '.join(Band)}, got {one_line(repr(self.band), 80)}")
        object.__setattr__(self, "band", Band(self.band))
        if metres is None:
            return
        is_number = isinstance(metres, Real)
        if not is_number or not 0 <= metres <= _FARTHEST_M:
            got = one_line(repr(metres), 80)
            raise DataError(f"domain: expected a range of 0 to {_FARTHEST_M} m, or None, got {got}")
        object.__setattr__(self, "range_m", float(metres))

    @classmethod
    def parse(cls, text: str | Domain) -> Domain:
        """The domain named by `text`, `<BAND>` or `<BAND>-<RANGE>m`; a domain as it is. Raises DataError."""
        if isinstance(text, Domain):
            return text
        match = _PATTERN.fullmatch(text.strip()) if isinstance(text, str) else None
        try:
            if match is None:
                raise ValueError
            band = Band(match["band"].upper())
        except ValueError:
            bands = ", ".join(Band)
            raise DataError(
                f"domain: expected <BAND> or <BAND>-<RANGE>m such as SWIR-30m, with a band of {bands}; got {text!r:.80}"
            ) from None
        return cls(band, float(match["range"]) if match["range"] else None)

    def may_be(self, other: str | Domain) -> bool:
        """Whether both can mean one domain: the same band, and no two ranges. Raises DataError for a text that is none.

        >>> Domain(Band.VIS).may_be(Domain(Band.VIS, 500)), Domain(Band.VIS, 30).may_be(Domain(Band.VIS, 500))
        (True, False)
        """
        other = Domain.parse(other)
        return self.band == other.band and (None in (self.range_m, other.range_m) or self.range_m == other.range_m)

    @property
    def place(self) -> tuple[int, float]:
        """Its place among domains: by band, then range, the farthest first, an unknown one last."""
        return list(Band).index(self.band), 1.0 if self.range_m is None else -self.range_m

    def __lt__(self, other: object) -> bool:
        return self.place < other.place if isinstance(other, Domain) else NotImplemented

    def __str__(self) -> str:
        return self.band.value if self.range_m is None else f"{self.band.value}-{self.range_m:g}m"

    def __repr__(self) -> str:
        return f"Domain({str(self)!r})"


def named_in(path: str) -> list[Domain]:
    """The domains that folders of a path, or parts of its names between underscores and dots, are called.

    >>> named_in("videos/LWIR-30m/walk_vis.mp4"), named_in("videos/visit/a.mp4")
    ([Domain('LWIR-30m'), Domain('VIS')], [])
    """
    return [found for part in re.split(r"[/\\_.]", path) if (found := _called(part)) is not None]


@lru_cache(4096)
def _called(part: str) -> Domain | None:
    try:
        return Domain.parse(part)
    except DataError:
        return None


def by_wavelength(domain: str) -> tuple[int, float, str]:
    """Sort key of domains: by band, then range, the farthest first, an unknown one last; unknown names last of all.

    >>> sorted(["LWIR-30m", "SWIR-30m", "mine", "VIS-30m", "VIS-500m"], key=by_wavelength)
    ['VIS-500m', 'VIS-30m', 'SWIR-30m', 'LWIR-30m', 'mine']
    """
    try:
        found = Domain.parse(domain)
    except DataError:
        return len(Band), 0.0, str(domain)
    return *found.place, str(domain)
