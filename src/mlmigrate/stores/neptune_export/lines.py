"""The artifacts that are made of a run's rows: lines of JSON, in the order of steps."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

_BUFFER = 1 << 16


@dataclass(slots=True)
class _Series:
    file: BinaryIO
    steps: array[int] = field(default_factory=lambda: array("q"))
    times: array[int] = field(default_factory=lambda: array("q"))
    waiting: list[str] = field(default_factory=list)
    size: int = 0  # characters that wait


class Lines:
    """Writes the lines of several series, each into a file of its own.

    Lines are put in order at the end, where they did not come so: only then are those
    of one series in memory at once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._series: dict[str, _Series] = {}

    def add(self, path: str, step: int | None, time: int | None, line: str) -> None:
        """Add a line of the series *path*."""
        series = self._series.get(path)
        if series is None:
            place = self._folder / str(len(self._series))
            series = self._series[path] = _Series(place.open("w+b"))
        series.steps.append(-(2**63) if step is None else step)
        series.times.append(-(2**63) if time is None else time)
        series.waiting.append(line)
        series.size += len(line)
        if series.size > _BUFFER:
            _write(series)

    def finish(self) -> Mapping[str, Path]:
        """Return the file of each series."""
        for series in self._series.values():
            _write(series)
            steps, times = np.asarray(series.steps), np.asarray(series.times)
            order = np.lexsort((times, steps))
            if (np.diff(order) < 0).any():
                series.file.seek(0)
                lines = series.file.readlines()
                series.file.seek(0)
                series.file.writelines(lines[at] for at in order)
            series.file.close()
        return {
            path: self._folder / str(number) for number, path in enumerate(self._series)
        }


def _write(series: _Series) -> None:
    series.file.write("".join(series.waiting).encode())
    series.waiting.clear()
    series.size = 0
