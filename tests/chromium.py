"""A headless Chromium, spoken to through its debugging pipe: a page is opened, asked, and photographed."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

PROGRAM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="NO CHROMIUM: what a page looks like is not tested here")


_INSIDE = """import fcntl, os, sys
for place, fd in zip((3, 4), [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]):
    os.dup2(fd, place)
os.execv(sys.argv[3], sys.argv[3:])"""
"""Chromium looks for its pipe at file descriptors 3 and 4."""


class Browser:
    """One page in a browser. Requests to anywhere but the page itself are collected in `asked_for`."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._number, self._left = to, back, 0, b""
        self.asked_for: list[str] = []
        self.said: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self(f"{domain}.enable")

    _session: str | None = None

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])
            self._note(answer)

    def _next(self, seconds: float = 120) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._back], [], [], max(end - time.monotonic(), 0))
            assert ready, "Chromium does not answer"
            part = os.read(self._back, 1 << 20)
            assert part, "Chromium has gone"
            self._left += part
        line, self._left = self._left.split(b"\0", 1)
        return dict(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.asked_for.append(parameters["request"]["url"])
        elif event.get("method") == "Log.entryAdded":
            self.said.append(parameters["entry"]["text"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.said.append(str(parameters))

    def open(self, page: Path, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Load a page at a width in CSS pixels, as a phone below 600."""
        phone = width < 600
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Page.navigate", url=page.resolve().as_uri())
        loaded = "document.readyState == 'complete'"
        end = time.monotonic() + 60
        while not (self.ask("location.href").startswith("file:") and self.ask(loaded)):
            assert time.monotonic() < end, "the page does not load"
            time.sleep(0.05)

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression on the page."""
        found = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def photograph(self, selector: str | None = None) -> NDArray[np.uint8]:
        """What is drawn of an element, or of the whole page: (H, W, 3)."""
        from PIL import Image

        box = f"document.querySelector({json.dumps(selector or 'html')})"
        self.ask(f"document.querySelectorAll('img').forEach(i => i.loading = 'eager'); {box}.scrollIntoView()")
        self.ask("Promise.all([...document.images].map(i => i.decode().catch(() => 0)))")
        where = self.ask(
            f"(b => ({{x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height}}))"
            f"({box}.getBoundingClientRect())"
        )
        taken = self("Page.captureScreenshot", clip=where | {"scale": 1}, captureBeyondViewport=True)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB"))


@contextlib.contextmanager
def browser(home: Path) -> Iterator[Browser]:
    """A browser that keeps what it writes under `home`, and ends with the block."""
    assert PROGRAM is not None
    to_read, to = os.pipe()
    back, to_write = os.pipe()

    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
    options += [
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={home / 'chromium'}",
    ]
    environment = os.environ | {"HOME": str(home)}
    with (home / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _INSIDE, str(to_read), str(to_write), PROGRAM, *options, "about:blank"],
            stdout=log,
            stderr=log,
            pass_fds=(to_read, to_write),
            env=environment,
        )
    os.close(to_read)
    os.close(to_write)
    try:
        yield Browser(to, back)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to)
        os.close(back)
