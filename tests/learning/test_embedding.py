"""Embedding by networks that look at the domain: each crop by its own domain's stream, however domains are numbered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mdfpipe.errors import DataError
from mdfpipe.learning.data.crops import Crops, from_manifest
from mdfpipe.learning.data.loader import CropReader
from mdfpipe.learning.embedders import CPU_BATCH, TorchEmbedder
from mdfpipe.learning.embedding import embed, open_model
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.system import Start, System, checkpoint_of, predecessor, start
from mdfpipe.learning.train.checkpoint import Checkpoint
from mdfpipe.learning.train.loop import fit
from mdfpipe.store.run import Run
from tests.learning.made import DOMAINS, write_run
from tests.learning.trained import Toy, job, same

VIS, SWIR, MWIR = DOMAINS


class StreamsNet(nn.Module):
    """A linear map of the pixels for each domain, named after it."""

    def __init__(self, pixels: int, classes: int, domains: Sequence[str]) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({name: nn.Linear(pixels, 6) for name in domains})
        self.classifier = nn.Linear(6, classes, bias=False) if classes else None

    def forward(self, images: Tensor, domain: Tensor) -> Tensor:
        streams = list(self.backbone.values())
        pairs = zip(domain.tolist(), images.flatten(1), strict=True)
        return torch.stack([streams[place](image) for place, image in pairs])


class Streams(Toy):
    """Toy with a stream a domain. shared: what is not visible light may be embedded by another band's stream."""

    streams: Literal["each", "shared"] = "each"

    def model(self, classes: int, domains: Sequence[str]) -> nn.Module:
        return StreamsNet(3 * self.image_height_px * self.image_width_px, classes, domains)

    def forward(self, model: Any, batch: Any) -> dict[str, Tensor]:
        return {"z": model(batch.images, batch.domain)}

    def embed(self, model: Any, batch: Any) -> Tensor:
        assert {len(values) for values in vars(batch).values()} == {CPU_BATCH}
        return model(batch.images, batch.domain)

    def embedded_as(self, domain: str, trained: Sequence[str]) -> int | None:
        if self.streams == "shared" and domain not in trained:
            domain = next((name for name in trained if name != VIS), domain)
        return trained.index(domain) if domain in trained else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("crops") / "run"
    write_run(found, subjects=3, clips=1, size=(16, 16))
    return found


def some(folder: Path, *domains: str) -> Crops:
    """Crops of these domains, numbered in this order."""
    table = Run(folder).table("manifest", "manifest")
    return from_manifest(table, folder, modality="body", domains=domains)


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """A checkpoint whose streams are MWIR and VIS, in this order."""
    crops, recipe, path = some(folder, MWIR, VIS), Streams(batch=6), folder / "last.pt"
    fitted = fit(job(crops, recipe, folder / "state.pt"))
    about = {"subjects": list(crops.subjects), "trained_domains": list(crops.domains)}
    checkpoint_of("parent", System(recipe=recipe), fitted.last, Start(), **about).save(path)
    return path


def vectors(path: Path, recipe: Recipe, crops: Crops) -> np.ndarray:
    """As a stage makes them."""
    _, network = open_model(path, recipe)
    reader = CropReader(crops, 16, 16, recipe.depth)
    found = embed(TorchEmbedder(recipe, network), crops, reader, Checkpoint.load(path).domains)
    return np.concatenate([part for _, part in found])


def by_hand(path: Path, crops: Crops, streams: dict[str, str]) -> np.ndarray:
    """streams: domain of a crop -> whose weights it goes through."""
    weights, recipe = Checkpoint.load(path).model, Streams()
    reader, found = CropReader(crops, 16, 16, recipe.depth), []
    for row in range(len(crops)):
        pixels = reader.read(row)
        assert pixels is not None
        stream = f"backbone.{streams[crops.domains[crops.domain[row]]]}"
        flat = torch.from_numpy(recipe.augment.plain(pixels)).flatten()
        found.append((weights[f"{stream}.weight"] @ flat + weights[f"{stream}.bias"]).numpy())
    return np.stack(found)


@pytest.mark.parametrize("order", [(MWIR, VIS), (VIS, MWIR), (VIS,)])
def test_each_crop_goes_through_its_own_domains_stream(order: tuple[str, ...], trained: Path, folder: Path) -> None:
    crops = some(folder, *order)
    found = vectors(trained, Streams(), crops)
    own = {name: name for name in order}
    np.testing.assert_allclose(found, by_hand(trained, crops, own), rtol=1e-4, atol=1e-5)
    other = by_hand(trained, crops, {MWIR: VIS, VIS: MWIR})
    assert np.abs(found - other).max() > 0.1


def test_a_domain_without_a_trained_stream(trained: Path, folder: Path) -> None:
    """Said before anything is embedded; not said of domains that no crop has; and a recipe may let domains share."""
    crops = some(folder, MWIR, SWIR)
    said = rf"^domain {SWIR}: expected one that the streams of \w+ were trained for, which are {MWIR}, {VIS}; train"
    with pytest.raises(DataError, match=said) as caught:
        vectors(trained, Streams(), crops)
    assert "\n" not in str(caught.value)
    assert len(vectors(trained, Streams(), crops.take(crops.domain == 0))) == 6
    found = vectors(trained, Streams(streams="shared"), crops)
    np.testing.assert_allclose(found, by_hand(trained, crops, {MWIR: MWIR, SWIR: MWIR}), rtol=1e-4, atol=1e-5)


def test_what_looks_at_images_alone_embeds_any_domain(trained: Path, folder: Path) -> None:
    crops, toy = some(folder, VIS, SWIR, MWIR), Toy()
    assert [toy.embedded_as(name, [MWIR, VIS]) for name in crops.domains] == [1, 0, 0]
    assert toy.embedded_as(VIS, []) == 0
    network = toy.model(3, ())
    found = [part for _, part in embed(TorchEmbedder(toy, network.eval()), crops, CropReader(crops, 16, 16, toy.depth))]
    assert len(np.concatenate(found)) == len(crops)


def test_what_is_not_trained_keeps_the_streams_of_what_it_starts_from(trained: Path, tmp_path: Path) -> None:
    """By name, also in a network whose domains are others or in another order."""
    system = System(recipe=Streams(schedule={"length": 0}), start_from="parent")
    before = predecessor(trained, None)
    assert before is not None
    assert before.domains == [MWIR, VIS]
    model = system.recipe.model(0, before.domains)
    begun = start(system, model, before, None)
    child = checkpoint_of("child", system, dict(model.state_dict()), begun)
    assert (child.trained_domains, child.domains) == ([], [MWIR, VIS])
    assert same(child.model, {n: t for n, t in before.model.items() if n.startswith("backbone.")})
    wider = system.recipe.model(3, [SWIR, VIS, MWIR])
    assert "random: " in start(system.model_copy(update={"min_coverage": 0.6}), wider, before, None).lines[0]
    for name in (VIS, MWIR):
        assert torch.equal(wider.state_dict()[f"backbone.{name}.weight"], before.model[f"backbone.{name}.weight"])
    assert checkpoint_of("none", system, {}, Start([{"system": "x.pth", "format": "PASS"}])).domains == []
