"""Files from elsewhere, and what a run says of itself, damaged or of another shape: read, or refused in one line."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from mdfpipe.config import Config, validate
from mdfpipe.datasets.reading.rules import DomainRule
from mdfpipe.errors import ConfigError, DataError, MdfError, MissingDependency, not_loaded
from mdfpipe.store.environment import read_environment
from mdfpipe.study.study import open_run

SCRIPTS = Path(__file__).parents[1] / "scripts"
CASES = 6  # of each reader


def test_changed_files_of_every_kind_are_read_or_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short form of `scripts/faults readers`: in this process, and without a run."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    try:
        from damage.readers import case, judged
        from damage.sound import of_inputs

        bad = []
        for name, reader in sorted(of_inputs(tmp_path / "made").items()):
            reader.sound(tmp_path / "sound")
            for n in range(CASES):
                one = case(name, reader, tmp_path / "fuzz", random.Random(f"{name}/{n}"), judge=judged)
                found = one.run()
                bad += [f"{name} {n}: {found.said}"] if found.what == "traceback" else []
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "damage"]:
            del sys.modules[name]
    assert not bad


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('{"data": "/d", "resources": {"workers": 3}}', ("/d", 3)),
        ('{"data": "/d", "resources": 3}', ("/d", 1)),
        ('{"data": "/d", "resources": {"workers": "many"}, "argv": 3, "packages": {}}', ("/d", 1)),
        *((text, None) for text in ("[]", "{", "null", "{}", '{"data": 3}', '{"data": ""}', '{"data": "a\\u0000b"}')),
        ("[" * 100_000, None),
        ("\xff", None),
    ],
)
def test_what_a_run_was_called_with_has_one_shape(text: str, read: tuple[str, int] | None, tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_bytes(text.encode("latin-1"))
    found = read_environment(tmp_path)
    assert (found and (str(found.data), found.workers)) == read
    if read is None:
        with pytest.raises(DataError, match=r"environment\.json: expected what a call of mdfpipe wrote"):
            open_run(tmp_path)


@pytest.mark.parametrize("pattern", ["(?P<domain>a{1000000000000})", "(?P<domain>" + "(" * 3000 + ")" * 3000 + ")"])
def test_a_regular_expression_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="a regular expression that is too large"):
        validate(DomainRule, {"regex": pattern}, "study")


def test_a_regular_expression_that_runs_for_ever_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdfpipe.datasets.reading.rules.SECONDS", 0.2)
    rule = validate(DomainRule, {"regex": "(?P<domain>(a+)+)$"}, "study")
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"domain: the regular expression .* has not come to an end within 0\.2 s"):
        rule.teller(Path())("a" * 40 + "b", None)
    assert time.monotonic() - begun < 30  # not for ever; the machine may be busy


class _Numbers(Config):
    whole: int = 0
    real: float = 0
    many: dict[str, list[int]] = Field({})


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"whole": 10**30}, "whole: expected a whole number of at most 2147483647, got one of about 31 digits"),
        ({"whole": -(10**5000)}, "got one of about 5001 digits"),
        ({"whole": "9" * 40}, "got one of about 4. digits"),
        ({"many": {"x": [1, 1 << 40]}}, r"many\.x: expected a whole number"),
        ({"real": 1e300}, r"real: expected a number of at most 1e\+30, got 1e\+300"),
    ],
)
def test_numbers_beyond_32_bits_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        validate(_Numbers, settings, "study")


def test_a_package_that_is_there_and_does_not_load_is_not_called_missing() -> None:
    absent = not_loaded(ModuleNotFoundError("No module named 'torch'", name="torch"), "torch", "x")
    assert isinstance(absent, MissingDependency)
    for error in (ImportError("failed to map segment", name="_C"), ModuleNotFoundError("torch._C", name="torch._C")):
        found = not_loaded(error, "torch", "the detector yolo")
        assert not isinstance(found, MissingDependency)
        assert str(error) in str(found)


def test_the_text_of_an_error_is_one_printable_line() -> None:
    assert str(MdfError("a\nb \x1b[31m")) == "a b \\x1b[31m"


def test_a_narrow_terminal_cuts_no_number_short() -> None:
    import io

    from rich.console import Console
    from rich.table import Table

    from mdfpipe.inspecting.console import print_table

    table, out = Table("stage", "a minute"), Console(file=(text := io.StringIO()), width=20)
    for _ in range(8):
        table.add_column("x")
    table.add_row("embed/body", "3116.9", *["1234567.8"] * 8)
    print_table(table, out, whole=True)
    assert "…" not in text.getvalue()
    assert text.getvalue().count("1234567.8") == 8
    assert out.width == 20
