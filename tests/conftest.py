"""What several tests share: a run of the drawn data set as far as its manifest, made once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import clips, runs
from tests.drawn import draw
from tests.systems import runner


def pytest_configure() -> None:
    """Ctrl-C reaches what tests start, also where the tests run behind `&` in a script, whose jobs ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with data/ and run/, which nobody changes: two training and two test subjects in two domains."""
    home = tmp_path_factory.mktemp("labelled")
    draw(home / "data", frames=8)
    assert runner(home, {})[0].execute(None, "manifest").complete
    return home


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound clip of the usual length, which nobody changes."""
    return clips.write_video(tmp_path_factory.mktemp("clip") / "v.mp4", runs.FRAMES)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """A test that sets torch's threads sets them for itself: the last bits of a network depend on them."""
    before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.set_num_threads(before or max(torch.get_num_threads(), 2))
