"""What torch says of this machine: GPUs, counted without starting one, and the precision that a device is fast in."""

from __future__ import annotations

from typing import Any, Literal

from mdfpipe.machine.devices import CPU, processor_has_bf16


def count() -> int | None:
    """The number of GPUs that torch sees; None where it was built without CUDA: onnxruntime may see some then."""
    import torch

    built: Any = torch.backends.cuda.is_built
    return torch.cuda.device_count() or (0 if built() else None)


def fastest_precision(device: str) -> Literal["bf16", "fp32"]:
    """bf16 where a worker's device has instructions for it, else fp32: there, bf16 is computed by other instructions,
    on a CPU some ten times slower than fp32.
    """
    if device == CPU:
        return "bf16" if processor_has_bf16() else "fp32"
    import torch

    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
