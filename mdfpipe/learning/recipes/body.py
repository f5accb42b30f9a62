"""body: global and local semantic tokens, identity and batch-hard triplet loss, domain-aware batches.

"Multi-Domain Biometric Recognition using Body Embeddings" (arXiv 2503.10931), Table I: fine-tuned 77.78 % Rank-1 in
SWIR, MWIR and LWIR against a VIS-500m gallery (k of 63); pretrained 38.10, 9.52 and 11.11 %.

**Differs.** The paper's network is SemReID (arXiv 2311.17074), pre-trained with prompts for face, torso and lower body.
No code or weights of it were found. PASS (Zhu et al., ECCV 2022) takes its place: it has the same layout and was
pre-trained on LUPerson, too, but its local tokens were trained for the upper, middle and lower half of the picture,
which overlap (`parts: [upper, middle, lower]`). So the numbers published for the pretrained network are another
network's. Eq. 5 and 6 cannot be meant as printed (softmax over the batch, distances without a condition on the
subject): cross-entropy over the training subjects and batch-hard triplets are what the text describes. The hinge at 0
is the paper's (PASS: `margin: soft`). P, K, optimiser and schedule are not given. P 8 and K 2 are ours: 64 crops of
four domains. K does not follow the number of domains; studies of fewer domains raise it. The rest is PASS's: SGD and
its rates, a cosine counted from the first epoch, flip, crop, erasing. Its rate holds for an epoch and is the one that
ours reaches at the end of it, step by step. One network takes all domains, where the paper says "parallel streams" and
draws one. Crops above 8 bits become 8 bits between their own percentiles 1 and 99 (`depth`), on which the paper is
silent. Ours are also turns of subjects, so that each comes up equally often, and in domain-aware batches a subject's
crops of a domain by different videos as far as there are (`batches.evenly_over: crops` is a plain draw). The paper
compares with random sampling and does not define it: P subjects with D K crops each is our reading (`sampler: random`),
a plain draw over a subject's crops of any domain and video, as PASS draws; subjects that lack a domain take part.
`backbone: striped` (a small ResNet with horizontal stripes), the supervised contrastive term, the polarity augmentation
and joint training on further, visible-only crops are ours, for machines without an accelerator and for training from
scratch; all are off by default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

from pydantic import AliasChoices, Field, field_validator, model_validator

from mdfpipe.config import IF_SET, Config
from mdfpipe.errors import ConfigError, one_line
from mdfpipe.learning.data.augment import Augment
from mdfpipe.learning.data.batches import CropBatch, Sampler
from mdfpipe.learning.recipes import Losses, Network, Progress, Recipe
from mdfpipe.learning.recipes._batches import Batches
from mdfpipe.learning.recipes._timm import Timm, completed
from mdfpipe.learning.train.schedule import Group, Schedule, by_part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mdfpipe.learning.data.crops import Crops
    from mdfpipe.learning.models.backbones.timm_vit import MapLayout
    from mdfpipe.learning.models.weights.loading import LoadReport

Part = Literal["face", "torso", "lower_body"]
Half = Literal["upper", "middle", "lower"]
"""What PASS trained the same tokens for: rows 0 to 50, 25 to 75 and 50 to 100 % of the picture."""
_PARTS: list[Part] = ["face", "torso", "lower_body"]
BACKBONES = ("base", "small", "tiny", "mini", "striped")


class Triplet(Config):
    """The batch-hard triplet term. `feature` raw: the one before the BN neck, as it is (eq. 6); neck: after it, brought
    to `length`, so that the term cannot be met by shrinking the feature.
    """

    weight: float = Field(1.0, ge=0, description="lambda of eq. 7")
    margin: float | Literal["soft"] = Field(0.0, description="hinge at this margin (the paper: 0), or soft (PASS)")
    feature: Literal["raw", "neck"] = Field("raw", description="which feature")
    length: float = Field(8.0, gt=0, description="of the feature, where feature is neck")


class Lora(Config):
    """Low-rank terms in the self-attention projections; everything else of the backbone is frozen."""

    rank: int = Field(8, ge=1, description="r")
    alpha: float = Field(16, gt=0, description="the term is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the low-rank term")


_OF_A_DESIGN = ("stem", "local", "global_token", "fusion", "positions", "initialisation")  # as in Design
_OF_SIDE = ("side_information", "side_coefficient")
_OF_OUR_VIT = ("patch_px", "blocks", "part_alignment", "stem", "positions", "initialisation", *_OF_SIDE)
_OF_A_VIT = ("patch_px", "blocks", "drop_path", "part_alignment", "lora", *_OF_SIDE, *_OF_A_DESIGN)


class Body(Recipe):
    """Body embeddings across domains, by global and local tokens."""

    modality: ClassVar[Literal["body", "face"]] = "body"
    only_embedding: ClassVar[tuple[str, ...]] = ("test_feature", "flip_fusion")
    tiny: ClassVar[dict[str, Any]] = {
        "image_height_px": 64,
        "image_width_px": 32,
        "backbone": "mini",
        "schedule": {"length": 2, "warm_up": 0},
        "batches": {"subjects": 2, "crops": 2},
    }

    backbone: Literal["base", "small", "tiny", "mini", "striped"] | Timm = Field(
        "base", description="SemanticViT of this size, the striped ResNet, or `{use: timm, name: ...}`: a ViT of timm"
    )
    patch_px: int = Field(16, ge=4, description="side of a patch of the ViT")
    blocks: int | None = Field(
        None, ge=1, json_schema_extra=IF_SET, description="blocks of the ViT; none: as many as its size has"
    )
    drop_path: float = Field(0.1, ge=0, lt=1, description="stochastic depth of the ViT, at its last block")
    width: int = Field(32, ge=8, description="channels of the first stage of the striped ResNet")
    parts: list[Part] | list[Half] = Field(
        default=_PARTS,
        description="local tokens in use, at training and at test; [upper, middle, lower] are PASS's names of the same",
    )
    stem: Literal["patch", "conv", "resnet"] = Field(
        "patch", description="from pixels to patches: a linear map, convolutions of stride 2, or the stages of a ResNet"
    )
    local: Literal["token", "band"] = Field(
        "token", description="local tokens: free, or each sees only its band of the body and gets that band's mean"
    )
    global_token: Literal["token", "mean"] = Field(
        "token",
        validation_alias=AliasChoices("global_token", "global"),
        description="the class token, or the mean of the patches; also written `global`",
    )
    fusion: Literal["cat", "ffn", "four"] = Field(
        "cat", description="cat: eq. 8-9; ffn: eq. 4; four: all four tokens, one after the other"
    )
    positions: Literal["learned", "sincos"] = Field(
        "learned", description="how position embeddings start: drawn, or as sines and cosines"
    )
    initialisation: Literal["normal", "mimetic"] = Field(
        "normal", description="how the attention starts: drawn, or as in trained ViTs (Trockman and Kolter 2023)"
    )
    side_information: Literal["domain", "camera", "both"] | None = Field(
        None,
        json_schema_extra=IF_SET,
        description="embedding that is added to every token (SIE): of a crop's domain, its camera, both; none: nothing",
    )
    side_coefficient: float | None = Field(
        None, gt=0, json_schema_extra=IF_SET, description="factor of that embedding; none: 3, as in TransReID"
    )
    neck: Literal["multi", "single", "plain"] = Field("multi", description="BN neck for each token, one, or none")
    part_alignment: float = Field(0.0, ge=0, description="weight of the term that ties local tokens to body bands")
    smoothing: float = Field(0.0, ge=0, lt=1, description="of the identity labels")
    triplet: Triplet = Field(default=Triplet(), description="batch-hard triplet term")
    contrastive: float = Field(0.0, ge=0, description="weight of the supervised contrastive term, after the neck")
    temperature: float = Field(0.1, gt=0, description="of the contrastive term")
    batches: Batches = Field(default=Batches(), description="sampling of batches")
    lora: Lora | None = Field(None, description="train low-rank terms instead of the backbone")
    bias_rate: float = Field(2.0, gt=0, description="rate of biases, times the others'")
    head_rate: float = Field(1.0, gt=0, description="rate of neck and classifier, times the backbone's")
    schedule: Schedule = Field(
        default=Schedule(cosine_from="start"),
        description="length of the training and schedule of the learning rate",
    )
    augment: Augment = Field(default=Augment(erased_up_to=1 / 3), description="augmentation of training crops")
    decay_vectors: bool = Field(True, description="weight decay also of biases and of the scales of norms")
    test_feature: Literal["raw", "neck"] = Field(
        "raw", description="embedded feature: z (the paper), or h after the neck"
    )
    flip_fusion: bool = Field(False, description="also embed the mirrored crop and average both")

    @model_validator(mode="before")
    @classmethod
    def _has_what_timm_says(cls, value: Any) -> Any:
        return completed(value) if isinstance(value, dict) else value

    @field_validator("side_information", mode="before")
    @classmethod
    def _is_none(cls, value: Any) -> Any:
        return None if value == "none" else value

    @field_validator("backbone", mode="before")
    @classmethod
    def _is_one_kind(cls, value: Any) -> Any:
        """A name or a section, so that an error speaks of the one that was meant."""
        if isinstance(value, Mapping):
            return Timm.model_validate(dict(value))
        if isinstance(value, Timm) or value in BACKBONES:
            return value
        raise ValueError(
            f"expected {', '.join(BACKBONES)} or {{use: timm, name: ...}}, got {one_line(repr(value), 80)}"
        )

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.backbone == "striped":
            if given := self._given(_OF_A_VIT):
                raise ValueError(f"{', '.join(given)}: belongs to a ViT; the striped ResNet has no tokens")
        elif isinstance(self.backbone, Timm):
            if given := self._given(_OF_OUR_VIT):
                raise ValueError(f"{', '.join(given)}: a backbone of timm does not take it; leave it out")
            if self.local == "token":
                raise ValueError("local: a backbone of timm has no local tokens, but means of bands: set local=band")
            try:
                self._timm_layout(self.backbone)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        elif self.image_height_px % self.patch_px or self.image_width_px % self.patch_px:
            raise ValueError(f"expected image sides that are multiples of patch_px {self.patch_px}")
        if self.side_coefficient is not None and self.side_information is None:
            raise ValueError("side_coefficient: expected side_information, whose factor it is, got none")
        if not self.parts and self.fusion == "cat" and self.part_alignment:
            raise ValueError("part_alignment needs local tokens: parts is empty")
        if self.local == "band" and self.part_alignment:
            raise ValueError("part_alignment: local tokens of `local: band` see nothing but their band already")
        return self

    def _given(self, names: Sequence[str]) -> list[str]:
        """Those of the settings that are not at their default."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]

    @property
    def tokens(self) -> bool:
        """Whether the backbone has global and local tokens."""
        return self.backbone != "striped"

    @property
    def features(self) -> int:
        """D of the embedding."""
        if not self.tokens:
            return 8 * self.width
        times = 4 if self.fusion == "four" else 2
        if isinstance(self.backbone, Timm):
            return times * self._timm_layout(self.backbone).width
        from mdfpipe.learning.models.backbones.semantic_vit import SIZES

        return times * SIZES[self.backbone].width

    def _timm_layout(self, backbone: Timm) -> MapLayout:
        """What the network gives for images of this size. Raises ConfigError where it cannot be the backbone."""
        from mdfpipe.learning.models.backbones.timm_vit import layout

        size = (self.image_height_px, self.image_width_px)
        return layout(backbone.name, backbone.options, size, global_=self.global_token)

    @property
    def uses_cameras(self) -> bool:
        """Whether the camera of a crop is added to its tokens."""
        return self.side_information in ("camera", "both")

    def network(self, crops: Crops) -> nn.Module:
        """`model`, with the cameras of these crops where it uses them. Raises ConfigError where they name none."""
        if self.uses_cameras and not crops.cameras:
            raise ConfigError(
                f"side_information {self.side_information}: expected crops whose camera the data set names, got none: "
                "give dataset.camera, or take side_information domain"
            )
        return self.model(len(crops.subjects), crops.domains, crops.cameras if self.uses_cameras else ())

    def model(self, classes: int, domains: Sequence[str], cameras: Sequence[str] = ()) -> nn.Module:
        """BodyModel: backbone, neck, classifier. A checkpoint names its cameras itself."""
        from mdfpipe.learning.models.backbones.semantic_vit import Design, SemanticViT, TokenBackbone
        from mdfpipe.learning.models.backbones.striped_resnet import StripedResNet
        from mdfpipe.learning.models.body import BodyModel

        if not self.tokens:
            striped = StripedResNet(width=self.width, features=self.features)
            return BodyModel(striped, self.features, classes, "plain" if self.neck == "plain" else "single")
        size, design = (self.image_height_px, self.image_width_px), Design(*(getattr(self, n) for n in _OF_A_DESIGN))
        vit: TokenBackbone
        if isinstance(self.backbone, Timm):
            from mdfpipe.learning.models.backbones.timm_vit import TimmViT

            name, options, drop_path = self.backbone.name, self.backbone.options, self.drop_path
            vit = TimmViT(name, options, image_size=size, drop_path=drop_path, parts=self.parts, design=design)
        else:
            vit = SemanticViT(
                self.backbone,
                image_size=size,
                patch_px=self.patch_px,
                drop_path=self.drop_path,
                parts=self.parts,
                depth=self.blocks,
                design=design,
            )
        alone = self.neck == "multi" and self.fusion == "ffn"  # what an FFN makes is no longer token by token
        side = None
        if self.side_information is not None:
            from mdfpipe.learning.models.parts.side_information import COEFFICIENT, SideInformation

            coefficient = self.side_coefficient or COEFFICIENT
            side = SideInformation(self.side_information, vit.token_width, domains, cameras, coefficient)
        return BodyModel(vit, vit.width, classes, "single" if alone else self.neck, self.part_alignment > 0, side)

    def adopt(self, model: Network, state: dict[str, Any]) -> dict[str, Any]:
        """The same, and a place for the cameras of a checkpoint."""
        if model.side is not None:
            model.side.add_cameras(state, "side.")
        return state

    def load(self, model: Network, state: dict[str, Any], source: str, min_coverage: float) -> LoadReport:
        """PASS, TransReID, TransReID-SSL, DINO and timm checkpoints into the ViT; into one of timm what fits that."""
        from mdfpipe.learning.models.weights import loading as weights

        if not self.tokens:
            raise ConfigError(
                f"{source}: the striped ResNet has no public checkpoint; start from a system that was trained here"
            )
        if isinstance(self.backbone, Timm):
            return weights.load_timm(model.backbone, state, source=source, min_coverage=min_coverage)
        if self.stem != "patch":
            raise ConfigError(f"{source}: no public checkpoint has a stem of {self.stem}: set stem=patch")
        report = weights.load_vit(
            model.backbone, state, grid=model.backbone.grid, source=source, min_coverage=min_coverage
        )
        report = replace(report, notes=(*report.notes, *self._beside(report)))
        return report if model.side is None else model.side.take(state, report)

    def _beside(self, report: LoadReport) -> list[str]:
        """Options that a public checkpoint leaves without effect, or was not trained for."""
        said = {
            "positions: sincos": self.positions == "sincos",
            "initialisation: mimetic": self.initialisation == "mimetic",
        }
        notes = [f"{option} has no effect: the checkpoint's own are taken" for option, asked in said.items() if asked]
        if self.local == "band" and "vit.reg_token" in report.loaded:
            notes.append("local: band: the checkpoint's local tokens are taken, trained to see every patch")
        if self.global_token == "mean":  # noqa: S105 - no password
            notes.append("global: mean: the checkpoint's class token is taken, and is no part of the feature")
        if self.fusion == "ffn":
            notes.append("fusion: ffn is new: as it was drawn")
        return notes

    def before_training(self, model: Network) -> None:
        """Freeze the backbone behind low-rank terms, where that is asked for."""
        if self.lora is not None:
            from mdfpipe.learning.models.parts.lora import apply_lora

            apply_lora(model.backbone, self.lora.rank, self.lora.alpha, self.lora.dropout)

    def after_training(self, model: Network) -> None:
        """Fold the low-rank terms into the weights."""
        if self.lora is not None:
            from mdfpipe.learning.models.parts.lora import merge_lora

            merge_lora(model.backbone)

    def sampler(self, crops: Crops, seed: int) -> Sampler:
        """Batches of the study's own crops, and of further manifests where that is set."""
        return self.batches.sampler_of(crops, seed)

    def losses(self, model: Network, features: dict[str, Tensor], batch: CropBatch, progress: Progress) -> Losses:
        """L_id + lambda L_tri (eq. 7), and what was added."""
        from torch.nn.functional import normalize

        from mdfpipe.learning.losses import identity, ranking

        z = features["z"].float()
        h = model.neck(z, features.get("tokens"))
        logits = model.classifier(h)
        terms = {"identity": identity.cross_entropy(logits, batch.subject, self.smoothing)}
        figures = {"accuracy": identity.right(logits, batch.subject)}
        ranked = z if self.triplet.feature == "raw" else self.triplet.length * normalize(h, dim=1)
        mined = ranking.mine(ranked, batch.subject)
        if self.triplet.weight:
            terms["triplet"] = self.triplet.weight * ranking.triplet(mined, self.triplet.margin)
        if self.contrastive:
            contrast = ranking.supervised_contrastive(h, batch.subject, self.temperature)
            terms["contrastive"] = self.contrastive * contrast
        if self.part_alignment:
            terms["part_alignment"] = self.part_alignment * features["alignment"].float().mean()
            figures["part_match"] = (float(features["part_match"].sum()), float(len(z)))
        return Losses(terms, figures, mined)

    def forward(self, model: Network, batch: CropBatch) -> dict[str, Tensor]:
        """The tokens and the feature z of the images; with their domain and camera, where these are added to them."""
        if self.side_information is None:
            return super().forward(model, batch)
        found: dict[str, Tensor] = model(batch.images, batch.domain, batch.camera)
        return found

    def embed(self, model: Network, batch: CropBatch) -> Tensor:
        """As every recipe; with the camera of each crop where it is added to the tokens."""
        if not self.uses_cameras:
            return super().embed(model, batch)
        images = [batch.images, batch.images.flip(3)] if self.flip_fusion else [batch.images]
        found = [self.feature(model, each, batch.domain, batch.camera) for each in images]
        return found[0] if len(found) == 1 else (found[0] + found[1]) / 2

    def embedded_as(self, domain: str, trained: Sequence[str]) -> int | None:
        """The domain's place; of one that was not trained -1 where domains are added to the tokens: their mean."""
        if self.side_information in ("domain", "both"):
            return trained.index(domain) if domain in trained else -1
        return super().embedded_as(domain, trained)

    def stream_at(self, place: int, trained: Sequence[str]) -> int:
        """The place itself where domains are added to the tokens, else 0."""
        return place if self.side_information in ("domain", "both") else 0

    def feature(self, model: Network, images: Tensor, domain: Tensor, camera: Tensor | None = None) -> Tensor:
        """z before the neck (METHODS 1.6), or h after it, of the parts in use. camera: none is one that is unknown."""
        if self.side_information is None:
            given = model(images)
        else:
            given = model(images, domain, domain.new_full(domain.shape, -1) if camera is None else camera)
        z: Tensor = given["z"].float()
        return z if self.test_feature == "raw" else model.neck(z, given.get("tokens"))

    def parameter_groups(self, model: Network) -> list[Group]:
        """Backbone and head; of each matrices, biases and other vectors apart."""
        return by_part(model, head_rate=self.head_rate, bias_rate=self.bias_rate, decay_vectors=self.decay_vectors)

    def measure(self, model: Network, batches: Iterable[CropBatch]) -> dict[str, float]:
        """How often hard mining on these crops crosses domains, as `MiningStatistics` has it; and of a ViT with local
        tokens whether they hold and attend to their band: see `part_figures`.
        """
        import torch

        from mdfpipe.learning.losses.mining import shares
        from mdfpipe.learning.models.backbones.semantic_vit import SemanticViT, part_figures

        features: list[Tensor] = []
        labels: list[CropBatch] = []

        def images() -> Iterator[Tensor | tuple[Tensor, Tensor]]:
            for batch in batches:
                features.append(self.feature(model, batch.images, batch.domain, batch.camera))
                labels.append(batch)
                side = model.side and model.side(batch.domain, batch.camera)
                yield batch.images if side is None else (batch.images, side)

        figures: dict[str, float] = {}
        given = images()
        if isinstance(model.backbone, SemanticViT):
            figures = part_figures(model.backbone, given, model.alignment and model.alignment.predictor)
        for _ in given:  # where there are no parts to look at, nothing has asked for the images yet
            pass
        subject, domain = (torch.cat([getattr(batch, name) for batch in labels]) for name in ("subject", "domain"))
        return figures | shares(torch.cat(features), subject, domain)

    def notes(self, history: list[dict[str, Any]], figures: dict[str, float]) -> list[str]:
        """What is known of the local tokens: that nothing ever tied them to the body (METHODS 1.1), or that this was
        measured not to hold; which of PASS's are left out.
        """
        if not self.tokens or self.local == "band":
            return []
        if any(entry.get("format") == "PASS" for entry in history):
            both = zip(get_args(Part), get_args(Half), strict=True)
            out = [half for part, half in both if not {part, half} & {*self.parts}]
            return [f"without its {' and '.join(out)} part: {TRAINED_FOR_HALVES}"] if out else []
        measured = [entry.get("figures", {}) for entry in history] + [figures]
        shares = [each.get("validation/part_match", each.get("part_match")) for each in measured]
        match = next((share for share in reversed(shares) if share is not None), None)
        if match is None:
            return [UNNAMED]
        return [f"{UNNAMED} ({100 * match:.0f} % of them match their own band, chance 33 %)"] if match < NAMED else []


TRAINED_FOR_HALVES = (
    "PASS trained its local tokens for the upper, middle and lower half of the picture, which overlap, and not for "
    "face, torso and lower body"
)
NAMED = 0.9
"""Share of local tokens that must lie nearest to their own band before they are called by its name (ours)."""
UNNAMED = (
    "its local tokens are unnamed: nothing tied them to face, torso and lower body, so leaving one out says nothing"
)
