"""Files of public weights: read safely, and what is none is said in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mdfpipe.errors import ConfigError
from mdfpipe.learning.models.weights import loading as weights


class Hostile:
    """A pickle of it makes a folder when it is opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_by_name_and_not_run(tmp_path: Path, zipped: bool) -> None:
    trap, path = tmp_path / "trap", tmp_path / "weights.pth"
    content = {"state_dict": {"a.weight": torch.ones(2)}, "extra": Hostile(trap)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match=r"weights\.pth: refused: opening it would run posix\.mkdir.*--trust-pickle"):
        weights.read_state(path)
    assert not trap.exists()
    assert weights.read_state(path, trust_pickle=True)["a.weight"].tolist() == [1, 1]
    assert trap.is_dir()  # whoever trusts a file runs it: the first half of this test can fail


def test_trust_is_not_used_where_it_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "a.pth")
    real, asked = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *a, **k: asked.append(k["weights_only"]) or real(*a, **k))
    weights.read_state(tmp_path / "a.pth", trust_pickle=True)
    assert asked == [True]


def test_a_whole_network_needs_trust(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 3)}, path := tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"would run torch\.nn\.modules\.linear\.Linear"):
        weights.read_state(path)
    assert weights.read_state(path, trust_pickle=True).keys() == {"weight", "bias"}


def _truncated(share: float) -> Any:
    def make(path: Path) -> None:
        torch.save({"a.weight": torch.ones(1000)}, path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return make


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("none.pth", lambda path: None, "no such file"),
        ("folder.pth", lambda path: path.mkdir(), "a folder"),
        ("empty.pth", lambda path: path.touch(), "an empty file"),
        ("page.pth", lambda path: path.write_text("\n<!DOCTYPE html><html>Sign in</html>"), "a web page"),
        ("lfs.pth", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
        ("half.pth", _truncated(0.5), "truncated"),
        ("text.pth", lambda path: path.write_text("these are no weights"), "a text that begins 'these are no weights'"),
        ("noise.bin", lambda path: path.write_bytes(bytes(range(256)) * 9), "2304 bytes of no known kind"),
        ("noise.safetensors", lambda path: path.write_bytes(bytes(range(256)) * 9), "2304 bytes of no known kind"),
        ("numbers.pth", lambda path: torch.save({"epoch": 3}, path), "got no tensors, but .*epoch"),
        ("list.pth", lambda path: torch.save([1, 2], path), "got no tensors, but a list"),
    ],
)
def test_what_is_no_checkpoint_is_one_clear_line(tmp_path: Path, name: str, make: Any, said: str) -> None:
    make(path := tmp_path / name)
    for trust in (False, True):
        with pytest.raises(ConfigError, match=said) as caught:
            weights.read_state(path, trust_pickle=trust)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_truncated_older_files_and_safetensors(tmp_path: Path) -> None:
    older, safe = tmp_path / "a.pth", tmp_path / "a.safetensors"
    torch.save({"a.weight": torch.ones(1000)}, older, _use_new_zipfile_serialization=False)
    save_file({"a.weight": torch.ones(1000)}, safe)
    for path in (older, safe):
        assert weights.read_state(path)["a.weight"].shape == (1000,)
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(ConfigError, match=r"truncated or damaged: .*2000 bytes"):
            weights.read_state(path)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"a.b": 1}, ["a.b"]),
        ({"state_dict": {"module.a": 1, "module.b": 1}}, ["a", "b"]),
        (
            {"model": {"module.base.a": 1, "module.base.b": 1, "module.classifier.weight": 1}},
            ["a", "b", "classifier.weight"],
        ),
        ({"student": {"backbone.s": 1}, "teacher": {"module.backbone.t": 1, "module.head.w": 1}}, ["t", "head.w"]),
        ({"student": {"module.backbone.s": 1}}, ["s"]),
        ({"net": {"module.a": 1}, "best": 0.5}, ["a"]),
        (
            {"state_dict": {"model.input_layer.0.weight": 1, "head.kernel": 1}},
            ["model.input_layer.0.weight", "head.kernel"],
        ),
        ({"net.body.0": 1, "net.body.1": 1}, ["net.body.0", "net.body.1"]),
        ({"backbone.a": 1, "stem.a": 1, "stem.b": 1}, ["backbone.a", "stem.a", "stem.b"]),  # not nearly all
        ({"base.a": 1, "base.b": 1, "base.head.w": 1, "head.w": 1}, ["base.a", "base.b", "base.head.w", "head.w"]),
        ({"format": "mdfpipe checkpoint 1", "model": {"backbone.a": 1}, "recipe": {}}, ["backbone.a"]),
    ],
)
def test_what_holds_the_tensors_is_taken_off(tmp_path: Path, content: dict[str, Any], names: list[str]) -> None:
    def tensors(entry: Any) -> Any:
        if isinstance(entry, dict):
            return {key: tensors(value) for key, value in entry.items()}
        return torch.ones(1) if isinstance(entry, int) else entry

    torch.save(tensors(content), tmp_path / "a.pth")
    assert list(weights.read_state(tmp_path / "a.pth")) == names
