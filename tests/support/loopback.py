"""HTTP on loopback, answered in threads of this process, which all end with it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LoopbackServer(ThreadingHTTPServer):
    """A server whose end waits for no client's next request."""

    # Not daemons: closing waits for every connection's thread.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, port: int, handler: type[LoopbackHandler]) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        #: Set when the server ends: a delay is over then.
        self.closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End, with all connections."""
        self.shutdown()
        self._close_connections()
        self.server_close()
        self._thread.join()

    def note_open(self, connection: socket.socket) -> None:
        """Note a connection that began."""
        with self._lock:
            self._open.add(connection)
            if self.closing.is_set():
                connection.shutdown(socket.SHUT_RDWR)

    def note_closed(self, connection: socket.socket) -> None:
        """Note a connection that ended."""
        with self._lock:
            self._open.discard(connection)

    def _close_connections(self) -> None:
        """Wake the threads that wait for a client's next request, or in a delay."""
        with self._lock:
            self.closing.set()
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that hangs up is part of the game."""


class LoopbackHandler(BaseHTTPRequestHandler):
    """Answers requests of any method by `handle_any`."""

    protocol_version = "HTTP/1.1"
    # Head and body leave in one segment, at once: a test must not wait for more.
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._server.note_open(self.connection)

    def finish(self) -> None:
        self._server.note_closed(self.connection)
        with suppress(OSError):
            super().finish()

    @property
    def _server(self) -> LoopbackServer:
        server: Any = self.server
        assert isinstance(server, LoopbackServer)
        return server

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: what was asked is recorded elsewhere."""

    def handle_any(self) -> None:
        """Answer the request."""
        raise AssertionError("a handler says how it answers")

    def do_GET(self) -> None:
        self.handle_any()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

    def exactly(self, length: int, block: int = 64 * 1024) -> Iterator[bytes]:
        """Yield so many bytes of the request's body.

        Raises:
            ConnectionError: the client hung up before.
        """
        while length:
            data = self.rfile.read(min(length, block))
            if not data:
                raise ConnectionError("the client hung up in its request")
            length -= len(data)
            yield data

    def chunks(self) -> Iterator[bytes]:
        """Yield a body that came in chunks."""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield from self.exactly(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers

    def send_page(
        self,
        status: int,
        page: bytes,
        kind: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        length: int | None = None,
    ) -> None:
        """Answer with a page, of which only *length* bytes leave; or with its head
        where that was asked for.
        """
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page[:length])
