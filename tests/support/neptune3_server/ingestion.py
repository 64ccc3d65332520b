"""Requests that bring data, and those that ask what became of them."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..neptune_server.messages import RefusalError
from ..neptune_server.operations import Forget
from ..planted import Answer, Lie
from . import operations
from .state import Request, State

PROTOBUF = "application/x-protobuf"

#: How many details of what went wrong an answer holds.
_DETAILS = 1000


def message(found: Any) -> Answer:
    """Return an answer that is a message of the protocol."""
    return Answer(200, found.SerializeToString(), PROTOBUF)


def parse(body: bytes) -> Any:
    """Read what a client wants to be done to a run."""
    from neptune_api.proto.neptune_pb.ingest.v1.pub.ingest_pb2 import RunOperation

    return RunOperation.FromString(body)


def facts(operation: Any) -> dict[str, Any]:
    """Return by what a fault can be chosen: the run, and the paths it changes."""
    kind = operation.WhichOneof("operation")
    paths: list[str] = []
    for snapshot in _snapshots(operation):
        paths += [*snapshot.assign, *snapshot.modify_sets, *snapshot.append]
    return {
        "project": operation.project,
        "run_id": operation.run_id,
        "kind": "create" if kind == "create" else "update",
        "paths": [*dict.fromkeys(paths)],
    }


def ingest(state: State, operation: Any, size: int, lie: Lie | None) -> Answer:
    """Do what a client wants, and tell it by what name to ask for the outcome."""
    from neptune_api.proto.neptune_pb.ingest.v1.pub import client_pb2

    if size > state.request_limit or any(
        one.ByteSize() > state.operation_limit for one in _snapshots(operation)
    ):
        raise RefusalError(413, "REQUEST_TOO_LARGE", "No larger requests, please")
    id = str(uuid.uuid4())
    state.ingested[id] = Request(
        operation.project,
        _done(state, operation, lie),
        time.monotonic() + state.status_lag,
    )
    return message(client_pb2.SubmitResponse(request_id=id, request_ids=[id]))


def _done(state: State, operation: Any, lie: Lie | None) -> list[tuple[str, str]]:
    creates = operation.WhichOneof("operation") == "create"
    if isinstance(lie, operations.Reject):
        return [("", lie.code)]
    project = state.project(operation.project)
    if project is None:
        return [("", "PROJECT_NOT_FOUND")]
    forget = lie if isinstance(lie, Forget) else None
    if creates:
        if forget is not None and forget.covers(""):
            return [("", operations.OK)]
        return [
            (
                "",
                operations.create(state, project, operation.run_id, operation.create),
            )
        ]
    run = project.runs.get(operation.run_id)
    if run is None:
        return [("", operations.OK if forget else "RUN_NOT_FOUND")]
    with run.changing(state.lag):
        return [
            outcome
            for snapshot in _snapshots(operation)
            for outcome in operations.update(state, run, snapshot, forget)
        ]


def _snapshots(operation: Any) -> list[Any]:
    kind = operation.WhichOneof("operation")
    if kind == "update":
        return [operation.update]
    return [*operation.update_batch.snapshots] if kind == "update_batch" else []


def statuses(state: State, project: str, body: bytes) -> Answer:
    """Tell what became of requests."""
    from neptune_api.proto.neptune_pb.ingest.v1.pub import client_pb2

    asked = client_pb2.RequestIdList.FromString(body)
    found = [_status(state, project, one.value) for one in asked.ids]
    return message(client_pb2.BulkRequestStatus(statuses=found))


def status(state: State, project: str, query: Mapping[str, str]) -> Answer:
    """Tell what became of a request."""
    return message(_status(state, project, query["requestId"]))


def _status(state: State, project: str, id: str) -> Any:
    from neptune_api.proto.google_rpc.code_pb2 import Code
    from neptune_api.proto.neptune_pb.ingest.v1.ingest_pb2 import IngestCode
    from neptune_api.proto.neptune_pb.ingest.v1.pub.request_status_pb2 import (
        RequestStatus,
    )

    request = state.ingested.get(id)
    count = RequestStatus.CodeByCount
    if request is None or request.project != project:
        return RequestStatus(code_by_count=[count(code=Code.NOT_FOUND, count=1)])
    if time.monotonic() < request.known_from:
        return RequestStatus(code_by_count=[count(code=Code.UNAVAILABLE, count=1)])
    counts = Counter(code for _, code in request.codes)
    return RequestStatus(
        code_by_count=[
            count(
                code=Code.OK if code == operations.OK else Code.INVALID_ARGUMENT,
                count=number,
                detail=IngestCode.Value(code),
            )
            for code, number in counts.items()
        ]
    )


def details(state: State, body: bytes) -> Answer:
    """Tell which paths of requests were refused, and why."""
    from neptune_api.proto.neptune_pb.ingest.v1.ingest_pb2 import IngestCode
    from neptune_api.proto.neptune_pb.ingest.v1.pub import client_pb2

    asked = client_pb2.BulkCheckDetail.FromString(body)
    refused = [
        (one, path, code)
        for one in asked.ids
        if one.value in state.ingested
        for path, code in state.ingested[one.value].codes
        if code != operations.OK
    ]
    start = int(asked.next_cursor or 0)
    end = start + (asked.limit or _DETAILS)
    found = client_pb2.BulkIngestResultDetail(
        details=[
            client_pb2.IngestResultDetail(
                request_id=id, path=path, ingest_code=IngestCode.Value(code)
            )
            for id, path, code in refused[start:end]
        ],
        next_cursor=str(end) if end < len(refused) else "",
    )
    return message(found)
