"""mdfpipe: cross-spectral person recognition from video, by body and by face, domain by domain.

The public names are those of `__init__.pyi`, where editors and mypy find their types. Each loads what it needs when it
is first used; `import mdfpipe` alone loads next to nothing.
"""

from __future__ import annotations

import os

import lazy_loader

__version__ = "0.1.0"

# onnxruntime reports to its maker from the moment it is imported, and leaves an id below the home folder. Here, before
# anything imports it; worker processes inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
