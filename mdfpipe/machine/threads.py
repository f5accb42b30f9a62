"""How many threads OpenCV takes in this process. Its results are the same for any number."""

from __future__ import annotations


def use_threads(count: int) -> None:
    """Let OpenCV use `count` threads: where many workers run, each of its own would multiply with theirs."""
    import cv2

    cv2.setNumThreads(count)
