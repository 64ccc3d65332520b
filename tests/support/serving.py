"""How servers in memory run: on loopback, answered in threads of this process."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from .loopback import LoopbackServer
from .planted import Rules


@dataclass
class Served(Rules):
    """Where a server is, and how to make it fail."""

    url: str = ""
    #: What made no sense to it: what a client wants and it lacks.
    complaints: list[str] = field(default_factory=list)
    _http: LoopbackServer | None = None

    def stop(self) -> None:
        """End the server; what it kept can still be looked at."""
        if self._http is not None:
            self._http.stop()
            self._http = None


AnyServed = TypeVar("AnyServed", bound=Served)


@contextmanager
def served(server: AnyServed, http: LoopbackServer) -> Iterator[AnyServed]:
    """Let *http* answer for *server* for as long as the block runs."""
    server.url = http.url
    server._http = http
    http.start()
    try:
        yield server
    finally:
        server.stop()


def serve(
    described: str | None,
    start: Callable[[int], AbstractContextManager[AnyServed]],
    environment: Callable[[AnyServed], Mapping[str, str]],
) -> None:
    """Run a server at the port of ``--port`` until interrupted.

    Args:
        described: what the server is.
        start: a server at a port.
        environment: the variables that let a client use it: they are printed.
    """
    parser = argparse.ArgumentParser(description=described)
    parser.add_argument("--port", type=int, default=0)
    with start(parser.parse_args().port) as server:
        words = (f"{name}={value}" for name, value in environment(server).items())
        sys.stdout.write(" ".join(words) + "\n")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
