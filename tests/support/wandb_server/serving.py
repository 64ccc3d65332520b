"""The server itself: HTTP on loopback, answered in threads of this process."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import mimetypes
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from ..loopback import LoopbackServer
from ..planted import (
    Answer,
    FailingHandler,
    NonsenseError,
    complaining,
    json_answer,
)
from ..serving import Served, served
from . import filestream
from .graphql import QueryError, execute, parse
from .mutations import RefusalError, mutation_root
from .queries import query_root
from .rules import Forget
from .state import Artifact, Run, State, StoredFile

#: The key that the server takes unless told another.
API_KEY = "0123456789abcdef" * 2 + "01234567"


@dataclass
class WandbServer(State, Served):
    """A running server: where it is, what it keeps, and how to make it fail."""

    api_key: str = API_KEY

    def versions(self, entity: str, project: str, name: str) -> list[Artifact]:
        """Return the artifact versions of a collection, oldest first."""
        return [artifact for artifact, _ in self.links(entity, project, name)]

    def aliases(self, entity: str, project: str, name: str) -> dict[str, int]:
        """Return which version each alias of a collection names."""
        return {
            alias: member.version
            for _, member in self.links(entity, project, name)
            for alias in member.aliases
        }

    def contents(self, artifact: Artifact) -> dict[str, bytes]:
        """Return the files of an artifact version, without references."""
        return {
            path: self.blobs[base64.b64decode(entry["digest"]).hex()]
            for path, entry in artifact.entries.items()
            if not entry.get("ref")
        }


def wandb_server(port: int = 0, **facts: Any) -> AbstractContextManager[WandbServer]:
    """Run a server for as long as a block does; *facts* are fields such as `entity`."""
    server = WandbServer(**facts)
    return served(server, _Server(port, server))


class _Server(LoopbackServer):
    def __init__(self, port: int, state: WandbServer) -> None:
        super().__init__(port, _Handler)
        self.state = state


class _Handler(FailingHandler):
    server: _Server

    def handle_any(self) -> None:
        state = self.server.state
        path = urlsplit(self.path).path
        body = self._body()
        asked: Mapping[str, Any] = {}
        operation = ""
        if path == "/graphql":
            asked = json.loads(body)
            with suppress(QueryError):
                operation = parse(asked["query"]).name
        fault = state.decide(
            self.command, path, operation, asked.get("variables") or {}
        )
        lie = fault if isinstance(fault, Forget) else None
        self.answer_or_fail(fault, lambda: self._answer(path, body, asked, lie))

    def _answer(
        self, path: str, body: bytes, asked: Mapping[str, Any], lie: Forget | None
    ) -> Answer:
        state = self.server.state
        words = [unquote(word) for word in path.strip("/").split("/")]
        with state.lock:
            if words[0] == "storage":
                return self._storage(words[1:], body)
            if not self._known():
                return json_answer(401, {"error": "invalid API key"})
            if path == "/graphql":
                return _graphql(state, asked)
            if words[0] == "files" and words[-1] == "file_stream":
                return _file_stream(state, words[1:4], body, lie)
            if words[0] == "files" and len(words) > 4:
                return self._run_file(words[1:])
            if words[0] in ("artifacts", "artifactsV2"):
                return self._blob(_hex_word(words))
            return json_answer(200 if path in ("/", "/healthz") else 404, {})

    def _known(self) -> bool:
        words = self.headers.get("Authorization", "").split()
        if len(words) != 2 or words[0] != "Basic":
            return False
        key = base64.b64decode(words[1]).decode().partition(":")[2]
        return key == self.server.state.api_key

    def _storage(self, words: list[str], body: bytes) -> Answer:
        if words[0] == "run":
            return self._run_file(words[1:], body)
        if words[0] == "export":
            exporting = self.server.state.run_by_storage_id(words[1])
            return self._bytes(exporting.exports[int(words[2])] if exporting else b"")
        if words[0] == "manifest":
            return self._manifest(words[1], body)
        return self._blob(words[1], body)

    def _run_file(self, words: list[str], body: bytes = b"") -> Answer:
        run = self.server.state.runs.get((words[0], words[1], words[2]))
        name = "/".join(words[3:])
        if run is None:
            return json_answer(404, {"error": "run not found"})
        if self.command == "PUT":
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            run.files[name] = StoredFile(body, kind)
            return Answer(200)
        if name not in run.files:
            return json_answer(404, {"error": "file not found"})
        return self._bytes(run.files[name].data)

    def _manifest(self, id: str, body: bytes) -> Answer:
        for artifact in self.server.state.artifacts.values():
            if artifact.manifest_id == id:
                if self.command != "PUT":
                    return self._bytes(artifact.manifest)
                artifact.manifest = body
                return Answer(200)
        return json_answer(404, {"error": "manifest not found"})

    def _blob(self, name: str, body: bytes = b"") -> Answer:
        blobs = self.server.state.blobs
        if self.command == "PUT":
            actual = base64.b64encode(hashlib.md5(body).digest()).decode()
            # As object stores do: what arrives damaged is not stored.
            if self.headers.get("Content-MD5", actual).strip() != actual:
                return Answer(400, b"<Error><Code>BadDigest</Code></Error>")
            blobs[name] = body
            return Answer(200)
        if name not in blobs:
            return json_answer(404, {"error": "file not found"})
        return self._bytes(blobs[name])

    def _bytes(self, data: bytes) -> Answer:
        kind = "application/octet-stream"
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found or int(found[1]) >= len(data):
            return Answer(200, data, kind)
        end = min(int(found[2] or len(data)), len(data) - 1)
        where = f"bytes {found[1]}-{end}/{len(data)}"
        part = data[int(found[1]) : end + 1]
        return Answer(206, part, kind, (("Content-Range", where),))

    def _body(self) -> bytes:
        body = self.whole_body()
        coded = self.headers.get("Content-Encoding") == "gzip"
        stored = urlsplit(self.path).path.startswith("/storage/")
        return gzip.decompress(body) if coded and not stored else body


def _graphql(state: WandbServer, asked: Mapping[str, Any]) -> Answer:
    of = f"in {asked['query']}"
    try:
        with complaining(state.complaints, of, RefusalError):
            document = parse(asked["query"])
            roots = {"query": query_root, "mutation": mutation_root}
            root = roots[document.kind](state, state.url)
            data = execute(document, root, asked.get("variables") or {})
    except RefusalError as refusal:
        return json_answer(refusal.status, {"errors": [{"message": str(refusal)}]})
    except NonsenseError as error:
        message = str(error.__cause__)
        return json_answer(400, {"errors": [{"message": message}]})
    return json_answer(200, {"data": data})


def _file_stream(
    state: WandbServer, words: list[str], body: bytes, lie: Forget | None
) -> Answer:
    run: Run | None = state.runs.get((words[0], words[1], words[2]))
    if run is None:
        return json_answer(404, {"error": "run not found"})
    filestream.receive(run, json.loads(body), keep=lie.keep if lie else None)
    return json_answer(200, {"exitcode": None, "limits": {}})


def _hex_word(words: list[str]) -> str:
    return next((w for w in words if re.fullmatch(r"[0-9a-f]{32}", w)), "")
