"""The part of MongoDB's query language that runs are filtered and ordered by."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .state import Run

_COLUMNS: dict[str, Callable[[Run], Any]] = {
    "name": lambda run: run.id,
    "display_name": lambda run: run.display_name,
    "displayName": lambda run: run.display_name,
    "state": lambda run: run.state,
    "group": lambda run: run.group,
    "job_type": lambda run: run.job_type,
    "jobType": lambda run: run.job_type,
    "tags": lambda run: run.tags,
    "sweep": lambda run: run.sweep,
    "notes": lambda run: run.notes,
    "created_at": lambda run: run.created,
    "createdAt": lambda run: run.created,
    "heartbeat_at": lambda run: run.heartbeat,
    "heartbeatAt": lambda run: run.heartbeat,
    "username": lambda run: None,
}


def _equal(value: Any, wanted: Any) -> bool:
    if isinstance(value, list) and not isinstance(wanted, list):
        return wanted in value
    return bool(value == wanted)


_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": _equal,
    "$ne": lambda value, wanted: not _equal(value, wanted),
    "$in": lambda value, wanted: any(_equal(value, one) for one in wanted),
    "$nin": lambda value, wanted: not any(_equal(value, one) for one in wanted),
    "$gt": lambda value, wanted: value is not None and value > wanted,
    "$gte": lambda value, wanted: value is not None and value >= wanted,
    "$lt": lambda value, wanted: value is not None and value < wanted,
    "$lte": lambda value, wanted: value is not None and value <= wanted,
    "$regex": lambda value, wanted: bool(re.search(wanted, str(value or ""))),
    "$exists": lambda value, wanted: (value is not None) == wanted,
}


def matches(run: Run, filters: Mapping[str, Any]) -> bool:
    """Tell whether *run* meets all of *filters*."""
    return all(_meets(run, key, wanted) for key, wanted in filters.items())


def in_order(runs: list[Run], order: str | None) -> list[Run]:
    """Return *runs* in an order such as `-created_at`; ties stay as they are."""
    for one in reversed((order or "").split(",")):
        column = one.lstrip("+-")
        if column:
            runs = sorted(
                runs,
                key=partial(_sort_key, column),
                reverse=one.startswith("-"),
            )
    return runs


def _sort_key(column: str, run: Run) -> Any:
    return _sortable(_value(run, column))


def _meets(run: Run, key: str, wanted: Any) -> bool:
    if key == "$and":
        return all(matches(run, one) for one in wanted)
    if key == "$or":
        return any(matches(run, one) for one in wanted)
    if key == "$not":
        return not matches(run, wanted)
    value = _value(run, key)
    if isinstance(wanted, dict) and wanted and all(k[:1] == "$" for k in wanted):
        return all(_TESTS[test](value, against) for test, against in wanted.items())
    return _equal(value, wanted)


def _value(run: Run, key: str) -> Any:
    first, _, rest = key.partition(".")
    if first == "config":
        value = _dig(run.raw_config, rest)
        # `config.lr` and `config.lr.value` mean the same.
        return value.get("value") if isinstance(value, dict) else value
    if first in ("summary_metrics", "summaryMetrics"):
        return _dig(run.summary, rest)
    return _COLUMNS[key](run)


def _dig(value: Any, path: str) -> Any:
    # Keys may hold dots: the whole rest is tried first.
    if not path or not isinstance(value, dict):
        return value if not path else None
    if path in value:
        return value[path]
    first, _, rest = path.partition(".")
    return _dig(value.get(first), rest)


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, (int, float)):
        return (1, value, "")
    return (0, 0.0, "") if value is None else (2, 0.0, str(value))
