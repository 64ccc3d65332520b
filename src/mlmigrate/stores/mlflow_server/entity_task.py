"""What is to be made at a server of an entity's rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mlmigrate.stores.mlflow_server.rest import Json, Rest, creating

#: The rows to write, by table, each as its columns.
_Said: TypeAlias = "Mapping[str, Sequence[Mapping[str, Any]]]"


@dataclass(frozen=True, slots=True)
class Task:
    """An entity to be made, or one that stands and lacks some rows."""

    rest: Rest
    name: str
    home: str  # the id of its experiment; empty where it has none
    said: _Said
    standing: Json | None  # what the server tells of it
    find: Callable[[], Json | None]  # looks for it anew

    def rows(self, table: str) -> Sequence[Mapping[str, Any]]:
        """Return the rows of a table that are to be written."""
        return self.said.get(table, ())

    def made(self, path: str, field: str, body: Json) -> Json:
        """Return the server's answer on the entity, which is created if need be."""
        if self.standing is not None:
            return self.standing

        def create() -> Json:
            answer = self.rest.create(path, body)
            found: Json = answer[field] if field else answer
            return found

        return creating(create, self.find)
