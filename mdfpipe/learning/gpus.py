"""GPUs of this machine, counted without starting one."""

from __future__ import annotations

from typing import Any


def count() -> int | None:
    """The number of GPUs that torch sees; None where it was built without CUDA: onnxruntime may see some then."""
    import torch

    built: Any = torch.backends.cuda.is_built
    return torch.cuda.device_count() or (0 if built() else None)
