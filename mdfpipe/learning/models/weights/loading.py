"""Checkpoints into networks: read without running anything, converted and compared, with a report.

One rule for all files: tensors, and plain values around them; what needs more is refused by name, unless the user
trusts who made the file. One rule for all networks: a tensor of another shape, or one more inside the network than it
has, is an error; what is missing is counted, and too much of it is an error. Nothing is ever skipped silently.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from mdfpipe import weightfiles
from mdfpipe.errors import ConfigError, some
from mdfpipe.learning.models.backbones.trunk import fill
from mdfpipe.learning.models.weights import public, timm_layouts
from mdfpipe.learning.models.weights.public import Converted, ConvStem, Grid
from mdfpipe.weightfiles import Taken

# --- files -----------------------------------------------------------------------------------------------------------


def read_state(path: Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors in a checkpoint by name, on the CPU: those of `take`. Raises ConfigError."""
    return take(path, trust_pickle=trust_pickle).tensors


def take(path: Path, entry: str | None = None, *, trust_pickle: bool = False) -> Taken:
    """The tensors in a checkpoint by name, on the CPU, and which of several sets they are. Raises ConfigError.

    entry, trust_pickle: as `weightfiles.take`. Freed of the prefixes of DDP, torch.compile, DINO (`backbone.`) and
    TransReID (`base.`); AdaFace's `model.` and CVLFace's `net.` stay, because they tell the two apart, and so do all
    names in a checkpoint of ours.
    """
    found = weightfiles.take(path, entry, trust_pickle=trust_pickle)
    with named(str(path)):
        weightfiles.refuse_unusable(found.tensors)
    if found.ours:
        return found
    wrappers = ("module.", "_orig_mod.", "backbone.", "base.")
    return replace(found, tensors=public.without_wrappers(found.tensors, wrappers))


# --- what was done ---------------------------------------------------------------------------------------------------


ONNX = "an ONNX network"


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint did to a network.

    source: where it is from; format: who made it, as its names say; loaded: tensors of the network that it filled;
    resized: (name, from grid, to grid); missing: tensors of the network that it did not have, and that stay as drawn;
    unexpected: its tensors that have no place; ignored: those left on purpose (classifiers); coverage: share of the
    network's weights that it filled, 0..1; colour: the order of channels it expects, None where it does not say.
    """

    source: str
    format: str
    loaded: tuple[str, ...]
    resized: tuple[tuple[str, Grid, Grid], ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    ignored: tuple[str, ...]
    coverage: float
    colour: Literal["BGR", "RGB"] | None = None
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people, one fact a line; the first says the whole."""
        said = [f"{self.source}: {self.format}, {len(self.loaded)} tensors, {_share(self.coverage)} of the weights"]
        if self.format == ONNX:
            said = [f"{self.source}: {self.format}, kept whole"]
        if self.colour:
            said.append(f"colour order {self.colour}")
        said += [f"{name}: resized from {_by(old)} to {_by(new)} patches" for name, old, new in self.resized]
        for what in ("missing", "unexpected", "ignored"):
            if names := getattr(self, what):
                said.append(f"{what}: {some(names, 4)}")
        return said + list(self.notes)


def _share(share: float) -> str:
    """A share as a percentage that never rounds up to everything.

    >>> _share(1.0), _share(0.9999), _share(0.5)
    ('100 %', '99.9 %', '50.0 %')
    """
    return "100 %" if share >= 1 else f"{int(share * 1000) / 10:.1f} %"


def _by(grid: Grid) -> str:
    return f"{grid[0]}x{grid[1]}"


# --- networks --------------------------------------------------------------------------------------------------------


