"""A project at a Neptune server of the 3.x API."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from threading import Lock
from typing import Any

from mlmigrate.artifacts import short
from mlmigrate.errors import ItemError, StoreError, StoreNotFound, translated
from mlmigrate.neptune_runs.attributes import ContainerKind, Scalar
from mlmigrate.neptune_runs.mapping import FORMAT, FORMAT_PATH, LATEST
from mlmigrate.stores.neptune_server import silence
from mlmigrate.stores.neptune_server.access import TOKEN, Place, check_access
from mlmigrate.stores.neptune_server.operations import Assign, Operation, Upload
from mlmigrate.stores.neptune_server.server import Entry, Fetched
from mlmigrate.stores.neptune_server.v3.asking import asked, connected
from mlmigrate.stores.neptune_server.v3.fetching import fetch, scalar_of
from mlmigrate.stores.neptune_server.v3.operations import moment, requests
from mlmigrate.stores.neptune_server.v3.storage import Storage

#: Runs of one page of a listing.
_ENTRIES = 500
#: Requests of which is asked at once what became of them, as the client has it.
_STATUSES = 1000
#: Seconds in which the server is to say what became of a request.
_PATIENCE = 300.0
_LONGEST_WAIT = 1.0
_ID = "sys/custom_run_id"
#: It has what it was sent: where an answer was lost it was sent again.
_HARMLESS = ("OK", "RUN_DUPLICATE", "SERIES_POINT_DUPLICATE")
_NO_MODELS = "Neptune 3.x has no models"


class Client3:
    """One project; see `mlmigrate.stores.neptune_server.server.Server`."""

    has_models = False
    only_grows = True
    lowest_step = 0
    #: A project has no attributes: a run of its own tells of experiments and models.
    teller = "mlmigrate"

    def __init__(self, place: Place) -> None:
        """Reach the project.

        Raises:
            StoreError: no server can be reached by the token, or it refuses us.
            StoreNotFound: it has no such project.
        """
        token = check_access("neptune_scale", "neptune3")
        self.place = place
        self._made: set[str] = set()
        self._lock = Lock()
        with ExitStack() as opened, translated(_unreachable, passing=(StoreError,)):
            from neptune_api.api.backend import get_project

            silence.hold()
            opened.callback(silence.release)
            self._api: Any = connected(token)
            opened.callback(self._api.close)
            self.backend: Any = self._api.backend
            answer = asked(
                place.name,
                lambda: get_project.sync_detailed(
                    client=self.backend, project_identifier=place.name
                ),
                passing=(404,),
            )
            if answer.status_code == 404:
                raise StoreNotFound(
                    f"{place}: the server has no such project, or shows it to others"
                    " only: make it there, or give another"
                )
            self.storage = Storage(self._api, place.name)
            opened.callback(self.storage.close)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Release everything. May be called twice."""
        self._opened.close()

    def address(self, id: str) -> str:
        """Return by what questions name a run."""
        return f"CUSTOM/{self.place.name}/{id}"

    def may_be_absent(self, id: str) -> bool:
        """Tell whether a run that shows nothing is one that is made, or was just."""
        return id == self.teller or id in self._made

    # -- what is there ----------------------------------------------------------

    def entries(self, kind: ContainerKind, columns: Sequence[str]) -> Iterator[Entry]:
        """See `Server.entries`; the run that tells of experiments is none."""
        with translated(
            lambda error: StoreError(f"{self.place}: {short(error)}"),
            passing=(StoreError,),
        ):
            offset = 0
            while True:
                page = self._page(columns, offset)
                for each in page.entries:
                    found = {a.name: scalar_of(a) for a in each.attributes}
                    values = {p: s.value for p, s in found.items() if s is not None}
                    id = values.get(_ID)
                    if isinstance(id, str) and not self._tells(id, values):
                        yield Entry(id, id, values)
                offset += len(page.entries)
                if not page.entries or offset >= page.matching_item_count:
                    return

    def _tells(self, id: str, values: dict[str, Any]) -> bool:
        return id == self.teller and values.get(FORMAT_PATH) == FORMAT

    def _page(self, columns: Sequence[str], offset: int) -> Any:
        from neptune_api.api.retrieval import search_leaderboard_entries_proto
        from neptune_api.models import SearchLeaderboardEntriesParamsDTO
        from neptune_api.proto.neptune_pb.api.v1.model.leaderboard_entries_pb2 import (
            ProtoLeaderboardEntriesSearchResultDTO,
        )

        wanted = ("sys/id", _ID, FORMAT_PATH, *columns)
        body = SearchLeaderboardEntriesParamsDTO.from_dict(
            {
                "attributeFilters": [{"path": path} for path in wanted],
                "pagination": {"limit": _ENTRIES, "offset": offset},
                "experimentLeader": False,
                "sorting": {
                    "dir": "ascending",
                    "sortBy": {"name": "sys/id", "type": "string"},
                },
            }
        )
        answer = asked(
            "its runs",
            lambda: search_leaderboard_entries_proto.sync_detailed(
                client=self.backend,
                project_identifier=self.place.name,
                type=["run"],
                body=body,
            ),
        )
        return ProtoLeaderboardEntriesSearchResultDTO.FromString(answer.content)

    def fetch(
        self,
        id: str,
        kind: ContainerKind,
        *,
        temporary: str | None = None,
        series_too: bool = True,
    ) -> Fetched:
        """See `Server.fetch`."""
        with translated(lambda error: ItemError(f"run {id}: {short(error)}")):
            return fetch(self, id, temporary=temporary, series_too=series_too)

    # -- what is made -----------------------------------------------------------

    def create_run(self, custom_id: str, created: int | None) -> str:
        """See `Server.create_run`."""
        from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import Run
        from neptune_api.proto.neptune_pb.ingest.v1.pub.ingest_pb2 import RunOperation

        with translated(lambda error: ItemError(f"run {custom_id}: {short(error)}")):
            run = Run(family=custom_id)
            if created is not None and 0 <= created <= LATEST:
                run.creation_time.CopyFrom(moment(created))
            operation = RunOperation(
                project=self.place.name, run_id=custom_id, create=run
            )
            refused = self._refused([self._submit(operation)])
        if refused:
            raise ItemError(f"run {custom_id}: {refused[0]}")
        self._made.add(custom_id)
        return custom_id

    def create_model(self, key: str) -> str:
        """See `Server.create_model`."""
        raise ItemError(_NO_MODELS)

    def create_version(self, model: str) -> str:
        """See `Server.create_version`."""
        raise ItemError(_NO_MODELS)

    def send(self, id: str, operations: Sequence[Operation]) -> list[str]:
        """See `Server.send`."""
        from neptune_api.proto.neptune_pb.ingest.v1.pub.ingest_pb2 import RunOperation

        wanted = list(operations)
        with self._lock:
            if id == self.teller and id not in self._made:
                self.create_run(id, None)
                wanted.insert(0, Assign(FORMAT_PATH, Scalar("int", FORMAT)))
        with translated(lambda error: ItemError(f"run {id}: {short(error)}")):
            uploads = [each for each in wanted if isinstance(each, Upload)]
            # An attribute tells of a file once that is there.
            files = self.storage.upload(id, uploads)
            sent = [
                self._submit(
                    RunOperation(project=self.place.name, run_id=id, update_batch=batch)
                )
                for batch in requests(wanted, files)
            ]
            return self._refused(sent)

    def _submit(self, operation: Any) -> str:
        """Send a request; return by what is asked what became of it."""
        from neptune_api.proto.neptune_pb.ingest.v1.pub.client_pb2 import SubmitResponse

        answer = asked(
            f"run {operation.run_id}",
            lambda: self._api.submit(operation, operation.run_id),
        )
        found = SubmitResponse.FromString(answer.content)
        return str(found.request_ids[-1] if found.request_ids else found.request_id)

    def _refused(self, sent: Sequence[str]) -> list[str]:
        """Return what the server refused of requests, once it has dealt with all.

        Raises:
            ItemError: it does not say what became of them.
        """
        from neptune_api.proto.google_rpc.code_pb2 import Code
        from neptune_api.proto.neptune_pb.ingest.v1.ingest_pb2 import IngestCode
        from neptune_api.proto.neptune_pb.ingest.v1.pub.client_pb2 import (
            BulkRequestStatus,
        )

        refused: dict[str, list[str]] = {}
        left = list(sent)
        deadline, wait = time.monotonic() + _PATIENCE, 0.01
        while left:
            part = left[:_STATUSES]
            answer = asked(
                "what became of it",
                partial(self._api.check_batch, part, self.place.name),
            )
            statuses = BulkRequestStatus.FromString(answer.content).statuses
            waiting = []
            for request, status in zip(part, statuses, strict=True):
                codes = status.code_by_count
                if any(each.code == Code.UNAVAILABLE for each in codes):
                    waiting.append(request)
                    continue
                bad = [
                    IngestCode.Name(each.detail)
                    if each.detail
                    else Code.Name(each.code)
                    for each in codes
                    if each.code != Code.OK
                ]
                if bad := [name for name in bad if name not in _HARMLESS]:
                    refused[request] = bad
            left = waiting + left[_STATUSES:]
            if waiting:
                if time.monotonic() > deadline:
                    raise ItemError("the server does not say what became of it")
                time.sleep(wait)
                wait = min(wait * 2, _LONGEST_WAIT)
        return self._details(refused) if refused else []

    def _details(self, refused: dict[str, list[str]]) -> list[str]:
        """Return which paths were refused, and why; only why where that is all that
        the server tells.
        """
        from neptune_api.api.ingestion import check_details
        from neptune_api.proto.neptune_pb.ingest.v1.ingest_pb2 import IngestCode
        from neptune_api.proto.neptune_pb.ingest.v1.pub import client_pb2 as pb
        from neptune_api.types import File

        ids = [pb.RequestId(value=id) for id in refused]
        body = pb.BulkCheckDetail(project=self.place.name, ids=ids).SerializeToString()
        try:
            answer = asked(
                "what was refused",
                lambda: check_details.sync_detailed(
                    client=self.backend,
                    project_identifier=self.place.name,
                    body=File(payload=body),
                ),
            )
        except ItemError:
            return [name for names in refused.values() for name in names]
        details = pb.BulkIngestResultDetail.FromString(answer.content).details
        said = [(each.path, IngestCode.Name(each.ingest_code)) for each in details]
        return [
            f"{path}: {name}" if path else name
            for path, name in said
            if name not in _HARMLESS
        ] or [name for names in refused.values() for name in names]


def _unreachable(error: Exception) -> StoreError:
    return StoreError(f"the Neptune server that {TOKEN} leads to: {short(error)}")
