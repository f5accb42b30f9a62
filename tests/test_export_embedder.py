"""mdfpipe export: a trained system's ONNX file gives the vectors of its checkpoint, and says what it is fed."""

import json
import re
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from mdfpipe import __version__
from mdfpipe.errors import ConfigError, MissingDependency
from mdfpipe.export import embedder, export, graph
from mdfpipe.learning.data.augment import Augment
from mdfpipe.learning.data.batches import CropBatch
from mdfpipe.learning.embedding import open_model
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.recipes.body import Body
from mdfpipe.learning.recipes.face import Face
from mdfpipe.learning.system import Start, System, checkpoint_of

from .runs import call_here

VIT = {"use": "body", "backbone": "mini", "image_height_px": 64, "image_width_px": 32, "schedule": {"length": 0}}
STRIPED = {"use": "body", "backbone": "striped", "width": 8, "image_height_px": 96, "image_width_px": 32}
FACE = {"use": "face", "layers": 18, "width": 8, "image_height_px": 32, "image_width_px": 32}
RECIPES = {
    "vit": VIT,
    "ffn": VIT | {"fusion": "ffn", "parts": ["torso"], "stem": "conv", "global": "mean"},
    "neck": VIT | {"test_feature": "neck", "part_alignment": 0.5, "stem": "resnet"},
    "no parts": VIT | {"parts": [], "local": "band", "fusion": "four"},
    "bands": VIT | {"local": "band", "global": "mean", "fusion": "four", "test_feature": "neck", "stem": "resnet"},
    "striped": STRIPED | {"schedule": {"length": 0}},
    "face": FACE | {"schedule": {"length": 0}},
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def checkpoint(path, recipe, *, classes=4, seed=0, domains=("VIS",), change=lambda network: None, **more):
    """A checkpoint as `mdfpipe train` writes it, of a network whose every weight and statistic is drawn."""
    torch.manual_seed(seed)
    system = System(recipe=recipe)
    network = system.recipe.model(classes, list(domains))
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                value.normal_(std=0.3)
    change(network)
    given = {"subjects": [f"s{n}" for n in range(classes)], "trained_domains": ["VIS"]} | more
    checkpoint_of("body-finetuned", system, network.state_dict(), Start(), **given).save(path)
    return path


def expected(path, images):
    """The vectors of a checkpoint, as `mdfpipe.learning.embedding.embed` makes them of such a batch."""
    recipe, network = open_model(path)
    n = torch.zeros(len(images), dtype=torch.int64)
    with torch.inference_mode():
        return recipe.embed(network, CropBatch(torch.from_numpy(images), n, n, n, n, n, n)).numpy()


def opened(path):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def run(path, images):
    return opened(path).run(None, {"images": images})[0]


def draw(count, recipe, seed=7):
    size = recipe["image_height_px"], recipe["image_width_px"]
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, *size)).astype(np.float32)


def assert_same(found, wanted):
    assert found.dtype == np.float32
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("name", RECIPES)
def test_the_file_gives_the_vectors_of_the_checkpoint(name, tmp_path):
    recipe = RECIPES[name]
    path = checkpoint(tmp_path / "last.pt", recipe)
    done = export(str(path), tmp_path / "a.onnx")
    assert done.compared == 15
    assert 0 < done.difference < 1e-4
    for batch in (1, 5):
        images = draw(batch, recipe)
        found = run(tmp_path / "a.onnx", images)
        assert np.ptp(found, axis=1).min() > 0
        assert batch == 1 or np.ptp(found, axis=0).max() > 1e-3 * np.abs(found).max()  # the images differ, so do these
        assert_same(found, expected(path, images))
    onnx.checker.check_model(str(tmp_path / "a.onnx"), full_check=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "last.pt"]


def test_the_input_is_fixed_but_for_the_batch(tmp_path):
    export(str(checkpoint(tmp_path / "last.pt", VIT)), tmp_path / "a.onnx")
    session = opened(tmp_path / "a.onnx")
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(float)", ["batch", 3, 64, 32])
    assert (made.name, made.type, made.shape) == ("vectors", "tensor(float)", ["batch", 384])


def by_hand(network, images, parts, flip):
    """z of eq. 8-9: the global token beside the mean of the local ones in use, of timm's own ViT."""
    tokens = network.backbone.vit.forward_features(images)
    local = tokens[:, 1:4][:, parts].mean(1)
    z = torch.cat([tokens[:, 0], local], 1)
    return (z + by_hand(network, images.flip(3), parts, False)) / 2 if flip else z


