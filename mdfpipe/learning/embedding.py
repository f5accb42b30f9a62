"""Embedding: crops to vectors, streamed: memory does not grow with the number of crops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.learning.data.loader import CropReader, read_plain
from mdfpipe.learning.train.checkpoint import Checkpoint

if TYPE_CHECKING:
    from mdfpipe.learning.data.batches import CropBatch
    from mdfpipe.learning.data.crops import Crops
    from mdfpipe.learning.embedders import ImagesToVectors
    from mdfpipe.learning.recipes import Recipe


def embed(
    embedder: ImagesToVectors,
    crops: Crops,
    reader: CropReader,
    domains: Sequence[str] = (),
    *,
    batch: int = 64,
    threads: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """(rows (b,), vectors (b, D) float32) of the crops that decode, in order.

    domains: those that the network was made for, as its checkpoint lists them; a recipe may have a stream for each.
    Raises DataError for crops of a domain that the recipe has no stream for.

    A network's last bits depend on how many images it is given. So on a CPU it is always given CPU_BATCH, the last ones
    padded: the vectors are the same to the last bit for any `batch`, which counts on an accelerator alone. There a
    single image is padded to two.
    """
    recipe, done = embedder.recipe, 0
    for told in as_embedded(recipe, crops, reader, domains, batch=embedder.fixed or batch, threads=threads):
        least = embedder.fixed or 2
        given = replace(told, **{name: _padded(value, least) for name, value in vars(told).items()})
        vectors = embedder(given)[: len(told)]
        done += len(told)
        progress(done)
        yield told.row.numpy(), vectors


def as_embedded(
    recipe: Recipe, crops: Crops, reader: CropReader, domains: Sequence[str], *, batch: int, threads: int
) -> Iterator[CropBatch]:
    """Batches of the crops that decode, as at test, their domains as the recipe embeds them. Raises as `embed`."""
    places = _places(recipe, crops, domains)
    for taken in read_plain(crops, reader, recipe.augment, rows_per_batch=batch, threads=threads):
        yield replace(taken, domain=places[taken.domain])


def _padded(values: Tensor, least: int) -> Tensor:
    """(n, ...) and, up to `least`, the first one again."""
    lacking = least - len(values)
    return values if lacking <= 0 else torch.cat([values, values[:1].expand(lacking, *values.shape[1:])])


def _places(recipe: Recipe, crops: Crops, trained: Sequence[str]) -> Tensor:
    """(domains of the crops,) int64 places in `trained`."""
    found = [recipe.embedded_as(name, trained) for name in crops.domains]
    for code in np.unique(crops.domain).tolist():
        if found[code] is None:
            raise DataError(
                f"domain {crops.domains[code]}: expected one that the streams of {recipe.use} were trained for, which "
                f"are {', '.join(trained) or 'none'}; train on it, too, or let the recipe's domains share a stream"
            )
    return torch.tensor([place or 0 for place in found], dtype=torch.int64)


def open_model(path: Path, recipe: Recipe | None = None) -> tuple[Recipe, nn.Module]:
    """The recipe and the network of a checkpoint file: see `network_of`."""
    return network_of(Checkpoint.load(path), path, recipe)


def network_of(
    found: Checkpoint, path: Path, recipe: Recipe | None = None, device: str = "cpu"
) -> tuple[Recipe, nn.Module]:
    """The recipe and the network of a checkpoint, ready to embed. path: its file, for messages; recipe: other settings
    of the same network (its parts in use, flip fusion) instead of the checkpoint's. Raises ConfigError.
    """
    from mdfpipe.learning.models.weights.loading import fit_stems, named
    from mdfpipe.weightfiles import refuse_unusable

    chosen = recipe or found.open_recipe()
    model = chosen.model(0, found.domains)
    body = {name: value for name, value in found.model.items() if not name.startswith(chosen.head)}
    fit_stems(model, body)
    missing = model.state_dict().keys() - body.keys()
    if missing:
        raise ConfigError(
            f"{path}: a checkpoint of {found.system} ({found.recipe.get('use')}); the recipe's network also has "
            f"{', '.join(sorted(missing)[:3])}"
        )
    with named(str(path)):
        refuse_unusable(body)
    try:
        model.load_state_dict(body, strict=False)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ConfigError(
            f"{path}: a checkpoint of {found.system}; does not fit the recipe's network: {first}"
        ) from None
    return chosen, model.to(device).to(memory_format=torch.channels_last).eval()
