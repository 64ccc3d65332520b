"""The rows of W&B's history as metric points, and what no point holds beside them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlmigrate.wandb_runs.own import Own
from mlmigrate.wandb_runs.rows import STEP, TIMESTAMP
from mlmigrate.wandb_runs.values import (
    SYSTEM,
    KeyPath,
    Points,
    leaves,
    millis,
    number,
)

#: The file of the values that are no numbers, or more than a float holds.
HISTORY = "wandb/history.jsonl"


class History:
    """A run's rows and samples, gathered in the order in which they were logged."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """Gather; *write* gets the lines of `HISTORY`, one by one."""
        self.own: Own | None = None  # set where mlmigrate wrote the rows
        self.metrics: dict[KeyPath, Points] = defaultdict(Points)
        self.last: dict[KeyPath, Any] = {}  # of each key, as JSON has it
        self.latest: int | None = None  # the last time that stands anywhere
        self.media: dict[str, None] = {}  # files that values name
        self.repairs: Counter[str] = Counter()
        self.rows = 0
        self._write = write
        self._step = -1
        self._samples = 0

    def saw(self, time: int) -> None:
        """Note a time, in milliseconds, that stands somewhere of the run."""
        self.latest = max(time, self.latest or time)

    def add_row(
        self,
        said: dict[str, Any],
        *,
        counted: Any = None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Add a row: its numbers are points, and what a float does not hold whole goes
        to a file, in the shape that W&B itself has for rows.

        Args:
            said: the row; it is changed.
            counted: the step that stands beside the row, where it names none.
            texts: what of the row is no JSON.
        """
        self.rows += 1
        step = self._step_of(said.get("_step", counted))
        timestamp = self._time_of(said.get("_timestamp"))
        whole: dict[str, Any] = {}
        if self.own is not None:
            step, timestamp = own_place(self.own, said, step, timestamp)
        for key, value in said.items():
            if key in ("_step", "_timestamp"):
                continue
            exact = True
            nested = isinstance(value, dict)
            for below, leaf in leaves(value, (key,)) if nested else (((key,), value),):
                self.last[below] = leaf if isinstance(leaf, float | int) else None
                found = number(leaf)
                exact &= found is not None and found[1]
                if found is not None:
                    self.metrics[below].add(step, timestamp, found[0])
                elif isinstance(leaf, dict):
                    self._add_media(leaf)
            if not exact:
                whole[key] = value
        whole.update(texts or {})
        if whole:
            said_time = said.get("_timestamp", timestamp / 1000)
            line = {"_step": step, "_timestamp": said_time, **whole}
            # Sorted, as a server gives the values of a row in any order.
            self._write(json.dumps(line, sort_keys=True) + "\n")

    def _step_of(self, step: Any) -> int:
        found = _whole(step)
        if found is None:
            self.repairs["rows without a step: counted on"] += 1
            found = self._step + 1
        self._step = found
        return found

    def _time_of(self, said: Any) -> int:
        time = millis(said)
        if time is None:
            self.repairs["rows without a time: that of what came before"] += 1
            return self.latest or 0
        self.saw(time)
        return time

    def _add_media(self, value: dict[str, Any]) -> None:
        path = value.get("path")
        if isinstance(path, str) and str(value.get("_type", "")).endswith("-file"):
            self.media[path] = None

    def add_sample(
        self, values: Iterable[tuple[KeyPath, Any]], timestamp: int | None
    ) -> bool:
        """Add what the client measured of the machine at one time; tell whether some
        of it is no number.
        """
        if timestamp is None:
            self.repairs["samples without a time: that of what came before"] += 1
            timestamp = self.latest or 0
        lost = False
        for above, value in values:
            for path, leaf in leaves(value, (SYSTEM, *above)):
                found = number(leaf)
                if found is not None:
                    self.metrics[path].add(self._samples, timestamp, found[0])
                lost |= found is None or not found[1]
        self.saw(timestamp)
        self._samples += 1
        return lost


def own_place(
    own: Own, row: dict[str, Any], step: int, timestamp: int
) -> tuple[int, int]:
    """Return the step and the time in milliseconds of a row that mlmigrate wrote, and
    take off what it wrote to tell them.
    """
    row.pop("_runtime", None)
    if own.steps == "rows":
        said, time = _whole(row.pop(STEP, None)), _whole(row.pop(TIMESTAMP, None))
        step = step if said is None else said
        timestamp = timestamp if time is None else time
    return step, timestamp


def _whole(value: Any) -> int | None:
    """Return a whole number of 64 bits, which a server may have made a float."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and -(2**63) <= value < 2**63 else None
