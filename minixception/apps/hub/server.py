"""A hub over HTTP, for this machine alone, with ModelHub's addresses.

    GET  /                                  the page to drop a photo on
    GET  /api/get_config  get_legal  get_model_io
    GET  /api/get_samples                   addresses of sample pictures
    GET  /api/samples/NAME                  one of them
    GET  /api/predict_sample?filename=NAME  what the network sees in it
    POST /api/predict                       in a picture sent as the field "file" of a form (multipart/form-data)
    GET  /api/predict?fileurl=URL           in a picture on the public web; only where the server may fetch

Errors are {"error": message}: status 400 as ModelHub had it, and HTTP's own where it has one (403, 404, 408, 411, 413,
and 503 with Retry-After where too many ask at once).
Left out of ModelHub's: get_model_files (a zip of the weights, which whoever runs the server has already), thumbnail and
output (this network has neither), and CORS, which would let any web page that is open on this machine use the network.

Nothing in a request names a file: samples come from a fixed table. Requests must call the server by a loopback name,
or else a foreign name that is made to point here (DNS rebinding) could reach it, and they must not come from other
sites' pages. Uploads are limited in size, time and type.

However many ask at once, memory is bounded: few requests hold a picture's file, the others wait before theirs is read,
and the hub decodes one picture at a time.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from ...errors import DataError
from .api import Hub
from .fetch import fetch
from .form import check_picture, uploaded_file
from .samples import SAMPLES, sample

MAX_UPLOAD = 16 << 20  # bytes of a request's body, or behind an address
_PLACES = 8  # requests that may hold a picture's file at once
_PATIENCE = 20.0  # seconds that a request waits for one of these places
_RETRY = "5"  # seconds, after which who found none may ask again
_CONNECTIONS = 128  # that have a thread at once
_LOOPBACK = "127.0.0.1"
_SAMPLE_PATHS = {f"/api/samples/{name}": name for name in SAMPLES}


class Server(ThreadingTCPServer):
    """Serves a hub on the loopback interface, one thread per request; ``serve_forever`` starts it.

    Of more connections than there may be threads, as many again wait in the system's queue.

    port: 0 takes a free one; ``url`` says which. allow_urls: fetch pictures from public addresses in requests. seconds:
    within which a request must have come in, and an answer gone out. OSError if the port is taken.
    """

    # Not http.server's ThreadingHTTPServer: it looks up the machine's name on the network at its start.
    daemon_threads = True
    request_queue_size = 128  # socketserver's own 5 have systems reset what comes at once
    allow_reuse_address = os.name != "nt"  # on Windows it would let two servers have the same port

    def __init__(self, hub: Hub, port: int = 8000, allow_urls: bool = False, seconds: float = 30.0) -> None:
        super().__init__((_LOOPBACK, port), Handler)
        self.hub, self.allow_urls, self.seconds = hub, allow_urls, seconds
        self.places = threading.Semaphore(_PLACES)
        self._connections = threading.Semaphore(_CONNECTIONS)
        self.port: int = self.server_address[1]
        self.url = f"http://{_LOOPBACK}:{self.port}/"
        names = ("localhost", _LOOPBACK, "[::1]")
        self.hosts = {f"{name}:{self.port}" for name in names} | (set(names) if self.port == 80 else set())

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection as soon as there may be one more."""
        self._connections.acquire()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, however it ended."""
        try:
            super().shutdown_request(request)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what went wrong in a thread, unless only its client went away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Answer(NamedTuple):
    """What goes back."""

    status: int
    media_type: str
    body: bytes


class Refused(Exception):
    """A request that HTTP has a status of its own for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _TimedReader(io.RawIOBase):
    """Reads a socket for so many seconds, however slowly the bytes drip in."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection, self._seconds = connection, seconds
        self.restart()

    def restart(self) -> None:
        """Have the seconds begin anew."""
        self._end = time.monotonic() + self._seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """Answers one request; the connection closes behind it."""

    server: Server
    server_version, sys_version = "minixception", ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._reader = _TimedReader(self.connection, self.server.seconds)
        self.rfile = io.BufferedReader(self._reader)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the terminal keeps showing the server's address."""

    def do_GET(self) -> None:
        self._answer(self._get)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_OPTIONS(self) -> None:
        self._send(Answer(204, "text/plain", b""), Allow="GET, HEAD, POST, OPTIONS")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The base class's own refusals (a broken request line, an unknown method), as JSON."""
        self._send(_error(code, message or self.responses.get(code, ("unknown error",))[0]))

    def _answer(self, compute: Callable[[str, dict[str, list[str]]], Answer]) -> None:
        try:
            address = urlsplit(self.path)
            self._check_sender(address.path)
            answer = compute(address.path, parse_qs(address.query))
        except Refused as error:
            answer = _error(error.status, str(error))
        except TimeoutError:
            answer = _error(408, f"expected the whole request within {self.server.seconds:g} s")
        except (ValueError, OSError) as error:
            answer = _error(400, str(error))
        except Exception:
            self._send(_error(500, "the server made a mistake, which its terminal shows"))
            raise
        self._send(answer)

    def _check_sender(self, path: str) -> None:
        """Only this machine's own programs and this server's own page; other sites may link to the page, no more."""
        hosts = [host.lower() for host in self.headers.get_all("Host", [])]
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            raise Refused(403, f"this server answers to localhost:{self.server.port} only, got {', '.join(hosts)!r}")
        own = f"http://{hosts[0]}"
        foreign = self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
        if self.headers.get("Origin", own) != own or (foreign and path != "/"):
            raise Refused(403, "this server does not answer to other sites' pages")

    def _get(self, path: str, query: dict[str, list[str]]) -> Answer:
        hub = self.server.hub
        match path:
            case "/":
                return Answer(200, "text/html; charset=utf-8", _page())
            case "/api/get_config":
                return _json(hub.get_config())
            case "/api/get_legal":
                return _json(hub.get_legal())
            case "/api/get_model_io":
                return _json(hub.get_model_io())
            case "/api/get_samples":
                return _json([f"http://{self.headers['Host']}/api/samples/{name}" for name in hub.samples])
            case "/api/predict_sample":
                return self._predict(lambda: sample(_parameter(query, "filename")))
            case "/api/predict":
                return self._predict(lambda: self._fetched(_parameter(query, "fileurl")))
            case _ if path in _SAMPLE_PATHS:
                return Answer(200, "image/png", sample(_SAMPLE_PATHS[path]))
        raise Refused(404, f"nothing at {path}")

    def _post(self, path: str, query: dict[str, list[str]]) -> Answer:
        if path != "/api/predict":
            raise Refused(404, f"nothing to post to at {path}")
        return self._predict(lambda: uploaded_file(self.headers, self._body()))

    def _predict(self, read: Callable[[], bytes]) -> Answer:
        """What the network sees in a picture, which is read once there is a place for it."""
        with self._place():
            picture = read()
            check_picture(picture)
            return _json(self.server.hub.predict(picture))

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if not self.server.places.acquire(timeout=_PATIENCE):
            raise Refused(503, "the server is busy with other pictures: try again in a moment")
        try:
            self._reader.restart()  # it was not the client that took its time
            yield
        finally:
            self.server.places.release()

    def _fetched(self, url: str) -> bytes:
        if not self.server.allow_urls:
            raise DataError("this server fetches nothing from addresses: start it with --allow-urls to let it")
        return fetch(url, MAX_UPLOAD, self.server.seconds)

    def _body(self) -> bytes:
        """The request's body, as long as it says; refused unread when it does not say, or when it is too long."""
        text = self.headers.get("Content-Length")
        if text is None or "Transfer-Encoding" in self.headers:
            raise Refused(411, "expected a Content-Length, the number of bytes that follow")
        if not (text.isascii() and text.isdigit()):
            raise DataError(f"expected Content-Length to be a number, got {text!r}")
        if len(text) > 15 or int(text) > MAX_UPLOAD:
            raise Refused(413, f"expected a picture of at most {MAX_UPLOAD >> 20} MB")
        body = self.rfile.read(int(text))
        if len(body) < int(text):
            raise DataError(f"expected {int(text):,} bytes, the upload ended after {len(body):,}")
        return body

    def _send(self, answer: Answer, **headers: str) -> None:
        self.connection.settimeout(self.server.seconds)
        self.send_response(answer.status)
        headers |= {
            "Content-Type": answer.media_type,
            "Content-Length": str(len(answer.body)),
            "Content-Security-Policy": _policy(),
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        if answer.status == 503:
            headers["Retry-After"] = _RETRY
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self.wfile.flush()
        self._let_go()

    def _let_go(self) -> None:
        """Take for a moment what a refused client still sends: closing on it would wipe out the answer on its way."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            end = time.monotonic() + min(self.server.seconds, 2)
            while (left := end - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(1 << 16):
                    return


def _json(data: Any, status: int = 200) -> Answer:
    return Answer(status, "application/json", json.dumps(data, allow_nan=False).encode())


def _error(status: int, message: str) -> Answer:
    return _json({"error": message}, status)


def _parameter(query: dict[str, list[str]], name: str) -> str:
    if len(values := query.get(name, [])) != 1:
        raise DataError(f"expected one {name}=... in the address, got {len(values)}")
    return values[0]


@cache
def _page() -> bytes:
    return Path(__file__).with_name("page.html").read_text(encoding="utf-8").encode()  # line ends as browsers hash them


@cache
def _policy() -> str:
    """The page's content security policy: its own style and script by their hashes, pictures and answers from here."""
    hashes = {}
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), _page(), re.DOTALL)
        hashes[tag] = base64.b64encode(hashlib.sha256(text).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
