"""Files that people take for weights: what each is called, and which values may lie beside tensors."""

from __future__ import annotations

import argparse
import bz2
import collections
import datetime
import gzip
import io
import pathlib
import pickle
import tarfile
import types
import uuid
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as as_safetensors
from torch import nn

from mdfpipe.errors import ConfigError
from mdfpipe.inspecting.weights import describe_weights
from mdfpipe.learning.models.weights import loading as weights

ARRAY = np.arange(6, dtype=">f4").reshape(2, 3)
PLAIN: dict[str, Any] = {
    "array": np.asfortranarray(ARRAY),
    "scalars": [np.float64(0.5), np.bool_(True), np.int32(3), np.str_("abc"), np.datetime64("2024-01-02")],
    "record": np.array([(1, [2.5, 3])], dtype=[("a", "i4"), ("b", "f8", (2,))]),
    "text": np.array(["a", "bcd"]),
    "dates": [datetime.datetime.now(datetime.timezone.utc), datetime.date.today(), datetime.timedelta(1)],  # noqa: UP017
    "paths": [Path("/a/b"), pathlib.PureWindowsPath("C:/a/b")],
    "args": argparse.Namespace(out=Path("x"), more=types.SimpleNamespace(rate=0.1)),
    "held": [
        collections.OrderedDict(a=1),
        collections.defaultdict(list, a=[1]),
        collections.deque([1]),
        {1},
        frozenset(),
    ],
    "torch": [torch.Size([1, 2]), torch.float16, torch.device("cuda:1"), torch.__version__, torch.get_rng_state()],
    "numpy state": np.random.get_state(),
    "others": [uuid.uuid4(), 1 + 2j, b"bytes", bytearray(b"x"), range(3), slice(1, 2), 2**200, np.float32],
}


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_values_beside_tensors_need_no_trust(tmp_path: Path, zipped: bool) -> None:
    content = {"net": {"a.weight": torch.ones(2)}, **PLAIN}
    torch.save(content, tmp_path / "a.t", _use_new_zipfile_serialization=zipped)
    assert weights.read_state(tmp_path / "a.t")["a.weight"].tolist() == [1, 1]


@pytest.mark.parametrize(("module", "other"), [("numpy.core", "numpy._core"), ("numpy._core", "numpy.core")])
def test_both_names_of_a_module_of_numpy(tmp_path: Path, module: str, other: str) -> None:
    torch.save({"net": {"w": torch.ones(2)}, "best": np.float64(0.5), "curve": ARRAY}, tmp_path / "a.t")
    named = np.float64(0).__reduce__()[0].__module__.removesuffix(".multiarray")
    with zipfile.ZipFile(tmp_path / "a.t") as old, zipfile.ZipFile(tmp_path / "b.t", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data.replace(named.encode(), module.encode()) if name.endswith(".pkl") else data)
    assert list(weights.read_state(tmp_path / "b.t")) == ["w"]


def test_paths_of_other_systems_and_of_newer_pythons(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "p": Path("/a")}, tmp_path / "a.t")
    for name in (b"pathlib\nWindowsPath\n", b"pathlib._local\nPosixPath\n", b"pathlib._local\nWindowsPath\n"):
        with zipfile.ZipFile(tmp_path / "a.t") as old, zipfile.ZipFile(tmp_path / "b.t", "w") as new:
            for member in old.namelist():
                new.writestr(member, old.read(member).replace(b"pathlib\nPosixPath\n", name))
        assert list(weights.read_state(tmp_path / "b.t")) == ["w"]


def test_arrays_in_the_place_of_tensors_are_taken(tmp_path: Path) -> None:
    torch.save({"model": {"w": ARRAY, "b": np.ones(3)}}, tmp_path / "a.pth")
    found = weights.read_state(tmp_path / "a.pth")
    assert found["w"].tolist() == ARRAY.tolist()
    assert found["b"].dtype == torch.float64


