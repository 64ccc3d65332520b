"""Series that MLflow has no place for, as lines of JSON in an artifact of the run.

Each line is a point: ``step`` (a number, maybe a fraction), ``timestamp``
(milliseconds, or null) and ``value``; that of a histogram has ``type``, ``edges`` and
``values``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlmigrate.neptune_runs.steps import shown

#: What the name of such an artifact ends with, behind the path of the attribute.
SUFFIX = ".jsonl"


def line(
    step: int | None,
    timestamp: int | None,
    value: str | float | Mapping[str, Any] | None,
) -> str:
    """Return one point as a line.

    Args:
        step: in millionths.
        timestamp: in milliseconds.
        value: a text, a number, or a histogram.
    """
    at = "null" if step is None else shown(step)
    time = "null" if timestamp is None else timestamp
    said = json.dumps(value)
    return f'{{"step": {at}, "timestamp": {time}, "value": {said}}}\n'
