"""What operations make of one run, whichever of Neptune's clients wrote them.

One pass, in the order in which they were written: points go at once into columns, and
what becomes a file goes to where files are made.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlmigrate.model import Float64s, Int64s
from mlmigrate.neptune_runs import series
from mlmigrate.neptune_runs.attributes import MILLIONTHS, FloatSeries, Scalar
from mlmigrate.stores.neptune_offline.filesets import FileSet
from mlmigrate.stores.neptune_offline.made import Key, Made
from mlmigrate.stores.neptune_offline.uploads import Upload

#: The operations that MLflow has no place for, each with all that it says.
OPERATIONS = "neptune/operations.jsonl"
#: Values that were to be replaced by others, which the 3.x client calls previews.
PREVIEWS = "neptune/previews.jsonl"

_LARGEST_STEP = 9e12  # in millionths it still fits in 64 bits


@dataclass(slots=True)
class Points:
    """A series of numbers, as it grows: a step that is NaN counts on from the last."""

    values: array[float] = field(default_factory=lambda: array("d"))
    steps: array[float] = field(default_factory=lambda: array("d"))
    times: array[float] = field(default_factory=lambda: array("d"))  # seconds

    def trim(self) -> None:
        """Drop a point of which a part could not be added."""
        least = min(len(self.values), len(self.steps), len(self.times))
        del self.values[least:], self.steps[least:], self.times[least:]


class Gathered:
    """What the operations of one run say."""

    def __init__(self, made: Made) -> None:
        self.scalars: dict[str, Scalar] = {}
        self.floats: dict[str, Points] = {}
        self.uploads: dict[str, Upload] = {}
        self.filesets: dict[str, FileSet] = {}
        #: How often something went wrong, by what it was.
        self.wrong: Counter[str] = Counter()
        #: How often something was repaired or chosen.
        self.notes: Counter[str] = Counter()
        #: The times of the points of texts and histograms, the first and the last.
        self.span: tuple[int, int] | None = None
        self._made = made
        self._last: dict[tuple[str, str], float] = {}  # the steps of other series
        self._of: dict[tuple[str, str], list[Key]] = {}  # the files of an attribute

    # -- values -----------------------------------------------------------------

    def assign(self, path: str, scalar: Scalar) -> None:
        """Set an attribute with one value."""
        self.scalars[path] = scalar

    def change_set(self, path: str, add: set[str], remove: set[str]) -> None:
        """Add strings to a set, and remove others from it."""
        held = self.scalars.get(path)
        words = set(held.value) if held and isinstance(held.value, tuple) else set()
        self.assign(path, Scalar("string_set", tuple(sorted((words | add) - remove))))

    def points(self, path: str) -> Points:
        """Return the series of numbers at a path."""
        found = self.floats.get(path)
        if found is None:
            found = self.floats[path] = Points()
        return found

    def delete(self, path: str) -> None:
        """Forget an attribute."""
        for held in (self.scalars, self.floats, self.uploads, self.filesets):
            held.pop(path, None)
        for kind in ("texts", "images", "file"):
            self.clear(kind, path)

    # -- files ------------------------------------------------------------------

    def step_of(self, kind: str, path: str, step: float | None) -> int:
        """Return the step of a point that is no number, in millionths.

        Raises:
            ValueError: it is out of range.
        """
        last = self._last.get((kind, path), -1.0)
        found = last + 1 if step is None else step
        if not abs(found) <= _LARGEST_STEP:  # also of NaN
            raise ValueError(f"a step is {step}")
        self._last[kind, path] = found
        return round(found * MILLIONTHS)

    def add_line(
        self, path: str, step: int | None, time: int, value: str | Mapping[str, Any]
    ) -> None:
        """Add a point to a series of texts or histograms.

        Args:
            path: the attribute's.
            step: in millionths.
            time: in milliseconds.
            value: what was logged.
        """
        first, last = self.span or (time, time)
        self.span = min(first, time), max(last, time)
        key = self._key("texts", path, path + series.SUFFIX)
        self._made.add(key, series.line(step, time, value).encode())

    def add_file(self, kind: str, path: str, wanted: str, data: bytes) -> None:
        """Add a file whose bytes the operations hold."""
        held = self._of.get((kind, path), [])
        name, number = wanted, 2
        while (kind, name) in held:
            name, number = f"{wanted}~{number}", number + 1
        self._made.add(self._key(kind, path, name), data)

    def clear(self, kind: str, path: str) -> None:
        """Forget the files of an attribute."""
        self._last.pop((kind, path), None)
        for key in self._of.pop((kind, path), ()):
            self._made.drop(key)

    def keep(self, name: str, said: Mapping[str, Any]) -> None:
        """Keep what has no place of its own in a file of lines."""
        self._made.add(("kept", name), (json.dumps(said) + "\n").encode())

    def _key(self, kind: str, path: str, wanted: str) -> Key:
        key = (kind, wanted)
        held = self._of.setdefault((kind, path), [])
        if not held or held[-1] != key:
            held.append(key)
        return key

    # -- the end ----------------------------------------------------------------

    def series(self) -> dict[str, FloatSeries]:
        """Return the series of numbers, and count what of them cannot be kept."""
        found: dict[str, FloatSeries] = {}
        for path, points in self.floats.items():
            if made := self._finished(path, points):
                found[path] = made
        return found

    def _finished(self, path: str, points: Points) -> FloatSeries | None:
        steps = np.frombuffer(points.steps, np.float64)
        values = np.frombuffer(points.values, np.float64)
        times = np.frombuffer(points.times, np.float64)
        at = np.arange(len(steps))
        known = np.maximum.accumulate(np.where(np.isnan(steps), -1, at))
        base = np.where(known < 0, -1.0, steps[known])
        steps = base + (at - known)
        good = (np.abs(steps) <= _LARGEST_STEP) & (np.abs(times) <= _LARGEST_STEP)
        if not good.all():
            what = f"points of {path} have a step or a time that is out of range"
            self.wrong[what] += int((~good).sum())
            steps, values, times = steps[good], values[good], times[good]
        if not len(steps):
            return None
        units = np.floor(steps)
        micros = np.rint((steps - units) * MILLIONTHS)
        off = np.abs(micros / MILLIONTHS - (steps - units)) > np.spacing(np.abs(steps))
        if off.any():
            what = f"steps of {path} have more than six digits behind the point"
            self.notes[f"{what}: rounded"] += int(off.sum())
        # Together as floats they would not be exact.
        whole = units.astype(np.int64) * MILLIONTHS + micros.astype(np.int64)
        return FloatSeries(whole, whole_times(times), values.copy())


def whole_times(seconds: Float64s) -> Int64s:
    """Return times in whole milliseconds, as Neptune cuts them off: half a microsecond
    makes up for what seconds as a float cannot tell.
    """
    return np.floor(seconds * 1000 + 0.0005).astype(np.int64)


def whole_time(seconds: float) -> int:
    """Return one time in milliseconds: see `whole_times`."""
    return math.floor(seconds * 1000 + 0.0005)
