"""What comes in at an endpoint, and what may go out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

from ..planted import Answer, Lie, json_answer

BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Request:
    """A request to an endpoint."""

    query: Mapping[str, list[str]]
    headers: Message
    body: bytes

    def __getitem__(self, name: str) -> str:
        """Return a parameter that must be there."""
        if name not in self.query:
            raise RefusalError(400, "BAD_REQUEST", f"{name} is missing")
        return self.query[name][0]

    def get(self, name: str, default: str = "") -> str:
        """Return a parameter that may be there."""
        return self.query.get(name, [default])[0]

    @property
    def json(self) -> Any:
        """The body's contents."""
        return json.loads(self.body)


class RefusalError(Exception):
    """A request that is answered with an error, of a type that the client knows."""

    def __init__(self, status: int, type: str = "", title: str = "") -> None:
        super().__init__(title or type)
        self.status = status
        self.type = type

    def answer(self) -> Answer:
        """Return what goes out."""
        said = {"code": self.status, "errorType": self.type, "title": str(self)}
        return json_answer(self.status, said)


def file_answer(data: bytes, name: str, kind: str = BYTES) -> Answer:
    """Return an answer that is a file."""
    # UTF-8, in a header that http.server takes for Latin-1.
    quoted = name.replace('"', "").encode().decode("latin-1")
    headers = (("Content-Disposition", f'attachment; filename="{quoted}"'),)
    return Answer(200, data, kind, headers)


@dataclass(frozen=True, slots=True)
class Deny(Lie):
    """An error of the server's own, of a type that the client knows, or none."""

    status: int
    type: str = ""
    title: str = ""

    def answer(self) -> Answer:
        """Return what goes out."""
        return RefusalError(self.status, self.type, self.title).answer()
