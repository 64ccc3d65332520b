"""Read items in workers, ahead of who asks for them.

Processes parse files while this process writes; threads wait for servers. What is
read and not yet asked for is bounded in bytes, so a slow sink holds readers back.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from mlmigrate.contract import Source
from mlmigrate.digest import digest
from mlmigrate.errors import StoreError
from mlmigrate.locations import Opened
from mlmigrate.model import Failed, Item, Ref
from mlmigrate.spool import Spooled, spooled, taken

#: Refs that a worker reads at once.
BATCH = 25
#: Traces are many and small.
_TRACES = 250
#: Below this many runs, starting worker processes costs more than they save.
_FEW = 150
#: Bytes of items that may lie read and not yet asked for.
_HELD = 32 << 20
#: By how much workers give way.
_NICENESS = 5
#: How often a worker may die before that is no accident.
_DEATHS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Digested:
    """An item as its source gave it, with its digest."""

    item: Item
    digest: str


#: The place of a source among all, and what was read there.
Read: TypeAlias = "tuple[int, list[Digested | Failed]]"
_Sent: TypeAlias = "Spooled[list[Digested | Failed]] | list[Digested | Failed]"


def batches(refs: Iterable[Ref], size: int = BATCH) -> Iterator[list[Ref]]:
    """Cut *refs* into lists of at most *size*."""
    batch: list[Ref] = []
    for ref in refs:
        batch.append(ref)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _at_once(refs: Sequence[Ref]) -> int:
    return _TRACES if refs and refs[0].kind == "trace" else BATCH


@contextmanager
def reading(
    sources: Sequence[tuple[Opened, Source]],
    wanted: Sequence[Sequence[Ref]],
    *,
    workers: int | None = None,
) -> Iterator[Iterator[Read]]:
    """Read *wanted* of each source, all in order, and begin at once.

    A worker process that dies costs only time: its batches are read again.

    Args:
        sources: with their locations, by which a worker process opens its own.
        wanted: the refs to read of each.
        workers: readers at once; as many as there are cores, at most 4, if None.
    """
    ahead = _Ahead(sources, wanted, workers or min(os.cpu_count() or 1, 4))
    try:
        ahead.fill()
        yield ahead.batches()
    finally:
        ahead.close()


def _give_way() -> None:
    """Let who writes, and MLflow where it makes a schema, run first: they are what a
    copy waits for.
    """
    if hasattr(os, "nice"):
        os.nice(_NICENESS)


_own: dict[int, tuple[Opened, Source]] = {}


def _read_in_process(
    opened: Opened, token: int, refs: Sequence[Ref], folder: Path | None
) -> _Sent:
    """Read with this process's own view of a source, opened once."""
    held = _own.get(token)
    if held is None or held[0] != opened:
        _own[token] = held = (opened, opened.source())
    return spooled(_read(held[1], refs), folder)


def _read(source: Source, refs: Sequence[Ref]) -> list[Digested | Failed]:
    return [
        item if isinstance(item, Failed) else Digested(item, digest(item))
        for item in source.read(refs)
    ]


@dataclass(slots=True, eq=False)
class _Batch:
    at: int
    refs: list[Ref]
    future: Future[_Sent] = field(init=False)


