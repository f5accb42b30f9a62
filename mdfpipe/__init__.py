"""mdfpipe: cross-spectral person recognition from video, by body and by face, domain by domain.

The public names are those of `__init__.pyi`, where editors and mypy find their types. Each loads what it needs when it
is first used; `import mdfpipe` alone loads next to nothing.
"""

from __future__ import annotations

import os
from typing import Any

__version__ = "0.1.0"

# onnxruntime reports to its maker from the moment it is imported, and leaves an id below the home folder. Here, before
# anything imports it; worker processes inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _front_door() -> tuple[Any, Any, list[str]]:
    """What finds a public name, and the list of them, from `__init__.pyi`."""
    import lazy_loader  # not above: until the command listens for Ctrl-C, every millisecond counts

    return lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return _front_door()[2]
    if name.startswith("__"):  # what the import system asks every package for
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _front_door()[0](name)


def __dir__() -> list[str]:
    return _front_door()[2]
