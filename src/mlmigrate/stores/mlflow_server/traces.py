"""The answers of an MLflow server about traces, as records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mlmigrate.errors import ItemError
from mlmigrate.mlflow_messages import NOT_READ, assessment_of, value_in_message
from mlmigrate.mlflow_traces import (
    ARCHIVE_LOCATION,
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
    Tag,
    Trace,
    TraceLink,
)
from mlmigrate.stores.mlflow_server.rest import Json
from mlmigrate.stores.mlflow_server.trace_files import Contents
from mlmigrate.stores.mlflow_server.trace_links import End

#: On a copy: a JSON list of the keys of metadata that the server gave it.
GIVEN = "mlmigrate.given"
#: On a copy that has files beside its spans.
FILES = "mlmigrate.files"
#: Its value where ``traces.json`` is one of them.
ALL_FILES = "all"
#: On a copy: a JSON list of [kind, id] of what it was linked to.
LINKED = "mlmigrate.linked"
#: Its value where that is too long.
MANY = "many"

_LINKED_PROMPTS = "mlflow.linkedPrompts"
#: How much of a value a server shows (``tracing/constant.py``), and how MLflow's client
#: ends what it has cut so itself.
SHOWN_METADATA, SHOWN_TAG = 250, 4096
_CUT = "..."


def lifted_of(info: Json) -> Lifted:
    """Return the tags and the metadata of a trace, without what the server gave."""
    tags: dict[str, str] = info["tags"]
    try:
        given = json.loads(tags.get(GIVEN) or "[]")
    except (ValueError, RecursionError):
        given = []
    metadata = info["trace_metadata"].items()
    if isinstance(given, list):
        metadata = [(key, value) for key, value in metadata if key not in given]
    return lift(tags.items(), metadata)


def named_ends(info: Json) -> list[End]:
    """Return what the tags of a trace say that it was linked to."""
    tags: dict[str, str] = info["tags"]
    found: list[End] = []
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        found += ((str(kind), str(id)) for kind, id in json.loads(tags[LINKED]))
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        found += (
            ("prompt_version", f"{each['name']}/{each['version']}")
            for each in json.loads(tags[_LINKED_PROMPTS])
        )
    return found


def item_of(
    info: Json,
    lifted: Lifted,
    contents: Contents,
    links: Sequence[TraceLink],
    where: str,
) -> Item:
    """Return the trace that a server says.

    Args:
        info: what it says of it.
        lifted: its tags and metadata.
        contents: its spans and files.
        links: to what it was linked.
        where: what to call it in findings.

    Raises:
        ItemError: that is no trace.
    """
    findings = [*contents.findings, *_shortened(lifted, where)]
    said = state(info.get("state"))
    if contents.spans:  # wherever they are, they are read
        places = (SPANS_LOCATION, ARCHIVE_LOCATION)
        kept = tuple(tag for tag in lifted.tags if tag.key not in places)
        lifted = replace(lifted, tags=kept)
    elif not findings and not contents.files and expects_spans(lifted, said):
        findings.append(Problem(where, "its spans are gone: the server has none"))
    findings += [
        Problem(where, f"its {told} is no time: not copied") for told in info["odd"]
    ]
    if info["untold"] is not None:
        findings.append(Problem(where, info["untold"]))
    time = info["request_time"]
    if time is None and contents.spans:
        time = min(span.start_time for span in contents.spans) // 1_000_000
    assessments, problems = _assessments(info, where)
    try:
        header = Trace(
            experiment=Ref("experiment", info["experiment_id"]),
            state=said,
            request_time=time,
            execution_duration=info["execution_duration"],
            client_request_id=_text(info.get("client_request_id")),
            request_preview=_text(info.get("request_preview")),
            response_preview=_text(info.get("response_preview")),
            source_run=lifted.source_run,
            artifact_location=lifted.location,
        )
    except TypeError as error:
        raise ItemError(f"{where} is no trace that can be read: {error}") from error
    return Item(
        Ref("trace", info["trace_id"]),
        header,
        origin=lifted.origin or info["trace_id"],
        tags=lifted.tags,
        metadata=lifted.metadata,
        spans=contents.spans,
        assessments=assessments,
        trace_links=tuple(links),
        artifacts=contents.files,
        mark=lifted.mark,
        findings=(*findings, *problems),
    )


def _text(value: Any) -> str | None:
    """Return a text: an empty one is told from none."""
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"{str(value)[:40]!r} is no text")


def _shortened(lifted: Lifted, where: str) -> Iterator[Finding]:
    """Tell of values of which a server may show only the beginning. Those of a copy
    have been made to fit.
    """
    if lifted.mark:
        return
    for word, pairs, most in (
        ("tag", lifted.tags, SHOWN_TAG),
        ("metadata", lifted.metadata, SHOWN_METADATA),
    ):
        yield from (
            Problem(
                where,
                f"{word} {pair.key}: a server shows {most:,} characters and no more,"
                " and so many are here: there may have been others",
            )
            for pair in pairs
            if _may_be_cut(pair, most)
        )


def _may_be_cut(pair: Tag, most: int) -> bool:
    return len(pair.value) >= most and not pair.value.endswith(_CUT)


def _assessments(
    info: Mapping[str, Any], where: str
) -> tuple[tuple[Assessment, ...], list[Finding]]:
    found: list[Assessment] = []
    problems: list[Finding] = []
    said = info.get("assessments")
    for entry in said if isinstance(said, list) else ():
        try:
            found.append(_assessment(entry))
        except NOT_READ as error:
            what = f"an assessment cannot be read: {error}: not copied"
            problems.append(Problem(where, what))
    return tuple(found), problems


def _assessment(entry: Any) -> Assessment:
    read = assessment_of(entry, "")
    if not read.id:
        raise ValueError("it has no id")
    error = entry["feedback"].get("error") if read.kind == "feedback" else None
    return replace(
        read,
        value=value_in_message(read.kind, read.value)[0],
        # As its table has it.
        error=json.dumps({name: error.get(name) for name in _ERROR}) if error else None,
        metadata=(
            json.dumps(entry["metadata"], sort_keys=True) if read.metadata else None
        ),
    )


_ERROR = ("error_code", "error_message", "stack_trace")
