"""What is found by name beside the code: studies, and what a shell completes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mdfpipe.errors import ConfigError
from mdfpipe.store import shipped
from mdfpipe.study.study import Study
from tests.runs import ROOT, call_here


def test_every_study_is_found_by_its_name_from_anywhere(tmp_path: Path) -> None:
    names = shipped.study_names()
    assert len(names) == len(list((ROOT / "pipelines").rglob("*.yaml"))) > 30
    with contextlib.chdir(tmp_path):
        assert all(shipped.find_study(Path(name)).is_file() for name in names)
        assert Study.load("sysu/di2l") == Study.load(ROOT / "pipelines" / "sysu" / "di2l.yaml")
        assert Study.load(Path("sysu")).name == "sysu"  # a study, though there are studies below it


def test_a_file_goes_before_a_name_and_a_folder_does_not(tmp_path: Path) -> None:
    (tmp_path / "sysu").mkdir()
    own = tmp_path / "sysu" / "di2l"
    own.write_text("name: own\n")
    with contextlib.chdir(tmp_path):
        assert shipped.find_study(Path("sysu/di2l")) == Path("sysu/di2l")
        assert shipped.find_study(Path("sysu")).name == "sysu.yaml"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("sysu/d2il", "got neither; did you mean sysu/di2l?"),
        ("pipelines/sysu/di2l.yaml", "did you mean sysu/di2l?"),
        ("elsewhere/pipelines/regdb.yml", "did you mean regdb?"),
        ("tests", "got a folder; `mdfpipe studies` lists"),
        ("../pipelines/sysu/di2l", "did you mean sysu/di2l?"),
        ("a/\x1b[1mb", "expected a YAML file, or the name of a study"),
    ],
)
def test_what_is_neither_file_nor_name_is_one_line_with_the_nearest_name(given: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    with contextlib.chdir(tmp_path), pytest.raises(ConfigError) as error:
        shipped.find_study(Path(given))
    assert said in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("given", ["a\0b", "n" * 5000])
def test_a_name_that_no_file_system_takes_is_refused(given: str) -> None:
    with pytest.raises(ConfigError):
        Study.load(given)


def test_studies_are_listed_with_their_first_sentence() -> None:
    listed = call_here("studies").out.splitlines()
    assert [line.split()[0] for line in listed] == shipped.study_names()
    found = call_here("studies", "--json").json
    assert found["llcm/idkl"] == "IDKL on LLCM, with the settings of SYSU-MM01, as the paper names no others."
    assert all(len(text) > 25 for text in found.values())


def test_a_study_is_run_by_its_name(tmp_path: Path) -> None:
    said = call_here("run", "sysu/di2l", "--data", tmp_path / "nowhere", "--run", tmp_path / "run")
    assert "nowhere" in said.line()
    assert "sysu/dil" in call_here("run", "sysu/dil", "--data", tmp_path, "--run", tmp_path / "run").line()


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "complete -o default -F _mdfpipe_completion mdfpipe"),
        ("zsh", "compdef _mdfpipe_completion mdfpipe"),
        ("fish", "complete --command mdfpipe "),
    ],
)
def test_completion_is_printed_for_the_shell_that_is_named(
    shell: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "")  # put back after the test
    said = call_here("--show-completion", shell)
    assert (said.code, said.err) == (0, "")
    assert line in said.out


WORDS = [("run sysu/di", "sysu/di2l"), ("ins", "inspect"), ("run --unt", "--until")]


@pytest.mark.parametrize(("words", "found"), WORDS)
def test_a_shell_completes_commands_options_and_studies(
    words: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "_MDFPIPE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"mdfpipe {words}",
        "COMP_CWORD": str(len(words.split())),
    }.items():
        monkeypatch.setenv(name, value)
    said = call_here()
    assert (said.code, said.err) == (0, "")
    assert found in said.out.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_what_is_installed_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at a prompt: the line of ~/.bashrc is read, and the function that it names is called at a press of the key."""
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "")  # put back after the test
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call_here("--install-completion", "bash").code == 0
    command = tmp_path / "mdfpipe"
    command.write_text(f"#!{sys.executable}\nfrom mdfpipe.cli import main\nmain()\n")
    command.chmod(0o755)
    words = (
        "source ~/.bashrc; COMP_WORDS=(mdfpipe ins); COMP_CWORD=1; "
        f"$(complete -p mdfpipe | sed 's/.*-F //; s/ .*//') {command}; echo ${{COMPREPLY[@]}}"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    made = subprocess.run(["bash", "--norc", "-c", words], capture_output=True, text=True, env=environment, check=False)
    assert (made.stdout, made.stderr) == ("inspect\n", "")
