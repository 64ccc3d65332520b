"""The keys and tokens by which the client and the server know each other."""

from __future__ import annotations

import base64
import json
import time
from typing import Any


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
