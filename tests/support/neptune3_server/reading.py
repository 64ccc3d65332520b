"""Requests that read: runs and their attributes, and points of series."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..neptune_server import nql
from ..neptune_server.messages import RefusalError
from ..planted import Answer, json_answer
from .attributes import (
    Atom,
    Attribute,
    FileRef,
    Histogram,
    Point,
    Preview,
    Series,
    StringSet,
)
from .ingestion import message
from .state import Project, Run, State

_BASE = "/api/leaderboard/v1"
_PROTO = f"{_BASE}/proto"

#: Operations by their method and path, called as the client's functions for them are.
NAMES = {
    (
        "POST",
        f"{_PROTO}/leaderboard/entries/search/",
    ): "search_leaderboard_entries_proto",
    (
        "POST",
        f"{_PROTO}/leaderboard/entries/global/search/",
    ): "search_global_leaderboard_entries_proto",
    (
        "POST",
        f"{_PROTO}/leaderboard/attributes/query",
    ): "query_attributes_within_project_proto",
    (
        "POST",
        f"{_BASE}/leaderboard/attributes/definitions/query",
    ): "query_attribute_definitions_within_project",
    (
        "POST",
        f"{_PROTO}/attributes/series/float",
    ): "get_multiple_float_series_values_proto",
    ("POST", f"{_PROTO}/attributes/series"): "get_series_values_proto",
    ("POST", f"{_PROTO}/attributes/timeseries/buckets"): "get_timeseries_buckets_proto",
}

Query = Mapping[str, str]


def _search(state: State, query: Query, body: bytes, said: Any) -> Answer:
    project = state.project(query["projectIdentifier"])
    if project is None:
        raise RefusalError(404, "PROJECT_NOT_FOUND", query["projectIdentifier"])
    wanted = [one["path"] for one in said.get("attributeFilters") or ()]
    return _entries(state, _runs(project, said), said, wanted)


def _search_globally(state: State, query: Query, body: bytes, said: Any) -> Answer:
    runs = [run for one in state.projects.values() for run in _runs(one, said)]
    return _entries(state, runs, said, ["sys/id", "sys/name", "sys/custom_run_id"])


def _runs(project: Project, said: Any) -> list[Run]:
    among = project.heads() if said.get("experimentLeader") else project.runs
    return [run for run in among.values() if run.listed()]


def _entries(state: State, runs: Iterable[Run], said: Any, wanted: list[str]) -> Answer:
    from neptune_api.proto.neptune_pb.api.v1.model import leaderboard_entries_pb2 as pb

    try:
        meets = nql.parse((said.get("query") or {}).get("query", ""))
        seen = [(run, state.seen(run)) for run in runs]
        found = [(run, attributes) for run, attributes in seen if meets(attributes)]
    except (nql.SyntaxFault, re.error) as fault:
        raise RefusalError(400, "INCORRECT_QUERY", str(fault)) from None
    _sort(found, said.get("sorting"))
    pages = said.get("pagination") or {}
    start = pages.get("offset") or 0
    page = found[start : start + pages.get("limit", len(found))]
    return message(
        pb.ProtoLeaderboardEntriesSearchResultDTO(
            matching_item_count=len(found),
            entries=[
                pb.ProtoAttributesDTO(
                    experiment_id=run.id,
                    type="run",
                    project_id=run.project.id,
                    organization_id=run.project.workspace,
                    project_name=run.project.name,
                    organization_name=run.project.workspace,
                    attributes=[
                        _told(path, attributes[path])
                        for path in wanted
                        if path in attributes
                    ],
                )
                for run, attributes in page
            ],
        )
    )


def _sort(found: list[tuple[Run, dict[str, Attribute]]], sorting: Any) -> None:
    if not sorting:
        return
    by = sorting["sortBy"]
    mode = sorting.get("aggregationMode") or by.get("aggregationMode") or "last"

    def key(entry: tuple[Run, dict[str, Attribute]]) -> Any:
        found = entry[1].get(by["name"])
        if found is None or by.get("type", found.type) != found.type:
            return None
        if isinstance(found, Series):
            return _aggregates(found).get(mode)
        return found.value if isinstance(found, Atom) else None

    # Runs without the attribute come last, in either direction.
    with_it = [entry for entry in found if key(entry) is not None]
    without = [entry for entry in found if key(entry) is None]
    with_it.sort(key=key, reverse=sorting.get("dir") == "descending")
    found[:] = with_it + without


def _query(state: State, query: Query, body: bytes, said: Any) -> Answer:
    from neptune_api.proto.neptune_pb.api.v1.model import attributes_pb2 as pb

    project = state.project(query["projectIdentifier"])
    if project is None:
        raise RefusalError(404, "PROJECT_NOT_FOUND", query["projectIdentifier"])
    runs = _among(state, [project], said.get("experimentIdsFilter"))
    cells = [
        (run, path, attribute)
        for run in runs
        for path, attribute in sorted(state.seen(run).items())
        if _wanted(said, path, attribute)
    ]
    start, end = _page(said, len(cells))
    entries: dict[str, Any] = {}
    for run, path, attribute in cells[start:end]:
        entry = entries.setdefault(
            run.sys_id,
            pb.ProtoQueryAttributesExperimentResultDTO(
                experimentId=run.id, experimentShortId=run.sys_id
            ),
        )
        entry.attributes.append(_told(path, attribute))
    next_page = pb.ProtoNextPageDTO(limit=max(end - start, 0))
    if end < len(cells):
        next_page.nextPageToken = str(end)
    return message(
        pb.ProtoQueryAttributesResultDTO(entries=entries.values(), nextPage=next_page)
    )


def _definitions(state: State, query: Query, body: bytes, said: Any) -> Answer:
    names = said.get("projectIdentifiers") or [query.get("projectIdentifier", "")]
    projects = [found for name in names if (found := state.project(name)) is not None]
    found = {
        (path, attribute.type)
        for run in _among(state, projects, said.get("experimentIdsFilter"))
        for path, attribute in state.seen(run).items()
        if _wanted(said, path, attribute)
    }
    start, end = _page(said, len(found))
    entries = [{"name": name, "type": type} for name, type in sorted(found)[start:end]]
    next_page = {"limit": end - start}
    token = {"nextPageToken": str(end)} if end < len(found) else {}
    return json_answer(200, {"entries": entries, "nextPage": {**next_page, **token}})


def _among(
    state: State, projects: list[Project], identifiers: list[str] | None
) -> Iterator[Run]:
    if identifiers is None:
        for project in projects:
            yield from (run for run in project.runs.values() if run.listed())
        return
    for identifier in identifiers:
        run = state.run(identifier)
        if run is not None and run.listed():
            yield run


def _wanted(said: Any, path: str, attribute: Attribute) -> bool:
    types = [one["attributeType"] for one in said.get("attributeFilter") or ()]
    if types and attribute.type not in types:
        return False
    names = said.get("attributeNamesFilter")
    if names is not None and path not in names:
        return False
    alternatives = (said.get("attributeNameFilter") or {}).get("mustMatchAny")
    return not alternatives or any(
        all(re.search(one, path) for one in given.get("mustMatchRegexes") or ())
        and not any(re.search(o, path) for o in given.get("mustNotMatchRegexes") or ())
        for given in alternatives
    )


def _page(said: Any, count: int) -> tuple[int, int]:
    pages = said.get("nextPage") or {}
    start = int(pages.get("nextPageToken") or 0)
    return start, min(count, start + (pages.get("limit") or count))


def _float_points(state: State, query: Query, body: bytes, said: Any) -> Answer:
    from neptune_api.proto.neptune_pb.api.v1.model import series_values_pb2 as pb

    limit = said.get("perSeriesPointsLimit") or state.points_limit
    answer = pb.ProtoFloatSeriesValuesResponseDTO()
    for request in said["requests"]:
        run, path, points = _asked(state, request, "floatSeries")
        if run is None:
            continue
        if request["series"].get("includePreview"):
            points = points + run.previews.get(path, [])
        points = _in_order(points, said)
        if request.get("afterStep") is not None:
            points = _after(points, request["afterStep"], said)
        one = answer.series.add(requestId=request["requestId"])
        one.series.total_item_count = len(points)
        for point in points[:limit]:
            told = one.series.values.add(
                timestamp_millis=point.timestamp, step=point.step, value=point.value
            )
            if isinstance(point, Preview):
                told.is_preview = True
                told.completion_ratio = point.completion
            else:
                told.completion_ratio = 1.0
    return message(answer)


def _points(state: State, query: Query, body: bytes, said: Any) -> Answer:
    from neptune_api.proto.neptune_pb.api.v1.model import series_values_pb2 as pb

    tail = said.get("perSeriesPointsLimit")
    answer = pb.ProtoSeriesValuesResponseDTO()
    room = state.page_size
    for request in said["requests"]:
        run, _, points = _asked(state, request)
        if run is None:
            continue
        one = answer.series.add(requestId=request["requestId"])
        if not room:
            continue
        points = _in_order(points, said)[:tail]
        start = int((request.get("searchAfter") or {}).get("token") or 0)
        page = points[start : start + room]
        room -= len(page)
        for point in page:
            told = one.seriesValues.values.add(
                timestamp_millis=point.timestamp, step=point.step
            )
            _fill_point(told.object, point.value)
        one.searchAfter.token = str(start + len(page))
        one.searchAfter.finished = start + len(page) >= len(points)
    return message(answer)


def _asked(
    state: State, request: Any, type: str | None = None
) -> tuple[Run | None, str, list[Any]]:
    """Return the run, the path and the points that a request is about."""
    series = request["series"]
    run = state.run(series["holder"]["identifier"])
    path = series["attribute"]
    if run is None:
        return None, path, []
    found = {**run.inherited(), **run.shown()}.get(path)
    if not isinstance(found, Series) or (type and found.type != type):
        return None, path, []
    if series.get("lineage", "FULL") == "FULL":
        return run, path, run.history(path, shown=True)
    own = run.shown().get(path)
    return run, path, [*own.points] if isinstance(own, Series) else []


def _in_order(points: list[Any], said: Any) -> list[Any]:
    bounds = said.get("stepRange") or {}
    low, high = bounds.get("from"), bounds.get("to")
    found = [
        point
        for point in points
        if (low is None or low <= point.step) and (high is None or point.step <= high)
    ]
    return found[::-1] if said.get("order") == "descending" else found


def _after(points: list[Any], step: float, said: Any) -> list[Any]:
    if said.get("order") == "descending":
        return [point for point in points if point.step < step]
    return [point for point in points if point.step > step]


def _buckets(state: State, query: Query, body: bytes, said: Any) -> Answer:
    from neptune_api.proto.neptune_pb.api.v1.model import requests_pb2
    from neptune_api.proto.neptune_pb.api.v1.model import series_values_pb2 as pb

    asked = requests_pb2.ProtoGetTimeseriesBucketsRequest.FromString(body)
    found: list[tuple[str, list[Point]]] = []
    for expression in asked.expressions:
        path = re.sub(r"\\(.)", r"\1", expression.customYFormula[2:-1])
        run = state.run(expression.runId)
        points: list[Point] = []
        if run is not None and expression.lineage == 0:
            points = run.history(path, shown=True)
        elif run is not None:
            own = run.shown().get(path)
            points = [*own.points] if isinstance(own, Series) else []
        found.append((expression.requestId, points))
    steps = [point.step for _, points in found for point in points]
    view = asked.view
    low = getattr(view, "from") if view.HasField("from") else min(steps, default=0.0)
    high = view.to if view.HasField("to") else max(steps, default=0.0)
    width = (high - low) / view.maxBuckets or 1.0
    answer = pb.ProtoTimeseriesBucketsDTO()
    for id, points in found:
        entry = answer.entries.add(requestId=id)
        places: dict[int, list[Point]] = {}
        for point in points:
            if low <= point.step <= high:
                place = min(int((point.step - low) / width), view.maxBuckets - 1)
                places.setdefault(place, []).append(point)
        for place, inside in sorted(places.items()):
            _fill_bucket(entry.bucket.add(index=place), place, low, width, inside)
    return message(answer)


def _fill_bucket(
    bucket: Any, place: int, low: float, width: float, points: list[Point]
) -> None:
    bucket.fromX, bucket.toX = low + place * width, low + (place + 1) * width
    finite = [point for point in points if math.isfinite(point.value)]
    bucket.finitePointCount = len(finite)
    bucket.nanCount = sum(math.isnan(point.value) for point in points)
    bucket.positiveInfCount = sum(point.value == math.inf for point in points)
    bucket.negativeInfCount = sum(point.value == -math.inf for point in points)
    if finite:
        bucket.first.x, bucket.first.y = finite[0].step, finite[0].value
        bucket.last.x, bucket.last.y = finite[-1].step, finite[-1].value
        values = [point.value for point in finite]
        bucket.localMin, bucket.localMax = min(values), max(values)
        bucket.localSum = math.fsum(values)


def _told(path: str, attribute: Attribute) -> Any:
    """Return an attribute as the protocol tells of it."""
    from neptune_api.proto.neptune_pb.api.v1.model import leaderboard_entries_pb2 as pb

    told = pb.ProtoAttributeDTO(name=path, type=attribute.type)
    name = _PROPERTIES.get(attribute.type)
    if name is None:
        return told
    properties = getattr(told, f"{name}_properties")
    properties.attribute_name, properties.attribute_type = path, attribute.type
    if isinstance(attribute, Atom):
        properties.value = attribute.value
    elif isinstance(attribute, StringSet):
        properties.value.extend(attribute.values)
    elif isinstance(attribute, FileRef):
        _fill_file(properties, attribute)
    elif isinstance(attribute, Series) and len(attribute):
        properties.last_step = attribute.steps[-1]
        if attribute.type == "floatSeries":
            for mode, value in _aggregates(attribute).items():
                setattr(properties, mode, value)
        elif attribute.type == "histogramSeries":
            _fill_histogram(properties.last, attribute.values[-1])
        elif attribute.type == "fileRefSeries":
            _fill_file(properties.last, attribute.values[-1])
        else:
            properties.last = attribute.values[-1]
    return told


_PROPERTIES = {
    "int": "int",
    "float": "float",
    "string": "string",
    "bool": "bool",
    "datetime": "datetime",
    "stringSet": "string_set",
    "floatSeries": "float_series",
    "fileRef": "file_ref",
    "stringSeries": "string_series",
    "fileRefSeries": "file_ref_series",
    "histogramSeries": "histogram_series",
}


def _aggregates(series: Series) -> dict[str, Any]:
    modes = ("last", "min", "max", "average", "variance")
    found = {mode: nql.computed(series, mode) for mode in modes}
    return {mode: value for mode, value in found.items() if value is not None}


def _fill_point(told: Any, value: Any) -> None:
    if isinstance(value, Histogram):
        _fill_histogram(told.histogram, value)
    elif isinstance(value, FileRef):
        _fill_file(told.fileRef, value)
    else:
        told.stringValue = value


def _fill_histogram(told: Any, histogram: Histogram) -> None:
    told.type = histogram.kind
    told.edges.extend(histogram.edges)
    told.values.extend(histogram.values)


def _fill_file(told: Any, file: FileRef) -> None:
    told.path, told.sizeBytes, told.mimeType = file.path, file.size, file.mime_type


ANSWERS: dict[str, Callable[[State, Query, bytes, Any], Answer]] = {
    "search_leaderboard_entries_proto": _search,
    "search_global_leaderboard_entries_proto": _search_globally,
    "query_attributes_within_project_proto": _query,
    "query_attribute_definitions_within_project": _definitions,
    "get_multiple_float_series_values_proto": _float_points,
    "get_series_values_proto": _points,
    "get_timeseries_buckets_proto": _buckets,
}
