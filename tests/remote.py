"""A web server for tests: a folder over HTTP, with the faults that servers have."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """What it serves, what it does wrong, and what it was asked for.

    faults: path -> how it misbehaves: a status such as 404; `no ranges`; `no head`; `dies`: each answer ends after half
    of what is left, twice; `short`: always; `silent`; `page`: a login; anything with `://`: a redirect there.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.faults: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []  # method, range
        self.deaths: Counter[str] = Counter()
        self.etags = True

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server for as long as the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            fault = server.faults.get(path, "")
            asked = self.headers.get("Range", "")
            server.asked.append((self.command, asked))
            file = server.folder / path
            if fault == "silent":
                time.sleep(0.5)
            if fault == "no head" and self.command == "HEAD":
                return self.say(405)
            if fault.isdigit() or not file.is_file():
                return self.say(int(fault) if fault.isdigit() else 404)
            if "://" in fault:
                return self.say(302, Location=fault)
            data = b"<html>log in</html>" if fault == "page" else file.read_bytes()
            start = int(asked[6:-1]) if asked and fault != "no ranges" else 0
            headers = {"ETag": f'"{hashlib.md5(data).hexdigest()}"'} if server.etags else {}
            headers |= {"Content-Type": "text/html" if fault == "page" else "video/mp4"}
            headers["Content-Length"] = str(len(data) - start)
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.send_response(206 if start else 200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return None
            part = data[start:]
            if fault == "short" or (fault == "dies" and server.deaths[path] < 2):
                server.deaths[path] += 1
                part, self.close_connection = part[: len(part) // 2], True
            self.wfile.write(part)
            return None

        def say(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Nothing: the test reads `asked`."""

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(folder, web.server_port)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        web.shutdown()
        web.server_close()
        thread.join()
