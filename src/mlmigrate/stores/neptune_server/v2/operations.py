"""Operations as the client of 2.x has them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from mlmigrate.neptune_runs.attributes import Scalar
from mlmigrate.neptune_runs.steps import floating
from mlmigrate.stores.neptune_server.operations import (
    AddWords,
    Assign,
    Delete,
    LogPoints,
    Operation,
    RemoveWords,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The client cuts what is below a millisecond, and what a float makes of it.
_HALF = timedelta(microseconds=500)


def of_client(operation: Operation) -> Any:
    """Return an operation as the client does it."""
    from neptune.internal import operation as op

    parts = operation.path.split("/")
    if isinstance(operation, Assign):
        return _assigned(parts, operation.scalar)
    if isinstance(operation, AddWords):
        return op.AddStrings(parts, set(operation.words))
    if isinstance(operation, RemoveWords):
        return op.RemoveStrings(parts, set(operation.words))
    if isinstance(operation, Delete):
        return op.DeleteAttribute(parts)
    if isinstance(operation, LogPoints):
        return op.LogFloats(parts, list(_points(operation)))
    ending = PurePosixPath(operation.path).suffix.removeprefix(".")
    file = str(operation.file.absolute())
    return op.UploadFile(parts, ext=ending, file_path=file)


def _assigned(parts: list[str], scalar: Scalar) -> Any:
    from neptune.internal import operation as op

    value = scalar.value
    if scalar.type == "datetime" and isinstance(value, int):
        moment = _EPOCH + timedelta(milliseconds=value) + _HALF
        return op.AssignDatetime(parts, moment)
    if isinstance(value, bool):
        return op.AssignBool(parts, value)
    if isinstance(value, int):
        return op.AssignInt(parts, value)
    if isinstance(value, float):
        return op.AssignFloat(parts, value)
    assert isinstance(value, str)  # sets are added to, not assigned
    return op.AssignString(parts, value)


def _points(operation: LogPoints) -> Iterator[Any]:
    from neptune.internal import operation as op

    points = operation.points
    steps = floating(points.steps)
    times = (points.timestamps + 0.5) / 1000  # seconds; see `_HALF`
    for step, time, value in zip(
        steps.tolist(), times.tolist(), points.values.tolist(), strict=True
    ):
        yield op.LogSeriesValue(value, step, time)
