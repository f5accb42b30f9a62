"""One small real run for all tests of this folder: the drawn clip, from the videos to the manifest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdfpipe.running.plan import Currency, Standing
from mdfpipe.running.runner import Runner
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study
from tests.drawn import draw

STUDY = Path(__file__).parents[1] / "drawn" / "study.yaml"


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("inspect")
    draw(home / "data", frames=40)
    runner = Runner(Study.load(STUDY), Run(home / "run"), home / "data")
    assert runner.execute(None, None).complete
    return home / "run"


@pytest.fixture(scope="package")
def demo(_made: Path) -> Path:
    """The run folder, to be read only."""
    return _made


@pytest.fixture
def own(_made: Path, tmp_path: Path) -> Path:
    """A copy of the run folder that a test may damage."""
    return Path(shutil.copytree(_made, tmp_path / "run"))


@pytest.fixture(scope="package", autouse=True)
def _made_by_hand_is_current() -> Iterator[None]:
    """Evaluations that these tests make up are of no study: they are taken to be what it gives."""
    with pytest.MonkeyPatch.context() as patch:
        found = Standing("run", Currency.CURRENT)
        patch.setattr("mdfpipe.reporting.comparison.current", lambda *_, **__: found)
        yield
