"""What MLflow's own stores say of traces: the keys that mean something, and spans.

Spans stand as JSON in the table ``spans``, or all together in a trace's file
``traces.json``, in one of the forms that MLflow has had since 2.13.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import md5
from typing import Any

from mlmigrate import marks
from mlmigrate.model import Ref, Span, Tag
from mlmigrate.span_content import span_id

ARTIFACT_LOCATION = "mlflow.artifactLocation"
SPANS_LOCATION = "mlflow.trace.spansLocation"
#: Below which URI the spans of a trace are that MLflow has put away.
ARCHIVE_LOCATION = "mlflow.trace.archiveLocation"
SOURCE_RUN = "mlflow.sourceRun"
SPANS_FILE = "traces.json"
#: What the content of a span begins a reference to a file of the trace with.
ATTACHMENT = "mlflow-attachment://"

#: Where spans are is the store's own business, unless MLflow has put them away.
_PLACES = ("TRACKING_STORE", "ARTIFACT_REPO")
#: Metadata that only a trace has of which spans were written.
_OF_SPANS = (
    *("mlflow.trace.sizeStats", "mlflow.trace.sizeBytes"),
    *("mlflow.traceInputs", "mlflow.trace_schema.version"),
)
#: What a file of spans says beside them; MLflow < 3 repeated the root's there.
_BESIDE = {"spans", "request", "response"}
_TRACE_ID = re.compile(r"[!-~]{1,50}$")
_PATH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}$")
_STATES = {"OK", "ERROR", "IN_PROGRESS", "STATE_UNSPECIFIED"}


@dataclass(frozen=True, slots=True)
class Lifted:
    """Tags and metadata of a trace, with what means something set apart."""

    tags: tuple[Tag, ...]
    metadata: tuple[Tag, ...]
    source_run: Ref | None
    location: str | None
    origin: str | None
    mark: str | None


def lift(
    tags: Iterable[tuple[str, str]], metadata: Iterable[tuple[str, str]]
) -> Lifted:
    """Set apart what is mlmigrate's own, the run, and where files and spans are."""
    own = marks.lift(tags)
    kept: list[Tag] = []
    location = source = None
    for tag in own.tags:
        if tag.key == ARTIFACT_LOCATION:
            location = tag.value
        elif tag.key != SPANS_LOCATION or tag.value not in _PLACES:
            kept.append(tag)
    pairs: list[Tag] = []
    for key, value in metadata:
        if key == SOURCE_RUN and value:
            source = Ref("run", value)
        else:
            pairs.append(Tag(key, value))
    origin = own.origin if marks.load(own.mark) else None
    return Lifted(tuple(kept), tuple(pairs), source, location, origin, own.mark)


def expects_spans(lifted: Lifted, state: str) -> bool:
    """Tell whether a trace without spans has lost them."""
    if state == "IN_PROGRESS" or any(tag.key == SPANS_LOCATION for tag in lifted.tags):
        return False
    return any(pair.key in _OF_SPANS for pair in lifted.metadata)


def trace_id(origin: str, *, in_path: bool = False) -> str:
    """Return the id that the copy of a trace gets: its origin where the column holds
    that, otherwise one made from it, always the same.

    Args:
        origin: the trace.
        in_path: the id is part of a URL's path.
    """
    if (_PATH_ID if in_path else _TRACE_ID).match(origin):
        return origin
    return f"tr-{md5(origin.encode(), usedforsecurity=False).hexdigest()}"


def state(value: Any) -> str:
    """Return the state that a store says, also as MLflow < 3 said it."""
    text = str(value or "").replace("TRACE_STATUS_", "STATE_")
    return text if text in _STATES else "STATE_UNSPECIFIED"


def spans_in(data: bytes) -> tuple[list[Span], str | None]:
    """Return the spans of a ``traces.json``, and what of it is not said by them."""
    try:
        loaded = json.loads(data)
        listed = loaded["spans"]
        found = list(map(span_of, listed))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return [], f"holds no spans that can be read: {type(error).__name__} {error}"
    spans = {span.id: span for span in found}
    if len(spans) < len(found):
        return list(spans.values()), "has spans of one id: the last of each is copied"
    more = sorted(loaded.keys() - _BESIDE)
    return found, f"says {', '.join(more)} beside its spans" if more else None


