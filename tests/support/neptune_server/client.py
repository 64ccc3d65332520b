"""Surroundings in which Neptune's client talks to one server only."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..isolation import only_settings
from .serving import NeptuneServer

#: What the client remembers of servers and tokens, in its `hosted_client`.
_REMEMBERED = (
    "_get_token_client",
    "get_client_config",
    "create_http_client_with_auth",
    "create_backend_client",
    "create_leaderboard_client",
    "create_artifacts_client",
)


def client_environment(server: NeptuneServer) -> dict[str, str]:
    """Return the variables for a client; it writes `.neptune` where it is started."""
    return {
        "NEPTUNE_API_TOKEN": server.api_token,
        # Its tokens come without TLS.
        "OAUTHLIB_INSECURE_TRANSPORT": "1",
    }


@contextmanager
def neptune_client(server: NeptuneServer) -> Iterator[None]:
    """Let `neptune` in this process use *server*; afterwards all runs are stopped."""
    with only_settings("NEPTUNE_", client_environment(server)):
        try:
            yield
        finally:
            # What a test has left open would try to reach the server for minutes at
            # exit; and no fault may hold up its end.
            server.clear()
            _stop_runs()
            _forget_servers()


def _stop_runs() -> None:
    if not any(thread.name.startswith("Neptune") for thread in threading.enumerate()):
        return
    containers = sys.modules["neptune.metadata_containers"]
    kinds = (
        containers.Run,
        containers.Project,
        containers.Model,
        containers.ModelVersion,
    )
    for one in gc.get_objects():
        if type(one) in kinds:
            one.stop(seconds=5)


def _forget_servers() -> None:
    module = sys.modules.get("neptune.internal.backends.hosted_client")
    for name in _REMEMBERED:
        clear = getattr(getattr(module, name, None), "cache_clear", None)
        if clear is not None:
            clear()
