"""
A proxy in front of a real server, which fails when told to.

A *plan* decides the fate of every request:

    def plan(method: str, path: str, n: int) -> Fault | None: ...

*path* comes without its query, *n* counts the proxy's requests from 1.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import NamedTuple
from urllib.parse import urlsplit

from .loopback import LoopbackHandler, LoopbackServer

BLOCK = 64 * 1024

#: Meant for one connection only, so never passed on (RFC 9110, section 7.6.1).
#: `Expect` is answered by the proxy itself.
_HOP_BY_HOP = {
    "connection",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


class Kind(Enum):
    """What can happen to a request; named after what the server has done by then."""

    REFUSE = "answered with an error, the server never saw it"
    RESET = "connection reset, the server never saw it"
    DROP = "done by the server, connection closed without an answer"
    LIE = "done by the server, answered with an error"
    TRUNCATE = "done by the server, half of the answer's body arrives"
    DELAY = "done by the server, answered late"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; made by the functions below."""

    kind: Kind
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0


def refuse(status: int, *, retry_after: float | None = None) -> Fault:
    """Answer *status* (429, 500, 502...) without asking the server."""
    headers: tuple[tuple[str, str], ...] = ()
    if retry_after is not None:
        headers = (("Retry-After", f"{retry_after:g}"),)
    return Fault(Kind.REFUSE, status=status, headers=headers)


def reset() -> Fault:
    """
    Reset the connection without asking the server.

    A client still sending its body may see this as a connection closed without an
    answer, just as with `drop`: urllib3 forgets an error met while sending.
    """
    return Fault(Kind.RESET)


def drop() -> Fault:
    """Let the server do it, then close the connection without an answer."""
    return Fault(Kind.DROP)


def lie(status: int = 502) -> Fault:
    """Let the server do it, then answer *status*."""
    return Fault(Kind.LIE, status=status)


def truncate() -> Fault:
    """Let the server do it, then break off in the middle of the answer's body."""
    return Fault(Kind.TRUNCATE)


def delay(seconds: float) -> Fault:
    """Let the server do it, then withhold the answer for *seconds*."""
    return Fault(Kind.DELAY, seconds=seconds)


Plan = Callable[[str, str, int], Fault | None]


def never(method: str, path: str, n: int) -> Fault | None:
    """Plan no fault."""
    return None


def every(count: int, *faults: Fault, seed: int = 0) -> Plan:
    """
    Plan one of *faults* in each block of *count* requests.

    Which request and which fault follow from *seed* and the block's number alone, so
    the same requests always fail.
    """

    def plan(method: str, path: str, n: int) -> Fault | None:
        block, place = divmod(n - 1, count)
        rng = random.Random(f"{seed}/{block}")
        return rng.choice(faults) if place == rng.randrange(count) else None

    return plan


def drop_every(count: int, seed: int = 0) -> Plan:
    """Plan one answer lost in each block of *count* requests."""
    return every(count, drop(), seed=seed)


def first(count: int, fault: Fault) -> Plan:
    """Plan *fault* for the first *count* requests."""
    return lambda method, path, n: fault if n <= count else None


def on(method: str, ending: str, fault: Fault, *, times: int = 1) -> Plan:
    """Plan *fault* for the first *times* requests of *method* to a path's *ending*."""
    left = threading.Semaphore(times)

    def plan(asked: str, path: str, n: int) -> Fault | None:
        if asked == method and path.endswith(ending) and left.acquire(blocking=False):
            return fault
        return None

    return plan


def any_of(*plans: Plan) -> Plan:
    """Plan what the first of *plans* with an opinion plans."""

    def plan(method: str, path: str, n: int) -> Fault | None:
        planned = (inner(method, path, n) for inner in plans)
        return next((fault for fault in planned if fault is not None), None)

    return plan


class Seen(NamedTuple):
    """One request that reached the proxy, and what the plan did to it."""

    method: str
    path: str
    fault: Fault | None


@dataclass
class Proxy:
    """A running proxy: where it is, and what it has seen so far."""

    url: str
    plan: Plan
    seen: list[Seen] = field(default_factory=list)
    #: How many connections clients have opened.
    connections: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def faults(self) -> Counter[Kind]:
        """How often each kind of fault has happened."""
        with self._lock:
            return Counter(one.fault.kind for one in self.seen if one.fault)

    def count(self, method: str, ending: str = "") -> int:
        """How many requests of *method* went to a path with this *ending*."""
        with self._lock:
            return sum(
                one.method == method and one.path.endswith(ending) for one in self.seen
            )

    def decide(self, method: str, path: str) -> Fault | None:
        """Record a request and ask the plan about it."""
        with self._lock:
            fault = self.plan(method, path, len(self.seen) + 1)
            self.seen.append(Seen(method, path, fault))
        return fault