def stored_spans(data: bytes) -> tuple[list[Span], str | None]:
    """Return the same of the spans of a database, as a server gives them in that form:
    each is the text that is stored, or that text written anew.
    """
    spans, more = spans_in(data)
    try:
        texts = list(_texts(data.decode()))
    except (ValueError, RecursionError):
        texts = []
    if len(texts) == len(spans):
        spans = [
            replace(span, content=text)
            if text == json.dumps(json.loads(text))
            else span
            for span, text in zip(spans, texts, strict=True)
        ]
    return [_as_stored(span) for span in spans], more


def _as_stored(span: Span) -> Span:
    """Return a span of a database, which gives one that goes on the end 0, and of which
    the type is missing where no attribute says it.
    """
    if span.end_time is None:
        none, zero = '"end_time_unix_nano": null,', '"end_time_unix_nano": 0,'
        span = replace(span, content=span.content.replace(zero, none, 1))
    if "mlflow.spanType" not in attributes_of(span):
        span = replace(span, type=None)
    return span


def _texts(text: str) -> Iterator[str]:
    """Yield the text of each span of ``{"spans":[…]}``."""
    head = re.match(r'\s*\{\s*"spans"\s*:\s*\[\s*', text)
    if head is None:
        return
    decode, at = json.JSONDecoder().raw_decode, head.end()
    while text[at : at + 1] == "{":
        _, end = decode(text, at)
        yield text[at:end]
        following = re.compile(r"\s*,\s*").match(text, end)
        at = following.end() if following else len(text)


def span_of(said: Mapping[str, Any]) -> Span:
    """Return a span of which a dictionary is said.

    Raises:
        ValueError: it is none.
        TypeError: it is none.
        KeyError: it is none.
    """
    attributes = said.get("attributes") or {}
    type_ = decoded(attributes.get("mlflow.spanType"))
    if "context" in said:  # MLflow < 3
        id, parent = said["context"]["span_id"], said["parent_id"]
        start, end = said["start_time"], said["end_time"]
        code = said["status_code"]
    else:
        id, parent = said["span_id"], said.get("parent_span_id")
        start, end = said["start_time_unix_nano"], said.get("end_time_unix_nano")
        code = said["status"]["code"]
    return Span(
        id=span_id(id),
        content=json_text(said),
        parent=span_id(parent) if parent else None,
        name=str(said["name"]),
        type=type_ if isinstance(type_, str) else "UNKNOWN",
        status=str(code).removeprefix("STATUS_CODE_"),
        start_time=_nanoseconds(start),
        end_time=_nanoseconds(end) if end else None,
    )


def _nanoseconds(value: Any) -> int:
    try:
        time = int(value)
    except OverflowError:
        time = 2**63
    if not -(2**63) <= time < 2**63:  # as databases hold them
        raise ValueError(f"{str(value)[:40]} is no time")
    return time


def json_text(value: Any) -> str:
    """Return JSON as MLflow stores it: searchable, where its characters are ones."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which only an escape can hold
        return json.dumps(value)
    return text


def decoded(value: Any) -> Any:
    """Return an attribute's value, of which MLflow stores the JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def attributes_of(span: Span) -> Mapping[str, Any]:
    """Return the attributes of a span as they are stored."""
    try:
        found = json.loads(span.content)["attributes"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def summed(
    spans: Sequence[Span], key: str, attributes: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """Add up what spans say under *key*, as MLflow does when spans arrive: those below
    one that says it are in its sum already.
    """
    said: dict[str, Mapping[str, Any]] = {}
    for span in spans:
        value = decoded(attributes[span.id].get(key))
        if isinstance(value, dict):
            said[span.id] = value
    parents = {span.id: span.parent for span in spans}
    total: dict[str, float] = {}
    for id, values in said.items():
        above, seen = parents[id], {id}
        while above in parents and above not in said and above not in seen:
            seen.add(above)
            above = parents[above]
        if above in said:
            continue
        for name, number in values.items():
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if abs(number) < 2**63:
                total[name] = total.get(name, 0) + number
    return total
