"""What MLflow's messages say of times and assessments: in the answers of a server, and
in the files of a file store, which are such messages as YAML.

Sources of the rules are MLflow's ``assessments.proto`` and ``entities/assessment.py``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from mlmigrate.model import Assessment, Ref

#: The key of an assessment's metadata that says by which run it was made.
ASSESSED_BY = "mlflow.assessment.sourceRunId"
#: What an assessment of another form makes of reading it.
NOT_READ = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
#: How deep a value may be nested in a message, whose own depth protobuf limits to 100.
DEEPEST = 30

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLI = timedelta(milliseconds=1)
_SECONDS = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]*))?s$")


def millis(value: Any) -> int | None:
    """Return a time in milliseconds, of text such as ``2026-01-31T12:00:00.123Z`` or of
    a number, as older files have it; None where it is neither.
    """
    if isinstance(value, str) and "T" in value:
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        whole = value if value.tzinfo else value.replace(tzinfo=UTC)
        return (whole - _EPOCH) // _MILLI
    return whole_number(value)


def whole_number(value: Any) -> int | None:
    """Return a value, such as a time or a step, as a whole number; None where it is
    none, or none that a database holds.
    """
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if -(2**63) <= number < 2**63 else None


def length(value: Any) -> int | None:
    """Return the milliseconds that a text such as ``1.234s`` says, or None."""
    found = _SECONDS.match(str(value))
    if found is None:
        return None
    sign, seconds, part = found.groups()
    whole = int(seconds) * 1000 + round(float(f"0.{part or 0}") * 1000)
    return -whole if sign else whole


def timestamp(time: int) -> str:
    """Return a time in milliseconds as a message says it.

    Raises:
        OverflowError: it is not in the years 1 to 9999.
    """
    moment = _EPOCH + timedelta(milliseconds=time)
    return f"{moment.isoformat(timespec='milliseconds')[:23]}Z"


def duration(time: int) -> str:
    """Return a number of milliseconds as a message says it."""
    seconds, rest = divmod(abs(time), 1000)
    return f"{'-' if time < 0 else ''}{seconds}.{rest:03}s"


def assessment_of(said: Mapping[str, Any], name: str) -> Assessment:
    """Return an assessment that a message says.

    Args:
        said: its fields.
        name: its id, where it says none.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, RecursionError: it is none.
    """
    kind, value, error = _value(said)
    source = said.get("source") or {}
    metadata = said.get("metadata") or None
    run = said.get("run_id") or (metadata or {}).get(ASSESSED_BY)
    return Assessment(
        id=_text(said.get("assessment_id")) or name,
        name=str(said["assessment_name"]),
        kind=kind,
        value=json.dumps(value),
        source_type=str(source.get("source_type") or "SOURCE_TYPE_UNSPECIFIED"),
        source_id=_text(source.get("source_id")),
        error=json.dumps(error) if error else None,
        rationale=_text(said.get("rationale")),
        metadata=json.dumps(metadata) if metadata else None,
        run=Ref("run", str(run)) if run else None,
        span=_text(said.get("span_id")),
        created=millis(said.get("create_time")),
        updated=millis(said.get("last_update_time")),
        overrides=_text(said.get("overrides")),
        valid=said.get("valid", True) is not False,
    )


def _value(said: Mapping[str, Any]) -> tuple[str, Any, Any]:
    """Return the kind, the value and the error."""
    if (feedback := said.get("feedback")) is not None:
        return "feedback", feedback.get("value"), feedback.get("error")
    if (expectation := said.get("expectation")) is not None:
        if "serialized_value" in expectation:
            whole = json.loads(expectation["serialized_value"]["value"])
            return "expectation", whole, None
        return "expectation", expectation.get("value"), None
    if (issue := said.get("issue")) is not None:
        return "issue", issue, None
    raise ValueError("it has neither feedback nor expectation")


def _text(value: Any) -> str | None:
    if value is None or value == "" or isinstance(value, list | dict):
        return None
    return str(value)


# -- what a message can hold ----------------------------------------------------------


def value_in_message(kind: str, text: str) -> tuple[str, bool]:
    """Return the value of an assessment as a message holds it.

    A feedback's, and an expectation's that is no list or object, is a
    ``google.protobuf.Value``: numbers are floats, objects have no order, and there is
    neither NaN nor an infinity. Any other expectation is text that holds JSON.

    Args:
        kind: feedback, expectation or issue.
        text: JSON.

    Returns:
        JSON, and whether it means the same.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return json.dumps(text), False
    if kind == "issue":
        name = value.get("issue_name") if isinstance(value, dict) else None
        held = {"issue_name": name if isinstance(name, str) else text}
        return json.dumps(held), held == value
    if kind == "expectation":
        if value is None:  # MLflow wants one
            return json.dumps("null"), False
        if isinstance(value, list | dict):
            return json.dumps(value), True
    try:
        plain, whole = _plain(value, DEEPEST)
    except RecursionError:
        plain, whole = text, False
    return json.dumps(plain, sort_keys=True), whole


def _plain(value: Any, depth: int) -> tuple[Any, bool]:
    if depth < 0:
        raise RecursionError
    if isinstance(value, dict):
        parts = {key: _plain(each, depth - 1) for key, each in value.items()}
        whole = all(same for _, same in parts.values())
        return {key: part for key, (part, _) in parts.items()}, whole
    if isinstance(value, list):
        items = [_plain(each, depth - 1) for each in value]
        return [part for part, _ in items], all(same for _, same in items)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value, True
    try:
        number = float(value)
    except OverflowError:
        return str(value), False
    if not math.isfinite(number):
        return str(number), False
    return number, number == value
