"""A checkpoint comes back as it was, says what it is, and runs nothing."""

import os
import pickle
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mdfpipe.errors import ConfigError, DataError, MdfError, StoreError
from mdfpipe.learning.system import predecessor
from mdfpipe.learning.train import checkpoint
from mdfpipe.learning.train.checkpoint import Checkpoint
from tests.learning.trained import tiny


def made(**more: Any) -> Checkpoint:
    torch.manual_seed(0)
    state = {"backbone.weight": torch.randn(4, 3), "backbone.mean": torch.tensor(2.0), "n": torch.tensor(7)}
    settings = {"recipe": tiny("body").model_dump(mode="json"), "model": state, "subjects": ["0001", "0002"], **more}
    return Checkpoint(system="body-finetuned", **settings)


FULL: dict[str, Any] = {
    "trained_domains": ["VIS-500m", "MWIR-30m"],
    "history": [{"system": "pass.pth", "format": "PASS"}, {"system": "a", "subjects": ["0002", "0009"]}],
    "crops": "abc",
    "epoch": 3,
    "step": 12,
    "threads": 2,
    "precision": "fp32",
    "device": "cpu",
    "version": "0.1",
    "commit": None,
    "figures": {"loss/identity": 0.25},
    "notes": ["a note"],
}


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    given = made(**FULL)
    given.save(tmp_path / "last.pt")
    found = Checkpoint.load(tmp_path / "last.pt")
    for name, value in vars(given).items():
        if name != "model":
            assert getattr(found, name) == value, name
    assert found.model.keys() == given.model.keys()
    for name, value in given.model.items():
        assert torch.equal(found.model[name], value)
        assert found.model[name].dtype == value.dtype
    assert found.open_recipe() == tiny("body")
    assert Checkpoint.is_one(tmp_path / "last.pt")
    assert list(tmp_path.iterdir()) == [tmp_path / "last.pt"]


def test_the_same_bytes_whatever_the_name(tmp_path: Path) -> None:
    for name in ("last.pt", "another name of it.ckpt", "last2.pt"):
        made(**FULL).save(tmp_path / name)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    Checkpoint.load(tmp_path / "last.pt").save(tmp_path / "again.pt")
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "last.pt").read_bytes()


def test_a_path_may_be_text_and_what_it_cannot_be_is_one_line(tmp_path: Path) -> None:
    made().save(str(tmp_path / "last.pt"))
    assert Checkpoint.is_one(str(tmp_path / "last.pt"))
    assert not Checkpoint.is_one(str(tmp_path / "gone.pt"))
    with pytest.raises(ConfigError, match="path: expected a path as text or Path, got NoneType"):
        Checkpoint.is_one(None)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"nodir/k\.pt: cannot be written: No such file or directory"):
        made().save(tmp_path / "nodir" / "k.pt")


def test_its_repr_is_short() -> None:
    assert repr(made(**FULL)) == "Checkpoint(body of system body-finetuned, 2 subjects, 2 domains)"


def test_plain_torch_reads_it_without_trust(tmp_path: Path) -> None:
    made(**FULL).save(tmp_path / "last.pt")
    found = torch.load(tmp_path / "last.pt", weights_only=True)
    assert found["format"] == "mdfpipe checkpoint 1"
    assert found["system"] == "body-finetuned"


def test_describes_itself_without_its_weights() -> None:
    told = made(**FULL).describe()
    assert told["weights"] == 4 * 3 + 1 + 1
    assert told["subjects"] == 2
    assert told["figures"] == {"loss/identity": 0.25}
    assert "model" not in told
    import json

    assert json.loads(json.dumps(told)) == told


def test_history_is_a_chain_and_nobody_is_forgotten() -> None:
    grandparent = made(subjects=["0005"], history=[{"system": "pass.pth", "format": "PASS"}])
    parent = made(subjects=["0009", "0001"], history=[*grandparent.history, grandparent.entry()])
    child = made(subjects=["0001", "0002"], history=[*parent.history, parent.entry()])
    assert [entry["system"] for entry in child.history] == ["pass.pth", "body-finetuned", "body-finetuned"]
    assert child.history[1]["subjects"] == ["0005"]
    assert child.all_subjects == {"0001", "0002", "0005", "0009"}
    assert made(subjects=[]).all_subjects == set()
    assert "model" not in parent.entry()


