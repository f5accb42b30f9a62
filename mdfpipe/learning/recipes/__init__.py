"""Recipe: what is trained and how. One file a method, named after itself; adding one edits nothing else.

The loop (`train/loop.py`) calls, for every step, `forward` on this process's share of the batch, gathers what it
gives from all processes, and calls `losses` on the whole batch: so mined pairs, BN necks and class means see the same
batch however many processes there are. A running state over the whole batch (a BN neck) belongs into `losses`, work
on one image into `forward`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from mdfpipe.config import Config, Plugin
from mdfpipe.learning.data.augment import Augment
from mdfpipe.learning.data.batches import CropBatch, Sampler
from mdfpipe.learning.train.schedule import Group, Optimiser, Schedule

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mdfpipe.learning.data.crops import Crops
    from mdfpipe.learning.losses.ranking import Mined
    from mdfpipe.learning.models.weights.loading import LoadReport
    from mdfpipe.weightfiles import Taken


Network: TypeAlias = Any
"""What `Recipe.model` made: an nn.Module whose parts the recipe knows, and mypy does not."""


@dataclass(frozen=True)
class Progress:
    """Where the training is. step: of all steps, from 0; epoch: from 0; steps, epochs: in all."""

    step: int
    steps: int
    epoch: int
    epochs: int

    @property
    def share(self) -> float:
        """How much of the training is done, 0..1."""
        return self.step / max(self.steps, 1)


@dataclass(eq=False)
class Losses:
    """What a step gives. terms: named, already weighted, scalar; their sum is minimised. figures: logged, not
    minimised: name -> (sum, count), averaged over an epoch by the loop. mined: the pairs that were mined, for the
    statistics of the epoch.
    """

    terms: dict[str, Tensor]
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)
    mined: Mined | None = None


class Depth(Config):
    """How crops above 8 bits become 8 bits for a network. The stored crop keeps the source's values."""

    policy: Literal["recorded", "crop_percentile", "native"] = Field(
        "crop_percentile",
        description="recorded: black and white of the video as detect found them; crop_percentile: of each crop; "
        "native: the top 8 of 16 bits",
    )
    low_percentile: float = Field(1.0, ge=0, lt=50, description="percentile of a crop that becomes black")
    high_percentile: float = Field(99.0, gt=50, le=100, description="percentile of a crop that becomes white")


