"""The server itself: HTTP on loopback, answered in threads of this process."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..faults import Fault
from ..loopback import LoopbackServer
from ..planted import Answer, FailingHandler, Lie, Rules, json_answer
from . import tokens
from .api import Api
from .messages import Deny, RefusalError, Request
from .operations import Forget
from .state import State
from .swagger import document, endpoints

_NAMES = {(one.method, one.path): one.name for one in endpoints()}

#: Operations that anybody may ask for.
_OPEN = ("getClientConfig", "exchangeApiToken")


@dataclass
class NeptuneServer(State, Rules):
    """A running server: where it is, what it keeps, and how to make it fail."""

    url: str = ""
    # Not the same for any two: the client keeps what it knows of servers by this key.
    api_key: str = field(default_factory=lambda: uuid.uuid4().hex)
    #: How long an access token holds, before the client asks for another.
    token_seconds: int = 3600
    #: Requests that made no sense to it: what a client wants and it lacks.
    complaints: list[str] = field(default_factory=list)
    _issued: set[str] = field(default_factory=set)
    _http: LoopbackServer | None = None

    @property
    def api_token(self) -> str:
        """What a client is given as its API token."""
        return tokens.api_token(self.url, self.api_key)

    def stop(self) -> None:
        """End the server; what it kept can still be looked at."""
        if self._http is not None:
            self._http.stop()
            self._http = None

    def issue(self) -> str:
        """Return a new access token."""
        number = len(self._issued)
        token = tokens.access_token(self.url, number, self.token_seconds)
        self._issued.add(token)
        return token

    def known(self, token: str) -> bool:
        """Whether an access token was issued."""
        return token in self._issued


def start(port: int = 0, **facts: Any) -> NeptuneServer:
    """Start a server; *facts* are fields of `NeptuneServer`, such as `lag`."""
    server = NeptuneServer(**facts)
    server._http = http = _Server(port, server)
    server.url = http.url
    http.start()
    return server


@contextmanager
def neptune_server(port: int = 0, **facts: Any) -> Iterator[NeptuneServer]:
    """Run a server for as long as the block runs."""
    server = start(port, **facts)
    try:
        yield server
    finally:
        server.stop()


class _Server(LoopbackServer):
    def __init__(self, port: int, state: NeptuneServer) -> None:
        super().__init__(port, _Handler)
        self.state = state
        self.api = Api(state, self.url)


class _Handler(FailingHandler):
    server: _Server

    def handle_any(self) -> None:
        state = self.server.state
        where = urlsplit(self.path)
        request = Request(parse_qs(where.query), self.headers, self.whole_body())
        name = _NAMES.get((self.command, where.path), "")
        asked = {key: values[0] for key, values in request.query.items()}
        fault = state.decide(self.command, where.path, name, asked)
        self.answer_or_fail(
            fault, lambda: self._answer(where.path, name, request, fault)
        )

    def _answer(
        self, path: str, name: str, request: Request, fault: Fault | Lie | None
    ) -> Answer:
        if isinstance(fault, Deny):
            return fault.answer()
        lie = fault if isinstance(fault, Forget) else None
        state = self.server.state
        try:
            with state.lock:
                if not name:
                    return self._without_name(path)
                if name not in _OPEN and not self._known():
                    raise RefusalError(401, "UNAUTHORIZED", "No valid access token")
                if name == "getClientConfig":
                    return json_answer(200, _client_config(state))
                if name == "exchangeApiToken":
                    return self._tokens(request.headers.get("X-Neptune-Api-Token"))
                told = self.server.api.answer(name, request, lie)
        except RefusalError as refusal:
            return refusal.answer()
        except Exception as error:
            # Said aloud: what is missing here would look like a client's bug.
            state.complaints.append(f"{error!r} at {self.command} {self.path}")
            return json_answer(500, {"code": 500, "title": repr(error)})
        return told if isinstance(told, Answer) else json_answer(200, told)

    def _without_name(self, path: str) -> Answer:
        state = self.server.state
        words = path.strip("/").split("/")
        if words[-1] == "swagger.json" and len(words) == 3:
            found = document(words[1], state.url)
            if found is not None:
                return json_answer(200, found)
        if path.endswith("/protocol/openid-connect/token"):
            return json_answer(
                200,
                {
                    "access_token": state.issue(),
                    "refresh_token": "refresh",
                    "token_type": "Bearer",
                    "expires_in": state.token_seconds,
                },
            )
        if words[:2] != ["api", "notifications"]:
            state.complaints.append(f"{self.command} {path} is unknown")
        raise RefusalError(404, "NOT_FOUND", path)

    def _tokens(self, given: str | None) -> Answer:
        state = self.server.state
        if tokens.api_key(given or "") != state.api_key:
            raise RefusalError(401, "UNAUTHORIZED", "No valid API token")
        said = {
            "accessToken": state.issue(),
            "refreshToken": "refresh",
            "username": state.owner,
        }
        return json_answer(200, said)

    def _known(self) -> bool:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        return kind == "Bearer" and self.server.state.known(token)


def _client_config(state: NeptuneServer) -> dict[str, Any]:
    return {
        "apiUrl": state.url,
        "applicationUrl": state.url,
        "pyLibVersions": {"minCompatibleVersion": "1.0.0"},
        "sysNameSetByBackend": state.names_runs,
        "multiPartUpload": {
            "enabled": True,
            "minChunkSize": state.part_size,
            "maxChunkSize": 1024**3,
            "maxChunkCount": 1000,
            "maxSinglePartSize": state.part_size,
        },
        "artifacts": {"enabled": True, "apiVersion": 2},
    }
