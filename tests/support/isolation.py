"""Keeps tests from the developer's settings and from the outside world."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from ._folders import session_folder
from ._processes import clean_environment

#: Where nobody listens: child processes fail at once instead of reaching out.
_NOWHERE = "http://127.0.0.1:9"


class NetworkBlockedError(RuntimeError):
    """
    A test wanted to leave the machine.

    Not an OSError, lest the code under test take it for a fault and try again.
    """


@contextmanager
def clean_slate() -> Iterator[None]:
    """Run without settings for any tracking system and without the network."""
    clean = clean_environment(
        {
            **{f"{name}_proxy": _NOWHERE for name in ("http", "https", "all")},
            **{f"{name}_PROXY": _NOWHERE for name in ("HTTP", "HTTPS", "ALL")},
            "no_proxy": "127.0.0.1,localhost,::1",
            "NO_PROXY": "127.0.0.1,localhost,::1",
        }
    )
    guarded = {
        name: _guard(getattr(socket.socket, name)) for name in ("connect", "connect_ex")
    }
    with (
        patch.dict(os.environ, clean, clear=True),
        patch.multiple(socket.socket, **guarded),
    ):
        yield


@contextmanager
def own_home() -> Iterator[None]:
    """Run with an absent home, and undo what is done to the environment meanwhile."""
    home = session_folder() / f"home-{uuid.uuid4().hex[:8]}"
    with patch.dict(os.environ):
        os.environ["HOME"] = os.environ["USERPROFILE"] = str(home)
        for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "NETRC"):
            os.environ.pop(name, None)
        # The empty database that is kept there takes seconds to make.
        os.environ["XDG_CACHE_HOME"] = str(session_folder() / "cache")
        try:
            yield
        finally:
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def only_settings(prefix: str, settings: Mapping[str, str]) -> Iterator[None]:
    """Run with *settings* for those that begin so; undo what is done meanwhile."""
    rest = {k: v for k, v in os.environ.items() if not k.startswith(prefix)}
    with patch.dict(os.environ, {**rest, **settings}, clear=True):
        yield


def _guard(connect: Any) -> Any:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(
            address[0]
        ):
            raise NetworkBlockedError(f"a test tried to connect to {address}")
        return connect(self, address)

    return guarded


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