@dataclass(slots=True)
class _Ahead:
    """What is to be read, what is being read, and what waits to be asked for."""

    sources: Sequence[tuple[Opened, Source]]
    wanted: Sequence[Sequence[Ref]]
    workers: int
    waiting: deque[tuple[int, list[Ref]]] = field(init=False)
    under_way: deque[_Batch] = field(default_factory=deque)
    unfinished: int = 0
    held: int = 0
    deaths: int = 0
    processes: bool = field(init=False)
    spool: TemporaryDirectory[str] | None = None
    executors: dict[str, Executor] = field(default_factory=dict)
    # `fill` is called by who asks and by each batch that is done.
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.waiting = deque(
            (at, batch)
            for at, refs in enumerate(self.wanted)
            for batch in batches(refs, _at_once(refs))
        )
        parsed = sum(
            len(refs)
            for (_, source), refs in zip(self.sources, self.wanted, strict=True)
            if source.parallel == "process"
        )
        self.processes = parsed >= _FEW and self.workers > 1

    def batches(self) -> Iterator[Read]:
        while self.under_way or self.waiting:
            if not self.under_way:
                at, refs = self.waiting[0]
                if self._in_worker(at):  # all died before one was handed out
                    self._start_again()
                else:
                    self.waiting.popleft()
                    yield at, _read(self.sources[at][1], refs)
                self.fill()
                continue
            batch = self.under_way[0]
            try:
                sent = batch.future.result()
            except (BrokenProcessPool, CancelledError):
                self._start_again()
                continue
            with self.lock:
                self.under_way.popleft()
                self.held -= _size(sent)
            yield batch.at, taken(sent)
            del batch, sent
            self.fill()

    def fill(self) -> None:
        """Hand out batches while there is room for what comes of them."""
        with self.lock:
            while (
                self.waiting
                and self._in_worker(self.waiting[0][0])
                and self.unfinished < self.workers + 1
                and self.held < _HELD
            ):
                at, refs = self.waiting[0]
                try:
                    future = self._submit(at, refs)
                except BrokenProcessPool:
                    return  # who asks for the next batch starts again
                self.waiting.popleft()
                self.under_way.append(batch := _Batch(at, refs))
                self._hand_out(batch, future)

    def close(self) -> None:
        with self.lock:
            self.waiting.clear()
        for executor in self.executors.values():
            executor.shutdown(wait=True, cancel_futures=True)
        if self.spool is not None:
            self.spool.cleanup()

    def _hand_out(self, batch: _Batch, future: Future[_Sent]) -> None:
        batch.future = future
        self.unfinished += 1
        future.add_done_callback(self._done)

    def _in_worker(self, at: int) -> bool:
        return self.sources[at][1].parallel == "thread" or self.processes

    def _submit(self, at: int, refs: list[Ref]) -> Future[_Sent]:
        opened, source = self.sources[at]
        executor = self._executor(source.parallel)
        if source.parallel == "thread":  # threads share the open source
            return executor.submit(_read, source, refs)
        return executor.submit(
            _read_in_process, opened, id(source), refs, self._spool_folder(opened)
        )

    def _spool_folder(self, opened: Opened) -> Path | None:
        if self.spool is None:
            place = opened.options.get("temp-dir")
            with suppress(OSError):  # without a place, pipes have to do
                if place is not None:
                    Path(place).mkdir(parents=True, exist_ok=True)
                self.spool = TemporaryDirectory(prefix="mlmigrate-spool-", dir=place)
        return None if self.spool is None else Path(self.spool.name)

    def _executor(self, parallel: str) -> Executor:
        if parallel not in self.executors:
            if parallel == "thread":
                self.executors[parallel] = ThreadPoolExecutor(min(self.workers, 2))
            else:
                # A forked worker starts at once and needs no importable __main__.
                method = "fork" if sys.platform == "linux" else "spawn"
                context = multiprocessing.get_context(method)
                self.executors[parallel] = ProcessPoolExecutor(
                    self.workers, context, initializer=_give_way
                )
        return self.executors[parallel]

    def _done(self, future: Future[_Sent]) -> None:
        with self.lock:
            self.unfinished -= 1
            if future.cancelled() or future.exception() is not None:
                return  # who asks for the batch learns it
            self.held += _size(future.result())
        self.fill()

    def _start_again(self) -> None:
        """Read with new workers what dead ones were asked for."""
        self.deaths += 1
        if self.deaths > _DEATHS:
            at = self.under_way[0].at if self.under_way else self.waiting[0][0]
            raise StoreError(
                f"{self.sources[at][1].location}: worker processes died"
                f" {self.deaths} times while reading it (is memory short?);"
                " try again with --workers 1"
            )
        self.executors.pop("process").shutdown(wait=True, cancel_futures=True)
        with self.lock:
            for batch in self.under_way:
                if batch.future.done() and (
                    batch.future.cancelled()
                    or isinstance(batch.future.exception(), BrokenProcessPool)
                ):
                    self._hand_out(batch, self._submit(batch.at, batch.refs))


def _size(items: _Sent) -> int:
    """Return roughly how many bytes *items* take."""
    if isinstance(items, Spooled):
        return items.bytes
    size = 0
    for entry in items:
        if isinstance(entry, Digested):
            item = entry.item
            size += 24 * sum(len(metric.steps) for metric in item.metrics)
            size += 200 * (len(item.params) + len(item.tags) + len(item.artifacts))
    return size
