"""Entries: which of the sets of tensors in a checkpoint is taken.

A checkpoint may hold a network's raw weights and their moving average, a student and its teacher, a detector before and
after. One rule decides, a setting decides otherwise, and the choice is always reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from mdfpipe.errors import ConfigError, one_line, some
from mdfpipe.weightfiles.opening import Load, open_tensors
from mdfpipe.weightfiles.plain import Array

Held: TypeAlias = nn.Module | dict[str, Tensor]

INSIDE = ("teacher", "state_dict", "model_state_dict", "model", "net", "network", "module", "student")
"""Entries under which a checkpoint keeps its tensors, the best first: of DINO's two networks the teacher."""
_RAW = ("encoder_q", "base_encoder", "online_encoder", "online_network", "online")
AVERAGED = "averaged"
"""In `weights_entry`: the averaged tensors, however they are called."""


@dataclass(frozen=True, eq=False)
class Taken:
    """The tensors that were taken out of a checkpoint.

    entry: under which name they were; "" where they lie bare; module: the network that held them, where the file has it
    whole; lines: which of several sets it was, for people; doubts: where averaged tensors were left; ours: whether
    `mdfpipe train` wrote the file; note: what the file declares.
    """

    tensors: dict[str, Tensor]
    entry: str = ""
    module: nn.Module | None = None
    lines: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    ours: bool = False
    note: str = ""


def take(
    path: Path,
    entry: str | None = None,
    *,
    order: tuple[str, ...] = INSIDE,
    trust_pickle: bool = False,
    load: Load | None = None,
) -> Taken:
    """The tensors in a checkpoint (safetensors, or what torch saved) by name, on the CPU, and which of several sets.

    entry: where they lie, such as `state_dict_ema`; `AVERAGED`: the averaged ones; None: the first of `order`, else the
    bare ones. trust_pickle, load: as `open_tensors`. Raises ConfigError.
    """
    return _take(path, open_tensors(path, trust_pickle=trust_pickle, load=load), entry, order)


def _take(path: Path, content: Any, entry: str | None, order: tuple[str, ...]) -> Taken:
    if isinstance(content, Mapping) and str(content.get("format", "")).startswith("mdfpipe checkpoint"):
        return Taken(_tensors(content["model"]), ours=True, note=_note(content))
    sets = dict(_sets(content))
    if not sets:
        got = one_line(list(content), 100) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ConfigError(f"{path}: expected a state_dict, bare or under {', '.join(order)}; got no tensors, but {got}")
    name = _chosen(path, sets, entry, order)
    lines, doubts = _told(name, [other for other in sets if other != name], path.name, order)
    held = sets[name]
    module = held if isinstance(held, nn.Module) else None
    return Taken(_tensors(held), name, module, lines, doubts, note=_note(content))


def _note(content: Any) -> str:
    note = content.get("note") if isinstance(content, Mapping) else None
    return note if isinstance(note, str) else ""


def describe_sets(path: Path) -> tuple[dict[str, tuple[int, int]], Taken]:
    """The sets of tensors in a checkpoint, name -> (tensors, numbers in them), and what `take` takes of several.

    Nothing in the file is run. Raises ConfigError as `take`.
    """
    content = open_tensors(path)
    tensors = {name: _tensors(held) for name, held in _sets(content)}
    sizes = {name: (len(held), sum(t.numel() for t in held.values())) for name, held in tensors.items()}
    return sizes, _take(path, content, None, INSIDE) if len(sizes) > 1 else Taken({}, note=_note(content))


def refuse_unusable(tensors: Mapping[str, Tensor]) -> None:
    """Raise ConfigError, which names them, where weights are no plain numbers, hold NaN or infinity, or are variances
    below 0.

    Vectors and boxes that come out of such a network are wrong or none at all. Masks may hold infinity.
    """
    plain = {name: t for name, t in tensors.items() if t.layout is torch.strided and not (t.is_quantized or t.is_meta)}
    real = {name: t.float() for name, t in plain.items() if t.is_floating_point() and "mask" not in name}
    faults = {
        ("plain tensors", "quantised, sparse or empty ones"): [name for name in tensors if name not in plain],
        ("finite weights", "NaN or infinity"): [name for name, t in real.items() if not t.isfinite().all()],
        ("variances of batch normalisations, none below 0", "negative ones"): [
            name for name, t in plain.items() if name.endswith("running_var") and bool((t < 0).any())
        ],
    }
    for (expected, got), names in faults.items():
        if names:
            raise ConfigError(f"expected {expected}, got {got} in {some(names, 3)}; get the file again")


