"""Batches: how the batches of a body recipe are drawn, as settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from mdfpipe.config import Config
from mdfpipe.learning.data.batches import Sampler
from mdfpipe.learning.data.sampling import DomainAware, Joint, RandomIdentity, Uniform

if TYPE_CHECKING:
    from mdfpipe.learning.data.crops import Crops


class Batches(Config):
    """Sampling of batches. domain_aware: P subjects x K crops from each domain in use; random: P subjects x `crops` x D
    crops of any domain; uniform: crops one by one. further_*: additional crops of visible-only manifests.

    evenly_over crops: each crop of a subject (domain_aware: of a subject in a domain) is as likely as any other;
    videos: of different videos or cameras as far as there are, so that a long one counts no more than a short one.
    """

    sampler: Literal["domain_aware", "random", "uniform"] = Field("domain_aware", description="see above")
    subjects: int = Field(8, ge=2, description="P: subjects of a batch")
    crops: int = Field(2, ge=1, description="K: crops of a subject and domain")
    evenly_over: Literal["crops", "videos"] | None = Field(
        None, description="of a subject, see above; none: videos for domain_aware, crops for random"
    )
    further_subjects: int = Field(0, ge=0, description="subjects of further manifests in each batch")
    further_crops: int = Field(4, ge=1, description="crops of each of them")

    def sampler_of(self, crops: Crops, seed: int) -> Sampler:
        """Batches of the study's own crops, and of further manifests where that is set. Raises DataError."""
        own = self.sources_of(crops)
        domains = len(np.unique(crops.domain[np.isin(crops.source, own)]))
        used: Sampler
        if self.sampler == "domain_aware":
            evenly = self.evenly_over or "videos"
            used = DomainAware(
                crops, subjects=self.subjects, crops_each=self.crops, seed=seed, sources=own, evenly_over=evenly
            )
        elif self.sampler == "random":
            each, evenly = self.crops * domains, self.evenly_over or "crops"
            used = RandomIdentity(
                crops, subjects=self.subjects, crops_each=each, seed=seed, sources=own, evenly_over=evenly
            )
        else:
            used = Uniform(crops, size=self.subjects * self.crops * domains, seed=seed, sources=own)
        return self.with_further(used, crops, seed)

    def sources_of(self, crops: Crops) -> list[int]:
        """The sources that are drawn from: the study's own alone, where it has any or further ones are added."""
        found = sorted(set(crops.source.tolist()))
        return [0] if self.further_subjects or (self.sampler == "domain_aware" and 0 in found) else found

    def with_further(self, own: Sampler, crops: Crops, seed: int) -> Sampler:
        """The sampler, with crops of further manifests where that is set. Raises DataError."""
        if not self.further_subjects:
            return own
        others = sorted(set(crops.source.tolist()) - {0})
        subjects, each, evenly = self.further_subjects, self.further_crops, self.evenly_over or "crops"
        further = RandomIdentity(
            crops, subjects=subjects, crops_each=each, seed=seed + 1, sources=others, evenly_over=evenly
        )
        return Joint(own, further)
