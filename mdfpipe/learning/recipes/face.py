"""face: AdaFace, a margin that adapts to image quality.

"AdaFace: Quality Adaptive Margin for Face Recognition" (CVPR 2022, arXiv 2204.00964), IR-101; and Table I of
"Multi-Domain Biometric Recognition using Body Embeddings": pretrained 87.50, 0.00 and 3.12 % Rank-1 in SWIR, MWIR and
LWIR, fine-tuned 59.38, 15.62 and 15.62 (k of 32).

**Differs.** Templates of that table are plain means of features of length 1, which AdaFace's forward gives: Table I has
`flip_fusion: false, unit_length: true` for them, and the recipe's own defaults (mirrored, weighted by the norms, as
AdaFace tests on IJB-C) as further rows. Fine-tuning is not described there; SGD 1e-3, new class weights at ten times
that, 20 epochs are ours. Weight decay is on all weights (AdaFace: none on BN). Crops are squares around annotated
boxes, without landmarks and so without alignment. `width` below 64 (thinner networks for a CPU) and the options of
`augment` beyond the flip are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mdfpipe.config import IF_SET, Config
from mdfpipe.errors import ConfigError
from mdfpipe.learning.data.augment import Augment
from mdfpipe.learning.data.batches import CropBatch, Sampler
from mdfpipe.learning.data.sampling import RandomIdentity, Uniform
from mdfpipe.learning.recipes import Losses, Network, Progress, Recipe
from mdfpipe.learning.train.schedule import Group, Optimiser, Schedule

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mdfpipe.learning.data.crops import Crops
    from mdfpipe.learning.models.weights.loading import LoadReport


class Margin(Config):
    """AdaFace's margin (Kim et al. 2022)."""

    margin: float = Field(0.4, ge=0, description="m")
    quality: float = Field(0.333, gt=0, description="h: how far quality reaches")
    scale: float = Field(64.0, gt=0, description="s")
    average: float = Field(0.01, gt=0, le=1, description="t of the moving averages of the norms")


class Face(Recipe):
    """Face embeddings with a quality-adaptive margin."""

    modality: ClassVar[Literal["body", "face"]] = "face"
    only_embedding: ClassVar[tuple[str, ...]] = ("flip_fusion", "unit_length")
    tiny: ClassVar[dict[str, Any]] = {
        "image_height_px": 32,
        "image_width_px": 32,
        "layers": 18,
        "width": 8,
        "batch": 16,
        "schedule": {"length": 2, "warm_up": 0},
    }

    image_height_px: int = Field(112, ge=16, le=2048, description="height of the network's input")
    image_width_px: int = Field(112, ge=16, le=2048, description="width of the network's input")
    layers: Literal[18, 50, 101] = Field(101, description="IR-18, IR-50 or IR-101")
    width: int = Field(64, ge=8, description="channels of the first stage; AdaFace: 64")
    loss: Margin = Field(default=Margin(), description="the margin")
    sampler_subjects: int = Field(0, ge=0, description="subjects of a batch; 0: crops one by one, whosever they are")
    sampler_evenly_over: Literal["crops", "videos"] = Field(
        "crops", description="with sampler_subjects: each crop of a subject as likely as any other, or by video first"
    )
    batch: int = Field(64, ge=2, description="crops of a batch")
    head_rate: float = Field(10.0, gt=0, description="rate of the class weights, times the backbone's")
    flip_fusion: bool = Field(True, description="also embed the mirrored crop and add both (weighted by their norms)")
    unit_length: bool | None = Field(
        None,
        json_schema_extra=IF_SET,
        description="embed vectors of length 1, so that a template is their plain mean; none: raw ones",
    )
    optimiser: Optimiser = Field(default=Optimiser(rate=1e-3, weight_decay=5e-4), description="optimiser")
    schedule: Schedule = Field(
        default=Schedule(length=20, warm_up=1), description="length of the training and schedule of the learning rate"
    )
    augment: Augment = Field(
        default=Augment(pad_px=0, erasing=0, colour="bgr"), description="augmentation of training crops"
    )

    @property
    def features(self) -> int:
        """D of the embedding."""
        return 512

    def model(self, classes: int, domains: Sequence[str]) -> nn.Module:
        """FaceModel: IResNet, and the margin's class weights."""
        from mdfpipe.learning.models.face import FaceModel

        if self.image_height_px != self.image_width_px:
            raise ConfigError(f"face: expected a square input, got {self.image_height_px}x{self.image_width_px}")
        return FaceModel(self.layers, self.width, self.image_height_px, classes, self.loss.model_dump())

    def load(self, model: Network, state: dict[str, Any], source: str, min_coverage: float) -> LoadReport:
        """AdaFace (Lightning) and CVLFace checkpoints. Raises ConfigError where the colour order is another one."""
        from mdfpipe.learning.models.weights import loading as weights

        report = weights.load_iresnet(model.backbone, state, source=source, min_coverage=min_coverage)
        if report.colour is not None and report.colour.lower() != self.augment.colour:
            raise ConfigError(
                f"{source}: a {report.format} checkpoint takes {report.colour}, the recipe gives "
                f"{self.augment.colour.upper()}: set augment.colour to {report.colour.lower()}"
            )
        return report

    def sampler(self, crops: Crops, seed: int) -> Sampler:
        """Crops one by one, or so many of each subject."""
        if self.sampler_subjects:
            each = max(self.batch // self.sampler_subjects, 1)
            evenly = self.sampler_evenly_over
            return RandomIdentity(crops, subjects=self.sampler_subjects, crops_each=each, seed=seed, evenly_over=evenly)
        return Uniform(crops, size=self.batch, seed=seed)

    def forward(self, model: Network, batch: CropBatch) -> dict[str, Tensor]:
        """z (B, 512), the raw embedding."""
        return {"z": model(batch.images)}

    def losses(self, model: Network, features: dict[str, Tensor], batch: CropBatch, progress: Progress) -> Losses:
        """AdaFace, its norms averaged over the whole batch; pairs are mined to be looked at only."""
        from torch.nn.functional import normalize

        from mdfpipe.learning.losses import ranking

        z = features["z"].float()
        terms = {"adaface": model.head(z, batch.subject)}
        mined = ranking.mine(normalize(z.detach(), dim=1), batch.subject)
        return Losses(terms, model.head.figures(), mined)

    def feature(self, model: Network, images: Tensor, domain: Tensor) -> Tensor:
        """The raw embedding; its length is the quality that norm-weighted pooling takes."""
        z: Tensor = model(images).float()
        return z

    def embed(self, model: Network, batch: CropBatch) -> Tensor:
        """The embedding with its mirror image where that is set; at length 1 where that is."""
        from torch.nn.functional import normalize

        found = super().embed(model, batch)
        return normalize(found, dim=1) if self.unit_length else found

    def parameter_groups(self, model: Network) -> list[Group]:
        """Backbone and class weights."""
        return [
            Group([p for p in model.backbone.parameters() if p.requires_grad], name="backbone"),
            Group([p for p in model.head.parameters() if p.requires_grad], self.head_rate, name="head"),
        ]
