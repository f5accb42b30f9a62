"""Side information: what is added to the tokens, unknown cameras, public embeddings, checkpoints, other engines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from mdfpipe import Embedder, read_table
from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.export import export
from mdfpipe.learning.attention import token_maps
from mdfpipe.learning.data.batches import CropBatch
from mdfpipe.learning.data.crops import Crops, camera_code
from mdfpipe.learning.data.loader import CropReader, read_plain
from mdfpipe.learning.embedders import CPU_BATCH, TorchEmbedder, TracedEmbedder, agreement, batch_of, drawn_images
from mdfpipe.learning.embedding import embed, open_model
from mdfpipe.learning.models.parts.side_information import SideInformation
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.system import Start, System, checkpoint_of, start
from mdfpipe.learning.train.checkpoint import Checkpoint
from mdfpipe.learning.train.loop import fit
from mdfpipe.machine.engines import EngineAsked
from tests.learning.made import DOMAINS
from tests.learning.trained import crops_in, job, tiny
from tests.runs import Said, call_here

CAMERAS = ["c.1", "c_1"]


def side(kind: Any, width: int = 8, cameras: list[str] = CAMERAS) -> SideInformation:
    torch.manual_seed(0)
    return SideInformation(kind, width, DOMAINS, cameras)


def asked(domains: list[int], cameras: list[str | None]) -> tuple[Tensor, Tensor]:
    return torch.tensor(domains), torch.tensor([camera_code(name) for name in cameras])


def with_cameras(crops: Crops) -> Crops:
    """Every other video by another camera, the last one by none that is named."""
    return replace(crops, camera={video: CAMERAS[n % 2] for n, video in enumerate(crops.videos[:-1])})


def test_what_is_added() -> None:
    """Three times the embedding; of what is not known the mean; of both the sum."""
    both, domain, camera = side("both"), side("domain"), side("camera")
    d, c = [both.domain[f"of {name}"] for name in DOMAINS], [both.camera[f"of {name}"] for name in ("c%2E1", "c_1")]
    found = both(*asked([0, 2, -1, 1], ["c_1", "c.1", "c.1", None]))
    mean_d, mean_c = torch.stack(d).mean(0), torch.stack(c).mean(0)
    expected = 3 * torch.stack([d[0] + c[1], d[2] + c[0], mean_d + c[0], d[1] + mean_c])[:, None]
    torch.testing.assert_close(found, expected)
    assert torch.equal(domain(*asked([1, 1], ["c.1", None]))[0], domain(*asked([1], ["other"]))[0])
    assert torch.equal(camera(*asked([0, 2], ["c_1", "c_1"]))[0], camera(*asked([1], ["c_1"]))[0])


@pytest.mark.parametrize("kind", ["domain", "camera", "both"])
def test_a_network_without_embeddings_is_one_line(kind: str) -> None:
    """One that no training made: it knows neither domains nor cameras."""
    recipe: Any = tiny("body", side_information=kind)
    model = recipe.model(0, ())
    state = dict(recipe.model(0, ()).backbone.vit.state_dict())
    assert (
        recipe.load(model, state, "w.pth", 0.9).notes[-1] == "side information: as it was drawn, there is no sie_embed"
    )
    with pytest.raises(ConfigError, match=f"side_information: {kind}: expected a network that was trained with it"):
        model.side(*asked([0], ["c.1"]))


def test_cameras_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    crops = crops_in(tmp_path / "run", tiny("body"))
    names = [f"cam{n}" for n in range(1, 1 + len(crops.videos))]
    assert replace(crops, camera=dict(zip(crops.videos, reversed(names), strict=True))).cameras == names


@torch.no_grad()
def test_every_token_gets_it_after_the_positions() -> None:
    """Against timm's own network whose positions hold it; without it nothing changes."""
    for more in ({}, {"local": "band"}):
        recipe = tiny("body", side_information="domain", **more)
        torch.manual_seed(0)
        model: Any = recipe.model(0, DOMAINS).eval()
        images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(1))
        found = recipe.embed(model, batch_of(images, 1))
        plain: Any = tiny("body", **more)
        bare = plain.model(0, DOMAINS).eval()
        bare.load_state_dict({n: t for n, t in model.state_dict().items() if not n.startswith("side.")})
        assert not torch.allclose(plain.embed(bare, batch_of(images, 1)), found)
        bare.backbone.vit.pos_embed += 3 * model.side.domain[f"of {DOMAINS[1]}"]
        torch.testing.assert_close(plain.embed(bare, batch_of(images, 1)), found, rtol=1e-5, atol=1e-5)