def _tensors(content: Any) -> dict[str, Tensor]:
    """The tensors of a mapping by name; where it holds none, its arrays as tensors."""
    content = content.state_dict() if isinstance(content, nn.Module) else content
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    found = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if found:
        return found
    values = {n: v.value if isinstance(v, Array) else v for n, v in named.items()}
    arrays = {n: v for n, v in values.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fiu"}
    return {n: torch.from_numpy(v.astype(v.dtype.newbyteorder("="))) for n, v in arrays.items()}


def _sets(content: Any, trail: tuple[str, ...] = ()) -> Iterator[tuple[str, Held]]:
    """(where, set of tensors) in a checkpoint, from the outside in; those of optimisers are left out."""
    if not isinstance(content, Mapping | nn.Module) or len(trail) > 4:
        return
    own = _tensors(content)
    split = {} if isinstance(content, nn.Module) else _split(own)
    for part, tensors in split.items():
        yield ".".join((*trail, part)), tensors
    if own and not split:
        yield ".".join(trail), content if isinstance(content, nn.Module) else own
    if isinstance(content, Mapping):
        for name, inner in content.items():
            if isinstance(name, str) and not re.match(r"optim|\w*scheduler|scaler|amp|loss|criterion", name):
                yield from _sets(inner, (*trail, name))


def _split(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A network and its average whose tensors lie in one dictionary (`student.`, `teacher.`), apart; else nothing."""
    wrapped = bool(tensors) and all(name.startswith("module.") for name in tensors)
    plain = {name.removeprefix("module.") if wrapped else name: tensor for name, tensor in tensors.items()}
    firsts = dict.fromkeys(name.partition(".")[0] for name in plain if "." in name)
    averaged = [first for first in firsts if is_averaged(first)]
    raw = [first for first in firsts if first in (*INSIDE, *_RAW) and first not in averaged]
    if not averaged or not raw:
        return {}
    return {
        part: {name.removeprefix(f"{part}."): t for name, t in plain.items() if name.startswith(f"{part}.")}
        for part in (*raw, *averaged)
    }


def is_averaged(entry: str) -> bool:
    """Whether a name says that its tensors are a moving average: timm's, DINO's, Lightning's, MoCo's, BasicSR's.

    >>> [is_averaged(name) for name in ("state_dict_ema", "model_ema", "ema", "teacher", "callbacks.EMACallback")]
    [True, True, True, True, True]
    >>> [is_averaged(name) for name in ("state_dict", "model", "schema", "avgpool", "student")]
    [False, False, False, False, False]
    """
    words = set(re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", entry).lower()))
    named = {"ema", "swa", "teacher", "averaged", "avg", "shadow", "polyak", "momentum"}
    return bool(words & named) or entry in ("encoder_k", "target_network")


def _chosen(path: Path, sets: Mapping[str, Any], entry: str | None, order: tuple[str, ...]) -> str:
    """Which set is taken. Raises ConfigError: none of that name, or several of which none is known."""
    there = ", ".join(repr(name) if name else "the bare tensors" for name in list(sets)[:6])
    if entry is not None:
        exact = [name for name in sets if name == entry] or [n for n in sets if n.rpartition(".")[2] == entry]
        fits = [name for name in sets if is_averaged(name)] if entry == AVERAGED else exact
        if len(fits) == 1:
            return fits[0]
        got = f"{len(fits)} that fit" if fits else "none of that name"
        raise ConfigError(f"{path}: weights_entry {entry!r:.60}: expected one of its entries, {there}; got {got}")
    known = sorted((name for name in sets if _rank(name, order)), key=lambda name: _rank(name, order))
    raw = [name for name in sets if not is_averaged(name)]
    fits = known[:1] or [name for name in raw if not name] or raw or list(sets)
    if len(fits) > 1:
        raise ConfigError(
            f"{path}: expected a state_dict, bare or under {', '.join(order)}; got tensors under {there}: "
            "say which with weights_entry"
        )
    return fits[0]


def _rank(name: str, order: tuple[str, ...]) -> tuple[int, ...]:
    """The place of an entry among those that are known; () where it is none of them."""
    parts = name.split(".") if name else []
    return tuple(order.index(part) for part in parts) if all(part in order for part in parts) else ()


def _told(name: str, others: list[str], source: str, order: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(lines, doubts) on the set that was taken from several."""
    beside = [f"`{other}`" for other in others if other]
    taken = f"took `{name}`" if name else "took the bare tensors"
    averaged = [other for other in others if is_averaged(other)]
    if averaged and not is_averaged(name):
        doubt = (
            f"{source}: {taken}; the file also has averaged weights, `{averaged[0]}`, which are often the "
            f"published ones: weights_entry: {averaged[0]} takes them"
        )
        return (), (doubt,)
    if beside:
        return (f"{taken}; the file also has {some(beside, 4)}: weights_entry takes another",), ()
    return ((taken,) if name and not _rank(name, order) else ()), ()
