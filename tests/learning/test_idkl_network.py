"""IDKL's network and settings: shapes and weights, defaults, named configurations, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.learning.models.idkl import without_running
from mdfpipe.learning.models.parts.heads import BNNeck
from mdfpipe.learning.recipes import Recipe
from tests.learning.scalars import normal
from tests.learning.trained import tiny

TWO = ["LWIR-30m", "VIS-500m"]
FOUR = ["LWIR-30m", "MWIR-30m", "SWIR-30m", "VIS-500m"]
OFF = {"weight": 0}


def idkl(**given: Any) -> Any:
    return validate(Recipe.variant("idkl"), given, "idkl")


def test_defaults_are_the_paper() -> None:
    recipe = idkl()
    assert (recipe.image_height_px, recipe.image_width_px) == (384, 128)
    assert (recipe.batches.subjects, recipe.batches.crops) == (12, 5)
    assert (recipe.optimiser.method, recipe.optimiser.rate, recipe.schedule.milestones) == ("adam", 3e-5, [60, 100])
    assert (recipe.ip.weight, recipe.tgsa.weight, recipe.csa.weight, recipe.mdr.weight) == (0.1, 0.6, 0.8, 1.0)
    assert recipe.embedded_as("MWIR-30m", TWO) == 0  # one stream takes any domain


def test_configurations_keep_what_is_given() -> None:
    released = idkl(configuration="released")
    assert (released.optimiser.rate, released.optimiser.weight_decay) == (3.5e-4, 5e-3)
    assert (released.schedule.length, released.schedule.milestones) == (160, [55, 95])
    mixed = idkl(configuration="released", optimiser={"weight_decay": 1e-4}, schedule={"length": 3, "milestones": []})
    assert (mixed.optimiser.rate, mixed.optimiser.weight_decay, mixed.optimiser.method) == (3.5e-4, 1e-4, "adam")
    assert (mixed.schedule.length, mixed.schedule.shape, mixed.schedule.warm_up) == (3, "steps", 0)
    told = {name: value for name, value in mixed.model_dump(mode="json").items() if name != "use"}
    assert idkl(**told) == mixed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"streams": "per_domain"}, "streams"),
        ({"configuration": "code"}, "configuration"),
        ({"specific_identity": "purified", "ip": OFF}, "ip.weight is 0"),
        ({"batches": {"sampler": "random"}}, "set mdr.pairing to class"),
        ({"adversary": {"depths": ["neck", "neck"]}}, "each once"),
        ({"adversary": {"discriminate": "purified"}, "ip": OFF}, "adversary.discriminate purified: .* ip.weight is 0"),
        (
            {"adversary": {"discriminate": "purified", "depths": ["stage3", "neck"]}},
            "no purified feature behind stage3",
        ),
        ({"affinity": {"sign": 0}}, "sign"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        idkl(**given)


def test_pairing_by_index_refuses_groups_of_unequal_size() -> None:
    recipe = tiny("idkl", pairs="grouped")
    with pytest.raises(ConfigError, match="equally many domains"):
        recipe.model(3, FOUR)
    recipe.model(3, TWO)
    recipe.model(0, FOUR)  # to embed nothing is paired
    tiny("idkl", pairs="grouped", mdr={"pairing": "class"}).model(3, FOUR)
    idkl(batches={"sampler": "random"}, mdr={"pairing": "class"})


def test_a_start_from_another_system_takes_no_heads() -> None:
    kind = Recipe.variant("idkl")
    names = [n for n in tiny("idkl").model(3, TWO).state_dict() if not n.startswith(kind.head)]
    parts = {".".join(n.split(".")[:2]) for n in names if not n.startswith(("backbone.", "neck."))}
    assert parts == {"training_only.specific_neck", "training_only.purified_neck", "training_only.purifier"}


def test_a_pass_beside_the_main_one_leaves_the_running_statistics_alone() -> None:
    neck, z = BNNeck(5), normal(6, 5, dtype=torch.float32) * 3 + 1
    nn.init.normal_(neck.weight)
    before = {name: value.clone() for name, value in neck.state_dict().items()}
    beside = without_running(neck, z)
    assert all(torch.equal(value, before[name]) for name, value in neck.state_dict().items())
    torch.testing.assert_close(beside, neck(z))
    assert not torch.equal(neck.running_mean, before["running_mean"])  # type: ignore[arg-type]
    torch.testing.assert_close(without_running(neck.eval(), z), neck(z))


def test_weights_and_vectors_of_a_resnet_50() -> None:
    """Stages 3 and 4 twice (METHODS 0: 7,098,368 and 14,964,736); vectors only, no maps."""
    recipe = idkl(adversary={"depths": ["stage3", "neck"]})
    with torch.device("meta"):
        model = recipe.model(395, TWO)
        found = model.train()(torch.zeros(2, 3, 384, 128))
        plain = recipe.model(0, TWO)
        alone = plain(torch.zeros(2, 3, 384, 128))
    assert sum(p.numel() for p in model.backbone.parameters()) == 23_508_032 + 7_098_368 + 14_964_736
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        **dict.fromkeys(("shared", "specific", "instance", "enhanced", "reduced", "purified"), (2, 2048)),
        "shared_stage3": (2, 1024),
        "specific_stage3": (2, 1024),
    }
    assert {name: tuple(value.shape) for name, value in alone.items()} == {"shared": (2, 2048)}
    assert sum(p.numel() for p in plain.parameters()) == 23_508_032 + 2 * 2048
    assert recipe.features == 2048
    ours = {n for n in plain.state_dict() if not n.startswith("backbone.")}
    assert ours == {f"neck.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert plain.state_dict().keys() <= model.state_dict().keys()


def test_branches_share_three_stages() -> None:
    recipe = tiny("idkl")
    model = recipe.model(3, TWO)
    assert list(model.backbone.branches) == ["shared", "specific"]
    stages = {n.split(".")[1] for n, _ in model.backbone.shared.named_parameters(prefix="x")}
    assert stages == {"conv1", "bn1", "layer1", "layer2"}
    for branch in model.backbone.branches.values():
        assert {n.split(".")[0] for n, _ in branch.named_parameters()} == {"layer3", "layer4"}
