"""environment.json of a run folder, what the last call ran with: its one reader; and which code this is."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mdfpipe import __version__
from mdfpipe.store.files import bytes_of

FILE = "environment.json"


@dataclass(frozen=True)
class Environment:
    """data: the data root; workers: processes of the call; facts: everything in the file, for people."""

    data: Path
    workers: int
    facts: dict[str, Any]


def read_environment(run: Path) -> Environment | None:
    """What the file in a run folder says; None where there is none, or where it is none of ours."""
    try:
        facts = json.loads(bytes_of(run / FILE))
    except (OSError, ValueError, RecursionError):
        return None
    data = facts.get("data") if isinstance(facts, dict) else None
    if not isinstance(data, str) or not data or "\0" in data:
        return None
    resources = facts.get("resources")
    workers = resources.get("workers") if isinstance(resources, dict) else None
    plain: dict[str, Any] = {name: str(value) for name, value in facts.items() if isinstance(value, str | int | float)}
    plain |= {n: [str(word) for word in facts[n]] for n in ("argv", "packages") if isinstance(facts.get(n), list)}
    return Environment(Path(data), workers if type(workers) is int and 0 < workers < 1 << 16 else 1, plain)


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


@cache
def code_version() -> str:
    """The version of this code, and a hash of its source files: equal where two machines run the same code."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return f"{__version__} ({digest.hexdigest()[:10]})"
