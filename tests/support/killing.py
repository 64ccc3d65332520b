"""Copies that are killed at every call of their sink, and run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mlmigrate import pipeline
from mlmigrate.locations import Opened, resolve
from mlmigrate.model import Failed
from mlmigrate.pipeline import Options
from mlmigrate.testing.faults import Killed, When, failing

from .servers import ReusableServer


def killed_at_every_call(
    source: str, fresh: Callable[[], Opened], when: When, first: int = 1
) -> Iterator[Opened]:
    """Yield a sink that a copy filled undisturbed, then one after another that was
    killed at a call, and filled by a second copy.

    Args:
        source: where to copy from.
        fresh: returns an empty sink; the one before may be gone then.
        when: where in the call it is killed.
        first: the first call to be killed at.
    """
    opened = [resolve(source)]
    clean = failing(fresh())
    list(pipeline.copy(opened, clean, Options()))
    yield clean
    for call in range(first, clean.calls.count + 1):
        sink = fresh()
        with pytest.raises(Killed):
            list(pipeline.copy(opened, failing(sink, call, when), Options()))
        events = list(pipeline.copy(opened, sink, Options()))
        assert not [each for each in events if isinstance(each, Failed)], call
        yield sink


def as_new(server: ReusableServer) -> Callable[[], Opened]:
    """Return what makes a server as new, for `killed_at_every_call`."""

    def fresh() -> Opened:
        server.reset()
        return resolve(server.url, shared={"artifacts": "copy"})

    return fresh