def test_parts_in_use_and_flip_fusion_are_in_the_graph(tmp_path):
    images = draw(3, VIT)
    made = {}
    for name, settings, parts, flip in (
        ("all", {}, [0, 1, 2], False),
        ("two", {"parts": ["lower_body", "face"]}, [0, 2], False),
        ("flip", {"flip_fusion": True}, [0, 1, 2], True),
    ):
        path = checkpoint(tmp_path / f"{name}.pt", VIT | settings)
        export(str(path), tmp_path / f"{name}.onnx")
        made[name] = run(tmp_path / f"{name}.onnx", images)
        with torch.inference_mode():
            assert_same(made[name], by_hand(open_model(path)[1], torch.from_numpy(images), parts, flip).numpy())
    assert np.array_equal(made["all"][:, :192], made["two"][:, :192])  # the global token does not know the parts
    assert np.abs(made["all"][:, 192:] - made["two"][:, 192:]).max() > 0.01
    assert np.abs(made["all"] - made["flip"]).max() > 0.01
    mirrored = run(tmp_path / "flip.onnx", np.ascontiguousarray(images[..., ::-1]))
    np.testing.assert_allclose(mirrored, made["flip"], atol=1e-4)


def test_a_merged_low_rank_system(tmp_path):
    recipe = VIT | {"lora": {"rank": 4}}

    def train(network):
        body = Body(**{name: value for name, value in recipe.items() if name != "use"})
        body.before_training(network)
        terms = [value for name, value in network.named_parameters() if "lora_B" in name]
        assert len(terms) == 12
        for value in terms:
            torch.nn.init.normal_(value, std=0.03)
        body.after_training(network)

    path = checkpoint(tmp_path / "last.pt", recipe, change=train)
    plain = checkpoint(tmp_path / "plain.pt", VIT)
    export(str(path), tmp_path / "a.onnx")
    images = draw(2, VIT)
    found = run(tmp_path / "a.onnx", images)
    assert_same(found, expected(path, images))
    assert np.abs(found - expected(plain, images)).max() > 0.1


def test_the_metadata_say_what_the_input_is(tmp_path):
    recipe = FACE | {
        "augment": {"normalise": "imagenet", "colour": "bgr"},
        "depth": {"policy": "recorded", "low_percentile": 2},
        "schedule": {"length": 0},
    }
    history = [{"system": "older", "subjects": ["s1", "t1", "t2"]}]
    path = checkpoint(tmp_path / "last.pt", recipe, trained_domains=["VIS", "LWIR"], figures={"loss": 1.0})
    from mdfpipe.learning.train.checkpoint import Checkpoint

    replace(Checkpoint.load(path), history=history).save(path)
    done = export(str(path), tmp_path / "a.onnx")
    session = opened(tmp_path / "a.onnx")
    said = session.get_modelmeta().custom_metadata_map
    assert said == done.facts
    depth = json.loads(said.pop("depth"))
    assert depth == {"policy": "recorded", "low_percentile": 2.0, "high_percentile": 99.0}
    assert "(0.485, 0.456, 0.406)" in said["values"]
    assert "(0.229, 0.224, 0.225)" in said.pop("values")
    assert said == {
        "mdfpipe": __version__,
        "system": "body-finetuned",
        "recipe": "face",
        "modality": "face",
        "height": "32",
        "width": "32",
        "colour": "bgr",
        "normalise": "imagenet",
        "features": "512",
        "distance": "cosine",
        "subjects": "4",
        "all_subjects": "6",
        "trained_domains": "VIS, LWIR",
    }


def test_every_normalisation_has_words_for_it():
    assert set(embedder.NORMALISED) == set(get_args(Augment.model_fields["normalise"].annotation))


def test_the_command_and_the_same_bytes_again(tmp_path):
    path = checkpoint(tmp_path / "last.pt", VIT)
    export(str(path), tmp_path / "a.onnx")
    (tmp_path / "elsewhere").mkdir()
    said = call_here("export", "last.pt", "--data", tmp_path, "--out", tmp_path / "elsewhere" / "b.onnx")
    assert said.code == 0, said.err
    first, second, *more = said.out.splitlines()
    assert first.startswith(f"wrote {tmp_path / 'elsewhere' / 'b.onnx'}: ")
    assert "images (B, 3, 64, 32) -> vectors (B, 384), B free" in first
    assert "its vectors of 15 random inputs are those of the weights" in second
    assert "  normalise: half" in more
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "elsewhere" / "b.onnx").read_bytes()
    checkpoint(tmp_path / "other.pt", VIT, seed=1)
    export(str(tmp_path / "other.pt"), tmp_path / "c.onnx")
    assert (tmp_path / "a.onnx").read_bytes() != (tmp_path / "c.onnx").read_bytes()


def test_a_file_that_is_there_is_kept(tmp_path):
    path = checkpoint(tmp_path / "last.pt", RECIPES["striped"])
    (tmp_path / "mine.onnx").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"mine\.onnx: is there already; .*--force"):
        export(str(path), tmp_path / "mine.onnx")
    assert (tmp_path / "mine.onnx").read_bytes() == b"mine"
    export(str(path), tmp_path / "mine.onnx", force=True)
    assert_same(run(tmp_path / "mine.onnx", draw(2, STRIPED)), expected(path, draw(2, STRIPED)))


