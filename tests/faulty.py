"""A proxy before a real S3 server that does to some requests what networks and servers do."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_SECONDS = 1.5
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'


class Proxy:
    """Passes requests on, but for those that a fault meets.

    Attributes:
        faults: what meets the next requests of the kind, one each: "503"; "reset" (the connection is reset before an
            answer); "slow" (the answer comes late); "short" (200, with the first half of the body, and its length);
            "cut" (200, and the connection ends after the first half); "altered" (200, with another last byte); "" is
            none.
        rest: what meets all that follow.
        meets: which requests are of the kind, by method and path.
        met: how many were met.
    """

    def __init__(self, backend: str) -> None:
        self.faults: list[str] = []
        self.rest, self.met = "", 0
        self.meets: Callable[[str, str], bool] = lambda method, path: True
        self._backend, self._lock = urlsplit(backend).netloc, threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                proxy._handle(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def inject(self, *faults: str, meets: Callable[[str, str], bool], rest: str = "") -> None:
        """Let faults meet the next requests of a kind, one each, and another all that follow."""
        with self._lock:
            self.faults, self.rest, self.meets, self.met = list(faults), rest, meets, 0

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """Serve in a thread."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def _fault_of(self, method: str, path: str) -> str:
        with self._lock:
            if not self.meets(method, path):
                return ""
            fault = self.faults.pop(0) if self.faults else self.rest
            self.met += bool(fault)
            return fault

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self._fault_of(request.command, request.path)
        if fault == "503":
            _answer(request, 503, [("Content-Type", "application/xml")], _BUSY)
            return
        if fault == "reset":
            # A socket that lingers for no time is reset when it is closed.
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()
            request.close_connection = True
            return
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        backend = http.client.HTTPConnection(self._backend, timeout=60)
        try:
            # With the client's own Host header, which is signed.
            backend.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                backend.putheader(name, value)
            backend.endheaders(body or None)
            answer = backend.getresponse()
            data = answer.read()
        finally:
            backend.close()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
        if request.command == "HEAD":
            headers.append(("Content-Length", answer.getheader("Content-Length") or "0"))
            _answer(request, answer.status, headers, None)
        elif fault == "short":
            _answer(request, answer.status, headers, data[: len(data) // 2])
        elif fault == "cut":
            _answer(request, answer.status, headers, data[: len(data) // 2], length=len(data))
            request.close_connection = True
        else:
            _answer(request, answer.status, headers, data[:-1] + bytes([data[-1] ^ 1]) if fault == "altered" else data)


def _answer(
    request: BaseHTTPRequestHandler,
    status: int,
    headers: list[tuple[str, str]],
    body: bytes | None,
    *,
    length: int | None = None,
) -> None:
    request.send_response_only(status)
    for name, value in headers:
        request.send_header(name, value)
    if body is not None:
        request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    if body:
        request.wfile.write(body)
