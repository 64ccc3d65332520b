"""The keys and tokens by which the client and the server know each other."""

from __future__ import annotations

import base64
import json
import time
import uuid
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from ..serving import Served
from .messages import RefusalError


@dataclass
class Guarded(Served):
    """A server that wants an API token for access tokens, and these for the rest."""

    # Not the same for any two: a client keeps what it knows of servers by this key.
    api_key: str = field(default_factory=lambda: uuid.uuid4().hex)
    #: How long an access token holds, before the client asks for another.
    token_seconds: int = 3600
    _issued: set[str] = field(default_factory=set)

    @property
    def api_token(self) -> str:
        """What a client is given as its API token."""
        return api_token(self.url, self.api_key)

    def exchange(self, headers: Message, owner: str) -> dict[str, str]:
        """Return tokens for *owner*'s API token.

        Raises:
            RefusalError: it is not that.
        """
        if api_key(headers.get("X-Neptune-Api-Token", "")) != self.api_key:
            raise RefusalError(401, "UNAUTHORIZED", "No valid API token")
        return {
            "accessToken": self._issue(),
            "refreshToken": "refresh",
            "username": owner,
        }

    def refresh(self) -> dict[str, Any]:
        """Return an access token that follows another."""
        return {
            "access_token": self._issue(),
            "refresh_token": "refresh",
            "token_type": "Bearer",
            "expires_in": self.token_seconds,
        }

    def admit(self, headers: Message) -> None:
        """Let only those pass who have an access token.

        Raises:
            RefusalError: there is none.
        """
        kind, _, token = headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or token not in self._issued:
            raise RefusalError(401, "UNAUTHORIZED", "No valid access token")

    def _issue(self) -> str:
        token = access_token(self.url, len(self._issued), self.token_seconds)
        self._issued.add(token)
        return token


def api_token(url: str, key: str) -> str:
    """Return what a user sets: where the server is, and the key to it."""
    said = {"api_address": url, "api_url": url, "api_key": key}
    return base64.b64encode(json.dumps(said).encode()).decode()


def api_key(token: str) -> str:
    """Return the key in what a user has set; empty if it makes no sense."""
    try:
        return str(json.loads(base64.b64decode(token))["api_key"])
    except (KeyError, TypeError, ValueError):
        return ""


def access_token(url: str, number: int, seconds: int) -> str:
    """Return a token (a JWT without a signature) for the requests to come."""
    said = {
        "exp": int(time.time()) + seconds,
        "azp": "neptune-cli",
        "iss": f"{url}/auth/realms/neptune",
        "jti": str(number),
    }
    return f"{_word({'alg': 'none', 'typ': 'JWT'})}.{_word(said)}."


def _word(said: dict[str, Any]) -> str:
    coded = base64.urlsafe_b64encode(json.dumps(said).encode())
    return coded.decode().rstrip("=")
