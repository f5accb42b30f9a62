"""Streams and pairs of domains: what methods for two modalities do with any number of domains (METHODS 0)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal, TypeAlias

from mdfpipe.domains import Band, Domain

if TYPE_CHECKING:
    from torch import Tensor

Streams: TypeAlias = Literal["per_domain", "vis_ir", "shared"]
Pairs: TypeAlias = Literal["all", "vis_ir", "grouped"]
VISIBLE, INFRARED, EVERY = "VIS", "IR", "all"


def is_visible(domain: str) -> bool:
    """Whether a domain is of visible light. Raises DataError for what is no domain."""
    return Domain.parse(domain).band is Band.VIS


def stream(domain: str, streams: Streams) -> str:
    """The name of the stream that takes the images of a domain, fit to name a module.

    >>> stream("VIS-2.5m", "per_domain"), stream("MWIR-30m", "vis_ir"), stream("MWIR-30m", "shared")
    ('VIS-2_5m', 'IR', 'all')
    """
    if streams == "per_domain":
        return domain.replace(".", "_")
    if streams == "vis_ir":
        return VISIBLE if is_visible(domain) else INFRARED
    return EVERY


def stream_names(domains: Sequence[str], streams: Streams) -> list[str]:
    """The streams of these domains, each once, in their order; one where there are no domains."""
    return list(dict.fromkeys(stream(name, streams) for name in domains)) or [EVERY]


def place_in(domain: str, trained: Sequence[str], streams: Streams) -> int | None:
    """The place in `trained` of the domain, else of the first whose stream takes its images; None: there is none."""
    if domain in trained:
        return trained.index(domain)
    wanted = stream(domain, streams)
    if not trained:
        return 0
    return next((n for n, name in enumerate(trained) if stream(name, streams) == wanted), None)


@dataclass(frozen=True)
class DomainPairs:
    """Which domains a loss brings together. group: of each domain, a number; pairs: unordered, of groups a < b.

    all: every two domains; vis_ir: those of which exactly one is visible; grouped: all infrared domains as one group
    next to the visible ones, which are one group, too. Where vis_ir finds no visible domain, or no other, it has none.
    """

    group: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, domains: Sequence[str], kind: Pairs) -> DomainPairs:
        """Those of some domains."""
        if kind == "grouped":
            names = stream_names(domains, "vis_ir")
            group = tuple(names.index(stream(d, "vis_ir")) for d in domains)
            return cls(group, tuple(combinations(range(len(names)), 2)))
        found = tuple(combinations(range(len(domains)), 2))
        if kind == "vis_ir":
            found = tuple((a, b) for a, b in found if is_visible(domains[a]) != is_visible(domains[b]))
        return cls(tuple(range(len(domains))), found)

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return max(self.group, default=-1) + 1

    def of_images(self, domain: Tensor) -> Tensor:
        """(B,) int64 group of images whose domains are (B,) places."""
        import torch

        found: Tensor = torch.tensor(self.group, dtype=torch.int64, device=domain.device)[domain]
        return found

    def within(self, present: Sequence[int]) -> Iterator[tuple[int, int]]:
        """The pairs of which both groups are present; the others have no data and are left out of means."""
        return ((a, b) for a, b in self.pairs if a in present and b in present)

    def ordered_within(self, present: Sequence[int]) -> Iterator[tuple[int, int]]:
        """The same in both orders."""
        return (pair for a, b in self.within(present) for pair in ((a, b), (b, a)))
