"""Source ``archive``: the live state of an archive, or that of an earlier time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mlmigrate import marks
from mlmigrate.artifacts import safe_join
from mlmigrate.contract import Glance, Selection
from mlmigrate.errors import ItemError, StoreError, UnsafePath
from mlmigrate.filters import parse_time
from mlmigrate.merge import origins_of
from mlmigrate.model import Experiment, Failed, Finding, Item, Problem, Ref
from mlmigrate.stores.archive import manifest as manifests
from mlmigrate.stores.archive import store_findings, workspaces
from mlmigrate.stores.archive.blobs import Blobs
from mlmigrate.stores.archive.index import Index, Row, newest
from mlmigrate.stores.archive.manifest import CURRENT, Manifest
from mlmigrate.stores.archive.place import Place
from mlmigrate.stores.archive.segments import SegmentReader, public, stub
from mlmigrate.stores.archive.tables import TableFile, plain

#: Items that are read at once: all their points are in memory together.
_AT_ONCE = 50


class Reading:
    """A state of an archive: what both its halves read with."""

    def __init__(self, place: Place, as_of: int | None = None) -> None:
        """Open an archive.

        Raises:
            StoreError: it is damaged beyond reading.
        """
        self.place = place
        found = manifests.read(place)
        self.damage = found.damage
        self.unfinished = found.unfinished
        self.manifest = found.manifest
        if as_of is not None:
            self.manifest = _as_of(found.manifest, as_of)
        self._segments: dict[int, SegmentReader] = {}
        #: Whether any lost item is given as its name alone. Always so are experiments,
        #: without which their runs could not be restored.
        self.stubs = False
        self.lost: list[str] = []  # tables `items` that cannot be read
        self.index = self._load_index(whole=as_of is None)
        self.checksums_of = lru_cache(maxsize=256)(self._checksums_of)

    def _load_index(self, *, whole: bool) -> Index:
        if whole and CURRENT not in dict(self.damage):
            try:
                table = TableFile(self.place.fetched(CURRENT), "items")
                try:
                    return Index(plain(table.whole(), "items"))
                finally:
                    table.close()
            except (ItemError, OSError) as error:
                raise StoreError(f"{self.place.location}/{CURRENT}: {error}") from error
        tables = []
        for segment in self.manifest.segments:
            try:
                items = self.segment(segment.number).table("items")
                tables.append(plain(items.whole(), "items"))
            except ItemError as error:
                self.lost.append(str(error))
        try:
            return Index(newest(tables))
        except ItemError as error:
            raise StoreError(f"{self.place.location}: {error}") from error

    def segment(self, number: int) -> SegmentReader:
        """Return the reader of a segment.

        Raises:
            ItemError: the manifest does not name it.
        """
        if number not in self._segments:
            for segment in self.manifest.segments:
                if segment.number == number:
                    self._segments[number] = SegmentReader(self.place, segment)
                    break
            else:
                raise ItemError(f"the manifest names no segment {number}")
        return self._segments[number]

    def read(
        self, refs: Sequence[Ref]
    ) -> Iterator[tuple[Item, Mapping[str, str]] | Failed]:
        """Yield each item as it was written, with the checksums of its artifacts."""
        for at in range(0, len(refs), _AT_ONCE):
            part = refs[at : at + _AT_ONCE]
            rows = [(ref, self.index.get(ref)) for ref in part]
            groups: dict[int, list[Row]] = {}
            for _, row in rows:
                if row is not None:
                    groups.setdefault(row.segment, []).append(row)
            found: dict[Ref, tuple[Item, Mapping[str, str]] | Failed] = {}
            for number, own in groups.items():
                try:
                    answers = list(self.segment(number).read(own, salvage=True))
                except ItemError as error:
                    answers = [Failed(row.ref, str(error)) for row in own]
                for row, answer in zip(own, answers, strict=True):
                    found[row.ref] = answer
                    if isinstance(answer, Failed) and (
                        self.stubs or row.ref.kind == "experiment"
                    ):
                        found[row.ref] = (stub(row, answer.why), {})
            for ref, row in rows:
                missing = Failed(ref, f"{self.place.location} holds no such {ref.kind}")
                yield found[ref] if row is not None else missing

    def _checksums_of(self, ref: Ref) -> Mapping[str, tuple[str, int]]:
        """Return path -> (SHA-256, size) of an item's artifacts."""
        row = self.index.get(ref)
        if row is None:
            raise ItemError(f"{self.place.location} holds no {ref}")
        if not row.counts["artifacts"]:
            return {}
        block = self.segment(row.segment).table("artifacts").block([row.number])
        return {
            path: (checksum, size)
            for path, checksum, size in block.records(
                row.number, "path", "sha256", "size"
            )
            if checksum is not None
        }

    def close(self) -> None:
        """Close every file."""
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()