class Evil:
    """Whoever unpickles it runs a command."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("way", ["bare pickle", "torch file", "inside of a checkpoint"])
def test_a_hostile_pickle_is_refused_and_not_run(way: str, tmp_path: Path) -> None:
    path, proof = tmp_path / "last.pt", tmp_path / "ran"
    if way == "bare pickle":
        path.write_bytes(pickle.dumps(Evil(proof)))
    elif way == "torch file":
        torch.save(Evil(proof), path)
    else:
        torch.save({"format": checkpoint.FORMAT, **vars(made(notes=[Evil(proof)]))}, path)
    with pytest.raises(DataError, match="cannot be read as a checkpoint") as caught:
        Checkpoint.load(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert not Checkpoint.is_one(path)
    assert not proof.exists()


def test_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(ConfigError, match=r"x\.pt: expected a checkpoint, found no such file"):
        Checkpoint.load(path)
    assert not Checkpoint.is_one(path)
    torch.save({"state_dict": {"w": torch.zeros(1)}}, path)
    with pytest.raises(ConfigError, match=r"expected a checkpoint of `mdfpipe train` .* found another file"):
        Checkpoint.load(path)
    torch.save([1, 2], path)
    with pytest.raises(DataError, match="found a list"):
        Checkpoint.load(path)
    whole = {"format": checkpoint.FORMAT, **vars(made())}
    torch.save({k: v for k, v in whole.items() if k != "recipe"}, path)
    with pytest.raises(ConfigError, match=r"expected the entries .*recipe.*, got"):
        Checkpoint.load(path)
    torch.save(whole | {"further": 1}, path)
    with pytest.raises(ConfigError, match="expected the entries"):
        Checkpoint.load(path)
    torch.save(whole | {"subjects": "0001"}, path)
    with pytest.raises(ConfigError, match="expected subjects of type list, got str"):
        Checkpoint.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        Checkpoint.load(path)


def test_a_recipe_that_is_no_more(tmp_path: Path) -> None:
    made(recipe={"use": "bodi"}).save(tmp_path / "x.pt")
    with pytest.raises(ConfigError, match=r"checkpoint of body-finetuned: .*expected one of body, dfw"):
        Checkpoint.load(tmp_path / "x.pt").open_recipe()


def flips(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """The same bytes with one bit flipped, anywhere."""
    chance = random.Random(seed)
    for _ in range(count):
        at = chance.randrange(len(data))
        yield data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


@pytest.mark.parametrize("name", ["last.pt", "state.pt"])
def test_no_flipped_bit_passes(name: str, tmp_path: Path) -> None:
    """Of a checkpoint and of a state: each is one line that names the file."""
    path = tmp_path / name
    if name == "last.pt":
        made(**FULL).save(path)
    else:
        network = torch.nn.Linear(4, 4)
        checkpoint.save(path, {"step": 3, "model": network.state_dict(), "lines": "[]", "best": None})
    whole = path.read_bytes()
    ends = [whole[:-n] for n in (1, 80, 81, 82, 102, 200)] + [whole + b"\n", whole + bytes(80), whole + whole]
    for data in [*flips(whole, 150, seed=5), *ends]:
        path.write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: (is damaged: its|cannot be read as a checkpoint)"):
            checkpoint.load(path)
    path.write_bytes(whole)
    checkpoint.load(path)


def test_one_of_before_there_were_digests_is_read_and_its_tensors_are_verified(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"format": checkpoint.FORMAT, **vars(made(**FULL))}, path)
    whole = path.read_bytes()
    assert Checkpoint.load(path).subjects == ["0001", "0002"]
    at = whole.index(made().model["backbone.weight"].numpy().tobytes()) + 5
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(
        DataError, match=r"cannot be read as a checkpoint .* damaged: .*data/\d+ do not have the checksum"
    ):
        Checkpoint.load(path)


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"format": checkpoint.FORMAT, **vars(made(**FULL))}, tmp_path / "last.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert Checkpoint.load(tmp_path / "last.pt").subjects == ["0001", "0002"]


def test_a_damaged_one_of_ours_is_no_public_file(tmp_path: Path) -> None:
    """As `weights` of another study: what is no checkpoint of ours is read as a public file, a damaged one never."""
    path = tmp_path / "last.pt"
    made(**FULL).save(path)
    whole = path.read_bytes()
    for at in (whole.index(b"backbone.weight"), len(whole) // 2, len(whole) - 40, len(whole) - 81):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DataError, match=r"last\.pt: is damaged"):
            predecessor(None, path)


@pytest.mark.parametrize(
    "other",
    [
        {"epoch": "3"},
        {"notes": [1]},
        {"history": [3]},
        {"history": [{"subjects": 4}]},
        {"model": {"a": [1]}},
        {"crops": 1},
    ],
)
def test_one_of_another_shape_is_one_line(other: dict[str, Any], tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "x.pt", {"format": checkpoint.FORMAT, **vars(made(**FULL)), **other})
    with pytest.raises(ConfigError, match=r"x\.pt: expected "):
        Checkpoint.load(tmp_path / "x.pt")


def test_damage_gives_one_line(tmp_path: Path) -> None:
    """Cut off anywhere, other files: an error of ours."""
    path = tmp_path / "last.pt"
    made(**FULL).save(path)
    whole, chance, said = path.read_bytes(), random.Random(0), []
    broken = [whole[: len(whole) * n // 20] for n in range(20)]
    broken += [b"", b"\x80", b"a text file\n" * 50, b"PK\x03\x04" + bytes(200), bytes(1000), chance.randbytes(3000)]
    broken += [pickle.dumps({"a": 1})[:-3], b"\x80\x02]q\x00.", b"\x80\x02N.", b"l.", b"0."]
    for data in broken:
        path.write_bytes(data)
        with pytest.raises(MdfError) as caught:
            Checkpoint.load(path)
        said.append(str(caught.value))
    assert all(str(path) in line and line.isprintable() for line in said)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "another archive")
    with pytest.raises(DataError, match="cannot be read"):
        checkpoint.load(path)


def test_a_write_that_fails_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    checkpoint.save(path, {"step": 1})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]
