"""Locations: ``wandb://ENTITY/PROJECT``, or ``wandb://ENTITY`` for all projects."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from mlmigrate.errors import LocationError

PREFIX = "wandb://"


@dataclass(frozen=True, slots=True)
class Place:
    """An entity, and one of its projects or None for all of them."""

    entity: str
    project: str | None

    def __str__(self) -> str:
        return f"{PREFIX}{self.entity}/{self.project or ''}".rstrip("/")


def place_of(location: str) -> Place:
    """Return what a location names.

    Raises:
        LocationError: it is malformed.
    """
    words = location.removeprefix(PREFIX).rstrip("/").split("/")
    entity, *rest = (unquote(word).strip() for word in words)
    if not entity or len(rest) > 1 or "/" in entity or "" in rest:
        raise LocationError(
            f"{location} is not of the form wandb://ENTITY/PROJECT: the entity is a"
            " user or a team, as in the address of the project's page"
        )
    return Place(entity, rest[0] if rest else None)
