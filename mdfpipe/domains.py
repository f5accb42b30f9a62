"""Band and Domain: the spectral band of a camera, and its distance; and the order of domains."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from mdfpipe.errors import DataError


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


@dataclass(frozen=True, order=True)
class Domain:
    """A band, at a range where it is known: `VIS-500m`, `SWIR-30m`, `LWIR`.

    >>> Domain.parse("swir-30m")
    Domain('SWIR-30m')
    >>> Domain.parse("VIS").range_m is None
    True
    """

    band: Band
    range_m: float | None = None

    @classmethod
    def parse(cls, text: str) -> Domain:
        """The domain named by `text`, `<BAND>` or `<BAND>-<RANGE>m`. Raises DataError."""
        match = _PATTERN.fullmatch(text.strip())
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

    def may_be(self, other: Domain) -> bool:
        """Whether both can mean one domain: the same band, and no two ranges.

        >>> Domain(Band.VIS).may_be(Domain(Band.VIS, 500)), Domain(Band.VIS, 30).may_be(Domain(Band.VIS, 500))
        (True, False)
        """
        return self.band == other.band and (None in (self.range_m, other.range_m) or self.range_m == other.range_m)

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
    """Sort key of domains: by band, then range, the farthest first; unknown names last.

    >>> sorted(["LWIR-30m", "SWIR-30m", "mine", "VIS-30m", "VIS-500m"], key=by_wavelength)
    ['VIS-500m', 'VIS-30m', 'SWIR-30m', 'LWIR-30m', 'mine']
    """
    try:
        found = Domain.parse(domain)
    except DataError:
        return len(Band), 0.0, domain
    return list(Band).index(found.band), -(found.range_m or 0.0), domain
