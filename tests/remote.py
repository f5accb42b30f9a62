"""A web server for tests: a folder over HTTP, with the faults that servers have."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class Server:
    """What it serves, what it does wrong, and what it was asked for.

    faults: path -> how it misbehaves: a status such as 404; `no ranges`; `no head`; `dies`: each answer ends after half
    of what is left, twice; `short`: always; `silent`; `page`: a login; anything with `://`: a redirect there.
    """

    def __init__(self, folder: Path, port: int, protocol: str) -> None:
        self.folder, self.port, self.protocol = folder, port, protocol
        self.faults: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []  # method, range
        self.given: list[str] = []  # what was sent as Authorization, "" for nothing
        self.deaths: Counter[str] = Counter()
        self.etags = True

    def url(self, path: str) -> str:
        return f"{self.protocol}://127.0.0.1:{self.port}/{path}"


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 with its key, signed by itself. Skips the test where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    made = folder / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=tests"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key.pem"), "-out", str(made)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return made


@contextmanager
def serving(folder: Path, certificate: Path | None = None) -> Iterator[Server]:
    """A server for as long as the context lasts. certificate: beside its key.pem, of a server with TLS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            fault = server.faults.get(path, "")
            asked = self.headers.get("Range", "")
            server.asked.append((self.command, asked))
            server.given.append(self.headers.get("Authorization", ""))
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

    class Web(ThreadingHTTPServer):
        def handle_error(self, *of: object) -> None:
            """Nothing: a client that does not trust the certificate hangs up."""

    web = Web(("127.0.0.1", 0), Handler)
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, certificate.with_name("key.pem"))
        web.socket = tls.wrap_socket(web.socket, server_side=True, do_handshake_on_connect=False)
    server = Server(folder, web.server_port, "http" if certificate is None else "https")
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        web.shutdown()
        web.server_close()
        thread.join()
