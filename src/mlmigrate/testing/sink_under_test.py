"""A sink under test: the sources, what a copy into it makes, and its hooks."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from mlmigrate import pipeline
from mlmigrate.contract import Capabilities, Selection
from mlmigrate.locations import Opened, resolve, within
from mlmigrate.model import (
    Conflict,
    Copied,
    Failed,
    Item,
    Kind,
    Loss,
    Note,
    Problem,
    Ref,
    Skipped,
    Updated,
)
from mlmigrate.pipeline import Options
from mlmigrate.stores import memory
from mlmigrate.testing.items import RUN
from mlmigrate.verification import Different, Missing, verify

T = TypeVar("T")


@dataclass(slots=True)
class Result:
    """The events of one copy."""

    events: list[pipeline.Event] = field(default_factory=list)

    def of(self, type_: type[T]) -> list[T]:
        """Return the events of one type."""
        return [event for event in self.events if isinstance(event, type_)]

    def counts(self, kind: Kind | None = "run") -> dict[str, int]:
        """Return how often each outcome befell an item of a kind."""
        outcomes = (Copied, Updated, Skipped, Conflict, Failed)
        found = [event for event in self.events if isinstance(event, outcomes)]
        return dict(
            Counter(
                type(event).__name__.lower()
                for event in found
                if kind in (None, event.ref.kind)
            )
        )

    def findings(self) -> list[Problem | Note | Loss]:
        """Return all findings, also those of outcomes."""
        found: list[Problem | Note | Loss] = []
        for event in self.events:
            if isinstance(event, Problem | Note | Loss):
                found.append(event)
            else:
                found += getattr(event, "findings", ())
        return found

    def losses(self) -> list[Loss]:
        """Return what the sink did not hold in its own place."""
        return [each for each in self.findings() if isinstance(each, Loss)]


@dataclass(frozen=True, slots=True)
class Peeked:
    """What a store holds of a run, seen past its adapter."""

    status: str
    start_time: int | None
    end_time: int | None
    lifecycle: str
    params: dict[str, str]
    tags: dict[str, str]  # without mlmigrate.*
    metrics: list[tuple[str, int, int, float]]  # key, step, timestamp, value; sorted
    marked: bool


class MemorySources:
    """Makes sources in memory, and forgets them afterwards."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(
        self, *items: Item, files: dict[tuple[Ref, str], bytes] | None = None
    ) -> str:
        """Return the location of a new source that holds *items*."""
        location = f"memory:source-{uuid.uuid4().hex}"
        self.made.append(location)
        self.put(location, *items, files=files)
        return location

    def put(
        self,
        location: str,
        *items: Item,
        files: dict[tuple[Ref, str], bytes] | None = None,
        workspace: str | None = None,
    ) -> None:
        """Put *items* into a workspace of a source, over those of equal refs."""
        held = memory.contents(location, workspace)
        held.items.update((item.ref, item) for item in items)
        held.blobs.update(files or {})


@contextmanager
def memory_sources() -> Iterator[MemorySources]:
    """Make sources in memory, which are forgotten in the end."""
    sources = MemorySources()
    try:
        yield sources
    finally:
        for location in sources.made:
            memory.forget(location)


class SinkUnderTest:
    """A sink under test, and what is done to it.

    Its own tests give a fixture, ``sink_location``: the location of a fresh, empty
    store.
    """

    #: ``KEY=VALUE`` texts for the sink's adapter.
    options: Sequence[str] = ()

    @pytest.fixture
    def source(self) -> Iterator[MemorySources]:
        """Make sources in memory."""
        with memory_sources() as made:
            yield made

    def opened(self, location: str, artifacts: str = "copy") -> Opened:
        """Resolve the sink."""
        return resolve(location, self.options, shared={"artifacts": artifacts})

    def capabilities(self, location: str) -> Capabilities:
        """Return what the sink says of itself."""
        with closing(self.opened(location).sink()) as sink:
            return sink.capabilities

    def copy(self, sources: str | list[str], sink: str, **options: Any) -> Result:
        """Copy, and return what happened."""
        locations = [sources] if isinstance(sources, str) else sources
        chosen = Options(**options)
        return Result(
            list(
                pipeline.copy(
                    [resolve(location) for location in locations],
                    self.opened(sink, chosen.artifacts),
                    chosen,
                )
            )
        )

    def differences(
        self, sources: str | list[str], sink: str, **options: Any
    ) -> list[Any]:
        """Verify, and return what differs or is missing."""
        locations = [sources] if isinstance(sources, str) else sources
        found = verify(
            [resolve(location) for location in locations],
            self.opened(sink),
            Options(**options),
        )
        return [each for each in found if isinstance(each, Different | Missing)]

    def read(
        self, location: str, kind: Kind, workspace: str | None = None
    ) -> dict[str, Item]:
        """Read back all items of a kind in a workspace, by id."""
        opened = self.opened(location)
        if workspace is not None:
            opened = within(opened, workspace)
        with closing(opened.sink()) as store:
            found = {}
            for item in store.read(list(store.refs(Selection(kind)))):
                assert isinstance(item, Item), item
                found[item.ref.id] = item
            return found

    def holds(self, location: str, files: Mapping[tuple[Ref, str], bytes]) -> None:
        """Check that artifacts are there, byte for byte."""
        with closing(self.opened(location).sink()) as store:
            for (ref, path), content in files.items():
                with store.open(ref, path) as file:
                    assert content == file.read()


class SinkSeenThrough(SinkUnderTest, ABC):
    """A sink at which tests also look past its adapter, by hooks."""

    @abstractmethod
    def peek(self, location: str, run: str) -> Peeked | None:
        """Read a run without the adapter; None where there is none."""

    @abstractmethod
    def edit_tag(self, location: str, run: str, key: str, value: str) -> None:
        """Change a tag of a run, as someone at the sink would."""

    @abstractmethod
    def delete_run(self, location: str, run: str) -> None:
        """Mark a run as deleted, as someone at the sink would."""

    def partial_files(self, location: str) -> list[str]:
        """Return what is left of files that were not wholly written; a hook."""
        return []

    def held(self, location: str, run: str = RUN) -> Peeked:
        """Peek at a run that must be there."""
        found = self.peek(location, run)
        assert found is not None
        return found