def test_what_cannot_be_exported(tmp_path):
    path = checkpoint(tmp_path / "last.pt", RECIPES["striped"])
    with pytest.raises(ConfigError, match=r"ends in \.onnx"):
        export(str(path), tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"--image-size 64: .*last\.pt is a trained system.*leave it out"):
        export(str(path), tmp_path / "a.onnx", image_size=64)
    with pytest.raises(ConfigError, match=r"weights 'nowhere\.pt' not found"):
        export("nowhere.pt", tmp_path / "a.onnx")
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"cut\.pt"):
        export(str(tmp_path / "cut.pt"), tmp_path / "a.onnx")
    said = call_here("export", path, "--out", tmp_path / "none" / "a.onnx")
    assert "a.onnx: cannot be written" in said.line()
    assert not list(tmp_path.glob("*.onnx"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_package_that_is_missing(package, tmp_path, monkeypatch):
    path = checkpoint(tmp_path / "last.pt", RECIPES["striped"])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingDependency, match=rf"export needs the package {package}, .*pip install 'mdfpipe\[onnx\]'"
    ):
        export(str(path), tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_a_graph_that_gives_other_vectors_is_not_written(tmp_path, monkeypatch):
    path = checkpoint(tmp_path / "last.pt", RECIPES["striped"])
    (tmp_path / "a.onnx").write_bytes(b"mine")
    embed = Body.embed

    def branching(self, model, batch):  # the trace, of black images, sees one way only
        found = embed(self, model, batch)
        return found * 1.001 if batch.images.abs().sum() > 0 else found

    monkeypatch.setattr(Body, "embed", branching)
    words = r"expected the same vectors .* differ by (\S+) .*nothing was written"
    with pytest.raises(ConfigError, match=words) as raised:
        export(str(path), tmp_path / "a.onnx", force=True)
    differ = re.search(words, str(raised.value))
    assert differ is not None
    assert float(differ[1]) == pytest.approx(0.001, rel=0.05)  # its last digits are the processor's

    def of_two(self, model, batch):  # the trace has two images
        return embed(self, model, batch) + torch.arange(int(batch.images.shape[0]))[:, None]

    monkeypatch.setattr(Body, "embed", of_two)
    with pytest.raises(ConfigError, match=r"does not run on a batch of 3: .*nothing was written"):
        export(str(path), tmp_path / "a.onnx", force=True)
    assert (tmp_path / "a.onnx").read_bytes() == b"mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "last.pt"]


def test_a_network_without_finite_weights(tmp_path):
    def spoil(network):
        network.backbone.project.weight.data[0, 0] = torch.nan

    path = checkpoint(tmp_path / "last.pt", RECIPES["striped"], change=spoil)
    with pytest.raises(ConfigError, match=r"expected finite weights, got NaN or infinity in backbone.project.weight"):
        export(str(path), tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("use", ["di2l", "dfw", "idkl", "lccrf"])
def test_a_network_with_streams_is_exported_where_it_has_one(use, tmp_path):
    """Else the error names the setting."""
    tiny = {"use": use, **Recipe.variant(use).tiny} | ({"cmkd": None} if use == "lccrf" else {})
    more = {"domains": ["VIS", "LWIR"], "trained_domains": ["VIS", "LWIR"]}

    def start(network):  # blocks that change what goes through them
        for name, value in network.named_parameters():
            if "non_local" in name and name.endswith("bn.weight"):
                torch.nn.init.normal_(value)

    path = checkpoint(tmp_path / "last.pt", tiny | {"streams": "shared"}, change=start, **more)
    done = export(str(path), tmp_path / "a.onnx")
    assert (done.compared, done.difference < 1e-5) == (15, True)
    if use != "idkl":
        path = checkpoint(tmp_path / "last.pt", tiny | {"streams": "per_domain"}, **more)
        with pytest.raises(ConfigError, match=r"the domain of a crop \(streams: per_domain\), .*embed --domain DOMAIN"):
            export(str(path), tmp_path / "b.onnx")


def test_a_network_that_onnx_lacks_is_one_line(tmp_path, capfd):
    class Odd(torch.nn.Module):
        def forward(self, images):
            return torch.linalg.lu(images)[1]

    with pytest.raises(ConfigError, match="torch cannot express this network in ONNX"):
        graph.trace(Odd(), (1, 3, 4, 4), tmp_path / "a.onnx", output="vectors", free={0: "batch"})
    assert capfd.readouterr() == ("", "")


def test_a_network_that_looks_at_the_domain(tmp_path, monkeypatch):
    embed = Face.embed
    monkeypatch.setattr(Face, "embed", lambda self, m, batch: embed(self, m, batch) + batch.domain[:, None])
    one = checkpoint(tmp_path / "one.pt", RECIPES["face"])
    export(str(one), tmp_path / "one.onnx")
    two = checkpoint(tmp_path / "two.pt", RECIPES["face"], trained_domains=["VIS", "LWIR"])
    with pytest.raises(ConfigError, match=r"two\.pt: its vectors depend on the domain of a crop"):
        export(str(two), tmp_path / "two.onnx")
    assert not (tmp_path / "two.onnx").exists()
