"""Tags and metadata of traces that MLflow >= 3.15 keeps in columns of ``trace_info``:
the name, the session, and what tokens and costs come to.

MLflow shows the columns alone. What they cannot say as it was stands in a row beside
them as well, as it did before there were columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from mlmigrate.stores.mlflow_db.values import text

NAME = "mlflow.traceName"
SESSION = "mlflow.trace.session"
TOKENS = "mlflow.trace.tokenUsage"
COST = "mlflow.trace.cost"

#: Keys of the JSON, which are the names of the columns, too.
TOKEN_KEYS = (
    *("input_tokens", "output_tokens", "total_tokens"),
    *("cache_read_input_tokens", "cache_creation_input_tokens"),
    "cache_creation_input_tokens_above_1hr",
)
COST_KEYS = ("input_cost", "output_cost", "total_cost")
COLUMNS = ("trace_name", "session_id", *TOKEN_KEYS, *COST_KEYS)

_Pairs: TypeAlias = list[tuple[str, str]]


def count(value: Any) -> int | None:
    """Return a number of tokens as the column holds it; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
        whole = int(value) if not isinstance(value, str) else int(number)
    except (ValueError, OverflowError):
        return None
    return whole if number == whole and -(2**63) <= whole < 2**63 else None


def real(value: Any) -> float | None:
    """Return a cost as the column holds it; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


_SUMS: dict[str, tuple[tuple[str, ...], Callable[[Any], Any]]] = {
    TOKENS: (TOKEN_KEYS, count),
    COST: (COST_KEYS, real),
}


# -- reading --------------------------------------------------------------------------


def tags(row: Mapping[str, Any], pairs: Iterable[tuple[str, str]]) -> _Pairs:
    """Return the tags of a trace, its name among them."""
    return _with(list(pairs), NAME, text(row["trace_name"]))


def metadata(row: Mapping[str, Any], pairs: Iterable[tuple[str, str]]) -> _Pairs:
    """Return the metadata of a trace, with what stands in columns."""
    found = _with(list(pairs), SESSION, text(row["session_id"]))
    for key, (names, _) in _SUMS.items():
        values = {
            name: row[name] if isinstance(row[name], int | float) else text(row[name])
            for name in names
            if row[name] is not None
        }
        beside = next((value for own, value in found if own == key), None)
        if values and (beside is None or _said(key, beside) != values):
            found = [pair for pair in found if pair[0] != key]
            found.append((key, json.dumps(values)))
    return found


def _with(pairs: _Pairs, key: str, column: str | None) -> _Pairs:
    beside = next((value for own, value in pairs if own == key), None)
    if column is None or (beside is not None and beside.startswith(column)):
        return pairs
    return [*(pair for pair in pairs if pair[0] != key), (key, column)]


def _said(key: str, value: str) -> dict[str, Any]:
    """Return the columns that a text of metadata fills."""
    names, convert = _SUMS[key]
    try:
        loaded = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(loaded, dict):
        return {}
    found = {name: convert(loaded.get(name)) for name in names}
    return {name: number for name, number in found.items() if number is not None}


# -- writing --------------------------------------------------------------------------


def split(
    pairs: _Pairs, limits: Mapping[str, int | None]
) -> tuple[_Pairs, dict[str, Any]]:
    """Return the rows, and the columns, that tags or metadata become.

    Args:
        pairs: the tags or the metadata of a trace.
        limits: the columns that the table has, and how much text each holds.
    """
    rows: _Pairs = []
    columns: dict[str, Any] = {}
    places = {NAME: "trace_name", SESSION: "session_id"}
    for key, value in pairs:
        column = places.get(key)
        if column is not None and column in limits:
            columns[column] = value[: limits[column]]
            if columns[column] != value:
                rows.append((key, value))
        elif key in _SUMS and _SUMS[key][0][0] in limits:
            own = _said(key, value)
            columns.update((name, own[name]) for name in own if name in limits)
            if json.dumps(own) != value:
                rows.append((key, value))
        else:
            rows.append((key, value))
    return rows, columns
