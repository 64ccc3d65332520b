"""Spans that MLflow (3.13 and later) has put away: OTLP in a file of each trace.

A file ``traces.pb`` is a ``TracesData`` of OpenTelemetry's ``trace/v1/trace.proto``.
What MLflow makes of it is in its ``tracing/otel/otel_archival.py`` and in
``Span.from_otel_proto``: each attribute is written as JSON.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlmigrate.mlflow_traces import span_of
from mlmigrate.model import Span
from mlmigrate.protobuf import Messages, decode
from mlmigrate.span_content import TRACE, kind_name

ARCHIVE_FILE = "traces.pb"

_MESSAGES: Messages = {
    "TracesData": {1: ("resources", "ResourceSpans*")},
    "ResourceSpans": {2: ("scopes", "ScopeSpans*")},
    "ScopeSpans": {2: ("spans", "Span*")},
    "Span": {
        1: ("trace", "bytes"),
        2: ("id", "bytes"),
        4: ("parent", "bytes"),
        5: ("name", "text"),
        6: ("kind", "int"),
        7: ("start", "fixed"),
        8: ("end", "fixed"),
        9: ("attributes", "KeyValue*"),
        11: ("events", "Event*"),
        13: ("links", "Link*"),
        15: ("status", "Status"),
    },
    "Event": {
        1: ("time", "fixed"),
        2: ("name", "text"),
        3: ("attributes", "KeyValue*"),
    },
    "Link": {
        1: ("trace", "bytes"),
        2: ("span", "bytes"),
        4: ("attributes", "KeyValue*"),
    },
    "Status": {2: ("message", "text"), 3: ("code", "int")},
    "KeyValue": {1: ("key", "text"), 2: ("value", "AnyValue")},
    "AnyValue": {
        1: ("text", "text"),
        2: ("bool", "bool"),
        3: ("int", "int"),
        4: ("double", "double"),
        5: ("list", "ArrayValue"),
        6: ("pairs", "KeyValueList"),
        7: ("bytes", "bytes"),
    },
    "ArrayValue": {1: ("values", "AnyValue*")},
    "KeyValueList": {1: ("values", "KeyValue*")},
}
_CODES = ("STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR")


def spans_of(data: bytes) -> list[Span]:
    """Return the spans in a file, as the table ``spans`` held them.

    Raises:
        ValueError: it is no such file.
    """
    try:
        found = decode(data, "TracesData", _MESSAGES)
        spans = [
            span_of(_content(span))
            for resource in found.get("resources", ())
            for scope in resource.get("scopes", ())
            for span in scope.get("spans", ())
        ]
    except (KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from error
    if not spans:
        raise ValueError("it holds no spans")
    return spans


def _content(span: Mapping[str, Any]) -> dict[str, Any]:
    """Return what MLflow's ``Span.to_dict`` makes of a span."""
    status = span.get("status", {})
    trace = span["trace"].hex()
    attributes = {
        key: json.dumps(value, ensure_ascii=False)
        for key, value in _pairs(span.get("attributes", ()))
    }
    attributes.setdefault(TRACE, json.dumps(f"tr-{trace}"))
    return {
        "trace_id": _text(span["trace"]),
        "span_id": _text(span["id"]),
        "parent_span_id": _text(span["parent"]) if span.get("parent") else None,
        "name": span.get("name", ""),
        # Before 3.18, MLflow wrote no kind.
        **({"kind": kind_name(span["kind"])} if span.get("kind") else {}),
        "start_time_unix_nano": span.get("start", 0),
        "end_time_unix_nano": span.get("end") or None,
        "events": [
            {
                "name": event.get("name", ""),
                "time_unix_nano": event.get("time", 0),
                "attributes": dict(_pairs(event.get("attributes", ()))),
            }
            for event in span.get("events", ())
        ],
        "status": {
            "code": _CODES[status.get("code", 0)],
            "message": status.get("message", ""),
        },
        "attributes": attributes,
        "links": [
            {
                "trace_id": f"tr-{link['trace'].hex()}",
                "span_id": link["span"].hex(),
                "attributes": dict(_pairs(link.get("attributes", ()))) or None,
            }
            for link in span.get("links", ())
        ],
    }


def _pairs(entries: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    for entry in entries:
        yield entry.get("key", ""), _value(entry.get("value", {}))


def _value(said: Mapping[str, Any]) -> Any:
    """Return what an ``AnyValue`` holds; None where nothing."""
    for kind, value in said.items():
        match kind:
            case "list":
                return [_value(each) for each in value.get("values", ())]
            case "pairs":
                return dict(_pairs(value.get("values", ())))
            case "bytes":
                return _text(value)
            case _:
                return value
    return None


def _text(data: bytes) -> str:
    return b64encode(data).decode()
