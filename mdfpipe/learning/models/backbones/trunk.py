"""Trunk: a ResNet in stages, of which the first may be had once a stream and the last once a branch.

Stage 0 is convolution, BN, ReLU and max-pool; stages 1 to 4 are the residual groups, the last of stride 1, as in every
re-identification network of METHODS 0. Tensors have torchvision's names below `own.STREAM.`, `shared.` and
`branches.BRANCH.`, so that an ImageNet checkpoint, or another trunk, fills each copy.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from mdfpipe.errors import ConfigError

Kind: TypeAlias = Literal["resnet50", "resnet18", "resnet18_half", "resnet18_quarter"]
STAGES: Final = 5
CHANNELS: Final[dict[str, tuple[int, ...]]] = {
    "resnet50": (64, 256, 512, 1024, 2048),
    "resnet18": (64, 64, 128, 256, 512),
    "resnet18_half": (32, 32, 64, 128, 256),
    "resnet18_quarter": (16, 16, 32, 64, 128),
}
"""Channels that each stage gives."""
After: TypeAlias = Mapping[int, Callable[[Tensor], Tensor]]

_OF_A_TRUNK = re.compile(r"(?:own\.[^.]+|shared|branches\.[^.]+)\.(?P<name>(?:conv1|bn1|layer[1-4])\..+)")


class Stages(nn.Module):
    """Stages `first` to `last` of a ResNet: (B, 3 or channels, H, W) to (B, channels, h, w)."""

    def __init__(self, kind: Kind, first: int, last: int) -> None:
        super().__init__()
        whole = _resnet(kind)
        self.first, self.last = first, last
        if first == 0:
            self.conv1, self.bn1, self.act1, self.maxpool = whole.conv1, whole.bn1, whole.act1, whole.maxpool
        for number in range(max(first, 1), last + 1):
            self.add_module(f"layer{number}", getattr(whole, f"layer{number}"))

    def forward(self, x: Tensor, after: After | None = None) -> Tensor:
        """The stages in order; after: what is done to the map behind a stage, by its number."""
        for number in range(self.first, self.last + 1):
            if number == 0:
                x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
            else:
                x = self.get_submodule(f"layer{number}")(x)
            if after and number in after:
                x = after[number](x)
        return x


class Trunk(nn.Module):
    """own: how many of the first stages each stream has for itself; branches: names of those that divide before stage
    `split`, each with its own last stages. Copies start equal (METHODS 0).

    stream_of: the name of the stream of each domain, by place.
    """

    stream: Tensor

    def __init__(
        self, kind: Kind, stream_of: Sequence[str], *, own: int, split: int = STAGES, branches: Sequence[str] = ()
    ) -> None:
        super().__init__()
        if not 0 <= own <= split <= STAGES or bool(branches) != (split < STAGES):
            raise ConfigError(f"trunk: expected 0 <= own {own} <= split {split} <= {STAGES}, and branches where split")
        names = list(dict.fromkeys(stream_of))
        self.channels = CHANNELS[kind]
        self.own = nn.ModuleDict(_copies(kind, 0, own - 1, names) if own else {})
        self.shared = Stages(kind, own, split - 1) if own < split else None
        self.branches = nn.ModuleDict(_copies(kind, split, STAGES - 1, branches) if branches else {})
        # on the CPU also of a network on the meta device, so that it can be run there
        places = torch.tensor([names.index(name) for name in stream_of], dtype=torch.int64, device="cpu")
        self.register_buffer("stream", places, persistent=False)

    def begin(self, images: Tensor, domain: Tensor) -> Tensor:
        """(B, channels, h, w) behind the streams' own stages; the images, where they have none.

        domain: (B,) places in the domains that the trunk was made for. Images keep their order.
        """
        if not len(self.own):
            return images
        of = self.stream[domain]
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            traced: Tensor = list(self.own.values())[int(of[0])](images)  # images of one domain: nothing to choose
            return traced
        rows = [torch.nonzero(of == number).flatten() for number in range(len(self.own))]
        parts = [module(images[chosen]) for chosen, module in zip(rows, self.own.values(), strict=True) if len(chosen)]
        found: Tensor = torch.cat(parts)[torch.argsort(torch.cat(rows))] if len(parts) > 1 else parts[0]
        return found

    def go_on(self, x: Tensor, after: After | None = None) -> Tensor:
        """The shared stages, with what is done behind some of them."""
        return x if self.shared is None else self.shared(x, after)

    def branch(self, name: str, x: Tensor, after: After | None = None) -> Tensor:
        """The last stages of a branch."""
        found: Tensor = self.branches[name](x, after)
        return found


def fill(trunk: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What another trunk, or a plain ResNet, has for the tensors of a trunk: by the same name, else by the stage's.

    Both are state dicts without a prefix. A stream that `given` does not have takes what its stage is elsewhere: a
    stream's, or the shared one, or a branch's, the first by name.
    """
    elsewhere: dict[str, Tensor] = {}
    for name in sorted(given):
        elsewhere.setdefault(_plain(name), given[name])
    found = {name: given.get(name, elsewhere.get(_plain(name))) for name in trunk}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _plain(name: str) -> str:
    match = _OF_A_TRUNK.fullmatch(name)
    return match["name"] if match else name


def _copies(kind: Kind, first: int, last: int, names: Sequence[str]) -> dict[str, nn.Module]:
    drawn = Stages(kind, first, last)
    return {name: drawn if n == 0 else copy.deepcopy(drawn) for n, name in enumerate(names)}


def _resnet(kind: Kind) -> Any:
    """timm's, with torchvision's names, whose stage 4 has stride 1 instead of 2, not dilated."""
    basic: Any = BasicBlock
    bottleneck: Any = Bottleneck
    if kind == "resnet50":
        net: Any = ResNet(bottleneck, (3, 4, 6, 3), num_classes=0)
    else:
        net = ResNet(basic, (2, 2, 2, 2), num_classes=0, channels=CHANNELS[kind][1:])
    if (stem := CHANNELS[kind][0]) < 64:  # timm's stem has 64 channels, whatever comes behind
        net.conv1, net.bn1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(stem)
        net.layer1 = nn.Sequential(basic(stem, stem), basic(stem, stem))
    net.init_weights(zero_init_last=False)
    for module in net.layer4.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
    return net
