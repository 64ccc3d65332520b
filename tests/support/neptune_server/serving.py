"""The server itself: HTTP on loopback, answered in threads of this process."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..faults import Fault
from ..loopback import LoopbackServer
from ..planted import (
    Answer,
    FailingHandler,
    Lie,
    NonsenseError,
    complaining,
    json_answer,
)
from ..serving import served
from .api import Api
from .messages import Deny, RefusalError, Request
from .operations import Forget
from .state import State
from .swagger import document, endpoints
from .tokens import Guarded

_NAMES = {(one.method, one.path): one.name for one in endpoints()}

#: Operations that anybody may ask for.
_OPEN = ("getClientConfig", "exchangeApiToken")


@dataclass
class NeptuneServer(State, Guarded):
    """A running server: where it is, what it keeps, and how to make it fail."""


def neptune_server(
    port: int = 0, **facts: Any
) -> AbstractContextManager[NeptuneServer]:
    """Run a server for as long as a block does; *facts* are fields such as `lag`."""
    server = NeptuneServer(**facts)
    return served(server, _Server(port, server))


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
        of = f"at {self.command} {self.path}"
        try:
            with complaining(state.complaints, of, RefusalError), state.lock:
                if not name:
                    return self._without_name(path)
                if name not in _OPEN:
                    state.admit(self.headers)
                if name == "getClientConfig":
                    return json_answer(200, _client_config(state))
                if name == "exchangeApiToken":
                    return json_answer(200, state.exchange(self.headers, state.owner))
                told = self.server.api.answer(name, request, lie)
        except RefusalError as refusal:
            return refusal.answer()
        except NonsenseError as error:
            return json_answer(500, {"code": 500, "title": str(error)})
        return told if isinstance(told, Answer) else json_answer(200, told)

    def _without_name(self, path: str) -> Answer:
        state = self.server.state
        words = path.strip("/").split("/")
        if words[-1] == "swagger.json" and len(words) == 3:
            found = document(words[1], state.url)
            if found is not None:
                return json_answer(200, found)
        if path.endswith("/protocol/openid-connect/token"):
            return json_answer(200, state.refresh())
        if words[:2] != ["api", "notifications"]:
            state.complaints.append(f"{self.command} {path} is unknown")
        raise RefusalError(404, "NOT_FOUND", path)


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