def load_vit(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    grid: Grid,
    source_hw_ratio: float | None = None,
    min_coverage: float = 0.9,
    source: str = "checkpoint",
) -> LoadReport:
    """A public ViT into a SemanticViT: PASS, TransReID, TransReID-SSL, DINO, timm. Raises ConfigError.

    grid: (rows, columns) of the network's patches; source_hw_ratio: height over width of the grid it was trained on,
    None = `public.patch_grid` tells. A checkpoint with a convolution stem replaces `model.vit.patch_embed`. Nothing is
    changed where an error is raised.
    """
    drawn = model.state_dict()
    patches = drawn["vit.pos_embed"].shape[1] - 1 - public.LOCALS
    if patches != grid[0] * grid[1]:
        raise ConfigError(f"{source}: the network has {patches} patches, expected a grid of so many, got {_by(grid)}")
    with named(source), _stems(model, state):
        converted = public.with_local_tokens(public.vit(state, grid, source_hw_ratio), drawn)
        return _place(model, converted, "vit.", _below(model, "vit."), min_coverage, source)


def load_timm(
    model: nn.Module, state: Mapping[str, Tensor], *, min_coverage: float = 0.9, source: str = "checkpoint"
) -> LoadReport:
    """A checkpoint for timm's own network into a TimmViT: see `timm_layouts`. Raises ConfigError."""
    with named(source):
        return _place(model, timm_layouts.converted(state, model), "vit.", _below(model, "vit."), min_coverage, source)


def load_iresnet(
    model: nn.Module, state: Mapping[str, Tensor], *, min_coverage: float = 0.9, source: str = "checkpoint"
) -> LoadReport:
    """A public face network into an IResNet: AdaFace (its images are BGR), CVLFace (RGB). Raises ConfigError."""
    with named(source):
        return _place(model, public.iresnet(state), "", _below(model, ""), min_coverage, source)


def load_trunk(
    model: nn.Module, state: Mapping[str, Tensor], *, min_coverage: float = 0.9, source: str = "checkpoint"
) -> LoadReport:
    """A torchvision ResNet into every stream and branch of the network's `backbone`. Raises ConfigError."""
    prefix = "backbone."
    with named(source):
        found = public.resnet(state)
        expected = {name.removeprefix(prefix): tensor for name, tensor in _below(model, prefix).items()}
        tensors = fill(expected, found.tensors)
        used = {id(tensor) for tensor in tensors.values()}
        left = {name: t for name, t in found.tensors.items() if id(t) not in used and not _is_counter(name)}
        more = [name for name in left if re.match(r"(conv1|bn1|layer\d+)\.", name)]
        if more:
            raise ConfigError(
                f"the checkpoint's network is another one: it has {len(more)} tensors that ours has no place for: "
                f"{some(more, 3)}; choose the backbone that it was trained with"
            )
        whole = {prefix + name: tensor for name, tensor in tensors.items()}
        converted = Converted(found.format, whole | left, found.ignored)
        return _place(model, converted, prefix, _below(model, prefix), min_coverage, source)


def fit_stems(model: nn.Module, state: Mapping[str, Tensor]) -> list[tuple[nn.Module, nn.Module]]:
    """Give a network the convolution stem that a checkpoint has; [(its parent, what was there)], empty where it fits.

    For who calls `load_state_dict` on a network that is built again: a stem came with the weights, not from settings.
    """
    if not public.has_stem(state):
        return []
    parents = [m for m in model.modules() if isinstance(getattr(m, "patch_embed", None), nn.Module)]
    replaced = [(m, m.patch_embed) for m in parents if not isinstance(m.patch_embed, ConvStem)]
    for parent, patches in replaced:
        assert isinstance(patches, nn.Module)
        parent.patch_embed = ConvStem.instead_of(patches)
    return [(parent, patches) for parent, patches in replaced if isinstance(patches, nn.Module)]


