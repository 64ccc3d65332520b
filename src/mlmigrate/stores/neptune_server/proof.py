"""A run as the server has it, compared with what it was sent: value by value."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from mlmigrate.errors import ItemError
from mlmigrate.neptune_runs.mapping import Logged
from mlmigrate.stores.neptune_server.operations import is_equal, same
from mlmigrate.stores.neptune_server.server import Fetched

_FIRST_WAIT = 0.1  # seconds


def prove(
    fetch: Callable[[], Fetched],
    wrong: Callable[[Fetched], str],
    *,
    settle: float,
    refused: list[str],
) -> Fetched:
    """Read a run back until nothing is wrong with it.

    Args:
        fetch: reads it.
        wrong: says what is wrong, '' for nothing.
        settle: the seconds in which what is lacking may still appear.
        refused: what the server said that it did not take.

    Raises:
        ItemError: something stays wrong, or it cannot be read.
    """
    deadline = time.monotonic() + settle
    wait = _FIRST_WAIT
    while True:
        found = fetch()
        what = wrong(found)
        if not what:
            return found
        if refused or time.monotonic() + wait > deadline:
            why = f" (the server said: {refused[0]})" if refused else ""
            raise ItemError(f"{what}{why}: it does not count as copied; copy again")
        time.sleep(wait)
        wait *= 2


def differs(written: Logged, files: Mapping[str, int]) -> Callable[[Fetched], str]:
    """Return what tells how a run differs from what it was sent, '' for not at all.

    What Neptune itself shows of a run (``sys/``) is not compared: the record has it.

    Args:
        written: the run, whole, but for its mark.
        files: the bytes of each of its files, by attribute.
    """

    def wrong(found: Fetched) -> str:
        return (
            _wrong_scalars(written, found)
            or _wrong_series(written, found)
            or _wrong_files(written, files, found)
        )

    return wrong


def _wrong_scalars(written: Logged, found: Fetched) -> str:
    held = found.container.scalars
    for path, scalar in written.scalars.items():
        if path.startswith("sys/") or is_equal(scalar, held.get(path)):
            continue
        state = "is not there" if path not in held else "reads back otherwise"
        return f"Neptune took {path}, which {state}"
    return ""


def _wrong_series(written: Logged, found: Fetched) -> str:
    for path, series in written.series.items():
        held = found.container.floats.get(path)
        if held is None:
            return f"Neptune took series {path}, which is not there"
        if not same(series, held):
            return (
                f"Neptune took {len(series.steps)} points of {path}, of which"
                f" {len(held.steps)} read back, or others"
            )
    return ""


def _wrong_files(written: Logged, files: Mapping[str, int], found: Fetched) -> str:
    held = {artifact.path: artifact.size for artifact in found.container.artifacts}
    for path, size in files.items():
        if held.get(path) != size:
            state = f"has {held[path]}" if path in held else "is not there"
            return f"Neptune took {size} bytes of {path}, which {state}"
    for path, data in written.blobs.items():
        if path not in held or found.read(path) != data:
            return f"Neptune took {path}, which reads back otherwise"
    return ""
