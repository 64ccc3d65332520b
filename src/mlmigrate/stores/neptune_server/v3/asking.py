"""Questions to a server, put again where it does not answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from mlmigrate.artifacts import short
from mlmigrate.errors import ItemError, translated

#: Seconds to wait before each further try.
_WAITS = (0.1, 0.3, 1.0, 3.0, 6.0, 10.0)
#: No server is waited for longer than that, whatever it asks for.
_LONGEST = 60.0
#: What a server answers that is busy, beside all from 500 on.
_BUSY = (408, 425, 429)


def asked(what: str, ask: Callable[[], Any], *, passing: tuple[int, ...] = ()) -> Any:
    """Return the answer to a question.

    Args:
        what: it is about, for people.
        ask: puts it; the answer has ``status_code`` and ``content``.
        passing: statuses that are answers, beside that all is well.

    Raises:
        ItemError: the server refuses it, or does not answer.
    """
    for at in count():
        is_last = at == len(_WAITS)
        with translated(lambda error: ItemError(f"{what}: {short(error)}")):
            answer = _answer(ask, is_last=is_last)
        said = ""
        if answer is not None:
            status = int(answer.status_code)
            if 200 <= status < 300 or status in passing:
                return answer
            if is_last or not (status in _BUSY or status >= 500):
                raise ItemError(f"{what}: {_told(status, answer.content)}")
            said = answer.headers.get("Retry-After", "")
        time.sleep(min(float(said), _LONGEST) if said.isdecimal() else _WAITS[at])
    raise AssertionError("it counts for ever")


def connected(token: str) -> Any:
    """Return the client's way to the server that a token leads to, once that answers.

    Raises:
        Exception: it refuses us, or does not answer: of many kinds.
    """
    import httpx
    from neptune_scale.exceptions import NeptuneUnexpectedResponseError
    from neptune_scale.net.api_client import ApiClient

    for wait in _WAITS[:3]:
        try:
            return ApiClient(api_token=token)
        except (httpx.RequestError, NeptuneUnexpectedResponseError):
            time.sleep(wait)
    return ApiClient(api_token=token)


def _answer(ask: Callable[[], Any], *, is_last: bool) -> Any:
    """Return the answer, None where there is none and it is to be asked again."""
    import httpx
    from neptune_api.errors import (
        UnableToExchangeApiKeyError,
        UnableToParseResponse,
        UnableToRefreshTokenError,
    )

    lost = (
        httpx.RequestError,
        UnableToExchangeApiKeyError,
        UnableToParseResponse,
        UnableToRefreshTokenError,
    )
    try:
        return ask()
    except lost:
        if is_last:
            raise
        return None


def _told(status: int, content: bytes) -> str:
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        said = None
    text = said.get("message") if isinstance(said, dict) else None
    return short(ItemError(f"HTTP {status}: {text}" if text else f"HTTP {status}"))