def test_trained_stored_and_embedded(tmp_path: Path) -> None:
    """Embeddings learn; a checkpoint brings its cameras; crops are embedded with theirs; a child takes them over."""
    recipe = tiny("body", side_information="both", schedule={"length": 3, "unit": "steps"})
    crops = with_cameras(crops_in(tmp_path / "run", recipe))
    assert crops.fingerprint() == replace(crops, camera={}).fingerprint()
    given = replace(job(crops, recipe, tmp_path / "state.pt"), model=recipe.network(crops))
    before = {name: value.clone() for name, value in given.model.state_dict().items()}
    fitted = fit(given)
    own = [name for name in before if name.startswith("side.")]
    assert len(own) == len(DOMAINS) + len(CAMERAS)
    assert not any(torch.equal(fitted.last[name], before[name]) for name in own)
    path = tmp_path / "last.pt"
    who = {"subjects": list(crops.subjects), "trained_domains": list(crops.domains)}
    checkpoint_of("it", System(recipe=recipe), fitted.last, Start(), **who).save(path)
    found, network = open_model(path)
    opened: Any = network
    assert [name for name in opened.state_dict() if name.startswith("side.")] == own
    reader = CropReader(crops, 64, 32, recipe.depth)
    (_, vectors), *_ = embed(TorchEmbedder(found, network), crops, reader, crops.domains)
    batch = next(read_plain(crops, reader, recipe.augment, rows_per_batch=len(vectors), threads=1))
    with torch.inference_mode():
        known = recipe.embed(network, batch).numpy()
        none = recipe.embed(network, batch_of(batch.images, 0)).numpy()
        assert recipe.measure(network, [batch, batch]).keys() >= {"part_match", "part_attention"}
    np.testing.assert_allclose(vectors, known, atol=1e-5 * np.abs(known).max())
    assert np.abs(vectors - none).max() > 1e-3 * np.abs(none).max()
    first = crops.take(np.array([0]))
    maps: Any = [token_maps(recipe, network, c, crops.domains) for c in (first, replace(first, camera={}))]
    assert not np.array_equal(maps[0].maps, maps[1].maps)
    child = recipe.model(0, [*DOMAINS, "LWIR-30m"])
    begun = start(System(recipe=recipe, start_from="it"), child, Checkpoint.load(path), None)
    state = child.state_dict()
    assert all(torch.equal(state[name], fitted.last[name]) for name in own)
    assert "random: side.domain.of LWIR-30m" in begun.lines[0]


def test_an_exported_network_has_the_mean_of_its_cameras(tmp_path: Path) -> None:
    """It receives images alone: so a network that uses the domain is refused."""
    for kind in ("camera", "both"):
        recipe: Any = tiny("body", side_information=kind)
        torch.manual_seed(0)
        model = recipe.model(0, DOMAINS, CAMERAS)
        who = {"subjects": ["a"], "trained_domains": list(DOMAINS)}
        path = tmp_path / f"{kind}.pt"
        checkpoint_of("it", System(recipe=recipe), model.state_dict(), Start(), **who).save(path)
        if kind == "camera":
            done = export(str(path), tmp_path / "a.onnx")
            assert done.difference < 1e-4
            assert done.facts["camera"] == "not known: the mean of those that were trained on"
        else:
            with pytest.raises(ConfigError, match="its vectors depend on the domain of a crop"):
                export(str(path), tmp_path / "b.onnx")


def test_cameras_of_own_images(tmp_path: Path) -> None:
    """By name, by path, for each image; those that the network does not know get the mean, and are counted."""
    generator = np.random.default_rng(0)
    places = {"a.c.1_.png": "c.1", "a.c9_.png": "c9", "a.c_1_.png": "c_1", "b.png": None}
    recipes = {"both": tiny("body", side_information="both"), "none": tiny("body")}
    for name, recipe in recipes.items():
        torch.manual_seed(0)
        model: Any = recipe.model(0, DOMAINS, CAMERAS)
        if model.side is not None:
            for value in model.side.parameters():
                torch.nn.init.normal_(value)
        who = {"subjects": ["a"], "trained_domains": list(DOMAINS)}
        checkpoint_of("it", System(recipe=recipe), model.state_dict(), Start(), **who).save(tmp_path / f"{name}.pt")
    folder, out = tmp_path / "own", tmp_path / "v.parquet"
    folder.mkdir()
    for name in places:
        cv2.imwrite(str(folder / name), generator.integers(0, 255, (64, 32, 3)).astype(np.uint8))
    files = [folder / name for name in places]

    def embed_own(*more: str, weights: str = "both") -> Said:
        call = ("embed", folder, "--weights", tmp_path / f"{weights}.pt", "--out", out, "--threads", "1")
        return call_here(*call, *more, folder=tmp_path)

    def vectors() -> Any:
        return np.stack(read_table(out)["vector"].to_pylist())

    said = embed_own("--domain", DOMAINS[1], "--camera-from", r"\.(.+)_\.")
    assert said.out.splitlines()[1:] == [
        "note: 1 image without a camera: the mean of c.1, c_1 is taken",
        "note: 1 image of 1 camera not trained on (c9): the mean of c.1, c_1 is taken",
    ]
    found = vectors()
    facts = json.loads(read_table(out).schema.metadata[b"mdfpipe.weights"])
    assert (facts["cameras"], facts["domain"]) == ({"c.1": 1, "c_1": 1, "c9": 1, "": 1}, DOMAINS[1])
    both = Embedder(tmp_path / "both.pt", domain=DOMAINS[1])
    assert both.cameras == CAMERAS
    np.testing.assert_array_equal(both(files, cameras=list(places.values())), found)
    one = Embedder(tmp_path / "both.pt", domain=DOMAINS[1], camera="c_1")
    assert one.means(4) == []
    of_one = one(files)
    np.testing.assert_array_equal(of_one[2], found[2])
    assert (np.abs(of_one - found).max(1) > 1e-3 * np.abs(found).max()).tolist() == [True, True, False, True]
    assert embed_own("--domain", DOMAINS[1], "--camera", "c_1").out.count("\n") == 1
    np.testing.assert_array_equal(vectors(), of_one)
    named = embed_own("--domain", "NIR-5m", "--dry-run").out.splitlines()[1:]
    assert named == [
        "note: NIR-5m is none of the domains trained on (VIS-500m, SWIR-30m, MWIR-30m): the mean of theirs is taken",
        "note: 4 images without a camera: the mean of c.1, c_1 is taken; name it with --camera or --camera-from",
    ]
    assert embed_own("--domain", "NIR-5m", weights="none").out.count("\n") == 1
    for more, words, weights in (
        (("--camera", "c_1"), "camera c_1: its network uses no cameras; leave it out", "none"),
        (("--camera-from", "c"), "uses no cameras", "none"),
        (("--camera-from", "c", "--camera", "c"), "give one of them", "both"),
        (("--camera-from", "("), "--camera-from", "both"),
        ((), "has a stream or side information for each of VIS-500m, SWIR-30m, MWIR-30m", "both"),
    ):
        assert words in embed_own(*more, weights=weights).line()
    with pytest.raises(ConfigError, match=r"expected one for each of 4 images, or None .*, got 1"):
        both(files, cameras=["c_1"])


