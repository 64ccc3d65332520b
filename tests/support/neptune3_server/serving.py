"""The server itself: HTTP on loopback, answered in threads of this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ..faults import Fault
from ..loopback import LoopbackServer
from ..neptune_server.api import project_facts
from ..neptune_server.messages import Deny, RefusalError
from ..neptune_server.operations import Forget
from ..neptune_server.tokens import Guarded
from ..planted import (
    Answer,
    FailingHandler,
    Lie,
    NonsenseError,
    complaining,
    json_answer,
)
from ..serving import served
from . import ingestion, reading
from .state import Project, State
from .storage import Storage

_CONFIG = "get_client_config"
_DISCOVERY = "open_id_discovery"
_EXCHANGE = "exchange_api_token"
_REFRESH = "refresh_token"

#: Operations by their method and path, called as the client's functions for them are.
NAMES = {
    ("GET", "/api/backend/v1/clients/config"): _CONFIG,
    ("GET", "/auth/realms/neptune/.well-known/openid-configuration"): _DISCOVERY,
    ("GET", "/api/backend/v1/authorization/oauth-token"): _EXCHANGE,
    ("POST", "/auth/realms/neptune/protocol/openid-connect/token"): _REFRESH,
    ("GET", "/api/backend/v1/projects/get"): "get_project",
    ("GET", "/api/backend/v1/projects"): "get_project_list",
    ("POST", "/api/backend/v1/projects"): "create_project",
    ("POST", "/api/client/v1/ingest"): "submit",
    ("GET", "/api/client/v1/ingest/check"): "check_status",
    ("POST", "/api/client/v1/ingest/check"): "bulk_check_status",
    ("POST", "/api/client/v1/ingest/checkDetails"): "check_details",
    ("POST", "/api/storagebridge/v1/signedUrl"): "signed_url_generic",
    (
        "POST",
        "/api/storagebridge/v1/s3/completeMultipartUpload",
    ): "complete_multipart_upload",
    **reading.NAMES,
}

#: Operations that anybody may ask for.
_OPEN = (_CONFIG, _DISCOVERY, _EXCHANGE, _REFRESH)


@dataclass
class Neptune3Server(State, Guarded):
    """A running server: where it is, what it keeps, and how to make it fail."""


def neptune3_server(
    port: int = 0, **facts: Any
) -> AbstractContextManager[Neptune3Server]:
    """Run a server for as long as a block does; *facts* are fields such as `lag`."""
    server = Neptune3Server(**facts)
    return served(server, _Server(port, server))


class _Server(LoopbackServer):
    def __init__(self, port: int, state: Neptune3Server) -> None:
        super().__init__(port, _Handler)
        self.state = state
        self.storage = Storage(state, self.url)


class _Handler(FailingHandler):
    server: _Server

    def handle_any(self) -> None:
        state = self.server.state
        where = urlsplit(self.path)
        query = dict(parse_qsl(where.query, keep_blank_values=True))
        body = self.whole_body()
        name = NAMES.get((self.command, where.path), "")
        if where.path.startswith("/storage/"):
            reads = self.command in ("GET", "HEAD")
            name = "download" if reads else "upload"
        # What came is understood before a fault is chosen, which may depend on it.
        said: Any = None
        variables: Mapping[str, Any] = query
        of = f"at {self.command} {self.path}"
        with suppress(NonsenseError), complaining(state.complaints, of, RefusalError):
            if name == "submit":
                said = ingestion.parse(body)
                variables = ingestion.facts(said)
            elif name == "upload":
                pass  # it may be of JSON, and may be a part of it
            elif name and self.headers.get("Content-Type") == "application/json":
                said = json.loads(body)
                variables = {**query, "body": said}
        fault = state.decide(self.command, where.path, name, variables)
        self.answer_or_fail(
            fault, lambda: self._answer(where.path, name, query, body, said, fault)
        )

    def _answer(
        self, path: str, name: str, query: Mapping[str, str], body: bytes, said: Any,
        fault: Fault | Lie | None,
    ) -> Answer:  # fmt: skip
        state = self.server.state
        if isinstance(fault, Deny):
            return fault.answer()
        lie = fault if isinstance(fault, Lie) else None
        try:
            forget = lie if isinstance(lie, Forget) else None
            of = f"at {self.command} {self.path}"
            aloud = complaining(state.complaints, of, RefusalError)
            with aloud, state.lock, self.server.storage.forgetting(forget):
                if name in ("upload", "download"):
                    return self.server.storage.answer(
                        self.command, path, query, self.headers, body
                    )
                if not name:
                    state.complaints.append(f"{self.command} {path} is unknown")
                    raise RefusalError(404, "NOT_FOUND", path)
                if name not in _OPEN:
                    state.admit(self.headers)
                if name == "submit":
                    return ingestion.ingest(state, said, len(body), lie)
                if name in reading.ANSWERS:
                    return reading.ANSWERS[name](state, query, body, said)
                return self._small(name, query, body, said)
        except RefusalError as refusal:
            return _refused(refusal)
        except NonsenseError as error:
            return json_answer(500, {"code": 500, "message": str(error)})

    def _small(
        self, name: str, query: Mapping[str, str], body: bytes, said: Any
    ) -> Answer:
        state = self.server.state
        project = query.get("projectIdentifier", "")
        answers: dict[str, Callable[[], Any]] = {
            _CONFIG: lambda: _client_config(state),
            _DISCOVERY: lambda: {
                "issuer": f"{state.url}/auth/realms/neptune",
                "authorization_endpoint": f"{_openid(state)}/auth",
                "token_endpoint": f"{_openid(state)}/token",
            },
            _EXCHANGE: lambda: state.exchange(self.headers, state.owner),
            _REFRESH: state.refresh,
            "get_project": lambda: _project_facts(_existing(state, project)),
            "get_project_list": lambda: {
                "entries": [_project_facts(one) for one in state.projects.values()]
            },
            "create_project": lambda: _create_project(state, said),
            "check_status": lambda: ingestion.status(state, project, query),
            "bulk_check_status": lambda: ingestion.statuses(state, project, body),
            "check_details": lambda: ingestion.details(state, body),
            "signed_url_generic": lambda: self.server.storage.sign(said),
            "complete_multipart_upload": lambda: self.server.storage.complete(said),
        }
        told = answers[name]()
        return told if isinstance(told, Answer) else json_answer(200, told)


def _openid(state: Neptune3Server) -> str:
    return f"{state.url}/auth/realms/neptune/protocol/openid-connect"


def _client_config(state: Neptune3Server) -> dict[str, Any]:
    return {
        "apiUrl": state.url,
        "applicationUrl": state.url,
        "pyLibVersions": {},
        "security": {
            "clientId": "neptune-cli",
            "openIdDiscovery": (
                f"{state.url}/auth/realms/neptune/.well-known/openid-configuration"
            ),
        },
    }


def _existing(state: State, name: str) -> Project:
    found = state.project(name)
    if found is None:
        raise RefusalError(404, "PROJECT_NOT_FOUND", f"Project {name} not found")
    return found


def _create_project(state: State, said: Mapping[str, Any]) -> dict[str, Any]:
    name = f"{said['organizationIdentifier']}/{said['name']}"
    if name in state.projects:
        raise RefusalError(409, "PROJECT_NAME_COLLISION", name)
    state.missing.discard(name)
    made = _existing(state, name)
    made.key = said.get("projectKey") or made.key
    made.visibility = said.get("visibility") or made.visibility
    made.description = said.get("description")
    return _project_facts(made)


def _project_facts(project: Project) -> dict[str, Any]:
    more = {"visibility": project.visibility, "description": project.description}
    return {**project_facts(project), **more, "version": 3}


def _refused(refusal: RefusalError) -> Answer:
    text = str(refusal)
    said = {"code": refusal.status, "errorType": refusal.type, "message": text}
    return json_answer(refusal.status, said)
