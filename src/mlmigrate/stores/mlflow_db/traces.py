"""Traces with all their parts, from the table ``trace_info`` and those that name it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from mlmigrate.artifacts import Place
from mlmigrate.errors import ItemError
from mlmigrate.mlflow_traces import (
    ARCHIVE_LOCATION,
    SPANS_FILE,
    SPANS_LOCATION,
    Lifted,
    expects_spans,
    lift,
    state,
)
from mlmigrate.model import (
    Assessment,
    Finding,
    Item,
    Problem,
    Ref,
    Span,
    Trace,
    TraceLink,
)
from mlmigrate.stores.mlflow_db import promoted
from mlmigrate.stores.mlflow_db.experiments import id_of
from mlmigrate.stores.mlflow_db.places import Around
from mlmigrate.stores.mlflow_db.tables import Tables
from mlmigrate.stores.mlflow_db.trace_files import Home, contents, home, put_away
from mlmigrate.stores.mlflow_db.values import escapes, text, time

_COLUMNS = (
    "request_id",
    "experiment_id",
    "timestamp_ms",
    "execution_time_ms",
    "status",
    "client_request_id",
    "request_preview",
    "response_preview",
    *promoted.COLUMNS,
)
_SPAN = (
    *("span_id", "content", "parent_span_id", "name", "type", "status"),
    *("start_time_unix_nano", "end_time_unix_nano"),
)
_ASSESSMENT = (
    *("assessment_id", "name", "assessment_type", "value", "source_type", "source_id"),
    *("error", "rationale", "assessment_metadata", "run_id", "span_id"),
    *("created_timestamp", "last_updated_timestamp", "overrides", "valid"),
)


def ids(tables: Tables, experiments: frozenset[str] | None) -> Iterator[str]:
    """Yield the ids of the traces of some experiments; of all if None."""
    for id, experiment in tables.keyed("trace_info", "request_id", "experiment_id"):
        if experiments is None or id_of(experiment) in experiments:
            yield str(id)


def read(tables: Tables, ids: list[str], around: Around) -> dict[Ref, Item]:
    """Read some traces: those that are there, at most `tables.IN` at once.

    Raises:
        StoreError: the database does not answer, or its file is damaged.
    """
    tags = _pairs(tables, "trace_tags", ids)
    metadata = _pairs(tables, "trace_request_metadata", ids)
    problems: dict[str, list[Finding]] = defaultdict(list)
    spans = _spans(tables, ids, problems)
    assessments = _assessments(tables, ids, problems)
    links = _links(tables, ids, problems)
    found: dict[Ref, Item] = {}
    for row in rows(tables, ids):
        id = str(row["request_id"])
        where = f"{tables.location} trace {id}"
        lifted = lift(
            promoted.tags(row, tags[id]), promoted.metadata(row, metadata[id])
        )
        place = home(around, row, lifted.location, where)
        lifted, held, unread = _with_archived(place, lifted, spans[id])
        own, files, findings = contents(place, held)
        findings = [*unread, *findings]
        header = _header(row, lifted, where, findings)
        findings += [*problems[id], *escapes(where, header, _all_tags(lifted))]
        item = Item(
            Ref("trace", id),
            header,
            origin=lifted.origin or id,
            tags=lifted.tags,
            metadata=lifted.metadata,
            spans=tuple(own),
            assessments=tuple(assessments[id]),
            trace_links=tuple(links[id]),
            artifacts=tuple(files),
            mark=lifted.mark,
            findings=tuple(findings),
        )
        lost = _lost_spans(item, lifted, where)
        found[item.ref] = replace(item, findings=(*item.findings, *lost))
    return found


def _with_archived(
    home: Home, lifted: Lifted, spans: list[Span]
) -> tuple[Lifted, list[Span], list[Finding]]:
    """Return the spans of a trace with what MLflow has put away of them: a copy has
    them in its own place, so the tags that say where they are go.
    """
    tags = {tag.key: tag.value for tag in lifted.tags}
    uri = tags.get(ARCHIVE_LOCATION)
    if uri is None or not spans or any(span.content for span in spans):
        return lifted, spans, []
    found, findings = put_away(home, uri)
    if found and {span.id for span in found} != {span.id for span in spans}:
        what = "its spans, which MLflow has put away, are not those of its rows"
        found, findings = [], [*findings, Problem(home.where, what)]
    if not found:
        return lifted, spans, findings
    away = {ARCHIVE_LOCATION, SPANS_LOCATION}
    kept = tuple(tag for tag in lifted.tags if tag.key not in away)
    whole = {span.id: span for span in (*spans, *found)}
    return replace(lifted, tags=kept), list(whole.values()), findings


def rows(tables: Tables, ids: list[str]) -> list[dict[str, Any]]:
    """Return the rows of some traces, by column."""
    found = tables.rows("trace_info", *_COLUMNS, where={"request_id": ids})
    return [dict(zip(_COLUMNS, row, strict=True)) for row in found]


def place_of(tables: Tables, around: Around, id: str) -> Place:
    """Find the files of a trace.

    Raises:
        ItemError: there is no such trace.
    """
    found = rows(tables, [id])
    if not found:
        raise ItemError(f"{tables.location} holds no trace {id}")
    lifted = lift(_pairs(tables, "trace_tags", [id])[id], ())
    where = f"{tables.location} trace {id}"
    return home(around, found[0], lifted.location, where).place()


def _all_tags(lifted: Lifted) -> Any:
    # `escapes` looks at tags alone.
    whole = (*lifted.tags, *lifted.metadata)
    return Lifted(whole, (), None, None, None, None)


def _header(
    row: Mapping[str, Any], lifted: Lifted, where: str, findings: list[Finding]
) -> Trace:
    return Trace(
        experiment=Ref("experiment", id_of(row["experiment_id"])),
        state=state(row["status"]),
        request_time=time(row["timestamp_ms"], "timestamp_ms", where, findings),
        execution_duration=time(
            row["execution_time_ms"], "execution_time_ms", where, findings
        ),
        client_request_id=text(row["client_request_id"]),
        request_preview=text(row["request_preview"]),
        response_preview=text(row["response_preview"]),
        source_run=lifted.source_run,
        artifact_location=lifted.location,
    )


def _pairs(
    tables: Tables, table: str, ids: list[str]
) -> dict[str, list[tuple[str, str]]]:
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    columns = ("request_id", "key", "value")
    for id, key, value in tables.rows(table, *columns, where={"request_id": ids}):
        pairs[id].append((text(key) or "", text(value) or ""))
    return pairs


# -- spans ------------------------------------------------------------------------


def _spans(
    tables: Tables, ids: list[str], problems: dict[str, list[Finding]]
) -> dict[str, list[Span]]:
    found: dict[str, list[Span]] = defaultdict(list)
    for row in tables.rows("spans", "trace_id", *_SPAN, where={"trace_id": ids}):
        id, span, content, parent, name, type_, status, start, end = row
        where = f"{tables.location} trace {id} span {span}"
        found[id].append(
            Span(
                str(span),
                text(content) or "",
                text(parent),
                text(name),
                text(type_),
                text(status) or "UNSET",
                time(start, "start_time_unix_nano", where, problems[id]) or 0,
                time(end, "end_time_unix_nano", where, problems[id]),
            )
        )
    return found


def _lost_spans(item: Item, lifted: Lifted, where: str) -> Iterator[Finding]:
    """Tell of spans that should be there."""
    assert isinstance(item.header, Trace)
    away = any(tag.key == ARCHIVE_LOCATION for tag in item.tags)
    if item.spans and not away and not any(span.content for span in item.spans):
        what = "its spans are empty, and nothing says where they were put away"
        yield Problem(where, what)
    told = item.spans or item.artifacts or item.findings
    if not told and expects_spans(lifted, item.header.state):
        what = f"its spans are gone: neither a row nor a {SPANS_FILE} holds them"
        yield Problem(where, what)


# -- assessments and links ------------------------------------------------------------


def _assessments(
    tables: Tables, ids: list[str], problems: dict[str, list[Finding]]
) -> dict[str, list[Assessment]]:
    found: dict[str, list[Assessment]] = defaultdict(list)
    columns = ("trace_id", *_ASSESSMENT)
    for row in tables.rows("assessments", *columns, where={"trace_id": ids}):
        said = dict(zip(columns, row, strict=True))
        id = str(said["trace_id"])
        where = f"{tables.location} trace {id} assessment {said['assessment_id']}"
        value = text(said["value"])
        try:
            json.loads(value or "")
        except (ValueError, RecursionError):
            problems[id].append(Problem(where, "its value is no JSON: copied so"))
        run = text(said["run_id"])
        found[id].append(
            Assessment(
                id=str(said["assessment_id"]),
                name=text(said["name"]) or "",
                kind=text(said["assessment_type"]) or "feedback",
                value=value or "",
                source_type=text(said["source_type"]) or "",
                source_id=text(said["source_id"]),
                error=text(said["error"]),
                rationale=text(said["rationale"]),
                metadata=text(said["assessment_metadata"]),
                run=Ref("run", run) if run else None,
                span=text(said["span_id"]),
                created=time(said["created_timestamp"], "created", where, problems[id]),
                updated=time(
                    said["last_updated_timestamp"], "updated", where, problems[id]
                ),
                overrides=text(said["overrides"]),
                valid=bool(said["valid"]),
            )
        )
    return found


def _links(
    tables: Tables, ids: list[str], problems: dict[str, list[Finding]]
) -> dict[str, list[TraceLink]]:
    found: dict[str, list[TraceLink]] = defaultdict(list)
    columns = ("source_id", "destination_type", "destination_id", "created_time")
    own = {"source_type": "trace", "source_id": ids}
    for id, kind, other, created in tables.rows(
        "entity_associations", *columns, where=own
    ):
        where = f"{tables.location} trace {id} link to {kind} {other}"
        at = time(created, "created_time", where, problems[id])
        found[id].append(TraceLink(str(kind), str(other), at))
    return found
