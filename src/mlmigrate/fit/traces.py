"""Traces, their spans and what was said of them, as a sink can hold them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlmigrate.fit.fitting import Fitting
from mlmigrate.fit.message_traces import header_in_message
from mlmigrate.model import Assessment, Span, Trace


def fitted_trace(header: Any, fitting: Fitting) -> Trace:
    """Return the header of a trace."""
    if fitting.sink.needs_start and header.request_time is None:
        fitting.losses.append("it had no time: 0")
        fitting.whole.append({"field": "request_time", "text": ""})
        header = replace(header, request_time=0)
    changed = {
        name: fitting.optional(f"trace.{name}", getattr(header, name), name)
        for name in ("client_request_id", "request_preview", "response_preview")
    }
    fitted: Trace = replace(header, **changed)
    facts = fitting.sink.traces
    if facts is not None and facts.in_messages:
        return header_in_message(fitted, fitting)
    return fitted


def fitted_assessment(each: Assessment, fitting: Fitting) -> Assessment:
    """Return an assessment."""
    label = f"assessment {each.id}"

    def cut(name: str, value: str) -> str:
        return fitting.text(f"assessment.{name}", value, f"{label} {name}")

    def optional(name: str, value: str | None) -> str | None:
        return None if value is None else cut(name, value)

    return replace(
        each,
        name=cut("name", each.name),
        value=cut("value", each.value),
        source_type=cut("source_type", each.source_type),
        source_id=optional("source_id", each.source_id),
        rationale=optional("rationale", each.rationale),
        error=optional("error", each.error),
        metadata=optional("metadata", each.metadata),
    )


def fitted_span(span: Span, fitting: Fitting) -> Span:
    """Return a span."""
    label = f"span {span.id}"
    name = fitting.optional("span.name", span.name, f"{label} name")
    type_ = fitting.optional("span.type", span.type, f"{label} type")
    content = fitting.text("span.content", span.content, label)
    if (name, type_, content) == (span.name, span.type, span.content):
        return span
    return replace(span, name=name, type=type_, content=content)
