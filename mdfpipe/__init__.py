"""mdfpipe: cross-spectral person recognition from video, by body and by face, domain by domain.

The public names load what they need when they are first used; `import mdfpipe` alone loads next to nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# onnxruntime reports to its maker from the moment it is imported, and leaves an id below the home folder. Here, before
# anything imports it; worker processes inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "config": ["Config", "Plugin"],
    "datasets": ["Dataset", "Listing", "VideoEntry"],
    "domains": ["Band", "Domain"],
    "errors": ["ConfigError", "DataError", "DecodeError", "MdfError", "ProtocolError", "StoreError"],
    "running.execution": ["Event", "Executor"],
    "learning.data.batches": ["CropBatch", "Draw", "Sampler"],
    "learning.train.checkpoint": ["Checkpoint"],
    "learning.data.crops": ["Crops"],
    "learning.recipes": ["Group", "Losses", "Progress", "Recipe"],
    "learning.system": ["System"],
    "study.pipeline": ["Pipeline", "open_run"],
    "evaluation.study": ["Evaluated", "evaluate"],
    "evaluation.table": ["Table"],
    "protocol": ["Protocol"],
    "running.runner": ["Outcome", "Runner"],
    "running.scoring": ["score"],
    "stages": ["Resources", "Stage"],
    "store.run": ["Receipt", "Run"],
    "video.decoders": ["Decoder"],
    "video.detectors": ["Detector"],
    "video.frames": ["Boxes", "Frames"],
    "video.labelling": ["LabelRules", "Labels", "label_bodies"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mdfpipe' has no attribute {name!r}")
    return getattr(import_module(f"mdfpipe.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
