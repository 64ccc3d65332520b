"""Reads items out of completed segments, also where a file of theirs is damaged."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

from mlmigrate import codec, marks
from mlmigrate.codec import COUNTED, TABLES, Block
from mlmigrate.digest import digest
from mlmigrate.errors import ItemError
from mlmigrate.marks import PREFIX
from mlmigrate.model import (
    Entity,
    Experiment,
    Failed,
    Header,
    Item,
    LoggedModel,
    Problem,
    Ref,
    RegisteredModel,
    Run,
    Trace,
)
from mlmigrate.stores.archive.index import Row
from mlmigrate.stores.archive.manifest import Segment, sum_of
from mlmigrate.stores.archive.place import Place
from mlmigrate.stores.archive.tables import TableFile


@cache
def _empty(table: str) -> Block:
    return Block(table, TABLES[table].empty_table())


class SegmentReader:
    """The tables of one segment, each opened and verified when it is first needed."""

    def __init__(self, place: Place, segment: Segment) -> None:
        self._place = place
        self._segment = segment
        self._tables: dict[str, TableFile | ItemError] = {}
        self._lock = threading.Lock()
        #: Tables whose bytes are not what was written, though they may be readable.
        self.wrong: set[str] = set()

    def table(self, name: str) -> TableFile:
        """Return a table.

        Raises:
            ItemError: it is missing, or damaged beyond reading.
        """
        with self._lock:
            if name not in self._tables:
                self._tables[name] = self._open(name)
            found = self._tables[name]
        if isinstance(found, ItemError):
            raise found
        return found

    def _open(self, name: str) -> TableFile | ItemError:
        path = self._segment.path(name)
        expected = self._segment.files.get(name)
        if expected is None:
            self.wrong.add(name)
            return ItemError(f"the manifest does not name {path}")
        try:
            local = self._place.fetched(path)
            with local.open("rb") as file:
                if sum_of(file) != expected:
                    self.wrong.add(name)
            return TableFile(local, name)
        except FileNotFoundError:
            self.wrong.add(name)
            return ItemError(f"{path} is missing")
        except (OSError, ItemError) as error:
            self.wrong.add(name)
            return ItemError(f"{path} is damaged: {error}")

    def read(
        self, rows: Sequence[Row], *, salvage: bool = False
    ) -> Iterator[tuple[Item, Mapping[str, str]] | Failed]:
        """Yield each item as it was written, with the checksums of its artifacts.

        Args:
            rows: the items' rows of the index.
            salvage: where a table is unreadable, give an item without what was there,
                and a `Problem`; otherwise such an item fails.
        """
        numbers = [row.number for row in rows]
        for row in rows:
            try:
                yield self._read(row, numbers, salvage=False)
            except ItemError:
                # Damage to the rows of its neighbours is no damage to this item.
                try:
                    yield self._read(row, [row.number], salvage=salvage)
                except ItemError as error:
                    yield Failed(row.ref, str(error))

    def _read(
        self, row: Row, numbers: Sequence[int], *, salvage: bool
    ) -> tuple[Item, Mapping[str, str]]:
        used: set[str] = set()
        lost: dict[str, str] = {}

        def block(name: str) -> Block:
            if name in COUNTED and not row.counts[COUNTED[name]]:
                return _empty(name)
            try:
                rows = self.table(name).block(numbers)
            except ItemError as error:
                if not salvage or name not in COUNTED:
                    raise
                lost[name] = str(error)
                return _empty(name)
            used.add(name)
            return rows

        item, checksums = codec.decode(row.ref, row.origin, row.mark, row.number, block)
        wrong = sorted(used & self.wrong)
        counts = {**row.counts, **{COUNTED[name]: 0 for name in lost}}
        changed = digest(public(item, checksums)) != row.digest if wrong else False
        if (_counts(item) != counts and "dataset_tags" not in lost) or changed:
            names = ", ".join(self._segment.path(name) for name in wrong)
            raise ItemError(f"its rows are damaged in {names or 'its tables'}")
        problems = [
            Problem(f"{self._place.location}: {row.ref}", f"its {name} are lost: {why}")
            for name, why in lost.items()
        ]
        if problems:
            item = replace(item, findings=(*item.findings, *problems))
        return item, checksums

    def close(self) -> None:
        """Close every table."""
        for table in self._tables.values():
            if isinstance(table, TableFile):
                table.close()
        self._tables.clear()


def _counts(item: Item) -> dict[str, int]:
    return {
        "params": len(item.params),
        "tags": len(item.tags),
        "points": sum(len(metric.steps) for metric in item.metrics)
        + sum(len(metric.history.steps) for metric in item.model_metrics),
        "datasets": len(item.inputs),
        "artifacts": len(item.artifacts),
        "versions": len(item.versions),
        "aliases": len(item.aliases),
        "findings": len(item.findings),
        "links": len(item.links),
        "metadata": len(item.metadata),
        "spans": len(item.spans),
        "assessments": len(item.assessments),
        "trace_links": len(item.trace_links),
        "rows": len(item.rows),
    }


def stub(row: Row, why: str) -> Item:
    """Return what the index alone tells of an item whose rows are lost."""
    mark = marks.load(row.mark)
    problem = Problem(str(row.ref), f"only its name is left: {why}")
    match row.ref.kind:
        case "experiment":
            header: Header = Experiment(row.name, lifecycle=row.lifecycle)
        case "run":
            header = Run(
                Ref("experiment", row.experiment or ""),
                row.name or None,
                status=(mark.status if mark else None) or "RUNNING",
                end_time=mark.end_time if mark else None,
                lifecycle=row.lifecycle,
            )
        case "logged_model":
            header = LoggedModel(
                Ref("experiment", row.experiment or ""),
                row.name,
                (mark.status if mark else None) or "UNSPECIFIED",
                lifecycle=row.lifecycle,
            )
        case "trace":
            header = Trace(
                Ref("experiment", row.experiment or ""),
                (mark.status if mark else None) or "STATE_UNSPECIFIED",
            )
        case "registered_model":
            header = RegisteredModel(row.name)
        case _:
            home = row.experiment
            header = Entity(row.name, None if home is None else Ref("experiment", home))
    return Item(row.ref, header, row.origin, mark=row.mark, findings=(problem,))


def public(item: Item, checksums: Mapping[str, str]) -> Item:
    """Return an item as a source gives it: without the tags that are mlmigrate's own,
    and with those artifacts alone whose bytes are there.
    """
    return replace(
        item,
        tags=tuple(tag for tag in item.tags if not tag.key.startswith(PREFIX)),
        artifacts=tuple(file for file in item.artifacts if file.path in checksums),
    )
