"""Stores that fail when they are told to."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, cast

from mlmigrate.contract import Capabilities, Copy, Delivery, Selection, Sink, Written
from mlmigrate.locations import Opened
from mlmigrate.model import Failed, Finding, Item, Ref

When = Literal["before", "half", "after"]


class Killed(BaseException):
    """The process ended here. No error: nothing may catch it and go on."""


@dataclass(slots=True)
class Calls:
    """How many calls a sink got, shared by every view of it."""

    count: int = 0


class FailingSink:
    """A sink that dies at its *fail_at*-th call, counted from 1.

    Args:
        sink: where everything goes.
        fail_at: the call of ``copies``, ``write`` or ``finish``; 0 never fails.
        when: before it took effect, after it (the answer is lost), or half-way: the
            first half of a write's deliveries took effect.
        calls: counts the calls.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        fail_at: int = 0,
        when: When = "before",
        calls: Calls | None = None,
    ) -> None:
        self._sink = sink
        self._fail_at = fail_at
        self._when = when
        self.calls = calls or Calls()
        self.location = sink.location
        self.parallel: Literal["process", "thread"] = sink.parallel
        self.capabilities: Capabilities = sink.capabilities

    def _dies(self) -> bool:
        self.calls.count += 1
        if self.calls.count != self._fail_at:
            return False
        if self._when == "before":
            raise Killed(f"at call {self._fail_at}")
        return True

    def copies(self, origins: Iterable[Ref]) -> Mapping[Ref, Copy]:
        """See `mlmigrate.contract.Sink.copies`."""
        dies = self._dies()
        found = self._sink.copies(origins)
        if dies:
            raise Killed(f"after call {self._fail_at}")
        return found

    def write(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        """See `mlmigrate.contract.Sink.write`."""
        dies = self._dies()
        if dies and self._when == "half":
            deliveries = deliveries[: (len(deliveries) + 1) // 2]
        written = self._sink.write(deliveries)
        if dies:
            raise Killed(f"after call {self._fail_at}")
        return written

    def finish(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Sink.finish`."""
        dies = self._dies()
        findings = list(self._sink.finish())
        if dies:
            raise Killed(f"after call {self._fail_at}")
        return findings

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        return self._sink.refs(selection)

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        return self._sink.read(refs)

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        return self._sink.open(ref, path)

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        return self._sink.findings()

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        self._sink.close()


@dataclass(frozen=True, slots=True)
class FailingStore(Opened):
    """A location whose sink is a `FailingSink`. Made by `failing`."""

    fail_at: int = 0
    when: When = "before"
    calls: Calls = field(default_factory=Calls)

    def sink(self) -> Sink:
        """Open the store for writing, until it fails."""
        wrapped = FailingSink(
            Opened.sink(self), fail_at=self.fail_at, when=self.when, calls=self.calls
        )
        return cast("Sink", wrapped)


def failing(store: Opened, fail_at: int = 0, when: When = "before") -> FailingStore:
    """Return *store* with a sink that dies at its *fail_at*-th call."""
    return FailingStore(store.location, store.adapter, store.options, fail_at, when)


class BrokenFile(io.BytesIO):
    """A file of which only the beginning can be read."""

    def __init__(self, data: bytes, readable: int) -> None:
        super().__init__(data)
        self._readable = readable

    def read(self, size: int | None = -1, /) -> bytes:
        """Read within the sound part; beyond it, fail as a bad disk does."""
        left = self._readable - self.tell()
        if left <= 0 or size is None or size < 0:
            raise OSError(5, "Input/output error")
        return super().read(min(size, left))

    def readinto(self, buffer: Any, /) -> int:
        """See `read`."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
