"""onnx: vectors of any network in an ONNX file, a vendor's or one of your own, in the same tables; nothing is trained.

The system's `weights` names the file. Its checkpoint holds the file's bytes; onnxruntime (extra `onnx`) runs them, on
the CPU. Crops are normalised as `augment` says; `mean` and `std` take the place of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mdfpipe.errors import ConfigError
from mdfpipe.learning.data.augment import Augment
from mdfpipe.learning.data.batches import CropBatch, Sampler
from mdfpipe.learning.recipes import Losses, Network, Progress, Recipe
from mdfpipe.learning.train.schedule import Schedule
from mdfpipe.store.content import Kind, content_of

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor, nn

    from mdfpipe.learning.data.crops import Crops
    from mdfpipe.learning.models.weights.loading import LoadReport
    from mdfpipe.weightfiles import Taken

Triple = tuple[float, float, float]


class OnnxRecipe(Recipe):
    """Vectors of a network in an ONNX file."""

    native: ClassVar[str] = "onnxruntime"
    only_embedding: ClassVar[tuple[str, ...]] = ("flip_fusion", "unit_length")

    image_height_px: int = Field(256, ge=16, le=2048, description="height of the network's input")
    image_width_px: int = Field(128, ge=16, le=2048, description="width of the network's input")
    embeds: Literal["body", "face"] = Field("body", description="crops that it embeds")
    dimensions: int = Field(512, ge=1, le=65536, description="numbers of a vector")
    layout: Literal["auto", "nchw", "nhwc"] = Field(
        "auto", description="axes of the input; auto: as the graph has its 3 channels, else nchw"
    )
    output: str | None = Field(None, description="name of the output with the vectors; none: the only one")
    mean: Triple | None = Field(
        None,
        description="mean of values in 0..1, in the network's order of channels; with std, in place of "
        "augment.normalise",
    )
    std: Triple | None = Field(
        None, description="spread, likewise; mean 0 with std 1 gives 0..1, and std 0.00392157 gives 0..255"
    )
    flip_fusion: bool = Field(False, description="also embed the mirrored crop and average both vectors")
    unit_length: bool = Field(False, description="divide each vector by its length")
    schedule: Schedule = Field(default=Schedule(length=0, warm_up=0), description="length 0: nothing is trained")
    augment: Augment = Field(default=Augment(), description="colour and normalise; nothing else is used")

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        if self.schedule.length:
            raise ValueError(
                f"expected schedule.length 0, got {self.schedule.length:g}: an ONNX network is not trained"
            )
        if (self.mean is None) != (self.std is None):
            raise ValueError("expected mean and std, or neither, got one of them")
        if self.std is not None and not min(self.std) > 0:
            raise ValueError(f"expected std above 0, got {list(self.std)}")
        if self.mean is not None and self.augment.normalise != "half":
            raise ValueError(
                f"expected mean and std or augment.normalise, got both (normalise {self.augment.normalise})"
            )
        return self

    @property
    def modality(self) -> Literal["body", "face"]:  # type: ignore[override]
        """As `embeds`."""
        return self.embeds

    @property
    def features(self) -> int:
        """D of the embedding."""
        return self.dimensions

    def model(self, classes: int, domains: Sequence[str]) -> nn.Module:
        """OnnxNetwork, empty until its file is loaded."""
        from mdfpipe.learning.models.onnx_network import OnnxNetwork, Wanted

        size = (self.image_height_px, self.image_width_px)
        return OnnxNetwork(Wanted(size, self.dimensions, self.layout, self.output))

    def read(self, path: Path, entry: str | None, *, trust_pickle: bool) -> Taken:
        """The bytes of the file. Raises ConfigError where it is no ONNX network."""
        import torch

        from mdfpipe.weightfiles import Taken

        if entry is not None:
            raise ConfigError(f"{path}: weights_entry {entry!r:.60}: an ONNX file has one network; leave it out")
        content = content_of(path)
        if content.kind is not Kind.ONNX:
            raise ConfigError(f"{path}: expected an ONNX network, got {content.what}; export it to ONNX")
        return Taken({"graph": torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)})

    def load(self, model: Network, state: dict[str, Any], source: str, min_coverage: float) -> LoadReport:
        """Put the file's bytes into the network, and embed a grey image. Raises ConfigError, MissingDependency."""
        from mdfpipe.learning.models.weights.loading import ONNX, LoadReport

        model.load_state_dict(state)
        model.opened(source)
        return LoadReport(source, ONNX, ("graph",), (), (), (), (), 1.0)

    def feature(self, model: Network, images: Tensor, domain: Tensor) -> Tensor:
        """The graph's vectors."""
        import torch

        if self.mean is not None and self.std is not None:
            mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (self.mean, self.std))
            images = ((images.cpu() + 1) / 2 - mean) / std
        found: Tensor = model(images)
        return found

    def embed(self, model: Network, batch: CropBatch) -> Tensor:
        """The vectors, of unit length where that is set."""
        from torch.nn.functional import normalize

        found = super().embed(model, batch)
        return normalize(found, dim=1) if self.unit_length else found

    def sampler(self, crops: Crops, seed: int) -> Sampler:
        """None: nothing is trained."""
        raise ConfigError("recipe onnx: an ONNX network is not trained")

    def losses(self, model: Network, features: dict[str, Tensor], batch: CropBatch, progress: Progress) -> Losses:
        """None: nothing is trained."""
        raise ConfigError("recipe onnx: an ONNX network is not trained")
