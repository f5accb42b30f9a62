"""What is not installed by default is asked for by name, and only by what needs it."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

from mdfpipe.errors import MdfError, MissingDependency
from mdfpipe.learning.models.parts.lora import apply_lora, merge_lora
from mdfpipe.reporting.atlas import project
from mdfpipe.store import shipped
from mdfpipe.video.trackers import Tracker
from tests.runs import ROOT, DataSet, call_here

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class Absent:
    """In sys.meta_path: a package that is not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {self.package!r}", name=self.package)


def absent(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process find no such package, as if it was never loaded."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(package), *sys.meta_path])


def tiny_vit() -> object:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=32, patch_size=16, embed_dim=8, depth=1, num_heads=2, num_classes=0)


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [
        ("peft", "lora", lambda: apply_lora(tiny_vit())),  # type: ignore[type-var]
        ("trackers", "tracks", lambda: Tracker.model_validate({"use": "ocsort"}).check(ROOT)),
        ("sklearn", "maps", lambda: project(np.eye(9, dtype=np.float32))),
    ],
)
def test_what_needs_an_extra_names_it(
    package: str, extra: str, use: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(package, monkeypatch)
    with pytest.raises(MissingDependency, match=rf"needs the package {package}, .*pip install 'mdfpipe\[{extra}\]'"):
        use()
    assert extra in PROJECT["optional-dependencies"]


def test_a_network_without_low_rank_terms_needs_no_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    absent("peft", monkeypatch)
    network = tiny_vit()
    assert merge_lora(network) is network  # type: ignore[type-var]


def test_without_decord_its_decoder_is_refused_and_the_default_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent("decord", monkeypatch)
    data = DataSet(tmp_path / "data")
    data.good("one.mkv")
    study = data.write(detect={"decoder": {"use": "auto"}})
    assert call_here("detect", study, "--data", data.root, "--run", tmp_path / "auto").code == 0
    study = data.write(detect={"decoder": {"use": "decord"}})
    said = call_here("detect", study, "--data", data.root, "--run", tmp_path / "decord")
    assert said.code == 2
    assert "the decoder decord needs the package decord, which does not load: No module named 'decord'" in said.err


def test_without_the_weights_package_demo_says_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mdfpipe.video.detectors import yolo

    monkeypatch.setattr(shipped, "SHIPPED", tmp_path)
    monkeypatch.setattr(shipped, "find_spec", lambda name: None)
    monkeypatch.setattr(yolo, "DEMO", shipped.demo_weights())
    with pytest.raises(MdfError, match=r"of the package mdfpipe-synth-weights, found no such file: .*\./weights"):
        yolo.Yolo(weights="demo").find(tmp_path)


@pytest.mark.parametrize(
    ("system", "machine", "there"),
    [
        ("linux", "x86_64", True),
        ("win32", "AMD64", True),
        ("linux", "aarch64", False),
        ("darwin", "arm64", False),
        ("darwin", "x86_64", False),
        ("win32", "ARM64", False),
    ],
)
def test_decord_is_asked_for_where_it_has_wheels(system: str, machine: str, there: bool) -> None:
    (decord,) = (one for one in map(Requirement, PROJECT["dependencies"]) if one.name == "decord")
    assert isinstance(decord.marker, Marker)
    assert decord.marker.evaluate({"sys_platform": system, "platform_machine": machine}) is there


def test_whatever_is_imported_without_an_extra_is_declared() -> None:
    declared = {Requirement(one).name for one in PROJECT["dependencies"]}
    assert "pandas" in declared
    assert not {"peft", "scikit-learn", "tensorboard", "onnx", "onnxruntime", "mdfpipe-synth-weights"} & declared
    extras = {Requirement(one).name for name in ("lora", "maps", "onnx", "synth", "tensorboard")
              for one in PROJECT["optional-dependencies"][name]}  # fmt: skip
    assert extras == {"peft", "scikit-learn", "tensorboard", "onnx", "onnxruntime", "mdfpipe-synth-weights"}
