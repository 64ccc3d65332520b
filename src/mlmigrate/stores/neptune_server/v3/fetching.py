"""A run as the server has it: its attributes, its series and its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from mlmigrate.errors import ItemError
from mlmigrate.neptune_runs.attributes import (
    MILLIONTHS,
    Scalar,
    ScalarType,
)
from mlmigrate.neptune_runs.steps import shown
from mlmigrate.stores.neptune_server.gathering import Gathered
from mlmigrate.stores.neptune_server.server import Fetched, Opener
from mlmigrate.stores.neptune_server.v3.asking import asked

if TYPE_CHECKING:
    from mlmigrate.stores.neptune_server.v3.client import Client3

_SCALARS: Mapping[str, tuple[ScalarType, str]] = {
    "float": ("float", "float_properties"),
    "int": ("int", "int_properties"),
    "bool": ("bool", "bool_properties"),
    "string": ("string", "string_properties"),
    "datetime": ("datetime", "datetime_properties"),
    "stringSet": ("string_set", "string_set_properties"),
}
_SERIES = ("stringSeries", "histogramSeries", "fileRefSeries")
#: Of these the server tells nothing.
_NOTHING = ("experimentState",)
#: Attributes of one page, as Neptune's own reader has it.
_ATTRIBUTES = 10_000
#: Series of one request, and points of its answer.
_TOGETHER = 500
_POINTS = 500_000


def scalar_of(attribute: Any) -> Scalar | None:
    """Return the one value of an attribute, None where it has another kind of value."""
    known = _SCALARS.get(attribute.type)
    if known is None:
        return None
    type, properties = known
    value = getattr(attribute, properties).value
    return Scalar(type, tuple(sorted(value)) if type == "string_set" else value)


def fetch(
    client: Client3, id: str, *, temporary: str | None, series_too: bool
) -> Fetched:
    """Read a run: see `Server.fetch`."""
    run = Gathered()
    attributes = list(_attributes(client, id))
    if not attributes and not client.may_be_absent(id):
        raise ItemError(f"run {id} is not there")
    floats: list[str] = []
    others: list[str] = []
    refs: dict[str, Any] = {}
    for found in attributes:
        path, type = str(found.name), str(found.type)
        scalar = scalar_of(found)
        if scalar is not None:
            run.scalars[path] = scalar
        elif type == "fileRef":
            refs[path] = found.file_ref_properties
        elif type == "floatSeries":
            floats.append(path)
        elif type in _SERIES:
            others.append(path)
        elif type not in _NOTHING:
            run.unknown[path] = type
    if series_too:
        _add_floats(client, id, floats, run)
        refs |= _add_others(client, id, others, run)
    _add_files(client, refs, run, temporary, weighed=series_too)
    paths = [str(found.name) for found in attributes]
    return run.whole(client.place, "run", id, id, paths)


def _attributes(client: Client3, id: str) -> Iterator[Any]:
    from neptune_api.api.retrieval import query_attributes_within_project_proto
    from neptune_api.models import QueryAttributesBodyDTO
    from neptune_api.proto.neptune_pb.api.v1.model.attributes_pb2 import (
        ProtoQueryAttributesResultDTO,
    )

    page: dict[str, Any] = {"limit": _ATTRIBUTES}
    while True:
        said = {"experimentIdsFilter": [client.address(id)], "nextPage": page}
        body = QueryAttributesBodyDTO.from_dict(said)
        answer = asked(
            f"attributes of run {id}",
            partial(
                query_attributes_within_project_proto.sync_detailed,
                client=client.backend,
                body=body,
                project_identifier=client.place.name,
            ),
        )
        found = ProtoQueryAttributesResultDTO.FromString(answer.content)
        for entry in found.entries:
            yield from entry.attributes
        if not found.nextPage.nextPageToken:
            return
        page = {"limit": _ATTRIBUTES, "nextPageToken": found.nextPage.nextPageToken}


def _asking_for(client: Client3, id: str, paths: Sequence[str]) -> list[Any]:
    """Return a request for each series: also for what it has from runs that this one
    was forked from, and previews, that these can be told.
    """
    return [
        {
            "requestId": str(number),
            "series": {
                "holder": {"identifier": client.address(id), "type": "experiment"},
                "attribute": path,
                "lineage": "FULL",
                "lineageEntityType": "RUN",
                "includePreview": True,
            },
        }
        for number, path in enumerate(paths)
    ]


def _add_floats(client: Client3, id: str, paths: list[str], run: Gathered) -> None:
    for begin in range(0, len(paths), _TOGETHER):
        part = paths[begin : begin + _TOGETHER]
        for path, found in zip(part, _points(client, id, part), strict=True):
            points = [point for point in reversed(found) if not point.is_preview]
            if len(points) < len(found):
                count = len(found) - len(points)
                run.notes.append(f"{path}: {count} previews of points are left out")
            if points:
                run.add_points(
                    path,
                    [point.step for point in points],
                    [point.timestamp_millis for point in points],
                    [point.value for point in points],
                )


def _points(client: Client3, id: str, paths: list[str]) -> list[list[Any]]:
    """Return the points of each series, the last first, as Neptune's own reader asks
    for them.
    """
    from neptune_api.api.retrieval import get_multiple_float_series_values_proto
    from neptune_api.models import FloatTimeSeriesValuesRequest
    from neptune_api.proto.neptune_pb.api.v1.model.series_values_pb2 import (
        ProtoFloatSeriesValuesResponseDTO,
    )

    found: list[list[Any]] = [[] for _ in paths]
    left = _asking_for(client, id, paths)
    while left:
        limit = max(1, _POINTS // len(left))
        body = FloatTimeSeriesValuesRequest.from_dict(
            {
                "requests": left,
                "stepRange": {"from": None, "to": None},
                "order": "descending",
                "perSeriesPointsLimit": limit,
            }
        )
        answer = asked(
            f"series of run {id}",
            partial(
                get_multiple_float_series_values_proto.sync_detailed,
                client=client.backend,
                body=body,
            ),
        )
        more: dict[str, float] = {}
        for each in ProtoFloatSeriesValuesResponseDTO.FromString(answer.content).series:
            values = each.series.values
            found[int(each.requestId)] += values
            if len(values) >= limit:
                more[each.requestId] = values[-1].step
        left = [
            {**request, "afterStep": more[request["requestId"]]}
            for request in left
            if request["requestId"] in more
        ]
    return found


def _add_others(
    client: Client3, id: str, paths: list[str], run: Gathered
) -> dict[str, Any]:
    """Add series of texts and of histograms as lines; return the files in series, by
    their steps.
    """
    refs: dict[str, Any] = {}
    for begin in range(0, len(paths), _TOGETHER):
        part = paths[begin : begin + _TOGETHER]
        for path, points in zip(part, _objects(client, id, part), strict=True):
            points.reverse()
            lines = [point for point in points if not point.object.HasField("fileRef")]
            if lines:
                run.add_lines(
                    path,
                    [point.step for point in lines],
                    [point.timestamp_millis for point in lines],
                    [_line(point.object) for point in lines],
                )
            for point in points:
                if point.object.HasField("fileRef"):
                    ending = PurePosixPath(point.object.fileRef.path).suffix
                    step = shown(round(point.step * MILLIONTHS))
                    refs[f"{path}/{step}{ending}"] = point.object.fileRef
    return refs


def _line(value: Any) -> Any:
    if not value.HasField("histogram"):
        return str(value.stringValue)
    histogram = value.histogram
    return {
        "type": str(histogram.type),
        "edges": list(histogram.edges),
        "values": list(histogram.values),
    }


def _objects(client: Client3, id: str, paths: list[str]) -> list[list[Any]]:
    """Return the points of each series, likewise."""
    from neptune_api.api.retrieval import get_series_values_proto
    from neptune_api.models import SeriesValuesRequest
    from neptune_api.proto.neptune_pb.api.v1.model.series_values_pb2 import (
        ProtoSeriesValuesResponseDTO,
    )

    found: list[list[Any]] = [[] for _ in paths]
    left = _asking_for(client, id, paths)
    while left:
        body = SeriesValuesRequest.from_dict(
            {
                "requests": left,
                "stepRange": {"from": None, "to": None},
                "order": "descending",
            }
        )
        answer = asked(
            f"series of run {id}",
            partial(
                get_series_values_proto.sync_detailed,
                client=client.backend,
                body=body,
                use_deprecated_string_fields=False,
            ),
        )
        said = ProtoSeriesValuesResponseDTO.FromString(answer.content).series
        after: dict[str, str | None] = {}
        for each in said:
            found[int(each.requestId)] += each.seriesValues.values
            if not each.HasField("searchAfter"):
                after[each.requestId] = None  # it had no room in this answer
            elif not each.searchAfter.finished:
                after[each.requestId] = each.searchAfter.token
        if not any(each.HasField("searchAfter") for each in said):
            return found  # nor has what follows: the server knows no more
        left = [
            _next(r, after[r["requestId"]]) for r in left if r["requestId"] in after
        ]
    return found


def _next(request: Mapping[str, Any], token: str | None) -> dict[str, Any]:
    kept = {key: said for key, said in request.items() if key != "searchAfter"}
    if token is not None:
        kept["searchAfter"] = {"finished": False, "token": token}
    return kept


def _add_files(
    client: Client3,
    refs: Mapping[str, Any],
    run: Gathered,
    temporary: str | None,
    *,
    weighed: bool,
) -> None:
    """Add files; where they are *weighed*, only such as are stored whole."""
    places = [ref.path for ref in refs.values()]
    sizes = client.storage.sizes(places) if weighed else {}
    for path, ref in refs.items():
        size = int(ref.sizeBytes)
        there = sizes.get(ref.path) if weighed else size
        if there == size:
            run.files[path] = (size, _opener(client, ref.path, size, temporary))
            continue
        has = "nothing" if there is None else f"{there} of {size} bytes"
        run.problems.append(f"{path}: Neptune stores {has} of its file: left out")


def _opener(client: Client3, path: str, size: int, temporary: str | None) -> Opener:
    return lambda: client.storage.open(path, size, temporary=temporary)
