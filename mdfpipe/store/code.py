"""Which code runs: version and commit."""

from __future__ import annotations

import contextlib
import subprocess
from functools import cache
from pathlib import Path


@cache
def commit() -> str | None:
    """The commit of the checkout that the code runs from; None where it does not run from one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(root), "rev-parse", "--verify", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip() or None
    return None
