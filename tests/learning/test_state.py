"""What a training adds up, and whose state it takes up."""

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mdfpipe.errors import ConfigError, DataError
from mdfpipe.learning.data.crops import Crops
from mdfpipe.learning.train import checkpoint
from mdfpipe.learning.train.loop import fit, make_fabric
from mdfpipe.learning.train.state import Books, State, _swapped
from tests.learning.trained import Interrupted, Toy, crops_in, job, same, saving_always, tiny


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Crops:
    return crops_in(tmp_path_factory.mktemp("crops") / "toy", Toy())


def test_books_by_hand() -> None:
    books = Books()
    books.add_step(0, {"a": torch.tensor(1.0), "b": torch.tensor(-2.0)}, {"right": (3, 4), "norm": (10.0, 2)})
    assert "loss/a" not in books.means()  # nothing is looked at before `settle`
    books.add_step(1, {"a": torch.tensor(2.0, requires_grad=True)}, {"right": (0, 2)})
    books.settle()
    assert books.means() == {"loss/a": 1.5, "loss/b": -2.0, "norm": 5.0, "right": 0.5}
    books.settle()
    assert books.means()["loss/a"] == 1.5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_books_name_the_first_that_is_no_number(value: float) -> None:
    books = Books()
    books.add_step(6, {"identity": torch.tensor(1.0), "triplet": torch.tensor(2.0)}, {})
    books.add_step(7, {"identity": torch.tensor(1.0), "triplet": torch.tensor(value)}, {})
    books.add_step(8, {"identity": torch.tensor(math.nan), "triplet": torch.tensor(value)}, {})
    with pytest.raises(DataError, match=f"^step 7: the loss term triplet is {value}; lower optimiser.rate"):
        books.settle()


def test_average_by_hand(toys: Crops, tmp_path: Path) -> None:
    recipe = tiny("toy", optimiser={"ema": 0.75})
    network = nn.BatchNorm1d(2)
    state = State.begin(job(toys, recipe, tmp_path / "state.pt"), make_fabric("cpu", "fp32"), network, None)
    with torch.no_grad():
        network.weight.fill_(5.0)
        network.running_mean.fill_(8.0)
        network.num_batches_tracked.fill_(3)
    state.average()
    assert state.ema is not None
    assert state.ema["weight"].tolist() == [2.0, 2.0]  # 0.75 * 1 + 0.25 * 5
    assert state.ema["running_mean"].tolist() == [2.0, 2.0]
    assert state.ema["num_batches_tracked"].item() == 3  # a count is no average
    kept = state.kept()
    assert same(kept, state.ema)
    state.average()
    assert kept["weight"].tolist() == [2.0, 2.0]  # a copy
    assert state.ema["weight"].tolist() == [2.75, 2.75]


def test_swapped_puts_back_what_it_took_also_after_an_error() -> None:
    network = nn.Linear(2, 1)
    own = {name: value.clone() for name, value in network.state_dict().items()}
    other = {name: value + 1 for name, value in own.items()}
    with contextlib.suppress(KeyError), _swapped(network, other):
        assert same(dict(network.state_dict()), other)
        raise KeyError
    assert same(dict(network.state_dict()), own)
    with _swapped(network, None):
        assert same(dict(network.state_dict()), own)


# -- whose state


@pytest.fixture
def begun(toys: Crops, tmp_path: Path) -> Path:
    """The state after step 4."""
    given = job(toys, tiny("toy"), tmp_path / "state.pt")

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise Interrupted

    given.progress = interrupt
    with saving_always(), pytest.raises(Interrupted):
        fit(given)
    return tmp_path / "state.pt"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"threads": 2}, "was computed with --threads 1, now it is 2: the result would not be the same"),
        ({"precision": "bf16"}, "was computed with precision fp32, now it is bf16"),
        ({"fingerprint": "g"}, "belongs to other settings or data"),
    ],
)
def test_another_trainings_state(more: dict[str, Any], message: str, begun: Path, toys: Crops) -> None:
    before = begun.read_bytes()
    with pytest.raises(ConfigError, match=f"state.pt: {message}.*; give the former setting again, or remove") as caught:
        fit(job(toys, tiny("toy"), begun, **more))
    assert "\n" not in str(caught.value)
    assert begun.read_bytes() == before
    fitted = fit(job(toys, tiny("toy"), begun))  # with the former setting it goes on
    assert same(fitted.last, fit(job(toys, tiny("toy"), begun.with_name("whole.pt"))).last)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("world", 4, "was computed with processes 4, now it is 1"),
        ("device", "cuda", "was computed with --device cuda, now it is cpu"),
        ("threads", 8, "was computed with --threads 8, now it is 1"),
    ],
)
def test_a_state_from_elsewhere(name: str, value: Any, message: str, begun: Path, toys: Crops) -> None:
    checkpoint.save(begun, checkpoint.load(begun) | {name: value})
    with pytest.raises(ConfigError, match=message):
        fit(job(toys, tiny("toy"), begun))


def test_other_people(begun: Path, toys: Crops, tmp_path: Path) -> None:
    fewer = toys.take(toys.subject != 2).compact()
    with pytest.raises(ConfigError, match=r"state.pt: was trained on 6 subjects, now there are 5, or others"):
        fit(job(fewer, tiny("toy"), begun))
    others = crops_in(tmp_path / "others", Toy(), first=2)  # six, too
    with pytest.raises(ConfigError, match=r"trained on 6 subjects, now there are 6, or others: its classes are not"):
        fit(job(others, tiny("toy"), begun))


def _flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("kind", ["flipped", "half", "empty", "zeros", "text", "keys", "types", "weights", "groups"])
def test_what_is_no_state_is_set_aside(kind: str, begun: Path, toys: Crops) -> None:
    """The training begins anew, says so, and ends with the bits of one that nobody disturbed."""
    whole, found = begun.read_bytes(), checkpoint.load(begun)
    damaged = {"flipped": _flipped(whole), "half": whole[: len(whole) // 2], "empty": b"", "text": b"text"}
    others: dict[str, dict[str, Any]] = {
        "keys": {"format": "another"},
        "types": found | {"step": "4"},
        "weights": found | {"model": {name: value[:1] for name, value in found["model"].items()}},
        "groups": found | {"optimizer": {"state": {}, "param_groups": []}},
    }
    if kind in others:
        checkpoint.save(begun, others[kind])
    else:
        begun.write_bytes(damaged.get(kind, bytes(len(whole))))
    aside = begun.read_bytes()
    fitted = fit(job(toys, tiny("toy"), begun))
    assert [note.partition(" (")[0] for note in fitted.notes] == [
        "the state of a training that was cut off could not be used and was set aside as state.pt.damaged; it "
        "started again, with the same result"
    ]
    assert begun.with_name("state.pt.damaged").read_bytes() == aside
    undisturbed = fit(job(toys, tiny("toy"), begun.with_name("whole.pt")))
    assert undisturbed.notes == []
    assert same(fitted.last, undisturbed.last)
    assert fitted.lines == undisturbed.lines


def test_a_state_needs_no_trust(begun: Path) -> None:
    found = torch.load(begun, weights_only=True)
    assert found["step"] == 4
    assert {value.dtype for value in found["model"].values()} == {torch.float32}
