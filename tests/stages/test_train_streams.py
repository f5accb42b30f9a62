"""train and embed with streams: what starts from what, and domains for which no stream is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mdfpipe.errors import MdfError
from tests.systems import checkpoint, train, vectors

DFW: dict[str, Any] = {
    "use": "dfw",
    "backbone": "resnet18_half",
    "image_height_px": 32,
    "image_width_px": 16,
    "batches": {"sampler": "random", "subjects": 2, "crops": 2},
    "schedule": {"length": 1, "unit": "steps", "warm_up": 0, "milestones": []},
}
DI2L = {**DFW, "use": "di2l", "parts": 2}


def test_a_domain_without_a_trained_stream_is_refused_by_name(home: Path) -> None:
    """Before the training, where the study's own crops say so; one whose domains share a stream embeds them all."""
    visible = {"train_domains": ["VIS-500m"], "splits": ["test"]}
    outcome, ran = train(home, {"apart": {"recipe": DFW, **visible}})
    (failure,) = outcome.failures
    said = failure.message
    assert "embeds crops of LWIR-30m, for which dfw has no trained stream: it is trained on VIS-500m" in said
    assert ran == ["train/apart/training"]
    assert not (home / "run" / "train" / "apart" / "last.pt").exists()
    outcome, _ = train(home, {"one": {"recipe": {**DFW, "streams": "shared"}, **visible}})
    assert outcome.complete, outcome
    idle = "0 throughout its last epoch, so nothing brought domains together there (pairs: all)"
    assert [line for line in outcome.warnings if "loss/" in line] == [f"train/one: loss/hetero_centre: {idle}"]
    assert vectors(home, "one", "videos/LWIR-30m_b")[1].shape[1] == 512


def test_each_stream_starts_from_what_a_network_of_another_shape_has_there(home: Path) -> None:
    """A recipe with two last stages, and a stream a domain, from one with neither."""
    shared = {**DI2L, "streams": "shared", "schedule": {"length": 0}}
    untrained = {**DFW, "schedule": {"length": 0}}
    outcome, _ = train(
        home,
        {"first": {"recipe": shared}, "second": {"recipe": {**untrained, "streams": "shared"}, "start_from": "first"}},
    )
    assert outcome.complete, outcome
    given, made = checkpoint(home, "first").model, checkpoint(home, "second").model
    assert torch.equal(made["backbone.own.all.conv1.weight"], given["backbone.own.all.conv1.weight"])
    stage = "layer1.0.conv1.weight"
    assert torch.equal(made[f"backbone.own.all.{stage}"], given[f"backbone.shared.{stage}"])
    for branch in ("first", "second"):
        there = given["backbone.shared.layer4.0.conv1.weight"]
        assert torch.equal(made[f"backbone.branches.{branch}.layer4.0.conv1.weight"], there)


def test_cmkd_of_one_stream_is_refused_as_a_setting(home: Path) -> None:
    with pytest.raises(MdfError, match="cmkd compares what different streams give"):
        train(home, {"a": {"recipe": {**DFW, "use": "lccrf", "streams": "shared", "tuples": "batch"}}})
