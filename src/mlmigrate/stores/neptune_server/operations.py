"""What makes a run at a server as it is to be: operations in no client's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from mlmigrate.neptune_runs.attributes import FloatSeries, Scalar, ScalarType
from mlmigrate.neptune_runs.items import text_of

#: Points of one operation.
_POINTS = 1000


@dataclass(frozen=True, slots=True)
class Assign:
    """Put one value there, which is no set."""

    path: str
    scalar: Scalar


@dataclass(frozen=True, slots=True)
class AddWords:
    """Add members to a set of strings, which need not be there."""

    path: str
    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class RemoveWords:
    """Take members out of a set of strings."""

    path: str
    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class Delete:
    """Let nothing be read any more of an attribute, which is there.

    A server that deletes none (`Server.only_grows`) empties a string, and leaves all
    else: whoever reads it must not mind it.
    """

    path: str
    type: ScalarType | Literal["file", "float_series"]


@dataclass(frozen=True, slots=True, eq=False)
class LogPoints:
    """Add points behind the last of a series, which need not be there."""

    path: str
    points: FloatSeries


@dataclass(frozen=True, slots=True)
class Upload:
    """Put a file there."""

    path: str
    file: Path


Operation: TypeAlias = Assign | AddWords | RemoveWords | Delete | LogPoints | Upload


def changes(
    wanted: Mapping[str, Scalar], held: Mapping[str, Scalar]
) -> Iterator[Operation]:
    """Yield what makes single values those that are wanted.

    To sets is only added: what people put there stays.
    """
    for path, scalar in wanted.items():
        there = held.get(path)
        if is_equal(scalar, there):
            continue
        if isinstance(scalar.value, tuple):
            if lacking := frozenset(scalar.value) - _words(there):
                yield AddWords(path, lacking)
            continue
        if there is not None and there.type != scalar.type:
            yield Delete(path, there.type)
        yield Assign(path, scalar)


def removals(
    wanted: Mapping[str, Scalar],
    held: Mapping[str, Scalar],
    own: Mapping[str, Set[str]],
) -> Iterator[Operation]:
    """Yield what takes those words out of sets that mlmigrate put there, and that are
    no longer wanted.
    """
    for path, words in own.items():
        stale = words & _words(held.get(path)) - _words(wanted.get(path))
        if stale:
            yield RemoveWords(path, frozenset(stale))


def _words(scalar: Scalar | None) -> Set[str]:
    return set(scalar.value) if scalar and isinstance(scalar.value, tuple) else set()


def is_equal(wanted: Scalar, held: Scalar | None) -> bool:
    """Tell whether what is there reads as what is wanted: people may have put a number
    where mlmigrate puts its text.
    """
    if held is None or wanted.type != "string":
        return wanted == held
    return held.type != "string_set" and text_of(held) == wanted.value


def points(
    wanted: Mapping[str, FloatSeries], held: Mapping[str, FloatSeries]
) -> Iterator[Operation]:
    """Yield what makes series those that are wanted: what they lack at their end, or
    all of them anew.

    Where series only grow, those that are wanted begin with those that are there.
    """
    for path, series in wanted.items():
        there = held.get(path)
        begin = 0
        if there is not None and len(there.steps):
            if same(series, there):
                continue
            begin = len(there.steps)
            if not same(_part(series, 0, begin), there):
                yield Delete(path, "float_series")
                begin = 0
        for at in range(begin, len(series.steps), _POINTS):
            yield LogPoints(path, _part(series, at, at + _POINTS))


def _part(series: FloatSeries, begin: int, end: int) -> FloatSeries:
    part = slice(begin, end)
    return FloatSeries(series.steps[part], series.timestamps[part], series.values[part])


def same(one: FloatSeries, other: FloatSeries) -> bool:
    """Tell whether two series have the same points, bit for bit."""
    return (
        np.array_equal(one.steps, other.steps)
        and np.array_equal(one.timestamps, other.timestamps)
        and np.array_equal(one.values.view(np.int64), other.values.view(np.int64))
    )


def assign_text(path: str, text: str) -> Operation:
    """Return what puts a string there."""
    return Assign(path, Scalar("string", text))
