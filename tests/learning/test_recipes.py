"""Every recipe keeps the family's contract: it trains for two steps, embeds, saves and loads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mdfpipe.learning.data.batches import CropBatch
from mdfpipe.learning.data.crops import Crops
from mdfpipe.learning.data.loader import CropReader, Loader
from mdfpipe.learning.embedders import TorchEmbedder
from mdfpipe.learning.embedding import embed, open_model
from mdfpipe.learning.recipes import Progress, Recipe
from mdfpipe.learning.system import Start, System, checkpoint_of
from mdfpipe.learning.train.loop import fit, seed_everything
from mdfpipe.learning.train.state import Job
from tests.learning.trained import crops_in, tiny


def first_batch(recipe: Recipe, crops: Crops) -> CropBatch:
    reader = CropReader(crops, recipe.image_height_px, recipe.image_width_px, recipe.depth)
    draws = recipe.sampler(crops, 0).epoch(0)
    return next(iter(Loader(crops, reader, recipe.augment, seed=0, threads=1).batches(draws, 0, 0)))


ALL = [(name, {}) for name in Recipe.methods()]
SOME_PARTS = [("body", {"parts": ["torso"]}), ("body", {"parts": []})]


@pytest.fixture(params=[*ALL, *SOME_PARTS], ids=str)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return tiny(request.param[0], **request.param[1])


def test_names_its_source(recipe: Recipe) -> None:
    text = Path(f"mdfpipe/learning/recipes/{recipe.use}.py").read_text()
    head = text.split('"""')[1]
    assert "**Differs" in head
    assert "arXiv" in head
    assert "Table" in head


def test_a_face_template_is_a_plain_mean_of_features_of_length_one() -> None:
    """Without it, a mean of raw features is a mean by their lengths, whatever the table calls it."""
    plain, raw = tiny("face", flip_fusion=False, unit_length=True), tiny("face", flip_fusion=False)
    seed_everything(0)
    model = raw.model(2, ["VIS"]).eval()
    images = torch.randn(3, 3, raw.image_height_px, raw.image_width_px) * torch.tensor([1.0, 2, 3])[:, None, None, None]
    batch = CropBatch(images, *(torch.zeros(3, dtype=torch.int64) for _ in range(6)))
    with torch.inference_mode():
        long, unit = raw.embed(model, batch), plain.embed(model, batch)
        mirrored = tiny("face", unit_length=True).embed(model, batch)
    lengths = long.norm(dim=1, keepdim=True)
    torch.testing.assert_close(unit, long / lengths)
    torch.testing.assert_close(mirrored.norm(dim=1), torch.ones(3))
    assert lengths.max() > 1.01 * lengths.min()
    assert (
        System.model_validate({"recipe": plain}).weight_settings()
        == System.model_validate({"recipe": raw}).weight_settings()
    )


def test_every_weight_learns_within_three_steps(recipe: Recipe, tmp_path: Path) -> None:
    crops = crops_in(tmp_path / "run", recipe)
    seed_everything(0)
    model = recipe.model(len(crops.subjects), crops.domains).train()
    batch = first_batch(recipe, crops)
    optimizer = recipe.optimiser.make(recipe.parameter_groups(model))
    moved = set()
    for step in range(3):
        losses = recipe.losses(model, recipe.forward(model, batch), batch, Progress(step, 3, 0, 1))
        assert losses.terms
        for name, term in losses.terms.items():
            assert term.ndim == 0, name
            assert torch.isfinite(term), name
        optimizer.zero_grad()
        torch.stack(list(losses.terms.values())).sum().backward()
        moved |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
    wanted = {n for n, p in model.named_parameters() if p.requires_grad}
    assert wanted - moved == set()
    in_groups = {id(p) for group in recipe.parameter_groups(model) for p in group.parameters}
    assert in_groups == {id(p) for p in model.parameters() if p.requires_grad}


def test_trains_embeds_saves_and_loads(recipe: Recipe, tmp_path: Path) -> None:
    crops = crops_in(tmp_path / "run", recipe)
    seed_everything(0)
    model = recipe.model(len(crops.subjects), crops.domains)
    reader = CropReader(crops, recipe.image_height_px, recipe.image_width_px, recipe.depth)
    loader = Loader(crops, reader, recipe.augment, seed=0, threads=1)
    fitted = fit(Job(recipe, model, crops, loader, 0, tmp_path / "state.pt", "f"))
    assert fitted.step == recipe.schedule.steps(len(recipe.sampler(crops, 0)))
    assert all(np.isfinite(v) for line in fitted.lines for n, v in line.items() if n.startswith("loss/"))
    path = tmp_path / "last.pt"
    system = System(recipe=recipe)
    who = {"subjects": list(crops.subjects), "trained_domains": list(crops.domains)}
    checkpoint_of("it", system, fitted.last, Start(), **who).save(path)
    found, network = open_model(path)
    assert found == recipe
    vectors = np.concatenate(
        [v for _, v in embed(TorchEmbedder(found, network), crops, reader, crops.domains, batch=7)]
    )
    assert vectors.shape == (len(crops), recipe.features)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors.round(5), axis=0)) > len(crops) // 2
    again = np.concatenate(
        [v for _, v in embed(TorchEmbedder(*open_model(path)), crops, reader, crops.domains, batch=64)]
    )
    np.testing.assert_allclose(vectors, again, atol=1e-5 * np.abs(vectors).max())


def test_a_recipe_that_looks_at_the_domain_says_which_streams_fit(recipe: Recipe) -> None:
    """By default it is told any place for a domain that was not trained, which must then make no difference."""
    torch.manual_seed(0)
    network = recipe.model(0, ["VIS", "LWIR"]).eval()
    images = torch.randn(2, 3, recipe.image_height_px, recipe.image_width_px)
    none = torch.zeros(2, dtype=torch.int64)
    with torch.inference_mode():
        first, other = (
            recipe.embed(network, CropBatch(images, none, none + n, none, none, none, none)) for n in (0, 1)
        )
    assert torch.equal(first, other) or type(recipe).embedded_as is not Recipe.embedded_as
