"""W&B's values, which are JSON texts: leaves, numbers, times, and their names."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from mlmigrate.metrics import history
from mlmigrate.model import MetricHistory

#: The keys that lead to a value: one, or more where it is nested.
KeyPath: TypeAlias = tuple[str, ...]

#: The first key of what the client measured itself; no user can log it.
SYSTEM = "\0system"
#: Dicts nested deeper are values.
_DEEPEST = 50
#: W&B's own server reads these texts as numbers: JSON has none for them.
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Yield what is no dict, with its path; one with a ``_type`` (media, tables) or
    without keys is a value.
    """
    nested = isinstance(value, dict) and value and "_type" not in value
    if not nested or len(path) > _DEEPEST:
        yield path, value
        return
    for key, inner in value.items():
        yield from leaves(inner, (*path, key))


def number(value: Any) -> tuple[float, bool] | None:
    """Return a value as a float, and whether that is all of it: a bool is not, nor an
    integer that has more digits. None for what is no number.
    """
    if isinstance(value, str):
        return (_WORDS[value], True) if value in _WORDS else None
    if isinstance(value, bool):
        return float(value), False
    if isinstance(value, int):
        try:
            return float(value), int(float(value)) == value
        except OverflowError:
            return None
    return (value, True) if isinstance(value, float) else None


def text(value: Any) -> str:
    """Return a value as a param or a tag holds it: a text plain, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def millis(seconds: Any) -> int | None:
    """Return a time in whole milliseconds; None for what is no time."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    if not abs(seconds) < 2**52:
        return None
    return round(seconds * 1000)


def moment(timestamp: Mapping[str, Any] | None) -> int | None:
    """Return a protobuf ``Timestamp`` in milliseconds; None where there is none."""
    if not timestamp:
        return None
    seconds = timestamp.get("seconds", 0)
    found = seconds * 1000 + round(timestamp.get("nanos", 0) / 1_000_000)
    return found if abs(found) < 2**62 else None


def named(paths: Iterable[KeyPath]) -> tuple[dict[KeyPath, str], list[str]]:
    """Name paths, their keys joined by ``/``: of several that would bear one name, the
    later ones get ``~2``, ``~3``.

    Returns:
        The names, and those that were changed.
    """
    names: dict[KeyPath, str] = {}
    taken: set[str] = set()
    changed: list[str] = []
    for path in paths:
        plain = name = "/".join(path).removeprefix("\0")
        at = 2
        while name in taken:
            name, at = f"{plain}~{at}", at + 1
        if name != plain:
            changed.append(name)
        taken.add(name)
        names[path] = name
    return names, changed


class Points:
    """The points of one metric, in columns that grow in place: 24 bytes a point."""

    __slots__ = ("steps", "timestamps", "values")

    def __init__(self) -> None:
        self.steps, self.timestamps, self.values = array("q"), array("q"), array("d")

    def add(self, step: int, timestamp: int, value: float) -> None:
        """Add a point."""
        self.steps.append(step)
        self.timestamps.append(timestamp)
        self.values.append(value)

    def history(self, key: str) -> MetricHistory:
        """Return the points; from now on nothing grows."""
        return history(
            key,
            np.frombuffer(self.steps, dtype=np.int64),
            np.frombuffer(self.timestamps, dtype=np.int64),
            np.frombuffer(self.values, dtype=np.float64),
        )
