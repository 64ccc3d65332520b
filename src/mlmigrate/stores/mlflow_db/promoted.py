"""Tags and metadata of traces that MLflow >= 3.15 keeps in columns of ``trace_info``:
the name, the session, and what tokens and costs come to.

MLflow shows the columns alone. What they cannot say as it was stands in a row beside
them as well, as it did before there were columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from mlmigrate.stores.mlflow_db.values import text
from mlmigrate.trace_sums import COST_KEYS, SUMS, TOKEN_KEYS, columns_of

NAME = "mlflow.traceName"
SESSION = "mlflow.trace.session"
COLUMNS = ("trace_name", "session_id", *TOKEN_KEYS, *COST_KEYS)

_Pairs: TypeAlias = list[tuple[str, str]]


# -- reading --------------------------------------------------------------------------


def tags(row: Mapping[str, Any], pairs: Iterable[tuple[str, str]]) -> _Pairs:
    """Return the tags of a trace, its name among them."""
    return _with(list(pairs), NAME, text(row["trace_name"]))


def metadata(row: Mapping[str, Any], pairs: Iterable[tuple[str, str]]) -> _Pairs:
    """Return the metadata of a trace, with what stands in columns."""
    found = _with(list(pairs), SESSION, text(row["session_id"]))
    for key, (names, _) in SUMS.items():
        values = {
            name: row[name] if isinstance(row[name], int | float) else text(row[name])
            for name in names
            if row[name] is not None
        }
        beside = next((value for own, value in found if own == key), None)
        if values and (beside is None or columns_of(key, beside) != values):
            found = [pair for pair in found if pair[0] != key]
            found.append((key, json.dumps(values)))
    return found


def _with(pairs: _Pairs, key: str, column: str | None) -> _Pairs:
    beside = next((value for own, value in pairs if own == key), None)
    if column is None or (beside is not None and beside.startswith(column)):
        return pairs
    return [*(pair for pair in pairs if pair[0] != key), (key, column)]


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
        elif key in SUMS and SUMS[key][0][0] in limits:
            own = columns_of(key, value)
            columns.update((name, own[name]) for name in own if name in limits)
            if json.dumps(own) != value:
                rows.append((key, value))
        else:
            rows.append((key, value))
    return rows, columns
