"""Operations as messages of the protocol."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlmigrate.neptune_runs.attributes import MILLIONTHS, Scalar
from mlmigrate.stores.neptune_server.operations import (
    AddWords,
    Assign,
    Delete,
    LogPoints,
    Operation,
    RemoveWords,
    Upload,
)

#: Bytes of one request: the server takes 16 MB.
_REQUEST = 4 << 20
#: Values of one message: the server takes 2 MB, and no string of ours has a hundredth.
_VALUES = 1000
#: Nanoseconds: the server cuts what is below a millisecond.
_HALF = 500_000


def requests(
    operations: Iterable[Operation], files: Mapping[str, Any]
) -> Iterator[Any]:
    """Yield what does operations, each as large as a request may be.

    Args:
        operations: to be done, in turn.
        files: what tells where the file of each `Upload` is, by paths.
    """
    from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import UpdateRunSnapshots

    batch, size = UpdateRunSnapshots(), 0
    for snapshot in _snapshots(operations, files):
        bytes = snapshot.ByteSize() + 8
        if size and size + bytes > _REQUEST:
            yield batch
            batch, size = UpdateRunSnapshots(), 0
        batch.snapshots.append(snapshot)
        size += bytes
    if size:
        yield batch


def _snapshots(
    operations: Iterable[Operation], files: Mapping[str, Any]
) -> Iterator[Any]:
    points = []
    now = moment(time.time_ns() // 1_000_000)
    snapshot = _snapshot(timestamp=now)
    for number, operation in enumerate(operations, 1):
        if isinstance(operation, LogPoints):
            points.append(operation)
        else:
            _add(snapshot, operation, files)
        if number % _VALUES == 0 or snapshot.ByteSize() > _REQUEST // 16:
            yield from _filled(snapshot)
            snapshot = _snapshot(timestamp=now)
    yield from _filled(snapshot)
    yield from _points(points)


def _filled(snapshot: Any) -> Iterator[Any]:
    if snapshot.assign or snapshot.modify_sets:
        yield snapshot


def _add(snapshot: Any, operation: Operation, files: Mapping[str, Any]) -> None:
    from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import SET_OPERATION

    path = operation.path
    if isinstance(operation, Assign):
        snapshot.assign[path].CopyFrom(_value(operation.scalar))
    elif isinstance(operation, Upload):
        snapshot.assign[path].file_ref.CopyFrom(files[path])
    elif isinstance(operation, Delete):
        if operation.type == "string":
            snapshot.assign[path].string = ""
    elif isinstance(operation, AddWords | RemoveWords):
        adds = isinstance(operation, AddWords)
        change = SET_OPERATION.ADD if adds else SET_OPERATION.REMOVE
        for word in sorted(operation.words):
            snapshot.modify_sets[path].string.values[word] = change


def _value(scalar: Scalar) -> Any:
    from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import StringSet, Value

    value = scalar.value
    if isinstance(value, tuple):
        return Value(string_set=StringSet(values=value))
    if scalar.type == "datetime" and isinstance(value, int):
        return Value(timestamp=moment(value))
    if isinstance(value, bool):
        return Value(bool=value)
    if isinstance(value, int):
        return Value(int64=value)
    return Value(float64=value) if isinstance(value, float) else Value(string=value)


def _points(operations: Iterable[LogPoints]) -> Iterator[Any]:
    """Yield points: those of one step and time together, in the order of steps, which
    is that of each series.
    """
    together: dict[tuple[int, int], list[tuple[str, float]]] = {}
    for operation in operations:
        points = operation.points
        for step, at, value in zip(
            points.steps.tolist(),
            points.timestamps.tolist(),
            points.values.tolist(),
            strict=True,
        ):
            together.setdefault((step, at), []).append((operation.path, value))
    for step, at in sorted(together):
        values = together.pop((step, at))
        for begin in range(0, len(values), _VALUES):
            snapshot = _snapshot(timestamp=moment(at))
            whole, micro = divmod(step, MILLIONTHS)
            snapshot.step.whole, snapshot.step.micro = whole, micro
            for path, value in values[begin : begin + _VALUES]:
                snapshot.append[path].float64 = value
            yield snapshot


def _snapshot(timestamp: Any) -> Any:
    from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import UpdateRunSnapshot

    return UpdateRunSnapshot(timestamp=timestamp)


def moment(milliseconds: int) -> Any:
    """Return a time as the protocol has it."""
    from google.protobuf.timestamp_pb2 import Timestamp

    seconds, rest = divmod(milliseconds, 1000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000_000 + _HALF)
