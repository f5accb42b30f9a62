"""A trained system's embedding network as ONNX: normalised crops to vectors, as the pipeline makes them.

What is made of a crop before the network (size, 8 bits, order of the channels, normalisation) stays outside of the
graph; the file says in its metadata what the input must look like (in onnxruntime: `custom_metadata_map`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdfpipe import __version__
from mdfpipe.errors import ConfigError, one_line, refuse_lack_of_memory
from mdfpipe.export.graph import describe, trace
from mdfpipe.learning.data.augment import CLIP_MEAN, CLIP_SPREAD, IMAGENET_MEAN, IMAGENET_SPREAD
from mdfpipe.learning.embedders import EmbeddingNetwork
from mdfpipe.learning.embedding import open_model
from mdfpipe.learning.train.checkpoint import Checkpoint
from mdfpipe.machine.engines import open_session
from mdfpipe.store.files import writing

if TYPE_CHECKING:
    from mdfpipe.learning.recipes import Recipe

INPUTS = 5  # random ones of the check,
BATCHES = (1, 2, 3)  # each in batches of these sizes
TOLERANCE = 1e-4  # of the greatest magnitude in the vectors: two float32 implementations differ by some 1e-6
_OF_DOMAINS = ("streams", "side_information")  # settings of a recipe by which a domain may decide the vector
_LIKE = "(v / 255 - mean) / spread, of v in 0..255; of red, green, blue: mean {}, spread {}"
NORMALISED = {
    "half": "v / 127.5 - 1, of v in 0..255",
    "imagenet": _LIKE.format(IMAGENET_MEAN, IMAGENET_SPREAD),
    "clip": _LIKE.format(CLIP_MEAN, CLIP_SPREAD),
    "standardise": "(v - mean) / max(spread, 1), of v in 0..255; mean and spread of each crop, all channels together",
}


@dataclass(frozen=True)
class ExportedEmbedder:
    """What was written. facts: its metadata; compared: so many inputs; difference: the greatest one from the vectors of
    the weights, as a share of their greatest magnitude.
    """

    path: Path
    facts: dict[str, str]
    difference: float
    compared: int

    @property
    def lines(self) -> list[str]:
        """The same in words."""
        sizes = f"images (B, 3, {self.facts['height']}, {self.facts['width']}) -> vectors (B, {self.facts['features']})"
        return [
            f"wrote {self.path}: {self.path.stat().st_size} bytes; {sizes}, B free",
            f"its vectors of {self.compared} random inputs are those of the weights: they differ by at most "
            f"{self.difference:.2g} of the greatest magnitude",
            "its metadata:",
            *(f"  {name}: {value}" for name, value in self.facts.items()),
        ]


def export(checkpoint: Path, out: Path) -> ExportedEmbedder:
    """Write the embedding network of a checkpoint to the ONNX file `out`: see `mdfpipe.export`.

    Raises ConfigError where the exported graph gives other vectors, or where an image alone does not decide the vector.
    """
    found = Checkpoint.load(checkpoint)
    recipe, network = open_model(checkpoint)
    if recipe.native != "torch":
        raise ConfigError(f"{checkpoint}: expected a network of torch, got one that came from an ONNX file: take that")
    embedder = EmbeddingNetwork(recipe, network).eval()
    size = (recipe.image_height_px, recipe.image_width_px)
    _refuse_domains(embedder, size, len(found.domains), checkpoint)
    facts = _facts(found, recipe)
    with writing(out) as file:
        scratch = Path(file.name)  # `out` once it is compared
        trace(embedder, (2, 3, *size), scratch, output="vectors", free={0: "batch"})
        describe(scratch, facts)
        differences = _compare(embedder, size, scratch, checkpoint)
        worst = float(np.max(differences))
        if not worst <= TOLERANCE:  # not: NaN as well
            raise ConfigError(
                f"{checkpoint}: expected the same vectors from the exported file, they differ by {worst:.3g} of the "
                f"greatest magnitude (more than {TOLERANCE:g}); nothing was written; embed with `mdfpipe train`"
            )
    return ExportedEmbedder(out, facts, worst, len(differences))


def _refuse_domains(embedder: EmbeddingNetwork, size: tuple[int, int], domains: int, checkpoint: Path) -> None:
    """Raises ConfigError for a network that embeds the same image in another way in another domain."""
    images = _random(torch.Generator().manual_seed(1), size)
    vectors = []
    for embedder.domain in reversed(range(max(domains, 1))):  # the last is what it stays at: 0
        with torch.inference_mode():
            vectors.append(embedder(images).numpy())
    *others, first = vectors
    if any(_difference(other, first) > TOLERANCE for other in others):
        recipe = embedder.recipe
        own = [f" ({name}: {value})" for name in _OF_DOMAINS if (value := getattr(recipe, name, None))]
        raise ConfigError(
            f"{checkpoint}: its vectors depend on the domain of a crop{''.join(own)}, which the exported file would "
            "not receive: expected a network that uses the image alone; embed with `mdfpipe embed --domain DOMAIN`"
        )


def _facts(found: Checkpoint, recipe: Recipe) -> dict[str, str]:
    """What who runs the file has to know, by name."""
    augment = recipe.augment
    more = {"camera": "not known: the mean of those that were trained on"} if recipe.uses_cameras else {}
    return more | {
        "mdfpipe": __version__,
        "system": found.system,
        "recipe": recipe.use,
        "modality": recipe.modality,
        "height": str(recipe.image_height_px),
        "width": str(recipe.image_width_px),
        "colour": augment.colour,
        "normalise": augment.normalise,
        "values": NORMALISED[augment.normalise],
        "depth": json.dumps(recipe.depth.model_dump(mode="json")),
        "features": str(recipe.features),
        "distance": recipe.distance,
        "subjects": str(len(found.subjects)),
        "all_subjects": str(len(found.all_subjects)),
        "trained_domains": ", ".join(found.trained_domains),
    }


def _compare(embedder: nn.Module, size: tuple[int, int], made: Path, checkpoint: Path) -> list[float]:
    """How far the file's vectors are from torch's float32 ones, of each random input in each batch size."""
    session, generator = _session(made, checkpoint), torch.Generator().manual_seed(0)
    differences = []
    for _ in range(INPUTS):
        images = _random(generator, size)
        with torch.inference_mode():
            expected = embedder(images).numpy()
        for batch in BATCHES:
            try:
                found = session.run(["vectors"], {"images": images[:batch].numpy()})[0]
            except Exception as error:  # onnxruntime's errors have no root of their own
                refuse_lack_of_memory(error)
                raise ConfigError(
                    f"{checkpoint}: the exported file does not run on a batch of {batch}: {one_line(error, 160)}; "
                    "nothing was written; embed with `mdfpipe train`"
                ) from None
            differences.append(_difference(found, expected[:batch]))
    return differences


def _session(made: Path, checkpoint: Path) -> Any:
    try:
        return open_session(made, torch.get_num_threads())
    except Exception as error:  # onnxruntime's errors have no root of their own
        import onnxruntime

        refuse_lack_of_memory(error)
        raise ConfigError(
            f"{checkpoint}: onnxruntime {onnxruntime.__version__} cannot load the exported file: "
            f"{one_line(error, 160)}; nothing was written; install a newer onnxruntime"
        ) from None


def _random(generator: torch.Generator, size: tuple[int, int]) -> Tensor:
    return torch.randn(max(BATCHES), 3, *size, generator=generator)


def _difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The greatest difference as a share of the greatest magnitude that was expected; infinity for another shape."""
    if found.shape != expected.shape:
        return float("inf")
    magnitude = float(np.abs(expected).max(initial=0))
    return float(np.abs(found - expected).max(initial=0)) / (magnitude or 1.0)
