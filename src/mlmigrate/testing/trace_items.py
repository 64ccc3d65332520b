"""Traces to copy, with something in every field."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from mlmigrate.model import (
    Artifact,
    Assessment,
    Item,
    Ref,
    Span,
    Tag,
    Trace,
    TraceLink,
)
from mlmigrate.testing.items import NOW, OTHER, RUN, experiment, run

TRACE = f"tr-{RUN}"
OTHER_TRACE = f"tr-{OTHER}"
ROOT, CHILD = "00000000000000a1", "00000000000000b2"
_NANO = 1_000_000


def trace(id: str = TRACE, experiment: str = "1", **more: Any) -> Item:
    """Return a trace; keywords are fields of the item or of its header."""
    own = {name: more.pop(name) for name in list(more) if name in _ITEM_FIELDS}
    header = {
        "state": "OK",
        "request_time": NOW + 1000,
        "execution_duration": 250,
        **more,
    }
    home = Ref("experiment", experiment)
    return Item(Ref("trace", id), Trace(home, **header), id, **own)


_ITEM_FIELDS = {"tags", "metadata", "spans", "assessments", "trace_links", "artifacts"}


def span(
    id: str = ROOT,
    trace: str = TRACE,
    parent: str | None = None,
    *,
    name: str = "answer",
    length: int = 250,
    attributes: Mapping[str, Any] | None = None,
) -> Span:
    """Return a span as MLflow stores it; *length* in milliseconds, 0 for one that goes
    on.
    """
    start = (NOW + 1000) * _NANO
    end = start + length * _NANO if length else None
    own = {
        "mlflow.traceRequestId": trace,
        "mlflow.spanType": "CHAIN",
        **(attributes or {}),
    }
    content: dict[str, Any] = {
        "trace_id": _base64(trace.removeprefix("tr-")),
        "span_id": _base64(id),
        "parent_span_id": None if parent is None else _base64(parent),
        "name": name,
        "start_time_unix_nano": start,
        "end_time_unix_nano": end,
        "events": [],
        "status": {"code": "STATUS_CODE_OK", "message": ""},
        "attributes": {
            key: json.dumps(value, ensure_ascii=False) for key, value in own.items()
        },
        "links": [],
    }
    text = json.dumps(content, ensure_ascii=False)
    return Span(id, text, parent, name, "CHAIN", "OK", start, end)


def _base64(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()


def assessment(id: str = "a-1", value: Any = True, **more: Any) -> Assessment:
    """Return an assessment by a person."""
    fields = {
        "name": "correct",
        "kind": "feedback",
        "source_type": "HUMAN",
        "source_id": "mei",
        "created": NOW + 5000,
        "updated": NOW + 6000,
        **more,
    }
    return Assessment(id, value=json.dumps(value), **fields)


def full_trace() -> tuple[Item, dict[str, bytes]]:
    """Return a trace with something in every field, and its artifacts."""
    data = {"attachments/1/a ü.bin": bytes(1000)}
    usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    cost = {"input_cost": 0.5, "output_cost": 0.25, "total_cost": 0.75}
    by_run = {"mlflow.assessment.sourceRunId": OTHER}
    item = trace(
        client_request_id="call-1",
        request_preview='{"question": "größer? 🚀"}',
        response_preview='"yes"',
        source_run=Ref("run", RUN),
        tags=(Tag("mlflow.traceName", "answer"), Tag("team", "growth ä")),
        metadata=(
            Tag("mlflow.trace.session", "s-1"),
            Tag("mlflow.trace.tokenUsage", json.dumps(usage)),
            Tag("mlflow.trace.cost", json.dumps(cost)),
            Tag("mlflow.user", "dana"),
            Tag("empty", ""),
        ),
        spans=(
            span(attributes={"mlflow.spanInputs": {"question": "größer? 🚀"}}),
            span(
                CHILD,
                parent=ROOT,
                name="lookup",
                length=100,
                attributes={
                    "mlflow.chat.tokenUsage": usage,
                    "mlflow.llm.cost": cost,
                    "mlflow.llm.model": "gpt-x",
                },
            ),
        ),
        assessments=(
            assessment(
                "a-1",
                {"nested": [1, None, "ä"]},
                name="expected",
                kind="expectation",
                valid=False,
            ),
            assessment(
                "a-2",
                0.5,
                run=Ref("run", OTHER),
                metadata=json.dumps(by_run),
                span=CHILD,
                rationale="because",
                overrides="a-1",
            ),
            assessment(
                "a-3",
                None,
                source_type="LLM_JUDGE",
                error=json.dumps({"error_code": "E", "error_message": "failed"}),
            ),
        ),
        trace_links=(
            TraceLink("run", OTHER, NOW + 7000),
            TraceLink("prompt_version", "ask/2", NOW + 8000),
        ),
        artifacts=tuple(Artifact(path, len(b)) for path, b in sorted(data.items())),
    )
    return item, data


def with_traces() -> tuple[list[Item], dict[tuple[Ref, str], bytes]]:
    """Return an experiment, its runs, and traces: one is full, one has next to nothing,
    and one goes on.
    """
    full, data = full_trace()
    bare = trace(OTHER_TRACE, state="ERROR", execution_duration=None)
    young = f"tr-{'5' * 32}"
    going = trace(
        young,
        state="IN_PROGRESS",
        execution_duration=None,
        spans=(span(trace=young, length=0),),
    )
    items = [experiment(), run(), run(OTHER), full, bare, going]
    return items, {(full.ref, path): content for path, content in data.items()}
