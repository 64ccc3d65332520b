"""What tokens and costs of a trace come to, as its metadata says it and as MLflow >=
3.15 keeps it, in columns (``store/tracking/utils/trace_analytics.py``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

TOKENS = "mlflow.trace.tokenUsage"
COST = "mlflow.trace.cost"

#: Keys of the JSON, which are the names of the columns, too.
TOKEN_KEYS = (
    *("input_tokens", "output_tokens", "total_tokens"),
    *("cache_read_input_tokens", "cache_creation_input_tokens"),
    "cache_creation_input_tokens_above_1hr",
)
COST_KEYS = ("input_cost", "output_cost", "total_cost")


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


#: Key of the metadata -> keys of its JSON, and what converts their values.
SUMS: dict[str, tuple[tuple[str, ...], Callable[[Any], Any]]] = {
    TOKENS: (TOKEN_KEYS, count),
    COST: (COST_KEYS, real),
}


def adds_to(key: str, held: str | None, wanted: str) -> bool:
    """Tell whether a text of metadata says all sums that another says, and more.

    A server sums up the spans that it gets, and what is said of a trace overrules only
    the sums that it names: those that older releases did not make stay.
    """
    if key not in SUMS or held is None:
        return False
    try:
        own, said = json.loads(held), json.loads(wanted)
    except (ValueError, RecursionError):
        return False
    if not isinstance(own, dict) or not isinstance(said, dict):
        return False
    more = own.keys() - said.keys()
    if not more or not more <= {*SUMS[key][0]}:
        return False
    return json.dumps({**own, **said}) == json.dumps(own)  # where 5 is not 5.0


def columns_of(key: str, value: str) -> dict[str, Any]:
    """Return the columns that a text of metadata fills."""
    names, convert = SUMS[key]
    try:
        loaded = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(loaded, dict):
        return {}
    found = {name: convert(loaded.get(name)) for name in names}
    return {name: number for name, number in found.items() if number is not None}