@contextlib.contextmanager
def _stems(model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """The stem that the checkpoint has, put back to what it was where loading fails."""
    replaced = fit_stems(model, state)
    try:
        yield
    except BaseException:
        for parent, patches in replaced:
            parent.patch_embed = patches
        raise


@contextlib.contextmanager
def named(source: str) -> Iterator[None]:
    """Begin each ConfigError of the block with where the weights are from."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _below(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefix)}


def _place(
    model: nn.Module, converted: Converted, prefix: str, expected: Mapping[str, Tensor], least: float, source: str
) -> LoadReport:
    """Compare, then fill: `expected` are the network's tensors that a checkpoint should cover. Raises ConfigError."""
    tensors = {name: converted.tensors[name] for name in expected if name in converted.tensors}
    _same_shapes(tensors, expected)
    counted = {name: t.numel() for name, t in expected.items() if not _is_counter(name)}
    covered = sum(n for name, n in counted.items() if name in tensors) - converted.uncovered
    coverage = covered / max(sum(counted.values()), 1)
    missing = tuple(name for name in counted if name not in tensors)
    unexpected = tuple(n for n in converted.tensors if n not in expected and not _is_counter(n))
    if coverage < least:
        raise ConfigError(
            f"a checkpoint of {converted.format} kind covers {_share(coverage)} of the network's weights, expected at "
            f"least {_share(least)}: missing {some(missing, 3) or '-'}; it has {some(unexpected, 3) or 'nothing else'}"
            "; give weights of this kind of network"
        )
    roots = {name.removeprefix(prefix).split(".")[0] for name in expected} | {"norm_pre"}
    more = [name for name in unexpected if name.removeprefix(prefix).split(".")[0] in roots]
    if more:
        raise ConfigError(
            f"the checkpoint's network is another one: it has {len(more)} tensors that ours has no place for: "
            f"{some(more, 3)}; choose the size and kind that it was trained with"
        )
    refuse_missing_statistics(expected, tensors)
    weightfiles.refuse_unusable(tensors)
    whole = [n for n, t in tensors.items() if expected[n].is_floating_point() and not t.is_floating_point()]
    if whole:
        kind = str(tensors[whole[0]].dtype).removeprefix("torch.")
        raise ConfigError(
            f"expected floating-point weights, got {kind} in {some(whole, 3)}, which are of no scale; get the weights "
            "before they were quantised"
        )
    model.load_state_dict({**model.state_dict(), **tensors, **converted.fresh})
    return LoadReport(
        source=source,
        format=converted.format,
        loaded=tuple(tensors),
        resized=converted.resized,
        missing=missing,
        unexpected=unexpected,
        ignored=converted.ignored,
        coverage=coverage,
        colour=converted.colour,
        notes=converted.notes,
    )


def _same_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    wrong = [name for name, tensor in tensors.items() if tensor.shape != expected[name].shape]
    if wrong:
        name = wrong[0]
        raise ConfigError(
            f"{name}: expected the shape {tuple(expected[name].shape)}, got {tuple(tensors[name].shape)} "
            f"({len(wrong)} tensors differ); choose the size that the checkpoint was trained with"
        )


def refuse_missing_statistics(expected: Iterable[str], given: Iterable[str]) -> None:
    """Raise ConfigError where a normalisation gets weights without the mean and variance that go with them.

    They would stay at 0 and 1: vectors come out, and are wrong. One that gets nothing at all is drawn like its layer.
    """
    there = set(given)
    lacking = [n for n in expected if n.endswith((".running_mean", ".running_var")) and n not in there]
    beside = {name.rpartition(".")[0] for name in there}
    blocks = {name.rpartition(".")[0] for name in beside}
    wrong = [n for n in lacking if (layer := n.rpartition(".")[0]) in beside or layer.rpartition(".")[0] in blocks]
    if wrong:
        raise ConfigError(
            f"expected the running statistics of every batch normalisation, {len(wrong)} are missing: "
            f"{some(wrong, 3)}; save the whole state_dict, with its buffers (running_mean, running_var), not the "
            "parameters alone"
        )


def _is_counter(name: str) -> bool:
    """Whether it only counts batches: older checkpoints have none, and nothing depends on it."""
    return name.endswith("num_batches_tracked")
