"""Spans as OTLP messages, by which an MLflow server takes them.

The messages are those of ``opentelemetry/proto/trace/v1/trace.proto``. What a server
makes of them is in MLflow's ``entities/span.py`` (``Span.from_otel_proto``) and
``tracing/otel/translation``: it decodes each value and writes it anew as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mlmigrate.mlflow_messages import DEEPEST
from mlmigrate.model import Span
from mlmigrate.protobuf import (
    bytes_field,
    double_field,
    fixed_field,
    text_field,
    whole_field,
)
from mlmigrate.span_content import INTERNAL, TRACE, Meaning, meaning

PATH = "/v1/traces"
#: The header that says which experiment new traces are of.
EXPERIMENT = "x-mlflow-experiment-id"
TYPE = "application/x-protobuf"

_TRACE_ID = re.compile(r"tr-([0-9a-f]{32})$")
_LINKED = re.compile(r"tr-[0-9a-f]{32}$")
_SPAN_ID = re.compile(r"[0-9a-f]{16}$")
_STATUSES = {"UNSET": 0, "OK": 1, "ERROR": 2}
#: Characters of the columns for a span's name and type.
_LONGEST = 500


def request(spans: Iterable[bytes]) -> bytes:
    """Return an ``ExportTraceServiceRequest`` with some spans."""
    of_scope = b"".join(bytes_field(2, span) for span in spans)
    return bytes_field(1, bytes_field(2, of_scope))


def message(span: Span, trace: str, keeps_kinds: Callable[[], bool]) -> bytes | None:
    """Return a span as a message; None where a server would not store what it means.

    Args:
        span: the span.
        trace: the id that its trace has at the server, which makes it of the message.
        keeps_kinds: asked only where it matters, tells whether the server keeps the
            kinds of spans, as those since 3.18 do; to others, all are internal.
    """
    said, digits = meaning(span.content), _TRACE_ID.match(trace)
    if said is None or digits is None or not _is_kept(said, span, digits[1]):
        return None
    if said.kind != INTERNAL and not keeps_kinds():
        return None
    try:
        return b"".join(
            (
                bytes_field(1, bytes.fromhex(said.trace)),
                bytes_field(2, bytes.fromhex(said.id)),
                bytes_field(4, bytes.fromhex(said.parent)) if said.parent else b"",
                text_field(5, said.name),
                whole_field(6, said.kind),
                fixed_field(7, said.start),
                fixed_field(8, said.end or 0),
                _pairs(9, said.values),
                *(bytes_field(11, event) for event in _events(said)),
                *(bytes_field(13, link) for link in _links(said)),
                bytes_field(15, _status(said)),
            )
        )
    except (ValueError, OverflowError, RecursionError):
        return None


def _is_kept(said: Meaning, span: Span, digits: str) -> bool:
    """Tell whether what a server makes of a message means the same."""
    kind = span.type or ""
    if (said.trace, said.id) != (digits, span.id) or said.status not in _STATUSES:
        return False
    if max(len(said.name), len(kind)) > _LONGEST or "\0" in said.name + kind:
        return False
    if said.message and said.status != "ERROR":  # OpenTelemetry drops it
        return False
    if said.attributes.get(TRACE, f'"tr-{digits}"') != f'"tr-{digits}"':
        return False
    if len(said.values) < len(said.attributes) or any(
        map(_is_unwrapped, said.values.values())
    ):
        return False
    return all(
        _LINKED.match(trace) and _SPAN_ID.match(id) for trace, id, _ in said.links
    )


def _is_unwrapped(value: Any) -> bool:
    """Tell whether a server takes text for JSON that was written as JSON twice."""
    if not isinstance(value, str) or value[:1] not in ("{", "[", '"', " ", "\n", "\t"):
        return False
    try:
        return isinstance(json.loads(value), str | dict | list)
    except ValueError:
        return False


def _events(said: Meaning) -> Iterator[bytes]:
    for (name, time, _), values in zip(said.events, said.event_values, strict=True):
        if any(isinstance(value, dict) for value in values.values()):
            raise ValueError("an event's attributes are no objects")
        yield fixed_field(1, time) + text_field(2, name) + _pairs(3, values)


def _links(said: Meaning) -> Iterator[bytes]:
    for (trace, span, _), values in zip(said.links, said.link_values, strict=True):
        one = bytes_field(1, bytes.fromhex(trace.removeprefix("tr-")))
        yield one + bytes_field(2, bytes.fromhex(span)) + _pairs(4, values)


def _status(said: Meaning) -> bytes:
    text = text_field(2, said.message) if said.message else b""
    return text + whole_field(3, _STATUSES[said.status])


def _pairs(number: int, values: Mapping[str, Any]) -> bytes:
    return b"".join(
        bytes_field(number, _pair(key, value, DEEPEST)) for key, value in values.items()
    )


def _pair(key: str, value: Any, depth: int) -> bytes:
    return text_field(1, key) + bytes_field(2, _any(value, depth))


def _any(value: Any, depth: int) -> bytes:
    """Return an ``AnyValue``."""
    if depth < 0:
        raise ValueError("a message is not nested so deep")
    match value:
        case None:
            return b""
        case bool():
            return whole_field(2, value)
        case str():
            return text_field(1, value)
        case int():
            if not -(2**63) <= value < 2**63:
                raise ValueError("a message holds no such number")
            return whole_field(3, value)
        case float():
            return double_field(4, value)
        case list():
            items = (bytes_field(1, _any(each, depth - 1)) for each in value)
            return bytes_field(5, b"".join(items))
        case _:
            pairs = (
                bytes_field(1, _pair(key, each, depth - 1))
                for key, each in value.items()
            )
            return bytes_field(6, b"".join(pairs))
