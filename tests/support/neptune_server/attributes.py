"""What a run can hold: its attributes, and how they are told to a client."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple


class Point(NamedTuple):
    """One point of a series; the time is in milliseconds."""

    step: float
    value: Any
    timestamp: int


@dataclass
class Atom:
    """One value of the type `float`, `int`, `bool`, `string`, `datetime` or
    `experimentState`; a time is in milliseconds.
    """

    type: str
    value: Any

    def properties(self) -> dict[str, Any]:
        """Return what a client is told of it."""
        time = self.type == "datetime"
        return {"value": iso_time(self.value) if time else as_json(self.value)}


@dataclass
class StringSet:
    """Strings in the order in which they came."""

    values: dict[str, None] = field(default_factory=dict)
    type = "stringSet"

    def properties(self) -> dict[str, Any]:
        """Return what a client is told of it."""
        return {"values": list(self.values)}


@dataclass(frozen=True)
class Image:
    """A file of a file series."""

    data: bytes
    name: str | None = None
    description: str | None = None


@dataclass
class Series:
    """Columns of a `floatSeries`, a `stringSeries` or an `imageSeries`."""

    type: str
    steps: list[float] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    timestamps: list[int] = field(default_factory=list)
    #: The `min`, `max` and `unit` of a configured series.
    config: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def points(self) -> Iterator[Point]:
        """Yield its points."""
        return map(Point, self.steps, self.values, self.timestamps)

    def append(self, step: float, value: Any, timestamp: int) -> None:
        """Add one point, whatever it is."""
        self.steps.append(step)
        self.values.append(value)
        self.timestamps.append(timestamp)

    def properties(self) -> dict[str, Any]:
        """Return what a client is told of it besides its points."""
        last = {"lastStep": self.steps[-1] if self.steps else None}
        if self.type != "imageSeries":
            last["last"] = as_json(self.values[-1]) if self.values else None
        return {**last, **self.config}


@dataclass
class File:
    """One uploaded file."""

    data: bytes
    ext: str = ""
    type = "file"

    def name(self, path: str) -> str:
        """Return what it is called as the attribute at a path."""
        last = path.rpartition("/")[2]
        return f"{last}.{self.ext}" if self.ext else last

    def properties(self) -> dict[str, Any]:
        """Return what a client is told of it."""
        return {"ext": self.ext, "size": len(self.data)}


@dataclass
class FileSet:
    """Files by their paths; a path with a slash at its end is an empty folder."""

    files: dict[str, bytes] = field(default_factory=dict)
    type = "fileSet"

    def properties(self) -> dict[str, Any]:
        """Return what a client is told of it."""
        return {"size": sum(map(len, self.files.values()))}


@dataclass
class Artifact:
    """A version of an artifact; its list of files is the project's."""

    hash: str
    type = "artifact"

    def properties(self) -> dict[str, Any]:
        """Return what a client is told of it."""
        return {"hash": self.hash}


@dataclass
class GitRef:
    """The commit that a run was made from, as the client told it."""

    info: dict[str, Any]
    type = "gitRef"

    def properties(self) -> dict[str, Any]:
        """Return what a client is told of it."""
        return self.info


Attribute = Atom | StringSet | Series | File | FileSet | Artifact | GitRef


def frozen(attribute: Attribute) -> Attribute:
    """Return a copy that stays as it is when the attribute changes."""
    if isinstance(attribute, Series):
        return replace(
            attribute,
            steps=[*attribute.steps],
            values=[*attribute.values],
            timestamps=[*attribute.timestamps],
            config={**attribute.config},
        )
    if isinstance(attribute, StringSet):
        return StringSet({**attribute.values})
    if isinstance(attribute, FileSet):
        return FileSet({**attribute.files})
    return replace(attribute)


def properties_at(path: str, attribute: Attribute) -> dict[str, Any]:
    """Return what a client is told of the attribute at a path."""
    found = attribute.properties()
    if isinstance(attribute, File):
        found["name"] = attribute.name(path)
    return found


def told(path: str, attribute: Attribute) -> dict[str, Any]:
    """Return an attribute as it stands in a list of them."""
    properties = {
        "attributeName": path,
        "attributeType": attribute.type,
        **properties_at(path, attribute),
    }
    return {
        "name": path,
        "type": attribute.type,
        f"{attribute.type}Properties": properties,
    }


def as_json(value: Any) -> Any:
    """
    Return a value as JSON can say it: what is not a number becomes null.

    It is refused when it is sent, so it can only be planted; how the real server would
    tell of it is not known.
    """
    return None if isinstance(value, float) and math.isnan(value) else value


def iso_time(milliseconds: int) -> str:
    """Write a time as the API does."""
    whole, rest = divmod(milliseconds, 1000)
    time = datetime.fromtimestamp(whole, UTC)
    return f"{time:%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"
