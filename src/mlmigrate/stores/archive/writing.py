"""Sink ``archive``: items into segments, of which each is whole before it is named."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO, Literal

from mlmigrate import marks
from mlmigrate.artifacts import short
from mlmigrate.codec import Entry
from mlmigrate.contract import (
    Capabilities,
    Copy,
    Delivery,
    Glance,
    ModelFacts,
    Selection,
    TraceFacts,
    Written,
)
from mlmigrate.digest import digest
from mlmigrate.entities import ENTITIES
from mlmigrate.errors import ItemError, StoreError, StoreNotFound
from mlmigrate.model import (
    Failed,
    Finding,
    Item,
    Note,
    Ref,
)
from mlmigrate.stores.archive import completing, lock, merged, store_findings
from mlmigrate.stores.archive.blobs import Blobs
from mlmigrate.stores.archive.draft import Draft
from mlmigrate.stores.archive.merged import Stored
from mlmigrate.stores.archive.pending import Pending
from mlmigrate.stores.archive.place import Place
from mlmigrate.stores.archive.reading import ArchiveSource
from mlmigrate.stores.archive.segments import public

#: A segment is completed after so many bytes, or seconds: a long export that is killed
#: goes on from there.
_BYTES = 1 << 30
_SECONDS = 300.0
#: Items whose artifacts are stored at once.
_THREADS = 4


class ArchiveSink:
    """See `mlmigrate.contract.Sink`."""

    capabilities = Capabilities(
        keeps_ids=True,
        surrogates=True,
        logged_models=ModelFacts(),
        traces=TraceFacts(),
        entities=frozenset(ENTITIES),
    )

    def __init__(self, place: Place, options: Mapping[str, Any]) -> None:
        self._place = place
        self._options = options
        self.location = place.location
        self.parallel: Literal["process", "thread"] = place.parallel
        self._blobs = Blobs(place)
        self._export = uuid.uuid4().hex
        self._lock: lock.Lock | None = None
        self._notes: list[Finding] = []
        self._found: dict[str, dict[Finding, None]] = {}
        self._draft: Draft | None = None
        self._pending = Pending()
        self._source = self._reopened()

    def _reopened(self) -> ArchiveSource | None:
        try:
            return ArchiveSource(self._place, {}, trusting=True)
        except StoreNotFound:
            completing.check_free(self._place)
            return None

    # -- the source half ------------------------------------------------------------

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        source = self._whole()
        return source.refs(selection) if source else iter(())

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        source = self._whole(refs)
        if source is None:
            return iter([Failed(ref, f"{self.location} is empty") for ref in refs])
        return source.read(refs)

    def glance(self, refs: Sequence[Ref]) -> Iterator[Glance]:
        """See `mlmigrate.contract.Glancing.glance`."""
        source = self._whole(refs)
        return source.glance(refs) if source else iter(())

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        source = self._whole([ref])
        if source is None:
            raise ItemError(f"{self.location} is empty")
        return source.open(ref, path)

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        source = self._whole()
        return source.findings() if source else ()

    def _whole(self, refs: Sequence[Ref] | None = None) -> ArchiveSource | None:
        """Return the archive with what is asked for: rows that were written just now
        can be read once their segment is completed.
        """
        if self._draft is not None and (
            refs is None or any(self._pending.get(ref) for ref in refs)
        ):
            self._complete()
        return self._source

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`: items that arrived whole stay."""
        try:
            if self._draft is not None:
                if self._draft.midway:
                    self._draft.drop()
                    self._draft = None
                else:
                    self._complete()
        finally:
            if self._lock is not None:
                completing.clean(self._place)
                self._lock.release()
                self._lock = None
            if self._source is not None:
                self._source.close()
            self._place.close()

    # -- facts ------------------------------------------------------------------------

    def copies(self, origins: Iterable[Ref]) -> Mapping[Ref, Copy]:
        """See `mlmigrate.contract.Sink.copies`."""
        found = {}
        for origin in origins:
            copy = self._copy(origin)
            if copy is not None:
                found[origin] = copy
        return found

    def _copy(self, origin: Ref) -> Copy | None:
        index = self._source.index if self._source else None
        ref = self._pending.find(origin) or (index.find(origin) if index else None)
        if ref is None:
            ref = self._pending.named(origin)
        if ref is None:
            return None
        pending = self._pending.get(ref)
        if pending is not None:
            return pending
        row = index.get(ref) if index is not None else None
        return Copy(ref, marks.load(row.mark), row.lifecycle) if row else None

    # -- writing ----------------------------------------------------------------------

    def write(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        """See `mlmigrate.contract.Sink.write`."""
        if not deliveries:
            return []
        self._begin()
        try:
            stored = self._store(deliveries)
            answers = [
                self._write(delivery, found)
                for delivery, found in zip(deliveries, stored, strict=True)
            ]
            self._complete_in_time()
        except OSError as error:
            raise StoreError(
                f"{self.location} cannot be written: {error}; run the same command"
                " again to go on"
            ) from error
        return answers

    def _store(self, deliveries: Sequence[Delivery]) -> list[Stored | Failed]:
        if not any(delivery.item.artifacts for delivery in deliveries):
            return [{} for _ in deliveries]
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(self._store_one, deliveries))

    def _store_one(self, delivery: Delivery) -> Stored | Failed:
        item = delivery.item
        stored: dict[str, tuple[str, int]] = {}
        if delivery.open is None:
            return stored
        try:
            for file in item.artifacts:
                with delivery.open(delivery.read_ref or item.ref, file.path) as data:
                    stored[file.path] = self._blobs.add(data)
        except (OSError, ItemError) as error:
            why = f"its artifacts could not be copied: {short(error)}"
            return Failed(item.ref, why)
        return stored

    def _write(self, delivery: Delivery, stored: Stored | Failed) -> Written | Failed:
        if isinstance(stored, Failed):
            return stored
        held: Item | None = None
        sums: Mapping[str, str] = {}
        if delivery.into is not None:
            source = self._whole([delivery.into])
            if source is None:
                return Failed(delivery.item.ref, "its copy is no longer there")
            found = next(source.raw([delivery.into]))
            if isinstance(found, Failed):
                return Failed(delivery.item.ref, f"its copy: {found.why}")
            held, sums = found
        draft = self._drafted()
        ref = delivery.into or self._new_ref(delivery.item)
        item, checksums, combined = merged.whole(delivery, ref, held, sums, stored)
        entry = Entry(
            item,
            draft.count,
            digest(public(item, checksums)),
            delivery.source,
            checksums,
        )
        try:
            draft.add(entry)
        except ItemError as error:
            return Failed(delivery.item.ref, f"cannot be archived: {error}")
        self._pending.add(item)
        size = sum(each[1] for each in stored.values())
        return Written(ref, combined, len(stored), size)

    def _new_ref(self, item: Item) -> Ref:
        kind = item.ref.kind
        id = item.origin if kind in ("run", "logged_model", "trace") else item.ref.id
        number = 1000
        while self._is_taken(Ref(kind, id)):
            id, number = str(number), number + 1
        return Ref(kind, id)

    def _is_taken(self, ref: Ref) -> bool:
        if self._pending.get(ref) is not None:
            return True
        return self._source is not None and self._source.index.get(ref) is not None

    # -- segments ---------------------------------------------------------------------

    def _begin(self) -> None:
        """Lock the archive, and make it where there is none."""
        if self._lock is not None:
            return
        self._lock, stale = completing.locked(self._place)
        if stale is not None:
            what = f"the lock of an export that no longer runs was taken over: {stale}"
            self._notes.append(Note(self.location, what))
        before = self._source.manifest.generation if self._source else None
        state = completing.begin(self._place)
        if before is not None and state.generation != before:
            raise StoreError(
                f"{self.location} was changed by another export in the meantime: run"
                " the same command again"
            )
        if self._source is None:
            self._source = self._reopened()
        elif self._source.unfinished and not self._source.reading.lost:
            completing.publish(self._place, state, self._source.index)
            self._source.reload()

    def _drafted(self) -> Draft:
        if self._draft is None:
            assert self._source is not None
            number = self._source.manifest.next_number
            self._draft = Draft(self._place, number)
        return self._draft

    def _complete_in_time(self) -> None:
        draft = self._draft
        if draft is not None and (
            draft.bytes > _BYTES or time.monotonic() - draft.begun > _SECONDS
        ):
            self._complete()

    def _complete(self) -> None:
        """Make the draft a part of the archive."""
        draft, self._draft = self._draft, None
        if draft is None:
            return
        assert self._lock is not None
        assert self._source is not None
        try:
            if not draft.empty:
                self._lock.check()
                completing.complete(
                    self._place,
                    draft,
                    self._source.manifest,
                    self._source.index,
                    self._export,
                )
        finally:
            draft.drop()
        self._pending = Pending()
        self._source.reload()

    def record(self, source: str, findings: Iterable[Finding]) -> None:
        """See `mlmigrate.contract.Recording.record`."""
        self._found[source] = dict.fromkeys(findings)

    def _add_findings(self) -> None:
        known: dict[str, list[Finding]] = {}
        if self._source is not None:
            known, _ = store_findings.live(self._source.reading)
        for source, found in self._found.items():
            if set(known.get(source, ())) != set(found):
                self._begin()
                self._drafted().replace_findings(source, found)
        self._found.clear()

    def finish(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Sink.finish`."""
        if self._source is None:
            self._begin()  # an empty archive is one, too
        elif self._source.unfinished:
            self._begin()  # what a stopped export left is put in order
        elif self._lock is None and self._place.size(lock.NAME) is not None:
            with suppress(StoreError):  # another export may be running
                self._begin()
        self._add_findings()
        self._complete()
        notes, self._notes = self._notes, []
        return notes