def test_another_engine_has_a_graph_for_each_domain_and_camera() -> None:
    recipe: Any = tiny("body", side_information="both", schedule={"length": 0, "warm_up": 0})
    torch.manual_seed(0)
    network = recipe.model(0, DOMAINS, CAMERAS).eval()
    none = torch.zeros(CPU_BATCH, dtype=torch.int64)
    domain, camera = asked([0, -1] * (CPU_BATCH // 2), ["c.1", "c_1", None, "c.1"] * (CPU_BATCH // 4))
    batch = CropBatch(drawn_images(recipe), none, domain, none, none, none, none, camera)
    engine = EngineAsked("onnxruntime", "torch", "systems.a.engine", "embed/a")
    traced = TracedEmbedder(recipe, network, DOMAINS, "onnxruntime", "fp32", engine, "a.pt")
    cosine, length = agreement(traced(batch), TorchEmbedder(recipe, network)(batch))
    assert len(traced.runs) == 4
    assert cosine > 0.999999
    assert length < 1e-4


@pytest.mark.parametrize(
    ("kind", "rows", "said"),
    [
        ("camera", 2, "sie_embed, its rows for c.1, c_1 in this order"),
        ("domain", 3, "sie_embed, its rows for VIS-500m, SWIR-30m, MWIR-30m in this order"),
        ("camera", 6, "as it was drawn, sie_embed has 6 embeddings, which do not fit 2 of camera"),
        ("both", 6, "as it was drawn, sie_embed has 6 embeddings, which do not fit 5 of both"),
        ("camera", 0, "as it was drawn, there is no sie_embed"),
    ],
)
def test_embeddings_of_transreid(kind: str, rows: int, said: str) -> None:
    recipe: Any = tiny("body", side_information=kind)
    torch.manual_seed(0)
    model, source = (recipe.model(0, DOMAINS, CAMERAS) for _ in range(2))
    state = dict(source.backbone.vit.state_dict())
    state |= {"sie_embed": torch.randn(rows, 1, 192)} if rows else {}
    before = [value.clone() for value in model.side.parameters()]
    report = recipe.load(model, state, "w.pth", 0.9)
    assert report.notes[-1] == f"side information: {said}"
    taken = "in this order" in said
    assert ("sie_embed" in report.ignored) == (rows > 0 and not taken)
    expected = list(state["sie_embed"][:, 0]) if taken else before
    assert all(torch.equal(a, b) for a, b in zip(model.side.parameters(), expected, strict=True))


def test_settings(tmp_path: Path) -> None:
    body: Any = Recipe.variant("body")
    assert body.model_validate({"side_information": "none"}) == body()
    for given, words in (
        ({"side_coefficient": 2}, "side_coefficient: expected side_information"),
        ({"backbone": "striped", "side_information": "domain"}, "side_information: belongs to a ViT"),
    ):
        with pytest.raises(ConfigError, match=words):
            validate(body, given, "recipe")
    recipe = tiny("body", side_information="camera")
    with pytest.raises(ConfigError, match="expected crops whose camera the data set names, got none"):
        recipe.network(crops_in(tmp_path / "run", recipe))
    assert [tiny("body", side_information=kind).embedded_as("NIR", DOMAINS) for kind in ("domain", "camera")] == [-1, 0]
