"""IDKL's network: two branches over one trunk, of which the shared one alone embeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from mdfpipe.learning.models.backbones.trunk import Kind, Trunk
from mdfpipe.learning.models.parts.adversary import DomainClassifiers
from mdfpipe.learning.models.parts.heads import BNNeck, Classifier
from mdfpipe.learning.models.parts.pooling import GeM
from mdfpipe.learning.models.parts.purifier import Purifier
from mdfpipe.learning.streams import DomainPairs

SPLIT = 3
"""The branches divide before stage 3: they share "the first three blocks" (IDKL eq. 1)."""


class TrainingOnly(nn.Module):
    """What a network of IDKL has while it is trained: heads of the specific branch, purifier, adversaries.

    specific_neck: of the raw specific feature; purified_neck: of the purified one, where there is a purifier;
    classifier: C_sp, of both. depths: where discriminators (specific branch) and confusers (shared branch) sit.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        groups: int,
        depths: Sequence[str],
        purifier: Purifier | None,
        adversary: Callable[..., DomainClassifiers],
    ) -> None:
        super().__init__()
        width = channels[-1]
        self.specific_neck = BNNeck(width)
        self.purified_neck = BNNeck(width) if purifier is not None else None
        self.classifier = Classifier(width, classes)
        self.purifier = purifier
        widths = {name: channels[SPLIT] if name == "stage3" else width for name in depths}
        self.discriminators, self.confusers = adversary(widths, groups), adversary(widths, groups)


class IdklNet(nn.Module):
    """`forward` gives what one image alone decides: pooled vectors, no maps. Necks, classifiers and adversaries are for
    the losses.

    pairs: of domains, which the losses bring together, a visible one first; classes: 0 = the shared branch and its neck
    alone; purifier, adversary: make these parts, from channels, and from widths and groups; purifier None: none.
    """

    def __init__(
        self,
        kind: Kind,
        pairs: DomainPairs,
        classes: int,
        depths: Sequence[str],
        *,
        power: float,
        purifier: Callable[[int], Purifier] | None,
        adversary: Callable[..., DomainClassifiers],
    ) -> None:
        super().__init__()
        branches = ("shared", "specific") if classes else ("shared",)
        self.backbone = Trunk(kind, ["all"], own=0, split=SPLIT, branches=branches)
        channels = self.backbone.channels
        self.pairs, self.depths = pairs, tuple(depths)
        self.pool = GeM(power)
        self.neck = BNNeck(channels[-1])
        self.classifier = Classifier(channels[-1], classes) if classes else None
        self.training_only = None
        if classes:
            made = None if purifier is None else purifier(channels[-1])
            self.training_only = TrainingOnly(channels, classes, pairs.groups, self.depths, made, adversary)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """shared (B, C); in training also specific, what a purifier gives (B, C), and, where adversaries sit there,
        shared_stage3 and specific_stage3 (B, C / 2).
        """
        x = self.backbone.go_on(images)
        found: dict[str, Tensor] = {}
        if self.training_only is None or not self.training:
            return {"shared": self.pool(self.backbone.branch("shared", x))}
        found["shared"] = self.pool(self._branch("shared", x, found))
        specific = self._branch("specific", x, found)
        purifier = self.training_only.purifier
        return found | ({"specific": self.pool(specific)} if purifier is None else purifier(specific))

    def _branch(self, name: str, x: Tensor, found: dict[str, Tensor]) -> Tensor:
        def note(behind: Tensor) -> Tensor:
            found[f"{name}_stage3"] = self.pool(behind)
            return behind

        return self.backbone.branch(name, x, {3: note} if "stage3" in self.depths else None)

    def at_depths(self, name: str, features: dict[str, Tensor], necked: Tensor) -> dict[str, Tensor]:
        """The vectors that adversaries of a branch look at. necked: its feature after its neck."""
        known = {"stage4": features[name], "neck": necked}
        return {depth: known[depth] if depth in known else features[f"{name}_{depth}"] for depth in self.depths}


def without_running(neck: BNNeck, z: Tensor) -> Tensor:
    """The neck's output, standardised by the batch, without moving its running statistics: for passes besides the main
    one.
    """
    if not neck.training:
        found: Tensor = neck(z)
        return found
    standard = partial(functional.batch_norm, running_mean=None, running_var=None, training=True, eps=neck.eps)
    return standard(z.to(neck.weight.dtype), weight=neck.weight, bias=neck.bias)
