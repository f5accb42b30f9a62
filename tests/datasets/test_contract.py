"""What every dataset reader keeps, whatever its layout. A new file in mdfpipe/datasets is tested by being there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdfpipe.datasets import Dataset
from mdfpipe.errors import DataError

READERS = Dataset.choices()


def test_helper_modules_are_no_variants() -> None:
    assert "ijb" in READERS
    assert not [name for name in READERS if name.startswith("_")]


@pytest.mark.parametrize("name", READERS)
def test_every_setting_is_explained(name: str) -> None:
    unexplained = [n for n, f in Dataset.variant(name).model_fields.items() if not f.description]
    assert not unexplained


def smallest(name: str) -> Dataset:
    """The reader with nothing set but what must be."""
    by_rule = "domain" in Dataset.variant(name).model_fields
    return Dataset.model_validate({"use": name} | ({"domain": {"constant": "VIS"}} if by_rule else {}))


@pytest.mark.parametrize("name", READERS)
def test_defaults_survive_being_written_out(name: str) -> None:
    dataset = smallest(name)
    assert dataset.use == name
    assert Dataset.model_validate(dataset.model_dump(mode="json")) == dataset


@pytest.mark.parametrize("name", READERS)
def test_a_missing_or_empty_root_is_one_clear_line(name: str, tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        for call in (smallest(name).read, smallest(name).sources):
            with pytest.raises(DataError) as caught:
                call(root)
            assert str(caught.value).isprintable()
