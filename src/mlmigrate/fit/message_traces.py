"""Traces as MLflow's REST messages say them, which is less than its tables hold.

Sources of the rules: ``entities/trace_info.py``, ``entities/assessment.py`` and
``store/tracking/dbmodels/models.py`` (``SqlAssessments.from_mlflow_entity``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mlmigrate.fit.fitting import Fitting
from mlmigrate.mlflow_messages import ASSESSED_BY, value_in_message
from mlmigrate.model import Assessment, Ref, Span, Tag, Trace, TraceLink
from mlmigrate.trace_sums import SUMS, columns_of

_SOURCES = ("HUMAN", "LLM_JUDGE", "CODE", "SOURCE_TYPE_UNSPECIFIED")
#: The years 1 to 9999, and how long a duration may be: protobuf's own limits.
_FIRST, _LAST = -62_135_596_800_000, 253_402_300_799_999
_LONGEST = 315_576_000_000_000
_LONGEST_STACK = 10_000
_CUT_STACK = "[Stack trace is truncated]\n...\n"


def header_in_message(header: Trace, fitting: Fitting) -> Trace:
    """Return the header of a trace."""

    def within(name: str, value: int | None, least: int, most: int) -> int | None:
        if value is None or least <= value <= most:
            return value
        _lost(fitting, name, value, None)
        return min(max(value, least), most)

    duration = header.execution_duration
    return replace(
        header,
        request_time=within("request_time", header.request_time, _FIRST, _LAST),
        execution_duration=within("execution_duration", duration, -_LONGEST, _LONGEST),
    )


def metadata_in_message(pairs: Sequence[Tag], fitting: Fitting) -> list[Tag]:
    """Return the metadata of a trace. What tokens and costs come to is columns, which
    hold only certain numbers, and are said anew.
    """
    kept = []
    for pair in pairs:
        if pair.key not in SUMS:
            kept.append(pair)
            continue
        held = columns_of(pair.key, pair.value)
        if not held or not _same(json.dumps(held), pair.value):
            _lost(fitting, f"metadata {pair.key}", pair.value, None)
        if held:
            kept.append(Tag(pair.key, json.dumps(held)))
    return kept


def links_in_message(
    links: Sequence[TraceLink], header: Any, fitting: Fitting
) -> tuple[TraceLink, ...]:
    """Return the links of a trace. When one was made is the server's own, and one to
    the run during which the trace was made is not told from that.
    """
    if not isinstance(header, Trace):
        return ()
    kept = []
    for link in links:
        label = f"link to {link.kind} {link.id}"
        name, slash, version = link.id.rpartition("/")
        if link.kind == "run":
            if header.source_run == Ref("run", link.id):
                continue
        elif link.kind != "prompt_version" or not (
            name and slash and "/" not in name and version.isdecimal()
        ):
            _lost(fitting, label, [link.kind, link.id, link.created], None)
            continue
        if link.created is not None:
            _lost(fitting, f"{label} made at", link.created, None)
        kept.append(replace(link, created=None))
    return tuple(kept)


def spans_in_message(spans: Sequence[Span], fitting: Fitting) -> list[Span]:
    """Return the spans of a trace that say something. Of those that MLflow has put away
    the source has told.
    """
    kept = []
    for span in spans:
        if _is_span(span.content):
            kept.append(span)
        elif span.content:
            _lost(fitting, f"span {span.id}", span.content, None)
    return kept


def _is_span(content: str) -> bool:
    said = _object(content)
    return "name" in said and ("span_id" in said or "context" in said)


def assessments_in_message(
    assessments: Sequence[Assessment], header: Any, fitting: Fitting
) -> list[Assessment]:
    """Return what was assessed. An assessment is not valid where, and only where, a
    feedback was made that overrides it.
    """
    overridden = {each.overrides for each in assessments if each.kind == "feedback"}
    return [_assessment(each, header, overridden, fitting) for each in assessments]


def _assessment(
    each: Assessment, header: Trace, overridden: set[str | None], fitting: Fitting
) -> Assessment:
    label = f"assessment {each.id}"

    def kept(name: str, keep: bool, otherwise: Any) -> Any:
        value = getattr(each, name)
        if keep or value == otherwise:
            return value
        return _lost(fitting, f"{label} {name}", value, otherwise)

    value, same = value_in_message(each.kind, each.value)
    if not same:
        _lost(fitting, f"{label} value", each.value, None)
    feedback = each.kind == "feedback"
    error, metadata = _error(each.error), _metadata(each.metadata)
    if not feedback or not _same(error, each.error):
        error = kept("error", False, error if feedback else None)
    if not _same(metadata, each.metadata):
        _lost(fitting, f"{label} metadata", each.metadata, None)
    by = json.loads(metadata).get(ASSESSED_BY) if metadata else None
    run = Ref("run", by) if by else None
    if each.run is not None and each.run != run:
        _lost(fitting, f"{label} run", each.run.id, None)
    created = each.created or header.request_time or 1
    if not each.created:
        _lost(fitting, f"{label} created", each.created, None)
    updated = each.updated or created
    for name, time in (("created", created), ("updated", updated)):
        if not _FIRST <= time <= _LAST:
            _lost(fitting, f"{label} {name}", time, None)
    return replace(
        each,
        value=value,
        source_type=kept(
            "source_type", each.source_type in _SOURCES, "SOURCE_TYPE_UNSPECIFIED"
        ),
        source_id=each.source_id or None,
        error=error,
        rationale=kept("rationale", each.kind != "expectation", None) or None,
        metadata=metadata,
        run=run,
        span=each.span or None,
        created=min(max(created, _FIRST), _LAST),
        updated=min(max(updated, _FIRST), _LAST),
        overrides=kept("overrides", feedback, None) or None,
        valid=kept("valid", each.id in overridden, True),
    )


def _lost(fitting: Fitting, field: str, value: Any, instead: Any) -> Any:
    fitting.losses.append(f"{field}: a server's messages do not say it so")
    fitting.whole.append({"field": field, "value": value})
    return instead


def _error(text: str | None) -> str | None:
    """Return an error as a message says it: its stack is cut at the front."""
    said = _object(text)
    if not said:
        return None
    stack = _text(said.get("stack_trace"))
    if stack is not None and len(stack) > _LONGEST_STACK:
        stack = _CUT_STACK + stack[len(_CUT_STACK) - _LONGEST_STACK :]
    held = {
        "error_code": _text(said.get("error_code")) or "",
        "error_message": _text(said.get("error_message")),
        "stack_trace": stack,
    }
    return json.dumps(held)


def _metadata(text: str | None) -> str | None:
    said = {key: _text(value) or "" for key, value in _object(text).items()}
    return json.dumps(said, sort_keys=True) if said else None


def _object(text: str | None) -> dict[str, Any]:
    try:
        said = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json.dumps(value)


def _same(held: str | None, text: str | None) -> bool:
    """Tell whether two objects say the same, where None is as good as nothing."""
    if not text:
        return True
    try:
        wanted = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(wanted, dict):
        return wanted is None
    own = _object(held)
    given = {key: value for key, value in wanted.items() if value is not None}
    return given == {key: own[key] for key in given if key in own}