@pytest.mark.parametrize(
    "value",
    [
        np.array([1, None], object),
        np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")]),
        np.array([(1, [None])], dtype=[("a", "i4"), ("b", "O", (1,))]),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_an_array_of_objects_is_refused(tmp_path: Path, value: Any, zipped: bool) -> None:
    torch.save({"w": torch.ones(2), "v": value}, tmp_path / "a.t", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match=r"refused: it holds a NumPy array of objects.*--trust-pickle"):
        weights.read_state(tmp_path / "a.t")
    assert list(weights.read_state(tmp_path / "a.t", trust_pickle=True)) == ["w"]


@pytest.mark.parametrize("value", [print, getattr, np.random.default_rng, np.object_, Path.unlink])
def test_what_could_run_is_refused_by_name(tmp_path: Path, value: Any) -> None:
    torch.save({"w": torch.ones(2), "v": value}, tmp_path / "a.t")
    with pytest.raises(ConfigError, match=r"refused: opening it would run [\w., ]+, which is neither"):
        weights.read_state(tmp_path / "a.t")


def test_another_protocol_of_pickle_is_opened_with_trust_alone(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.t", pickle_protocol=4)
    with pytest.raises(ConfigError, match=r"reader of tensors lacks instructions.*--trust-pickle"):
        weights.read_state(tmp_path / "a.t")
    assert list(weights.read_state(tmp_path / "a.t", trust_pickle=True)) == ["w"]


# --- what is no checkpoint -------------------------------------------------------------------------------------------


def zipped(**members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return file.getvalue()


def tarred(*names: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def saved(write: Any, *given: Any) -> bytes:
    file = io.BytesIO()
    write(file, *given)
    return file.getvalue()


CHECKPOINT = saved(lambda file: torch.save({"a": torch.ones(1000)}, file))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch gives it up one day; people's files stay
    SCRIPTED = saved(lambda file: torch.jit.save(torch.jit.trace(nn.Linear(2, 3), torch.ones(1, 2)), file))
JOBLIB = b"\x80\x04\x95\x8e\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01w\x94\x8c\x13joblib.numpy_pickle\x94."
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
KINDS = {
    "a TorchScript archive, which is a compiled program": SCRIPTED,
    "a program of torch.export": zipped(**{"m/archive_format": "pt2", "m/data/weights/w": "x"}),
    r"an archive of NumPy arrays \(\.npz\)": saved(lambda file: np.savez(file, w=ARRAY)),
    r"a NumPy array \(\.npy\)": saved(np.save, ARRAY),
    r"a plain pickle \(protocol 4\)": pickle.dumps({"w": ARRAY, "more": [1, 2, 3]}, protocol=4),
    r"a plain pickle \(protocol 2\)": pickle.dumps({"w": ARRAY, "more": [1, 2, 3]}, protocol=2),
    "a truncated pickle": pickle.dumps({"w": ARRAY, "more": [1, 2, 3]})[:-3],
    "a pickle of joblib": JOBLIB,
    "a gzip archive": gzip.compress(CHECKPOINT),
    "a bzip2 archive": bz2.compress(CHECKPOINT),
    "a tar archive with a/weights.pth": tarred("a/weights.pth", "a/readme"),
    "a zip archive with weights.pth, readme": zipped(**{"weights.pth": "x", "readme": "y"}),
    r"a Keras model \(\.keras\)": zipped(**{"config.json": "{}", "metadata.json": "{}", "model.weights.h5": "x"}),
    "an HDF5 file, as Keras writes them": b"\x89HDF\r\n\x1a\n" + bytes(600),
    "a GGUF file": b"GGUF\x03\x00\x00\x00" + bytes(100),
    "a TensorFlow Lite model": b"\x1c\x00\x00\x00TFL3" + bytes(100),
    "an ONNX model": b"\x08\x09\x12\x07pytorch" + bytes(100),
    "a Git LFS pointer of a file of 12,345 bytes": LFS,
    "a git-annex pointer": b"/annex/objects/SHA256E-s1048576--4d7a.pth\n",
    "a web page": b"\xef\xbb\xbf  <!-- saved --><!DOCTYPE html><html>Sign in</html>",
    "the reply 'Not Found' of a web server": b'{"message": "Not Found", "status": "404"}',
    "a JSON text that begins": b'{"hidden_size": 768, "heads": 12}',
    r"the index of a checkpoint in several files \(a-1\.bin": b'{"metadata": {}, "weight_map": {"w": "a-1.bin"}}',
    "a file of 2 bytes": b"ok",
    "a file of 1 byte": b"\n",
    "an empty file": b"",
    "a truncated or damaged zip: 2000 bytes": CHECKPOINT[:2000],
    "2304 bytes of no known kind": bytes(range(256)) * 9,
}


@pytest.mark.parametrize("said", KINDS)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, said: str, name: str) -> None:
    (path := tmp_path / name).write_bytes(KINDS[said])
    for trust in (False, True):
        with pytest.raises(
            ConfigError, match=f"expected a checkpoint of torch or safetensors, got {said}.*; "
        ) as caught:
            weights.read_state(path, trust_pickle=trust)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).isprintable()
        assert "…" not in str(caught.value)  # nothing of a library's, cut off


def test_folders_name_the_file_in_them(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"a folder with model\.safetensors; name the file: .*model\.safetensors"):
        weights.read_state(tmp_path)


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    tensors = {"w": torch.ones(3)}
    for name in ("a.bin", "a.pt", "a", "a.ckpt"):
        (tmp_path / name).write_bytes(as_safetensors(tensors))
    torch.save(tensors, tmp_path / "b.safetensors")
    torch.save(tensors, tmp_path / "b.pth.tar")
    for path in tmp_path.iterdir():
        assert weights.read_state(path)["w"].tolist() == [1, 1, 1]


def test_the_oldest_files_are_opened_with_trust_alone(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(tarred("storages", "tensors", "pickle"))
    with pytest.raises(ConfigError, match=r"refused: torch opens files of before 0\.1\.10 with pickle alone"):
        weights.read_state(tmp_path / "a.pth")


@pytest.mark.parametrize("place", ["data/0", "data.pkl"])
def test_a_damaged_member_is_one_clear_line(tmp_path: Path, place: str) -> None:
    with zipfile.ZipFile(io.BytesIO(CHECKPOINT)) as old, zipfile.ZipFile(path := tmp_path / "a.pth", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[: len(data) // 2] if name.endswith(place) else data)
    for trust in (False, True):
        with pytest.raises(ConfigError, match=r"a checkpoint of torch, truncated or damaged: .*; get it again$"):
            weights.read_state(path, trust_pickle=trust)


# --- several sets of tensors -----------------------------------------------------------------------------------------

ONE, TWO = {"w": torch.ones(1)}, {"w": torch.full((1,), 2.0)}


@pytest.mark.parametrize(
    ("content", "taken", "averaged"),
    [
        ({"state_dict": ONE, "state_dict_ema": TWO}, "state_dict", "state_dict_ema"),  # timm
        ({"model": ONE, "model_ema": TWO, "optimizer": {"state": {0: {"exp": TWO["w"]}}}}, "model", "model_ema"),
        ({"model": ONE, "ema": {"module": TWO, "decay": 0.9}}, "model", "ema.module"),
        ({"net": ONE, "ema_state_dict": TWO}, "net", "ema_state_dict"),
        ({"params": ONE, "params_ema": TWO}, "params", "params_ema"),  # BasicSR
        (
            {"state_dict": ONE, "callbacks": {"EMACallback": {"weights": TWO}}},
            "state_dict",
            "callbacks.EMACallback.weights",
        ),
        ({"w": ONE["w"], "ema": TWO}, "", "ema"),
        ({"state_dict": {"model.w": ONE["w"], "model_ema.w": TWO["w"]}}, "state_dict.model", "state_dict.model_ema"),
        ({"module.encoder_q.w": ONE["w"], "module.encoder_k.w": TWO["w"]}, "encoder_q", "encoder_k"),  # MoCo
    ],
)
def test_averaged_weights_beside_raw_ones_are_told_and_can_be_taken(
    tmp_path: Path, content: dict[str, Any], taken: str, averaged: str
) -> None:
    torch.save(content, path := tmp_path / "a.pth")
    found = weights.take(path)
    assert found.tensors["w"].tolist() == [1]
    assert found.entry == taken
    (doubt,) = found.doubts
    assert f"the file also has averaged weights, `{averaged}`" in doubt
    assert f"weights_entry: {averaged} takes them" in doubt
    for entry in (averaged, "averaged"):
        other = weights.take(path, entry)
        assert other.tensors["w"].tolist() == [2]
        assert not other.doubts
        assert f"took `{averaged}`" in other.lines[0]


@pytest.mark.parametrize("flat", [True, False])
def test_a_teacher_goes_before_its_student(tmp_path: Path, flat: bool) -> None:
    content: Any = {"student": ONE, "teacher": TWO}
    if flat:
        content = {"model": {f"{part}.{name}": t for part, state in content.items() for name, t in state.items()}}
    torch.save(content, path := tmp_path / "a.pth")
    found = weights.take(path)
    assert found.tensors["w"].tolist() == [2]
    assert "student`: weights_entry takes another" in found.lines[0]
    assert weights.take(path, "student").tensors["w"].tolist() == [1]


def test_sets_that_nobody_knows_are_asked_for(tmp_path: Path) -> None:
    torch.save({"generator": ONE, "embedder": TWO}, path := tmp_path / "a.pth")
    with pytest.raises(ConfigError, match=r"got tensors under 'generator', 'embedder': say which with weights_entry"):
        weights.take(path)
    assert weights.take(path, "embedder").tensors["w"].tolist() == [2]
    with pytest.raises(
        ConfigError, match=r"weights_entry 'other': expected one of its entries, 'generator', 'embedder'"
    ):
        weights.take(path, "other")
    with pytest.raises(ConfigError, match=r"weights_entry 'averaged': .*got none of that name"):
        weights.take(path, "averaged")
    torch.save({"embedder": TWO, "epoch": 3}, path)
    assert weights.take(path).lines == ("took `embedder`",)


def test_inspect_names_the_sets_without_running_anything(tmp_path: Path) -> None:
    torch.save({"state_dict": ONE, "state_dict_ema": TWO}, path := tmp_path / "a.pth")
    facts, notes = describe_weights(path)
    assert facts["sets of tensors"] == {"state_dict": "1 tensor, 1 number", "state_dict_ema": "1 tensor, 1 number"}
    assert any("the file also has averaged weights, `state_dict_ema`" in note for note in notes)
