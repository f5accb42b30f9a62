"""CrossModal: what the methods for two modalities share, opened to any number of domains (METHODS 0).

A `Trunk` in stages with a stream for each domain, for visible and infrared light, or for all; batches of P subjects x D
domains x K crops; a BN neck whose feature is embedded; losses as means over pairs of domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mdfpipe.config import Config
from mdfpipe.learning.data.augment import Augment
from mdfpipe.learning.data.batches import CropBatch, Sampler
from mdfpipe.learning.recipes import Network, Recipe
from mdfpipe.learning.recipes._batches import Batches
from mdfpipe.learning.streams import Pairs, Streams, place_in, stream
from mdfpipe.learning.train.schedule import Group, by_part

if TYPE_CHECKING:
    from torch import Tensor

    from mdfpipe.learning.data.crops import Crops
    from mdfpipe.learning.models.weights.loading import LoadReport

Backbone = Literal["resnet50", "resnet18", "resnet18_half", "resnet18_quarter"]

IMAGENET = Augment(pad_px=10, erasing=0.5, normalise="imagenet")
"""Flip, pad by 10 and crop, erasing, and the mean and spread of ImageNet (METHODS 0, 4.4 and 5.3)."""

TINY: dict[str, Any] = {
    "image_height_px": 64,
    "image_width_px": 32,
    "backbone": "resnet18_half",
    "schedule": {"length": 2, "unit": "epochs", "warm_up": 0, "milestones": []},
    "batches": {"subjects": 2, "crops": 2},
}
"""Settings with which such a recipe runs in a second."""


class NonLocalBlocks(Config):
    """Non-local blocks, in which every place of a map attends to all others."""

    inner: Literal["half", "one"] = Field("half", description="width within: half the channels, or one (AGW's slip)")
    norm: Literal["softmax", "mean"] = Field("softmax", description="weights of places: softmax, or divided by n (AGW)")


class CrossModal(Recipe):
    """A method on a ResNet with streams."""

    only_embedding: ClassVar[tuple[str, ...]] = ("flip_fusion",)
    tiny: ClassVar[dict[str, Any]] = TINY
    across: ClassVar[tuple[str, ...]] = ()  # terms of its loss that bring domains together
    below: ClassVar[tuple[str, ...]] = ("backbone.",)  # how names begin that learn at the backbone's rate

    backbone: Backbone = Field(
        "resnet50", description="the ResNet; resnet18_half and resnet18_quarter have so many of its channels, for a CPU"
    )
    streams: Streams = Field(
        "per_domain", description="whose images share the first stages: of a domain, of visible or infrared light, all"
    )
    pairs: Pairs = Field(
        "all",
        description="domains that losses bring together: every two, a visible and another, or infrared ones as one",
    )
    batches: Batches = Field(default=Batches(), description="sampling of batches")
    backbone_rate: float = Field(1.0, gt=0, description="rate of the backbone, times the schedule's")
    bias_rate: float = Field(1.0, gt=0, description="rate of biases, times the others'")
    decay_vectors: bool = Field(True, description="weight decay also of biases and of the scales of norms")
    flip_fusion: bool = Field(False, description="also embed the mirrored crop and average both")
    augment: Augment = Field(default=IMAGENET, description="augmentation of training crops")

    @property
    def features(self) -> int:
        """D of the embedding: the channels of the last stage."""
        from mdfpipe.learning.models.backbones.trunk import CHANNELS

        return CHANNELS[self.backbone][-1]

    def notes(self, history: list[dict[str, Any]], figures: dict[str, float]) -> list[str]:
        """Terms that did nothing, as where no subject is in a pair of domains."""
        idle = [name for name in self.across if figures.get(f"loss/{name}") == 0]
        if not idle:
            return []
        return [
            f"loss/{' and loss/'.join(idle)}: 0 throughout its last epoch, so nothing brought domains together there "
            f"(pairs: {self.pairs})"
        ]

    def stream_of(self, domains: Sequence[str]) -> list[str]:
        """The stream of each domain; of a network made for no domain in particular, one."""
        return [stream(name, self.streams) for name in domains] or [stream("VIS", "shared")]

    def embedded_as(self, domain: str, trained: Sequence[str]) -> int | None:
        """The place in `trained` whose stream takes the domain; None where no stream was trained for it."""
        return place_in(domain, trained, self.streams)

    def stream_at(self, place: int, trained: Sequence[str]) -> int:
        """The first place in `trained` of the same stream."""
        names = self.stream_of(trained)
        return names.index(names[place])

    def load(self, model: Network, state: dict[str, Any], source: str, min_coverage: float) -> LoadReport:
        """A torchvision ResNet into every stream and branch."""
        from mdfpipe.learning.models.weights import loading as weights

        return weights.load_trunk(model, state, source=source, min_coverage=min_coverage)

    def adopt(self, model: Network, state: dict[str, Any]) -> dict[str, Any]:
        """A trunk of other streams or branches: each copy takes what its stage is there."""
        from mdfpipe.learning.models.backbones.trunk import fill

        inside = {n.removeprefix("backbone."): t for n, t in state.items() if n.startswith("backbone.")}
        rest = {name: tensor for name, tensor in state.items() if not name.startswith("backbone.")}
        filled = fill(model.backbone.state_dict(), inside)
        return rest | {f"backbone.{name}": tensor for name, tensor in filled.items()}

    def sampler(self, crops: Crops, seed: int) -> Sampler:
        """P subjects x D domains x K crops, or as `batches` says."""
        return self.batches.sampler_of(crops, seed)

    def forward(self, model: Network, batch: CropBatch) -> dict[str, Tensor]:
        """z (B, D) before the neck, and what else the network gives."""
        found: dict[str, Tensor] = model(batch.images, batch.domain)
        return found

    def feature(self, model: Network, images: Tensor, domain: Tensor) -> Tensor:
        """z after the neck."""
        found: Tensor = model.neck(model(images, domain)["z"])
        return found

    def parameter_groups(self, model: Network) -> list[Group]:
        """What learns at the backbone's rate, and the rest."""
        return by_part(
            model,
            backbone_rate=self.backbone_rate,
            bias_rate=self.bias_rate,
            decay_vectors=self.decay_vectors,
            bias_decay=getattr(self, "bias_decay", None),
            backbone=self.below,
            others=self.rates(),
        )

    def rates(self) -> dict[str, float]:
        """Rates of further parts, by how their names begin, times the schedule's. By default there are none."""
        return {}
