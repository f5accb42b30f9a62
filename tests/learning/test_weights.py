"""Public checkpoints of faces and of ResNet-50, and how strictly any checkpoint is compared with its network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mdfpipe.errors import ConfigError
from mdfpipe.learning.models.face import IResNet
from mdfpipe.learning.models.weights import loading as weights
from tests.learning.published import Vit, pass_state, plain_vit


@pytest.fixture(autouse=True)
def _steady() -> None:
    torch.manual_seed(0)


# --- faces -----------------------------------------------------------------------------------------------------------


def small_face() -> IResNet:
    return IResNet(18, width=2, image_size=32)


@pytest.mark.parametrize(
    ("prefix", "beside", "kind", "colour"),
    [
        ("model.", {"head.kernel": (512, 9), "head.t": (1,), "head.batch_mean": (1,)}, "AdaFace", "BGR"),
        ("net.", {}, "CVLFace", "RGB"),
        ("model.net.", {}, "CVLFace", "RGB"),
        ("", {}, "IR network", None),
    ],
)
def test_face_networks(tmp_path: Path, prefix: str, beside: dict[str, Any], kind: str, colour: str | None) -> None:
    old, new = small_face(), small_face()
    state = {prefix + k: v for k, v in old.state_dict().items()}
    state |= {name: torch.randn(shape) for name, shape in beside.items()}
    torch.save({"state_dict": state, "epoch": 3, "global_step": 4}, tmp_path / "a.ckpt")
    report = weights.load_iresnet(new, weights.read_state(tmp_path / "a.ckpt"), source="a.ckpt")
    assert (report.format, report.colour, report.coverage, report.missing) == (kind, colour, 1, ())
    assert (report.ignored, report.unexpected) == (tuple(beside), ())
    assert report.lines()[0] == f"a.ckpt: {kind}, {len(old.state_dict())} tensors, 100 % of the weights"
    assert ("colour order BGR" in report.lines()) == (colour == "BGR")
    assert all(torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True))


def test_a_face_network_of_another_kind_is_refused() -> None:
    with torch.device("meta"):
        deeper = IResNet(50, width=2, image_size=32)
    with pytest.raises(ConfigError, match=r"body\.2\.res_layer.*: expected the shape"):  # a third unit before it widens
        weights.load_iresnet(small_face(), {f"net.{k}": v for k, v in deeper.state_dict().items()})
    squeezed = small_face().state_dict() | {"body.0.res_layer.se_block.fc1.weight": torch.ones(1, 2, 1, 1)}
    with pytest.raises(ConfigError, match=r"another one: it has 1 tensors .*se_block"):
        weights.load_iresnet(small_face(), squeezed)


# --- strictness ------------------------------------------------------------------------------------------------------


def test_another_networks_checkpoint_is_refused_with_what_it_covers() -> None:
    model = Vit()
    with pytest.raises(ConfigError) as caught:
        weights.load_vit(model, small_face().state_dict(), grid=(16, 8), source="face.ckpt")
    said = str(caught.value)
    assert said.startswith("face.ckpt: a checkpoint of unknown kind covers 0.0 % of the network's weights")
    assert "missing vit.cls_token, vit.reg_token, vit.pos_embed and" in said
    with pytest.raises(ConfigError, match=r"unknown kind covers 0\.0 %.*missing input_layer"):
        weights.load_iresnet(small_face(), plain_vit())
    with pytest.raises(ConfigError, match=r"unknown kind covers 0\.0 %"):
        weights.load_vit(model, {"weight": torch.ones(1)}, grid=(16, 8))


def test_a_shape_that_differs_is_an_error_that_names_it() -> None:
    state = pass_state() | {"blocks.1.mlp.fc1.weight": torch.ones(80, 24)}
    with pytest.raises(
        ConfigError, match=r"vit\.blocks\.1\.mlp\.fc1\.weight: expected the shape \(96, 24\), got \(80, 24\)"
    ):
        weights.load_vit(Vit(), state, grid=(16, 8))
    with pytest.raises(ConfigError, match=r"expected the shape \(1, 1, 24\), got \(1, 1, 32\)"):
        weights.load_vit(Vit(), plain_vit(32), grid=(16, 8))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("input_layer.1.running_var", -0.5, r"none below 0, got negative ones in {}; get"),
        ("input_layer.1.running_var", float("inf"), r"finite weights, got NaN or infinity in {}; get"),
        ("input_layer.0.weight", float("nan"), r"finite weights, got NaN or infinity in {}; get"),
        ("head.weight", float("nan"), r"finite weights, got NaN or infinity in {}; get"),
    ],
)
def test_weights_that_no_network_can_have_are_named(name: str, value: float, words: str, tmp_path: Path) -> None:
    state = {f"model.{n}": t.clone() for n, t in small_face().state_dict().items()} | {
        "model.head.weight": torch.ones(9)
    }
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    assert weights.take(tmp_path / "a.ckpt").entry == "state_dict"
    state[f"model.{name}"].view(-1)[1] = value
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match=rf"a\.ckpt: expected .*{words.format(f'model.{name}')}"):
        weights.take(tmp_path / "a.ckpt")


def test_weights_that_are_no_plain_numbers_are_named() -> None:
    state = small_face().state_dict()
    name = "input_layer.0.weight"
    for tensor, words in (
        (state[name].to_sparse(), "plain tensors, got quantised, sparse or empty ones"),
        (state[name].to("meta"), "plain tensors, got quantised, sparse or empty ones"),
        ((state[name] * 100).to(torch.int8), "floating-point weights, got int8"),
    ):
        with pytest.raises(ConfigError, match=rf"expected {words} in {name}"):
            weights.load_iresnet(small_face(), state | {name: tensor})


def test_a_normalisation_without_its_statistics_is_an_error() -> None:
    state = small_face().state_dict()
    with pytest.raises(
        ConfigError, match=r"running statistics .*, 60 are missing: input_layer\.1\.running_mean.*buffers"
    ):
        weights.load_iresnet(small_face(), {n: t for n, t in state.items() if "running" not in n})
    last = [name for name in state if name.startswith("output_layer") and name.endswith("running_var")][-1]
    with pytest.raises(ConfigError, match=r"1 are missing: output_layer\.\d\.running_var"):
        weights.load_iresnet(small_face(), {n: t for n, t in state.items() if n != last})
    report = weights.load_iresnet(small_face(), {n: t for n, t in state.items() if "num_batches" not in n})
    assert report.missing == ()
    part = {n: t for n, t in state.items() if not n.startswith("body.7.")}  # a whole block is drawn, as asked
    assert weights.load_iresnet(small_face(), part, min_coverage=0.1).missing


@pytest.mark.parametrize(
    "more", ["blocks.2.norm1.weight", "blocks.0.ls1.gamma", "norm_pre.weight", "blocks.1.attn.q_norm.weight"]
)
def test_a_network_with_more_in_it_is_another_network(more: str) -> None:
    with pytest.raises(ConfigError, match=rf"another one: it has 1 tensors .*{more}"):
        weights.load_vit(Vit(), pass_state() | {more: torch.ones(24)}, grid=(16, 8))


def test_what_has_no_place_elsewhere_is_told() -> None:
    report = weights.load_vit(Vit(), pass_state() | {"camera.bias": torch.ones(2)}, grid=(16, 8))
    assert report.unexpected == ("vit.camera.bias",)
    assert "unexpected: vit.camera.bias" in report.lines()


def test_coverage_counts_weights_not_names() -> None:
    state, model = pass_state(), Vit()
    gone = [name for name in state if name.startswith("blocks.1.")]
    total = sum(t.numel() for t in model.vit.state_dict().values())
    share = 1 - sum(state[name].numel() for name in gone) / total
    left = {name: t for name, t in state.items() if name not in gone}
    with pytest.raises(ConfigError, match=rf"covers {int(share * 1000) / 10:.1f} %.*expected at least 90\.0 %"):
        weights.load_vit(model, left, grid=(16, 8))
    report = weights.load_vit(model, left, grid=(16, 8), min_coverage=0.5)
    assert report.coverage == pytest.approx(share, abs=1e-12)
    assert set(report.missing) == {f"vit.{name}" for name in gone}


def test_nothing_changes_where_loading_fails() -> None:
    model = Vit()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"NaN or infinity in vit\.norm\.bias"):
        weights.load_vit(model, pass_state() | {"norm.bias": torch.full((24,), torch.nan)}, grid=(16, 8))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with pytest.raises(ConfigError, match="the network has 128 patches"):
        weights.load_vit(model, pass_state(), grid=(24, 8))
    incomplete = pass_state()
    del incomplete["part2_pos"]
    with pytest.raises(ConfigError, match="some are missing"):
        weights.load_vit(model, incomplete, grid=(16, 8))


def test_half_precision_becomes_the_networks() -> None:
    state = {name: t.half() for name, t in pass_state().items()}
    weights.load_vit(model := Vit((384, 128)), state, grid=(24, 8))
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.vit.norm.weight, state["norm.weight"].float())
