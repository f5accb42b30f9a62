"""Checkpoints for the networks of timm: under timm's names, under those of their authors, in SOLIDER's layout.

timm knows how the authors of DINOv2, DINOv3, EVA, CLIP, SigLIP and Swin name their tensors, and resizes positions and
windows (bicubic, with anti-aliasing) to the network's image size. SOLIDER (Chen et al. 2023) has Swin as mmdetection
writes it, where patches are merged in another order.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mdfpipe.errors import ConfigError, one_line, refuse_lack_of_memory
from mdfpipe.learning.models.weights.public import Converted, Grid, State, is_head, without_wrappers

_ASIDE = re.compile(r"attn_pool\.|mask_token$|.*relative_position_index$|.*attn_mask$|rope\.(periods|bias_mask)$")
_SOLIDER = ("stages.", "patch_embed.projection.", "norm3.")
_OWN_NAMES = (
    (re.compile(r"^patch_embed\.projection\."), "patch_embed.proj."),
    (re.compile(r"^norm3\."), "norm."),
    (re.compile(r"^stages\."), "layers."),
    (re.compile(r"\.attn\.w_msa\."), ".attn."),
    (re.compile(r"\.ffn\.layers\.0\.0\."), ".mlp.fc1."),
    (re.compile(r"\.ffn\.layers\.1\."), ".mlp.fc2."),
)


def converted(state: Mapping[str, Tensor], model: nn.Module) -> Converted:
    """A checkpoint for `model.vit`, a network of timm. Raises ConfigError where timm cannot make its tensors fit."""
    vit: Any = model.vit
    found, kind, notes = without_wrappers(state), f"timm {model.name}", list[str]()
    if all(any(name.startswith(start) for name in found) for start in _SOLIDER):
        kind, more = "SOLIDER", [name for name in found if name.startswith("semantic_embed_")]
        found = {name: tensor for name, tensor in _as_timm_names(found).items() if name not in more}
        if more:
            notes.append(f"{len(more)} tensors of SOLIDER's semantic weight are left out: timm's Swin has none")
    before = dict(found)
    fit = getattr(sys.modules[type(vit).__module__], "checkpoint_filter_fn", None)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it tries
            found = dict(fit(found, vit)) if fit else found
    except Exception as error:  # whatever tensors of another network make it raise
        refuse_lack_of_memory(error)
        raise ConfigError(
            f"expected weights for {model.name}, timm cannot make these fit: {type(error).__name__}: "
            f"{one_line(error, 120)}; give weights of this network"
        ) from None
    found = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    ignored = tuple(name for name in found if is_head(name) or _ASIDE.match(name))
    tensors = {f"vit.{name}": tensor for name, tensor in found.items() if name not in ignored}
    return Converted(kind, tensors, ignored, _resized(before, found, vit), notes=tuple(notes))


def _as_timm_names(state: State) -> State:
    """SOLIDER's Swin under timm's names. The norms of the first three stages, which timm lacks, are left out."""
    found: State = {}
    for name, tensor in state.items():
        if re.match(r"norm[0-2]\.", name):
            continue
        made = name
        for pattern, ours in _OWN_NAMES:
            made = pattern.sub(ours, made)
        if merging := re.match(r"layers\.(\d+)(\.downsample\..*)", made):  # after a stage, in timm before the next
            made = f"layers.{int(merging[1]) + 1}{merging[2]}"
            tensor = _merged_in_order(tensor)
        found[made] = tensor
    return found


def _merged_in_order(tensor: Tensor) -> Tensor:
    """(..., C x 4 of a patch, by rows) as Swin has it: (..., 4 of a patch, by columns, x C)."""
    apart = tensor.reshape(*tensor.shape[:-1], -1, 4).transpose(-1, -2)
    return apart[..., [0, 2, 1, 3], :].flatten(-2)


def _resized(before: State, after: State, vit: Any) -> tuple[tuple[str, Grid, Grid], ...]:
    """(name, from grid, to grid) of the position embeddings, where timm resized them."""
    given, made = before.get("pos_embed"), after.get("pos_embed")
    if given is None or made is None or given.shape == made.shape or given.ndim != 3:
        return ()
    old = given.shape[1] - (made.shape[1] - vit.patch_embed.num_patches)
    side = round(max(old, 0) ** 0.5)
    return (("pos_embed", (side, side), tuple(vit.patch_embed.grid_size)),) if side * side == old else ()
