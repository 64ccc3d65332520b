"""The way to a Neptune server: a location, a token, and what is wrong with them."""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode
from binascii import Error as BadBase64
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import urlsplit

from mlmigrate.errors import LocationError, StoreError

PREFIX = "neptune://"
PREFIX3 = "neptune3://"
TOKEN = "NEPTUNE_API_TOKEN"
_NAME = re.compile(r"[^/\s?#]+\Z")
_ENDED = (
    "Neptune's hosted service ended on 2026-03-05, and what it held is deleted: nothing"
    " is left to read there, and nothing can be written to it. What can still be"
    " copied: an archive made by neptune-exporter (neptune-export:FOLDER), and what"
    " Neptune's client left on disk (neptune-offline:FOLDER, a folder .neptune; find"
    f" them with `mlmigrate scan`). For a server of your own, set {TOKEN} to its token"
)


@dataclass(frozen=True, slots=True)
class Place:
    """A project at a server."""

    workspace: str
    project: str
    prefix: str = PREFIX

    @property
    def name(self) -> str:
        """What Neptune calls it."""
        return f"{self.workspace}/{self.project}"

    def __str__(self) -> str:
        return f"{self.prefix}{self.name}"


def place_of(location: str) -> Place:
    """Return the project that a location names.

    Raises:
        LocationError: it names none.
    """
    prefix = PREFIX3 if location.startswith(PREFIX3) else PREFIX
    parts = location.removeprefix(prefix).rstrip("/").split("/")
    if len(parts) != 2 or not all(map(_NAME.match, parts)):
        raise LocationError(
            f"{location} names no project: give {prefix}WORKSPACE/PROJECT; the address"
            f" of the server is in the token {TOKEN}"
        )
    return Place(parts[0], parts[1], prefix)


def check_access(package: str, extra: str) -> str:
    """Check the token in the environment, and the client; return the token.

    Args:
        package: the client's.
        extra: what of mlmigrate installs it.

    Raises:
        StoreError: there is none, it is none of Neptune's, it leads to the service that
            has ended, or the client is not installed.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise StoreError(
            f"{TOKEN} is not set: the token of a server of your own holds its address"
        )
    if token == "ANONYMOUS" or _is_hosted(address_of(token)):
        raise StoreError(_ENDED)
    if find_spec(package) is None:
        raise StoreError(
            "Neptune's servers are reached by its own client, which is not installed:"
            f" pip install 'mlmigrate[{extra}]'"
        )
    return token


def address_of(token: str) -> str:
    """Return the address that a token holds.

    Raises:
        StoreError: it is no token of Neptune's. Nothing of it is shown.
    """
    try:
        said = json.loads(b64decode(token, validate=True))
    except (BadBase64, ValueError, RecursionError):
        said = None
    address = None
    if isinstance(said, dict):
        address = said.get("api_url") or said.get("api_address")
    if not isinstance(address, str):
        raise StoreError(
            f"{TOKEN} is no token of Neptune's: copy it anew from your server's pages"
        )
    return address


def _is_hosted(address: str) -> bool:
    try:
        host = urlsplit(address).hostname or ""
    except ValueError:
        return False
    return host == "neptune.ai" or host.endswith(".neptune.ai")
