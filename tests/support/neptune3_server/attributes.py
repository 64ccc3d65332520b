"""What a run of 3.x can hold besides what one of 2.x can."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..neptune_server.attributes import Atom, Attribute, Point, Series, StringSet

__all__ = [
    "Atom",
    "Attribute",
    "FileRef",
    "Histogram",
    "Point",
    "Preview",
    "Series",
    "StoredFile",
    "StringSet",
]


@dataclass(frozen=True)
class FileRef:
    """Where a file is in the project's storage, and what its sender said of it."""

    path: str
    size: int
    mime_type: str
    type = "fileRef"

    def properties(self) -> dict[str, Any]:
        """Return what there is to compare with."""
        return {"size": self.size}


@dataclass(frozen=True)
class Histogram:
    """A point of a histogram series, of the kind `COUNTING` or `DENSITY`."""

    edges: tuple[float, ...]
    values: tuple[float, ...]
    kind: str = "COUNTING"


class Preview(NamedTuple):
    """A point that a later one may replace; the time is in milliseconds."""

    step: float
    value: float
    timestamp: int
    completion: float


@dataclass
class StoredFile:
    """A file in a project's storage; before all has come, it is not there."""

    data: bytes
    mime_type: str = "application/octet-stream"
    #: How many requests it took to bring it.
    requests: int = field(default=1, compare=False)