@contextmanager
def fault_proxy(upstream: str, plan: Plan = never) -> Iterator[Proxy]:
    """
    Run a proxy in front of the server at *upstream* (`http://host:port`).

    It runs in threads of this process. `Proxy.plan` may be replaced at any time.
    """
    server = _Server(upstream, plan)
    server.start()
    try:
        yield server.proxy
    finally:
        server.stop()


class _Server(LoopbackServer):
    def __init__(self, upstream: str, plan: Plan) -> None:
        super().__init__(0, _Handler)
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.proxy = Proxy(self.url, plan)

    def note_open(self, connection: socket.socket) -> None:
        with self._lock:
            self.proxy.connections += 1
        super().note_open(connection)


class _Handler(LoopbackHandler):
    server: _Server

    def handle_any(self) -> None:
        path = urlsplit(self.path).path
        fault = self.server.proxy.decide(self.command, path)
        kind = fault.kind if fault else None
        body = self._body()
        if fault and kind is Kind.RESET:
            self._reset()
        elif fault and kind is Kind.REFUSE:
            _exhaust(body)
            self._send_error(fault)
        else:
            self._forward(body, fault)

    def _forward(self, body: Iterator[bytes] | None, fault: Fault | None) -> None:
        # A connection of its own for each request: none can have gone stale, so a
        # failure here is never ambiguous.
        upstream = HTTPConnection(*self.server.upstream, timeout=600)
        try:
            try:
                answer = self._ask(upstream, body)
            except (HTTPException, OSError):
                # The server itself broke: hand on just that.
                self.close_connection = True
                return
            self._pass_on(answer, fault)
        finally:
            upstream.close()

    def _ask(
        self, upstream: HTTPConnection, body: Iterator[bytes] | None
    ) -> HTTPResponse:
        upstream.putrequest(
            self.command, self.path, skip_host=True, skip_accept_encoding=True
        )
        for name, value in self.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                upstream.putheader(name, value)
        upstream.putheader("Connection", "close")
        chunked = body is not None and "Content-Length" not in self.headers
        if chunked:
            upstream.putheader("Transfer-Encoding", "chunked")
        upstream.endheaders(body, encode_chunked=chunked)
        return upstream.getresponse()

    def _pass_on(self, answer: HTTPResponse, fault: Fault | None) -> None:
        kind = fault.kind if fault else None
        if fault and kind in (Kind.DROP, Kind.LIE):
            # Only when the whole answer is here has the server certainly finished.
            _exhaust(iter(lambda: answer.read(BLOCK), b""))
            if kind is Kind.LIE:
                self._send_error(fault)
            else:
                self.close_connection = True
        elif fault and kind is Kind.TRUNCATE:
            self._send_half(answer)
        else:
            if fault and kind is Kind.DELAY:
                self.server.closing.wait(fault.seconds)
            self._send_whole(answer)

    def _send_whole(self, answer: HTTPResponse) -> None:
        self._send_head(answer)
        bodiless = self.command == "HEAD" or answer.status in (204, 304)
        if bodiless or answer.getheader("Content-Length") is not None:
            self.end_headers()
            while block := answer.read(BLOCK):
                self.wfile.write(block)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while block := answer.read1(BLOCK):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
            # A stream's parts are passed on as they come.
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _send_half(self, answer: HTTPResponse) -> None:
        body = answer.read()
        self._send_head(answer)
        if answer.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        self.close_connection = True

    def _send_head(self, answer: HTTPResponse) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)

    def _send_error(self, fault: Fault) -> None:
        # Like the page of a load balancer: neither JSON nor MLflow's.
        page = f"<html><h1>{fault.status}</h1></html>".encode()
        self.send_page(fault.status, page, "text/html", headers=fault.headers)

    def _reset(self) -> None:
        # Closing with no time to linger sends RST instead of FIN.
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        # `shutdown_request` would send FIN first; a detached socket is beyond it.
        self.server.note_closed(self.connection)
        self.close_connection = True
        socket.close(self.connection.detach())

    def _body(self) -> Iterator[bytes] | None:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self.chunks()
        length = self.headers.get("Content-Length")
        return None if length is None else self.exactly(int(length))


def _exhaust(blocks: Iterator[bytes] | None) -> None:
    for _ in blocks or ():
        pass
