"""
Servers in which a test plants faults, and which record what they were asked.

They keep all in memory and answer in threads of the test's own process.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .faults import Fault, Kind
from .loopback import LoopbackHandler, LoopbackServer

Variables = Mapping[str, Any]
When = Callable[[Variables], bool]


class NonsenseError(Exception):
    """What a server cannot make sense of; it stands among its complaints."""


@contextmanager
def complaining(
    complaints: list[str], of: str, passing: type[Exception]
) -> Iterator[None]:
    """Turn what goes wrong in a server of ours into a complaint.

    Args:
        complaints: gets what it was, and *of* which request.
        of: names the request.
        passing: what is an answer as it is.

    Raises:
        NonsenseError: something went wrong.
    """
    try:
        yield
    except passing:
        raise
    # Of any kind: an error that ends the connection would look like a client's bug.
    except Exception as error:
        complaints.append(f"{error!r} {of}")
        raise NonsenseError(repr(error)) from error


class Lie:
    """A fault that only one kind of server knows: it says what it has not done."""


class Request(NamedTuple):
    """One request that reached the server, and what a rule did to it."""

    method: str
    path: str
    #: The name of what was asked for; empty where requests have none.
    operation: str
    variables: Variables
    fault: Fault | Lie | None
    #: When it came, in seconds of a clock that only runs forward.
    at: float


@dataclass
class _Rule:
    on: str
    fault: Fault | Lie
    skip: int
    times: int | None
    when: When | None

    def applies(self, path: str, operation: str, variables: Variables) -> bool:
        if self.on != operation and self.on not in path:
            return False
        if self.when and not self.when(variables):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


@dataclass
class Rules:
    """What is planted, and what has been asked so far."""

    requests: list[Request] = field(default_factory=list)
    _planted: list[_Rule] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def plant(
        self,
        on: str,
        fault: Fault | Lie,
        *,
        skip: int = 0,
        times: int | None = 1,
        when: When | None = None,
    ) -> None:
        """
        Plan *fault* for requests of an operation, or with *on* in their path.

        The first *skip* of them pass; *times* of them fail then, or all that come.
        Of an operation, *when* can choose by its variables.
        """
        with self._lock:
            self._planted.append(_Rule(on, fault, skip, times, when))

    def clear(self) -> None:
        """Forget all that is planted."""
        with self._lock:
            self._planted.clear()

    def decide(
        self, method: str, path: str, operation: str, variables: Variables
    ) -> Fault | Lie | None:
        """Record a request and return what shall happen to it."""
        with self._lock:
            fault = next(
                (
                    rule.fault
                    for rule in self._planted
                    if rule.applies(path, operation, variables)
                ),
                None,
            )
            self.requests.append(
                Request(method, path, operation, variables, fault, time.monotonic())
            )
        return fault

    def asked(self, on: str) -> list[Request]:
        """Return the requests of an operation, or with *on* in their path."""
        with self._lock:
            return [r for r in self.requests if on == r.operation or on in r.path]

    def count(self, on: str) -> int:
        """How many requests of an operation, or with *on* in their path, there were."""
        return len(self.asked(on))


JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes out."""

    status: int
    body: bytes = b""
    kind: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


def json_answer(status: int, body: Any) -> Answer:
    """Return an answer that is JSON."""
    return Answer(status, json.dumps(body, allow_nan=False).encode())


class FailingHandler(LoopbackHandler):
    """Answers requests, unless a fault is planned for them."""

    server: LoopbackServer

    def answer_or_fail(
        self, fault: Fault | Lie | None, answer: Callable[[], Answer]
    ) -> None:
        """Send an answer, spoilt by *fault*; a lie is the answer's own matter."""
        if not isinstance(fault, Fault):
            self.send(answer())
        elif fault.kind is Kind.REFUSE:
            self.send(_error_page(fault))
        elif fault.kind is Kind.RESET:
            self.close_connection = True
        else:
            self._spoil(fault, answer())

    def _spoil(self, fault: Fault, answer: Answer) -> None:
        if fault.kind is Kind.LIE:
            self.send(_error_page(fault))
        elif fault.kind is Kind.DROP:
            self.close_connection = True
        elif fault.kind is Kind.TRUNCATE:
            self.send(answer, length=len(answer.body) // 2)
            self.close_connection = True
        else:
            self.server.closing.wait(fault.seconds)
            self.send(answer)

    def send(self, answer: Answer, *, length: int | None = None) -> None:
        """Send an answer, of whose body only *length* bytes leave."""
        self.send_page(
            answer.status,
            answer.body,
            answer.kind,
            headers=answer.headers,
            length=length,
        )

    def whole_body(self) -> bytes:
        """Return the request's body."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(self.chunks())
        return b"".join(self.exactly(int(self.headers.get("Content-Length") or 0)))


def _error_page(fault: Fault) -> Answer:
    page = f"<html><h1>{fault.status}</h1></html>".encode()
    return Answer(fault.status, page, "text/html", fault.headers)