class Recipe(Plugin):
    """A method. Its fields are its hyper-parameters; torch is imported inside its methods only."""

    modality: ClassVar[Literal["body", "face"]] = "body"
    tiny: ClassVar[dict[str, Any]] = {}  # settings with which it runs in a second: the contract tests take them
    distance: ClassVar[Literal["cosine", "euclidean"]] = "cosine"  # between embeddings at test
    native: ClassVar[str] = "torch"  # the library that runs its network; with another one nothing is trained
    only_embedding: ClassVar[tuple[str, ...]] = ()  # fields that only `embed` uses: they decide no weight

    image_height_px: int = Field(384, ge=16, le=2048, description="height of the network's input")
    image_width_px: int = Field(128, ge=16, le=2048, description="width of the network's input")
    depth: Depth = Field(default=Depth(), description="crops above 8 bits")
    optimiser: Optimiser = Field(default=Optimiser(), description="optimiser")
    schedule: Schedule = Field(
        default=Schedule(), description="length of the training and schedule of the learning rate"
    )
    augment: Augment = Field(default=Augment(), description="augmentation of training crops")

    @model_validator(mode="before")
    @classmethod
    def _keep_the_rest(cls, value: Any) -> Any:
        """A section that is given in part keeps the rest as the recipe has it."""
        if not isinstance(value, dict):
            return value
        merged = dict(value)
        for name, given in value.items():
            usual = cls.model_fields[name].default if name in cls.model_fields else None
            if isinstance(given, dict) and isinstance(usual, Config):
                merged[name] = {**usual.model_dump(), **given}
        return merged

    @abstractmethod
    def model(self, classes: int, domains: Sequence[str]) -> nn.Module:
        """The network, its weights drawn from torch's generator. classes: training subjects, 0 = to embed only.

        What it has for each of the `domains` is named after it: a system that starts from another takes it by name.
        """

    def network(self, crops: Crops) -> nn.Module:
        """The network to train on these crops: `model` of their subjects and domains. Raises ConfigError."""
        return self.model(len(crops.subjects), crops.domains)

    @property
    def uses_cameras(self) -> bool:
        """Whether the camera of a crop decides its vector. By default: no."""
        return False

    @classmethod
    def methods(cls) -> list[str]:
        """The names of the recipes that train, sorted."""
        return [name for name in cls.choices() if cls.variant(name).native == "torch"]

    def read(self, path: Path, entry: str | None, *, trust_pickle: bool) -> Taken:
        """The tensors in a public checkpoint, for `load`; as `weights.loading.take`. Raises ConfigError."""
        from mdfpipe.learning.models.weights.loading import take

        return take(path, entry, trust_pickle=trust_pickle)

    @abstractmethod
    def load(self, model: Network, state: dict[str, Any], source: str, min_coverage: float) -> LoadReport:
        """Put a public checkpoint's tensors into the network; says what was loaded. source: its name. Raises
        ConfigError, also where less than `min_coverage` of the backbone is covered."""

    @property
    @abstractmethod
    def features(self) -> int:
        """D of the embedding."""

    head: ClassVar[tuple[str, ...]] = ("classifier.", "head.")  # weights of the classes: never taken over

    def before_training(self, model: Network) -> None:
        """Change the loaded network for its training, in place (low-rank terms). By default: as it is."""

    def after_training(self, model: Network) -> None:
        """Undo that, in place: the checkpoint holds what `model` makes. By default: nothing."""

    @abstractmethod
    def sampler(self, crops: Crops, seed: int) -> Sampler:
        """The batches. Raises DataError where the crops do not allow them (one subject, a domain missing)."""

    def forward(self, model: Network, batch: CropBatch) -> dict[str, Tensor]:
        """What `losses` needs of these images: tensors whose first axis is the batch. Calls `model(...)` once."""
        found: dict[str, Tensor] = model(batch.images)
        return found

    @abstractmethod
    def losses(self, model: Network, features: dict[str, Tensor], batch: CropBatch, progress: Progress) -> Losses:
        """The loss terms of the whole batch. batch: its labels (its images may be missing)."""

    def embed(self, model: Network, batch: CropBatch) -> Tensor:
        """(B, D) float32 vectors, raw: what length means is `distance`'s and pooling's to say. By default `feature`,
        with `flip_fusion` the mean of that of the crop and of its mirror image.
        """
        found = self.feature(model, batch.images, batch.domain)
        if getattr(self, "flip_fusion", False):
            found = (found + self.feature(model, batch.images.flip(3), batch.domain)) / 2
        return found

    def feature(self, model: Network, images: Tensor, domain: Tensor) -> Tensor:
        """(B, D) float32 test feature. images: (B, 3, H, W); domain: (B,) places in the domains it was made for."""
        raise NotImplementedError

    def embedded_as(self, domain: str, trained: Sequence[str]) -> int | None:
        """The place in `trained` (the `domains` of `model`) that `embed` receives for crops of `domain`; None: there is
        no stream for them. By default its own place, or 0 where it was not trained: the network uses images alone.
        """
        return trained.index(domain) if domain in trained else 0

    def stream_at(self, place: int, trained: Sequence[str]) -> int:
        """The first place in `trained` whose crops `embed` treats as those of this place. By default 0 where
        `embedded_as` is as it is here, since the network uses images alone; else the place itself.
        """
        return 0 if type(self).embedded_as is Recipe.embedded_as else place

    def adopt(self, model: Network, state: dict[str, Any]) -> dict[str, Any]:
        """The tensors of another system's checkpoint, by the names that this network has for them, and a place in it
        for those that only a checkpoint names. By default: as they are named."""
        return state

    def parameter_groups(self, model: Network) -> list[Group]:
        """What is trained, at which rate; what requires no gradient is frozen. By default everything alike."""
        return [Group([p for p in model.parameters() if p.requires_grad])]

    def measure(self, model: Network, batches: Iterable[CropBatch]) -> dict[str, float]:
        """Shares (0..1) that show whether the network does what it is made for, for the log of validations, by name.

        model: in eval mode, without gradients; batches: of held-out crops, as at test, one or more. By default: none.
        """
        return {}

    def notes(self, history: list[dict[str, Any]], figures: dict[str, float]) -> list[str]:
        """What a reader of this system's numbers should know, given what it comes from and the figures of its last
        epoch. By default: nothing."""
        return []
