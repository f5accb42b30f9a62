"""Devices: what `--device`, `--per-device` and `--workers` ask for, and what a worker sees of them.

A device is cpu or cuda:N, the Nth of those that this process sees. A worker sees only its own, as cuda:0, so that no
result depends on which one it was. Nothing here imports torch: the function that counts the devices is handed in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from mdfpipe.errors import ConfigError, one_line

CPU, ALL = "cpu", "cuda:all"
_BF16 = re.compile(r"^(?:flags|Features)\b.*\b(?:avx512_bf16|amx_bf16|bf16)\b", re.MULTILINE)  # x86 and ARM
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def named(text: str) -> tuple[str, ...]:
    """The devices of `--device`, as cpu or cuda:N, or cuda:all alone. Raises ConfigError."""
    names = tuple(_named(word.strip(), text) for word in text.split(","))
    if len(names) > 1 and CPU in names:
        raise ConfigError(
            f"--device {text}: expected cpu alone, or GPUs alone; one run does not mix them, because their numbers "
            "differ in the last bits"
        )
    if len(names) > 1 and ALL in names:
        raise ConfigError(f"--device {text}: expected {ALL} alone, which names every GPU; leave the others out")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--device {text}: {name} is named twice; for several workers a GPU use --per-device")
    return names


def _named(word: str, text: str) -> str:
    found = re.fullmatch(r"cpu|cuda(?::(all|\d{1,4}))?", word, re.ASCII)
    if found is None:
        raise ConfigError(
            f"--device {one_line(text, 80)}: expected cpu, cuda, cuda:N, several as cuda:0,cuda:1, or {ALL}"
        )
    if word in (CPU, ALL):
        return word
    return f"cuda:{int(found[1] or 0)}"


def processor_has_bf16() -> bool:
    """Whether the processor has instructions for bf16."""
    return _BF16.search(_processor()) is not None


@cache
def _processor() -> str:
    """What Linux says that the processor can do; "" on other systems, whose torch has no fast bf16 on a CPU."""
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""


def gpu_of(device: str) -> int | None:
    """The number of the GPU of a worker's device, as `own` gives it; None for the CPU."""
    return None if device == CPU else int(device.partition(":")[2] or 0)


def present(names: tuple[str, ...], count: Callable[[], int | None]) -> tuple[str, ...]:
    """The same devices, `cuda:all` as those that are here. Raises ConfigError where one is not.

    count: the number of GPUs here; None where that cannot be known: the network then refuses a device that is missing.
    """
    if names == (CPU,):
        return names
    found = count()
    asked = ",".join(names)
    if names == (ALL,) and not found:
        raise ConfigError(
            f"--device {asked}: expected GPUs, torch finds none; check the driver and {_VISIBLE}, or use --device cpu"
        )
    if found is None:
        return names
    here = tuple(f"cuda:{number}" for number in range(found))
    if names == (ALL,):
        return here
    for name in names:
        if name not in here:
            range_of = "none" if not here else here[0] if found == 1 else f"{here[0]} to {here[-1]}"
            advice = "name one of these" if here else "use --device cpu"
            raise ConfigError(f"--device {asked}: no {name} here, torch finds {range_of}; {advice}")
    return names


def size(names: Sequence[str], workers: int | None, per_device: int | None) -> int:
    """The number of workers; worker i has device i, and after the last the first again. Raises ConfigError.

    workers, per_device: None where the call does not give them.
    """
    asked = ",".join(names)
    if per_device is not None and names[0] == CPU:
        raise ConfigError(f"--per-device {per_device}: expected GPUs in --device, got cpu; use --workers")
    wanted = len(names) * (per_device or 1)
    if workers is None:
        return wanted
    if per_device is not None and workers != wanted:
        raise ConfigError(
            f"--workers {workers}: --per-device {per_device} with --device {asked} makes {wanted}; give one of the two"
        )
    if workers < len(names):
        raise ConfigError(
            f"--workers {workers}: expected one worker or more for each of {len(names)} GPUs ({asked}); name fewer "
            "in --device, or leave --workers out"
        )
    return workers


def own(name: str) -> str:
    """The device as a worker that has it sees it."""
    return CPU if name == CPU else "cuda:0"


def environment(name: str) -> dict[str, str]:
    """What a worker's process is started with, so that it sees its own GPU alone. Raises ConfigError."""
    if name == CPU:
        return {}
    number = int(name.removeprefix("cuda:"))
    seen = os.environ.get(_VISIBLE)
    if seen is None:
        return {_VISIBLE: str(number)}
    here = seen.split(",")  # numbers, or names such as GPU-8932f937 and MIG-41b3359c
    if number >= len(here):
        raise ConfigError(f"--device {name}: {_VISIBLE}={one_line(seen, 80)} has {len(here)}, counted from 0")
    return {_VISIBLE: here[number].strip()}
