"""Hooks of mkdocs: texts at the top of the repository become pages of the site, with their links turned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
NOTEBOOK = "examples/first_session.ipynb"
FILES = {"LICENSE": "LICENSE.txt", "CITATION.cff": "CITATION.cff", NOTEBOOK: NOTEBOOK}
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and files that do not lie in docs/."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=LINK.sub(_turned, (ROOT / name).read_text())))
    for name, place in FILES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links from docs/ to the notebook, which the site holds too."""
    return markdown.replace(f"](../{NOTEBOOK})", f"]({NOTEBOOK})")


def _turned(link: re.Match[str]) -> str:
    """A link from the top of the repository, as it is from docs/."""
    target = link[1]
    return f"]({PAGES.get(target) or FILES.get(target) or target.removeprefix('docs/')}"
