"""Embedding: crops to vectors, streamed: memory does not grow with the number of crops."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdfpipe.learning.loader import CropReader, read_plain

if TYPE_CHECKING:
    from mdfpipe.learning.crops import Crops
    from mdfpipe.learning.recipes import Recipe

CPU_BATCH = 8
"""Images that a network on a CPU is given at a time."""
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def embed(
    recipe: Recipe,
    model: nn.Module,
    crops: Crops,
    reader: CropReader,
    *,
    precision: str = "fp32",
    batch: int = 64,
    threads: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """(rows (b,), vectors (b, D) float32) of the crops that decode, in order. The network must be in eval mode.

    A network's last bits depend on how many images it is given (here 2 and 3 differ from 4 and more). So on a CPU it is
    always given CPU_BATCH, the last ones padded: the vectors are the same to the last bit for any `batch`, which counts
    on an accelerator alone. There a single image is padded to two.
    """
    device = next(model.parameters()).device
    fixed = CPU_BATCH if device.type == "cpu" else None
    done = 0
    for taken in read_plain(crops, reader, recipe.augment, rows_per_batch=fixed or batch, threads=threads):
        given = taken.to(device)
        images = _padded(given.images, fixed or 2).contiguous(memory_format=torch.channels_last)
        casting: Any = contextlib.nullcontext()
        if precision in _TYPES:
            casting = torch.autocast(device.type, _TYPES[precision])
        with torch.inference_mode(), casting:
            vectors = recipe.embed(model, replace(given, images=images))[: len(taken)]
        done += len(taken)
        progress(done)
        yield taken.row.numpy(), vectors.float().cpu().numpy()


def _padded(images: Tensor, least: int) -> Tensor:
    """(n, ...) and, up to `least`, the first one again."""
    lacking = least - len(images)
    return images if lacking <= 0 else torch.cat([images, images[:1].expand(lacking, -1, -1, -1)])


def open_model(path: Path, recipe: Recipe | None = None, device: str = "cpu") -> tuple[Recipe, nn.Module]:
    """The recipe and the network of a checkpoint, ready to embed. recipe: other settings of the same network (its parts
    in use, flip fusion) instead of the checkpoint's. Raises ConfigError.
    """
    from mdfpipe.errors import ConfigError
    from mdfpipe.learning.checkpoint import Checkpoint
    from mdfpipe.learning.models.weights import fit_stems

    found = Checkpoint.load(path)
    chosen = recipe or found.open_recipe()
    model = chosen.model(0, found.trained_domains)
    body = {name: value for name, value in found.model.items() if not name.startswith(chosen.head)}
    fit_stems(model, body)
    missing = model.state_dict().keys() - body.keys()
    if missing:
        raise ConfigError(
            f"{path}: a checkpoint of {found.system} ({found.recipe.get('use')}); the recipe's network also has "
            f"{', '.join(sorted(missing)[:3])}"
        )
    try:
        model.load_state_dict(body, strict=False)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ConfigError(
            f"{path}: a checkpoint of {found.system}; does not fit the recipe's network: {first}"
        ) from None
    return chosen, model.to(device).to(memory_format=torch.channels_last).eval()
