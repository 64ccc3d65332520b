"""What an ingested request does, by the rules of the real server."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..neptune_server.operations import Forget
from ..planted import Lie
from .attributes import Atom, Attribute, FileRef, Histogram, Preview, Series, StringSet
from .state import SERIES, Project, Run, State

#: A path may have so many bytes.
PATH_LIMIT = 1024

#: Steps stay below this.
STEP_LIMIT = 1_000_000_000_000

#: A histogram has at most so many bins.
BINS_LIMIT = 512

OK = "OK"

#: What a client may say below `sys`.
_WRITABLE = {
    "sys/name": "string",
    "sys/description": "string",
    "sys/failed": "bool",
    "sys/archived": "bool",
    "sys/tags": "stringSet",
    "sys/group_tags": "stringSet",
}

_ASSIGNED = {
    "float64": "float",
    "int64": "int",
    "bool": "bool",
    "string": "string",
    "timestamp": "datetime",
    "string_set": "stringSet",
    "file_ref": "fileRef",
}
_APPENDED = {
    "float64": "floatSeries",
    "string": "stringSeries",
    "histogram": "histogramSeries",
    "file_ref": "fileRefSeries",
}


@dataclass(frozen=True, slots=True)
class Reject(Lie):
    """Store nothing of a request, and tell later that it was refused by this code."""

    code: str


class RefusedError(Exception):
    """A thing that cannot be done; the text is a name among the ingestion codes."""


def create(state: State, project: Project, run_id: str, request: Any) -> str:
    """Make a run as a client asks for it; return the code that it is told."""
    if not run_id or "/" in run_id or len(run_id.encode()) > 730:
        return "RUN_INVALID_CREATION_PARAMETERS"
    parent_id, step = None, None
    if request.HasField("fork_point"):
        parent_id = request.fork_point.parent_run_id
        step = as_step(request.fork_point.step)
    if run_id in project.runs:
        return _again(project.runs[run_id], parent_id, step)
    facts: dict[str, Any] = {"request": request}
    if request.HasField("creation_time"):
        facts["created"] = as_milliseconds(request.creation_time)
    if request.HasField("experiment_id"):
        facts["experiment"] = request.experiment_id
    parent = project.runs.get(parent_id or "")
    if parent_id is not None and parent is None:
        facts["requested_parent"] = parent_id
    elif parent is not None:
        facts |= {"parent": parent, "fork_step": step}
    run = state.create(project, run_id, **facts)
    if parent is not None and (
        request.inherit_configs or not request.HasField("inherit_configs")
    ):
        for path, attribute in parent.attributes.items():
            if isinstance(attribute, Atom | FileRef) and not path.startswith("sys/"):
                run.put(path, attribute)
    return "RUN_FORK_PARENT_NOT_FOUND" if run.requested_parent else OK


def _again(run: Run, parent_id: str | None, step: float | None) -> str:
    known = run.parent.run_id if run.parent else run.requested_parent
    same = parent_id is None or (parent_id, step) == (known, run.fork_step)
    return "RUN_DUPLICATE" if same else "RUN_CONFLICTING"


def update(
    state: State, run: Run, snapshot: Any, lie: Forget | None = None
) -> Iterator[tuple[str, str]]:
    """Do what a snapshot says; yield each path in it and the code for it."""
    kept: Counter[str] = Counter()
    for path, value in snapshot.assign.items():
        if lie is None or not lie.covers(path):
            yield path, _code(_assign, state, run, snapshot, path, value)
        else:
            yield path, OK
    for path, change in snapshot.modify_sets.items():
        if lie is None or not lie.covers(path):
            yield path, _code(_modify, state, run, snapshot, path, change)
        else:
            yield path, OK
    for path, value in snapshot.append.items():
        if lie is not None and lie.covers(path):
            found = run.attributes.get(path)
            kept[path] = len(found) if isinstance(found, Series) else 0
            if kept[path] >= lie.keep:
                yield path, OK
                continue
        yield path, _code(_append, state, run, snapshot, path, value)


def _code(deed: Any, *facts: Any) -> str:
    try:
        deed(*facts)
    except RefusedError as refusal:
        return str(refusal)
    return OK


def _provide(run: Run, path: str, type: str) -> Attribute | None:
    """Return what is at a path, where something of a type is to be."""
    if not path:
        raise RefusedError("FIELD_PATH_EMPTY")
    if len(path.encode()) > PATH_LIMIT:
        raise RefusedError("FIELD_PATH_EXCEEDS_SIZE_LIMIT")
    if path.startswith("sys/") and _WRITABLE.get(path) != type:
        raise RefusedError("FIELD_PATH_NON_WRITABLE")
    found = run.attributes.get(path)
    inherited = found
    for one in run.ancestors():
        if inherited is None and type in SERIES:
            inherited = one.attributes.get(path)
    if inherited is not None and inherited.type != type:
        raise RefusedError("FIELD_TYPE_CONFLICTING")
    return found


def _assign(state: State, run: Run, snapshot: Any, path: str, value: Any) -> None:
    kind = value.WhichOneof("value")
    if kind not in _ASSIGNED:
        raise RefusedError("FIELD_TYPE_UNSUPPORTED")
    _provide(run, path, _ASSIGNED[kind])
    said = getattr(value, kind)
    if kind == "string_set":
        run.put(path, StringSet(dict.fromkeys(said.values)))
    elif kind == "file_ref":
        run.put(path, FileRef(said.path, said.size_bytes, said.mime_type))
    else:
        plain = as_milliseconds(said) if kind == "timestamp" else said
        run.put(path, Atom(_ASSIGNED[kind], plain))


def _modify(state: State, run: Run, snapshot: Any, path: str, change: Any) -> None:
    found = _provide(run, path, "stringSet")
    strings = found if isinstance(found, StringSet) else StringSet()
    for string, what in change.string.values.items():
        if what == 1:
            strings.values[string] = None
        elif what == 2:
            strings.values.pop(string, None)
    run.put(path, strings)


def _append(state: State, run: Run, snapshot: Any, path: str, value: Any) -> None:
    kind = value.WhichOneof("value")
    if kind not in _APPENDED:
        raise RefusedError("FIELD_TYPE_UNSUPPORTED")
    found = _provide(run, path, _APPENDED[kind])
    if not snapshot.HasField("step"):
        raise RefusedError("SERIES_STEP_INVALID")
    step = as_step(snapshot.step)
    if step >= STEP_LIMIT:
        raise RefusedError("SERIES_STEP_TOO_LARGE")
    if run.fork_step is not None and step < run.fork_step:
        raise RefusedError("SERIES_STEP_NOT_AFTER_FORK_POINT")
    time = as_milliseconds(snapshot.timestamp)
    plain = _point(kind, getattr(value, kind))
    series = found if isinstance(found, Series) else Series(_APPENDED[kind])
    if snapshot.HasField("preview") and snapshot.preview.is_preview:
        _preview(run, path, series, Preview(step, plain, time, _ratio(snapshot)))
        return
    if series.steps and step <= series.steps[-1]:
        place = bisect_left(series.steps, step)
        same = series.steps[place] == step and _equal(series.values[place], plain)
        code = "SERIES_POINT_DUPLICATE" if same else "SERIES_STEP_NON_INCREASING"
        raise RefusedError(code)
    if state.orders_times and series.timestamps and time < series.timestamps[-1]:
        raise RefusedError("SERIES_TIMESTAMP_DECREASING")
    series.append(step, plain, time)
    if found is None:
        run.put(path, series)
    if path in run.previews:
        run.previews[path] = [one for one in run.previews[path] if one.step > step]


def _preview(run: Run, path: str, series: Series, preview: Preview) -> None:
    if series.steps and preview.step <= series.steps[-1]:
        raise RefusedError("SERIES_PREVIEW_STEP_NOT_AFTER_LAST_COMMITTED_STEP")
    known = run.previews.get(path, [])
    others = [one for one in known if one.step != preview.step]
    run.previews[path] = sorted([*others, preview])
    if path not in run.attributes:
        run.put(path, series)


def _ratio(snapshot: Any) -> float:
    return float(snapshot.preview.completion_ratio)


def _point(kind: str, said: Any) -> Any:
    if kind == "histogram":
        return _histogram(said)
    if kind == "file_ref":
        return FileRef(said.path, said.size_bytes, said.mime_type)
    return said


def _histogram(said: Any) -> Histogram:
    edges = tuple(said.bin_edges)
    counted = said.WhichOneof("values") == "counts"
    values = tuple(said.counts.values if counted else said.densities.values)
    if any(math.isnan(edge) for edge in edges):
        raise RefusedError("HISTOGRAM_BIN_EDGES_CONTAINS_NAN")
    if len(edges) > BINS_LIMIT + 1:
        raise RefusedError("HISTOGRAM_TOO_MANY_BINS")
    if any(one >= other for one, other in pairwise(edges)):
        raise RefusedError("HISTOGRAM_BIN_EDGES_NOT_INCREASING")
    if len(values) != len(edges) - 1:
        raise RefusedError("HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS")
    return Histogram(edges, values, "COUNTING" if counted else "DENSITY")


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))


def as_step(said: Any) -> float:
    """Return a step as a number."""
    return float(said.whole + said.micro / 1_000_000)


def as_milliseconds(said: Any) -> int:
    """Return a time, of which only whole milliseconds are kept."""
    return int(said.seconds) * 1000 + int(said.nanos) // 1_000_000
