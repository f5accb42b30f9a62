"""Side information: an embedding of a crop's domain, or of its camera, added to every token of a vision transformer.

SIE of TransReID (He et al. 2021), with its coefficient 3; "Cross-Spectral Body Recognition with Side Information
Embedding" (arXiv 2506.08953) tries it across spectra. Both at once are their sum here. TransReID has an embedding for
each pair instead, of which an unknown camera has none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mdfpipe.errors import ConfigError
from mdfpipe.learning.data.crops import camera_code
from mdfpipe.learning.models.weights.loading import LoadReport

Kind = Literal["domain", "camera", "both"]
COEFFICIENT = 3.0
"""TransReID's SIE_COE."""


class SideInformation(nn.Module):
    """(B, 1, d) of images, to be added to their tokens: coefficient times the embedding of domain or camera, or both.

    A domain or camera that the network was not trained on gets the mean of those that it was. Each embedding is named
    after its own, so that a system that starts from another takes over those that both have. Cameras are read from the
    state that is loaded: a checkpoint brings its own.
    """

    def __init__(
        self,
        kind: Kind,
        width: int,
        domains: Sequence[str],
        cameras: Sequence[str] = (),
        coefficient: float = COEFFICIENT,
    ) -> None:
        super().__init__()
        self.kind, self.coefficient = kind, coefficient
        self.domain = _drawn(domains if kind != "camera" else (), width)
        self.camera = _drawn(cameras if kind != "domain" else (), width)

    @property
    def cameras(self) -> list[str]:
        """The names of the cameras that have an embedding."""
        return [_named(name) for name in self.camera]

    def forward(self, domain: Tensor, camera: Tensor) -> Tensor:
        """domain: (B,) places in the domains, -1 for another; camera: (B,) codes of their names (`camera_code`).

        Raises ConfigError where there is no embedding, as in a network that was never trained.
        """
        places = torch.arange(len(self.domain), device=domain.device)
        codes = torch.tensor([camera_code(name) for name in self.cameras], device=camera.device)
        found = [
            _mean_of(table, asked[:, None] == known)
            for table, asked, known in ((self.domain, domain, places), (self.camera, camera, codes))
            if len(table)
        ]
        if not found:
            raise ConfigError(
                f"side_information: {self.kind}: expected a network that was trained with it, got one without an "
                "embedding; train it, or set side_information: none"
            )
        return self.coefficient * torch.stack(found).sum(0)[:, None]

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        self.add_cameras(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def add_cameras(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Make room for the cameras of a state where this network has none."""
        start = f"{prefix}camera."
        if self.kind != "domain" and not len(self.camera):
            self.camera.update(
                {n.removeprefix(start): nn.Parameter(t.clone()) for n, t in state.items() if n.startswith(start)}
            )

    def take(self, state: Mapping[str, Tensor], report: LoadReport) -> LoadReport:
        """Take a public checkpoint's `sie_embed` (n, 1, d) where it fits; the report with what was done."""
        given = next((tensor for name, tensor in state.items() if name.endswith("sie_embed")), None)
        rows = [] if given is None else list(given.reshape(-1, given.shape[-1]))
        own = [*self.domain.values(), *self.camera.values()]
        if not own or self.kind == "both" or [row.shape for row in rows] != [value.shape for value in own]:
            fits = f"sie_embed has {len(rows)} embeddings, which do not fit {len(own)} of {self.kind}"
            note = f"side information: as it was drawn, {fits if rows else 'there is no sie_embed'}"
            return replace(report, notes=(*report.notes, note))
        with torch.no_grad():
            for value, row in zip(own, rows, strict=True):
                value.copy_(row)
        names = ", ".join([*map(_named, self.domain), *map(_named, self.camera)])
        ignored = tuple(name for name in report.ignored if not name.endswith("sie_embed"))
        note = f"side information: sie_embed, its rows for {names} in this order"
        return replace(report, ignored=ignored, notes=(*report.notes, note))


def _drawn(names: Sequence[str], width: int) -> nn.ParameterDict:
    """An embedding (d,) for each name. A name of a weight has no dots."""
    found = {f"of {name.replace('%', '%25').replace('.', '%2E')}": nn.Parameter(torch.empty(width)) for name in names}
    for value in found.values():
        nn.init.trunc_normal_(value, std=0.02)
    return nn.ParameterDict(OrderedDict(found))  # of a plain dictionary it sorts the names


def _named(weight: str) -> str:
    return weight.removeprefix("of ").replace("%2E", ".").replace("%25", "%")


def _mean_of(table: nn.ParameterDict, chosen: Tensor) -> Tensor:
    """(B, d) the mean of the chosen (B, n) embeddings; of all where none is."""
    values = torch.stack(list(table.values()))
    share = chosen.to(values.dtype)
    share = share + (share.sum(1, keepdim=True) == 0).to(values.dtype)
    return (share / share.sum(1, keepdim=True)) @ values
