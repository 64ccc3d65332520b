"""What the content of a span means, whichever of MLflow's spellings it is in.

MLflow stores a span as JSON (``entities/span.py``, ``Span.to_dict``), in which ids are
base 64 or hexadecimal digits, and the value of each attribute is JSON again. A server
that gets a span writes that JSON anew, and adds attributes that it makes of others
(``tracing/otel/translation``).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlmigrate.model import Span

TYPE = "mlflow.spanType"
#: The attribute that says which trace a span is of.
TRACE = "mlflow.traceRequestId"
#: What OpenTelemetry calls the kinds of spans, by their numbers in its messages.
KINDS = (
    *("SPAN_KIND_UNSPECIFIED", "SPAN_KIND_INTERNAL", "SPAN_KIND_SERVER"),
    *("SPAN_KIND_CLIENT", "SPAN_KIND_PRODUCER", "SPAN_KIND_CONSUMER"),
)
#: What MLflow takes a span for of which no kind is said, as before 3.18.
INTERNAL = KINDS.index("SPAN_KIND_INTERNAL")
_KEYS = {
    *("trace_id", "span_id", "parent_span_id", "name", "status", "attributes", "kind"),
    *("start_time_unix_nano", "end_time_unix_nano", "events", "links"),
}
_HEX = re.compile(r"(?:0x)?([0-9a-f]{1,16})$")
_TRACE_HEX = re.compile(r"(?:tr-|0x)?([0-9a-f]{32})$")


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a span says. A value that is no JSON, where JSON is due, is None."""

    trace: str  # 32 hex digits
    id: str  # 16 hex digits
    parent: str | None
    name: str
    kind: int  # the place in `KINDS`
    start: int  # nanoseconds
    end: int | None  # nanoseconds
    status: str
    message: str
    attributes: Mapping[str, str | None]  # JSON in normal form
    events: tuple[tuple[str, int, str], ...]  # name, nanoseconds, JSON
    links: tuple[tuple[str, str, str], ...]  # trace, span, JSON
    values: Mapping[str, Any]  # of the attributes, in their order
    event_values: tuple[Mapping[str, Any], ...]
    link_values: tuple[Mapping[str, Any], ...]


_COMPARED = (
    *("trace", "id", "parent", "name", "kind", "start", "end", "status", "message"),
    *("events", "links"),
)


def kind_name(number: int) -> str:
    """Return what a kind of spans is called: an unknown one is internal, to MLflow."""
    return KINDS[number] if 0 < number < len(KINDS) else KINDS[INTERNAL]


def span_id(text: str) -> str:
    """Return the id of a span as 16 hex digits.

    Raises:
        ValueError: it is no id.
    """
    plain = _HEX.match(text)
    if plain is not None:
        return plain.group(1).rjust(16, "0")
    whole = base64.b64decode(text, validate=True)
    if len(whole) != 8:
        raise ValueError(f"{text[:40]!r} is no span's id")
    return whole.hex()


def trace_digits(text: str) -> str:
    """Return the id of a trace as 32 hex digits, of ``tr-`` and those, or base 64.

    Raises:
        ValueError: it is no such id.
    """
    plain = _TRACE_HEX.match(text)
    if plain is not None:
        return plain.group(1)
    whole = base64.b64decode(text, validate=True)
    if len(whole) != 16:
        raise ValueError(f"{text[:40]!r} is no trace's id")
    return whole.hex()


def meaning(content: str) -> Meaning | None:
    """Return what the content of a span means; None where it is not of MLflow 3."""
    try:
        said = json.loads(content)
        if not said.keys() <= _KEYS:
            return None
        parent, end = said["parent_span_id"], said["end_time_unix_nano"]
        values = {key: _loaded(value) for key, value in said["attributes"].items()}
        return Meaning(
            trace=trace_digits(said["trace_id"]),
            id=span_id(said["span_id"]),
            parent=span_id(parent) if parent else None,
            name=_text(said["name"]),
            kind=KINDS.index(said.get("kind") or KINDS[0]) or INTERNAL,
            start=int(said["start_time_unix_nano"]),
            end=int(end) if end else None,
            status=_text(said["status"]["code"]).removeprefix("STATUS_CODE_"),
            message=_text(said["status"].get("message") or ""),
            attributes={key: each and each[0] for key, each in values.items()},
            values={key: each[1] for key, each in values.items() if each},
            event_values=tuple(
                each.get("attributes") or {} for each in said.get("events") or ()
            ),
            link_values=tuple(
                each.get("attributes") or {} for each in said.get("links") or ()
            ),
            events=tuple(
                (
                    _text(each["name"]),
                    int(each["time_unix_nano"]),
                    _normal(each.get("attributes") or {}),
                )
                for each in said.get("events") or ()
            ),
            links=tuple(
                (
                    _text(each["trace_id"]),
                    _text(each["span_id"]),
                    _normal(each.get("attributes") or None),
                )
                for each in said.get("links") or ()
            ),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def says_all(held: Span, wanted: Span) -> bool:
    """Tell whether *held* means what *wanted* does; attributes may have been added."""
    if held == wanted:
        return True
    one, other = meaning(held.content), meaning(wanted.content)
    if one is None or other is None or held.id != wanted.id:
        return False
    if any(getattr(one, name) != getattr(other, name) for name in _COMPARED):
        return False
    return all(
        value is not None and one.attributes.get(key) == value
        for key, value in other.attributes.items()
        if (key, value) != (TYPE, '"UNKNOWN"')  # a server may find it out
    )


def _loaded(value: Any) -> tuple[str, Any] | None:
    """Return the JSON of an attribute, in normal form, and its value."""
    if not isinstance(value, str):
        return None
    try:
        loaded = json.loads(value)
    except ValueError:
        return None
    return _normal(loaded), loaded


def _normal(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value
