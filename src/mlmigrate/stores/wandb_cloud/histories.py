"""All rows of a run's history, which the public API gives by ranges of steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlmigrate.model import MetricHistory
from mlmigrate.wandb_runs.history import History, own_place
from mlmigrate.wandb_runs.own import Own
from mlmigrate.wandb_runs.values import Points, millis, number

#: Steps a row, from which on they lie far apart.
_FAR = 2
#: Rows that one request is to give.
_ROWS = 1000
#: The size of a range is an ``Int`` of GraphQL's.
_WIDEST = (1 << 31) - 1
#: Ranges of `_ROWS` steps that are worth asking for one by one.
_MOST_RANGES = 10_000
_MOST_SAMPLES = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """The history of a run that mlmigrate wrote, as the server has it."""

    metrics: Mapping[str, MetricHistory]  # by W&B's keys
    rows: int
    last: int  # the highest ``_step``, -1 where there is no row


def rows_of(run: Any) -> Iterator[dict[str, Any]]:
    """Yield all rows of a run of the public API's.

    The client asks for a range of steps at a time, whatever is in it: where steps lie
    far apart, wide ranges are asked for, and narrow ones where the server then gave
    fewer rows than there are.
    """
    count = run.historyLineCount or 0
    if not count:
        return
    scan = run.scan_history(page_size=_ROWS, use_cache=False)
    apart = (scan.max_step + 1) / count
    if apart <= _FAR:
        yield from scan
        return
    scan.page_size = min(_WIDEST, int(_ROWS * apart))
    seen = set()
    for row in scan:
        seen.add(row.get("_step"))
        yield row
    if len(seen) < count and scan.max_step < _ROWS * _MOST_RANGES:
        for row in run.scan_history(page_size=_ROWS, use_cache=False):
            if row.get("_step") not in seen:
                yield row


def gather(run: Any, history: History) -> str | None:
    """Add all rows of *run* to *history*; return what is wrong, if anything is."""
    for row in rows_of(run):
        # The client gives the values of a row in any order.
        history.add_row(dict(sorted(row.items())))
    said = run.historyLineCount or 0
    if history.rows == said:
        return None
    return f"W&B counts {said} rows of its history and gives {history.rows}"


def stored(run: Any, own: Own) -> Stored:
    """Read the history of a run that mlmigrate wrote, without its system metrics."""
    points: dict[str, Points] = defaultdict(Points)
    last, count = -1, 0
    for row in rows_of(run):
        count += 1
        row_step = int(row.pop("_step", -1))
        last = max(last, row_step)
        time = millis(row.pop("_timestamp", None)) or 0
        step, time = own_place(own, row, row_step, time)
        for key, value in row.items():
            if type(value) is float:  # most are
                points[key].add(step, time, value)
            elif (found := number(value)) is not None:
                points[key].add(step, time, found[0])
    metrics = {key: each.history(key) for key, each in points.items()}
    return Stored(metrics, count, last)


def add_samples(run: Any, history: History) -> bool:
    """Add what the client measured of the machine; tell whether that is all of it.

    The public API has no other way to system metrics than a number of samples: more
    than any run has.
    """
    found = run.history(samples=_MOST_SAMPLES, pandas=False, stream="system")
    for row in found:
        values = [
            ((key.removeprefix("system."),), value)
            for key, value in row.items()
            if key.startswith("system.")
        ]
        history.add_sample(values, millis(row.get("_timestamp")))
    return len(found) < _MOST_SAMPLES