def _as_of(manifest: Manifest, time: int) -> Manifest:
    kept = tuple(each for each in manifest.segments if each.time <= time)
    if not kept:
        first = manifest.segments[0].time if manifest.segments else manifest.created
        raise StoreError(
            f"the archive holds nothing of {manifests.iso(time)}: its first segment is"
            f" of {manifests.iso(first)}"
        )
    return replace(manifest, segments=kept)


class ArchiveSource:
    """See `mlmigrate.contract.Source`."""

    def __init__(
        self, place: Place, options: Mapping[str, Any], *, trusting: bool = False
    ) -> None:
        """Open an archive.

        Args:
            place: where it is.
            options: ``as-of`` and ``check-blobs``.
            trusting: do not look whether blobs are sound before they are opened.

        Raises:
            StoreError: it is damaged beyond reading.
        """
        as_of = options.get("as-of")
        self._as_of = parse_time(as_of) if as_of else None
        self._place = place
        self.location = place.location
        self.parallel: Literal["process", "thread"] = place.parallel
        self.reading = Reading(place, self._as_of)
        # What a sink has lost is delivered to it again, when its item has changed.
        self.reading.stubs = trusting
        self._blobs = Blobs(place)
        #: Reading what was written from here is cheap; from far away it costs as much
        #: again as the copy itself.
        default = "yes" if place.parallel == "process" else "no"
        self._content = (options.get("check-blobs") or default) == "yes"
        self._trusting = trusting

    def workspaces(self) -> Sequence[str]:
        """See `mlmigrate.contract.Housing.workspaces`."""
        return workspaces.names(self._place, self._as_of)

    def view(self, workspace: str) -> Mapping[str, object]:
        """See `mlmigrate.contract.Housing.view`."""
        return {"workspace": workspace}

    @property
    def manifest(self) -> Manifest:
        """The state that is read."""
        return self.reading.manifest

    @property
    def unfinished(self) -> bool:
        """Whether an export was stopped while it completed a segment, or a manifest or
        the index is damaged: the next export puts that in order.
        """
        return self.reading.unfinished or bool(self.reading.damage)

    @property
    def index(self) -> Index:
        """Where each item is."""
        return self.reading.index

    def reload(self) -> None:
        """Read the state that the archive has come to."""
        self.reading.close()
        self.reading = Reading(self._place)
        self.reading.stubs = self._trusting

    def raw(
        self, refs: Sequence[Ref]
    ) -> Iterator[tuple[Item, Mapping[str, str]] | Failed]:
        """Yield items as they were written, with the SHA-256 of their artifacts."""
        return self.reading.read(refs)

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        return self.reading.index.refs(selection.kind, selection.experiments)

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        for found in self.reading.read(refs):
            if isinstance(found, Failed):
                yield Failed(found.ref, f"{self.location}: {found.why}")
            else:
                yield self._sound(*found)

    def _sound(self, item: Item, checksums: Mapping[str, str]) -> Item:
        """Return an item without the artifacts that cannot be restored: a damaged blob
        costs one artifact, not its run.
        """
        lost: list[Finding] = []
        kept = dict(checksums)
        for file in item.artifacts:
            if file.path not in checksums:
                continue
            fault = self._fault(file.path, checksums[file.path], file.size)
            if fault is not None:
                del kept[file.path]
                where = f"{self.location}: {item.ref}"
                lost.append(Problem(where, f"artifact {file.path!a}: {fault}"))
        sound = public(item, kept)
        if isinstance(item.header, Experiment) and not self._trusting:
            # Several may have become this one; it goes on under the first's name.
            sound = replace(sound, origin=(origins_of(item.origin) or [""])[0])
        return replace(sound, findings=(*sound.findings, *lost)) if lost else sound

    def _fault(self, path: str, checksum: str, size: int) -> str | None:
        try:
            safe_join(Path("/"), path)
        except UnsafePath as error:
            return str(error)
        if size < 0:
            return f"has {size} bytes"
        if self._trusting:
            return None
        return self._blobs.fault(checksum, size, content=self._content)

    def glance(self, refs: Sequence[Ref]) -> Iterator[Glance]:
        """See `mlmigrate.contract.Glancing.glance`."""
        for ref in refs:
            row = self.reading.index.get(ref)
            mark = marks.load(row.mark) if row is not None else None
            if row is not None and mark is not None and mark.status is not None:
                yield Glance(ref, row.origin, mark.status, mark.end_time, row.lifecycle)

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        found = self.reading.checksums_of(ref).get(path)
        if found is None:
            raise ItemError(f"{ref} has no artifact {path!r} in {self.location}")
        return self._blobs.open(*found)

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`: what was found beside the items
        when they were exported, and damage to the archive itself.
        """
        for name, what in self.reading.damage:
            yield Problem(f"{self.location}/{name}", what)
        for what in self.reading.lost:
            yield Problem(self.location, f"items are lost: {what}")
        found, lost = store_findings.live(self.reading)
        for by_source in found.values():
            yield from by_source
        yield from (Problem(self.location, what) for what in lost)

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        self.reading.close()
        self._place.close()
