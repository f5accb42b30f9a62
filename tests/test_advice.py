"""Advice that can be followed: what messages name is there, and does what they say.

The texts of the package are read out of its source: every option, command and setting that one of them names must
exist, so that nobody is sent after something that was renamed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import click
import pytest
import typer

from mdfpipe.cli.commands import app
from mdfpipe.config import Config, Plugin
from mdfpipe.study.study import Study
from tests.inline import DEMO

PACKAGE = Path(__file__).parents[1] / "mdfpipe"
GAP = "\0"  # in place of what a message fills in
OF_OTHERS = {
    *("--no-python", "--nproc-per-node", "--nnodes", "--node-rank", "--standalone"),  # of torchrun
    *(
        "--decode_in_inference",
        "--verify",
        "--porcelain",
        "--debug",
    ),  # of YOLOX's exporter, git; taken before the others
    *(
        "--array",
        "--chdir",
        "--cpus-per-task",
        "--error",
        "--gpus-per-node",
        "--gres",
        "--head",
        "--job-name",
        "--kill-on-bad-exit",
        "--me",
        "--name",
        "--nodes",
        "--ntasks",
        "--ntasks-per-node",
        "--open-mode",
        "--output",
        "--parsable",
        "--partition",
        "--rdzv-backend",
        "--rdzv-endpoint",
        "--rdzv-id",
        "--requeue",
        "--signal",
        "--test-only",
        "--wrap",
    ),  # of sbatch, srun, squeue, scancel, torchrun, ray
    *("--bar", "--ink", "--line", "--soft"),  # of style sheets
}
FILES = (
    "parquet",
    "json",
    "jsonl",
    "py",
    "yaml",
    "md",
    "tex",
    "tar",
    "csv",
    "jpg",
    "allow_spinning",
    "model_external_initializers_file_folder_path",
)


@cache
def texts() -> list[tuple[str, str]]:
    """(where, text) of every string of the package that is no docstring and no pattern."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if id(node) in bare or id(node) in inner:
                continue
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else GAP for p in node.values]
                found.append((f"{path.relative_to(PACKAGE)}:{node.lineno}", "".join(map(str, parts))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append((f"{path.relative_to(PACKAGE)}:{node.lineno}", node.value))
    return found


@cache
def commands() -> dict[str, click.Command]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


@cache
def options() -> frozenset[str]:
    found = {"--help", "--version"}
    for command in (typer.main.get_command(app), *commands().values()):
        found |= {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return frozenset(found)


def sections(kind: Any) -> Iterator[type[Config]]:
    """The sections that a setting's type allows: of a family each of its variants."""
    if isinstance(kind, type) and issubclass(kind, Plugin) and Plugin in kind.__bases__:
        yield from (kind.variant(name) for name in kind.choices())
    elif isinstance(kind, type) and issubclass(kind, Config):
        yield kind
    elif get_origin(kind) is not None:
        for inner in get_args(kind):
            yield from sections(inner)


def settings(kind: type[Config], above: tuple[str, ...] = (), deep: int = 0) -> Iterator[tuple[str, ...]]:
    """Every setting below a section, by its names; of a mapping the names in it are left out."""
    for name, field in kind.model_fields.items():
        yield (*above, name)
        for inner in sections(field.annotation) if deep < 6 else ():
            yield from settings(inner, (*above, name), deep + 1)


@cache
def known() -> tuple[frozenset[tuple[str, ...]], frozenset[str]]:
    """(every way to name a setting by two or more of its names, names of sections)."""
    paths = set(settings(Study))
    named = {path[start:] for path in paths for start in range(len(path) - 1)}
    holders = {name for path in paths for name in path[:-1]} | {"systems", "detect", "evaluate"}
    return frozenset(named), frozenset(holders)


def test_options_that_messages_name_exist() -> None:
    wrong, seen = [], 0
    for where, text in texts():
        for option in re.findall(r"(?<![\w\0-])--[a-z][a-z_-]+(?![\w\0-])", text):
            seen += 1
            if option not in options() | OF_OTHERS:
                wrong.append(f"{where}: {option}")
    assert not wrong
    assert seen > 80


def test_commands_and_scripts_that_messages_name_exist() -> None:
    wrong, seen = [], 0
    for where, text in texts():
        for command in re.findall(r"`mdfpipe ([a-z]+)", text):
            seen += 1
            wrong += [] if command in commands() else [f"{where}: mdfpipe {command}"]
        for script in re.findall(r"\bscripts/[a-z-]+", text):
            wrong += [] if (PACKAGE.parent / script).exists() else [f"{where}: {script}"]
    assert not wrong
    assert seen > 10


def test_settings_that_messages_name_exist() -> None:
    paths, holders = known()
    wrong, seen = [], 0
    for where, text in texts():
        for name in re.findall(r"(?<![\w./`\0-])[a-z_]+(?:\.[a-z_]+)+(?![\w/\0(])", text):
            parts = tuple(part for part in name.split(".") if part != "NAME")
            if parts[0] not in holders or parts[-1] in FILES:
                continue
            seen += 1
            shorter = {parts[:i] + parts[i + 1 :] for i in range(len(parts))}  # without the name of a table or system
            if not ({parts, *shorter} & paths or parts[-1] == "use"):
                wrong.append(f"{where}: {name}")
    assert not wrong
    assert seen > 40


@pytest.mark.parametrize("setting", ["stream=1", "orientation=stored", "colour_bits=16"])
def test_settings_of_a_decoder_need_no_use(setting: str) -> None:
    """Messages name them as they are: the usual decoder is meant where a study names none."""
    pipeline = Study.load(DEMO, [f"detect.decoder.{setting}"])
    assert pipeline.detect is not None
    name, _, value = setting.partition("=")
    assert pipeline.detect.decoder.use == "auto"
    assert str(getattr(pipeline.detect.decoder, name)) == value


def test_variants_that_messages_name_exist() -> None:
    families = [m for name, f in Study.model_fields.items() for m in sections(f.annotation)]
    names = {
        PACKAGE / folder
        for folder in ("video/detectors", "video/decoders", "video/trackers", "datasets", "learning/recipes")
    }
    there = {path.stem for folder in names for path in folder.glob("[a-z]*.py")} | {"timm"}  # a backbone of body
    assert families
    wrong = [
        f"{where}: use: {name[0] or name[1]}"
        for where, text in texts()
        for name in re.findall(r"\{use: ([a-z_]+)|\(use: ([a-z_]+)\)", text)
        if "".join(name) not in there
    ]
    assert not wrong


@pytest.mark.parametrize("text", ["add --no-such-option", "set detector.no_such_setting", "run `mdfpipe nosuch`"])
def test_these_tests_would_see_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.texts", lambda: [("here", text)])
    tests = (
        test_options_that_messages_name_exist,
        test_settings_that_messages_name_exist,
        test_commands_and_scripts_that_messages_name_exist,
    )
    failed = 0
    for test in tests:
        try:
            test()
        except AssertionError as error:
            failed += "here: " in str(error)
    assert failed == 1
