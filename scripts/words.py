"""Compares texts, docstrings and comments of studies with scripts/words.txt: FILE:LINE for each word that it lists."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = ROOT / "scripts" / "words.txt"
TEXTS = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md", "mdfpipe/**/*.py"),
    *(f"{folder}/**/*.yaml" for folder in ("pipelines", "manifests", "benchmarks")),
)
"""What is checked. docs/cli.md holds all help, docs/settings.md all descriptions of settings."""

CODE = re.compile(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->")
PARAMETER = re.compile(r"\b[a-z_]+:")  # a name that a docstring explains


def patterns() -> list[tuple[re.Pattern[str], str]]:
    """Return each pattern with the words to write instead."""
    lines = [line.split("\t") for line in LIST.read_text().splitlines() if line and not line.startswith("#")]
    return [(re.compile(pattern, re.IGNORECASE), better) for pattern, better in lines]


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a Markdown text with their numbers, without code."""
    fenced = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            yield number, CODE.sub("", line)


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of all docstrings with their numbers, without code and doctests."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text)), lineno=first, col_offset=column):
                example = False
                for number, line in enumerate(text.splitlines(), start=first):
                    own = line.removeprefix(" " * column)
                    example = own.lstrip().startswith(">>>") or (example and bool(own.strip()))
                    if not example and not own.startswith("    "):
                        yield number, PARAMETER.sub("", CODE.sub("", own))


def remarks(text: str) -> Iterator[tuple[int, str]]:
    """Yield the comments, titles and descriptions of a YAML file with their line numbers, without code."""
    for number, line in enumerate(text.splitlines(), start=1):
        found = re.search(r"(?:^|\s)#(.*)|(?:title|description):(.*)", line)
        if found:
            yield number, CODE.sub("", found[1] or found[2] or "")


def findings(name: str, text: str) -> Iterator[str]:
    """Yield a line for each listed word in a text."""
    known = patterns()
    lines = {".py": docstrings, ".yaml": remarks}.get(Path(name).suffix, prose)
    for number, line in lines(text):
        for pattern, better in known:
            if found := pattern.search(line):
                yield f"{name}:{number}: {found[0].strip()!r}; better: {better}"


def main() -> int:
    """Print what is found; 1 if anything is."""
    paths = sorted(path for pattern in TEXTS for path in ROOT.glob(pattern))
    found = [line for path in paths for line in findings(str(path.relative_to(ROOT)), path.read_text())]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
