"""Purifier: what is left of a feature map when its style is taken out and what tells subjects apart is kept.

IDKL's IN-guided information purifier (its eq. 7-9 and 12; METHODS 5.1): the map as it is and its instance-normalised
copy each make a mask, and both masks weigh the sum of the two maps.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from mdfpipe.learning.losses.ranking import precise
from mdfpipe.learning.models.parts.pooling import gem, uncast


class Mask(nn.Module):
    """(B, C, h, w) to weights in 0..1: sigmoid(W2 relu(W1 g)), C to C / reduction to C, without biases (IDKL eq. 8).

    channel: g is GeM over space, one weight a channel, (B, C, 1, 1). It must not be the average: instance norm leaves
    every channel with mean zero, so that every image would get the same mask. full: g is the map itself, one weight a
    channel and place.
    """

    def __init__(self, channels: int, reduction: int, kind: Literal["channel", "full"], power: float) -> None:
        super().__init__()
        self.kind, self.power = kind, power
        inner = max(channels // reduction, 1)
        self.squeeze = nn.Conv2d(channels, inner, 1, bias=False)
        self.excite = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The weights, in float32 at least."""
        g = x if self.kind == "full" else gem(x, self.power)[:, :, None, None]
        return precise(self.excite(functional.relu(self.squeeze(g)))).sigmoid()


class Purifier(nn.Module):
    """(B, C, h, w) to pooled vectors (B, C), by name; no map leaves it. At least two places a map.

    instance: of F_in, the instance-normalised map (eq. 7); enhanced: of F_d = m_e F_sp; reduced: of F_m = m_r F_in (eq.
    9); purified: of F_p = m_e F_m + m_r F_d (eq. 12), computed as m_e m_r (F_sp + F_in), which is the same. specific:
    of F_sp itself. All pooled by GeM. affine: instance norm has a scale and a shift of each channel that are trained.

    Where a mask is one number a channel, it comes out of the mean: GeM(m F) = m GeM(F), but for GeM's floor of 1e-6.
    """

    def __init__(
        self,
        channels: int,
        *,
        mask: Literal["channel", "full"] = "channel",
        reduction: int = 16,
        affine: bool = False,
        power: float = 3.0,
    ) -> None:
        super().__init__()
        self.power = power
        self.norm = nn.InstanceNorm2d(channels, affine=affine)
        self.enhance = Mask(channels, reduction, mask, power)
        self.reduce = Mask(channels, reduction, mask, power)

    def forward(self, specific: Tensor) -> dict[str, Tensor]:
        """The five vectors of each image."""
        with uncast(specific):
            specific = precise(specific)
            instance = self.norm(specific)
        enhance, reduce = self.enhance(specific), self.reduce(instance)
        plain = {"specific": gem(specific, self.power), "instance": gem(instance, self.power)}
        if self.enhance.kind == "channel":
            both = gem(specific + instance, self.power)
            masks = {"enhanced": enhance, "reduced": reduce, "purified": enhance * reduce}
            pooled = {"enhanced": plain["specific"], "reduced": plain["instance"], "purified": both}
            return plain | {name: mask.flatten(1) * pooled[name] for name, mask in masks.items()}
        maps = {
            "enhanced": enhance * specific,
            "reduced": reduce * instance,
            "purified": enhance * reduce * (specific + instance),
        }
        return plain | {name: gem(x, self.power) for name, x in maps.items()}
