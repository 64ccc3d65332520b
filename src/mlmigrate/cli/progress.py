"""Progress bars for runs, metric points and bytes; only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from mlmigrate.model import Conflict, Copied, Failed, Skipped, Updated
from mlmigrate.pipeline import Total
from mlmigrate.verification import Different, Missing, Same


class Bars:
    """Observes the events of a copy or a verification."""

    def __init__(self, verb: str) -> None:
        off = not sys.stderr.isatty()
        self._runs = tqdm(desc=f"{verb} runs", unit=" runs", disable=off, leave=False)
        self._points = tqdm(
            desc="metric points", unit=" points", disable=off, leave=False,
            unit_scale=True, position=1,
        )  # fmt: skip
        self._bytes = tqdm(
            desc="artifacts", unit="B", disable=off, leave=False, unit_scale=True,
            position=2,
        )  # fmt: skip

    def __call__(self, event: Any) -> None:
        """Take notice of one event."""
        match event:
            case Total(kind="run", items=items):
                self._runs.total = (self._runs.total or 0) + items
                self._runs.refresh()
            case Copied() | Updated() if event.ref.kind == "run":
                self._runs.update()
                self._points.update(event.points)
                self._bytes.update(event.bytes)
            case (
                Skipped(ref) | Failed(ref) | Conflict(ref) | Same(ref) | Missing(ref)
            ) if ref.kind == "run":
                self._runs.update()
            case Different():
                pass

    def close(self) -> None:
        """Clear the bars."""
        for bar in (self._bytes, self._points, self._runs):
            bar.close()


@contextmanager
def bars(verb: str) -> Iterator[Bars]:
    """Show progress bars while the block runs."""
    shown = Bars(verb)
    try:
        yield shown
    finally:
        shown.close()
