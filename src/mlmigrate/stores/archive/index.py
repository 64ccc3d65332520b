"""Which segment holds the live version of each item: ``current.parquet``.

Its rows are rows of the segments' tables ``items``, word for word: of each item the
newest. So it can always be made again from those, also as of an earlier segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa

from mlmigrate.codec import COUNTED, TABLES, unescape
from mlmigrate.codec.arrays import of_numbers
from mlmigrate.entities import ENTITIES, address
from mlmigrate.errors import ItemError
from mlmigrate.merge import origins_of
from mlmigrate.model import KINDS, Entity, Kind, Lifecycle, Ref

#: The kinds of items that belong to one experiment each.
_AT_HOME = frozenset(
    (
        "run",
        "logged_model",
        "trace",
        *(k for k, d in ENTITIES.items() if d.of_experiment),
    )
)


@dataclass(frozen=True, slots=True)
class Row:
    """What the index tells of one item."""

    ref: Ref
    segment: int
    number: int
    origin: str
    name: str
    mark: str | None
    digest: str
    lifecycle: Lifecycle
    experiment: str | None
    counts: Mapping[str, int]  # column of `items` -> rows in the table that it counts


class Index:
    """The live items, in the order of segments. The texts stay in Arrow's memory."""

    def __init__(self, table: pa.Table) -> None:
        """Take rows of ``items``.

        Raises:
            ItemError: they are not what an archive holds.
        """
        for column in TABLES["items"]:
            if table.column(column.name).null_count and not column.nullable:
                raise ItemError(f"items.{column.name} has rows without a value")
        self.table = table.combine_chunks()
        kinds = self.table.column("kind").to_pylist()
        ids = self.table.column("id").to_pylist()
        if set(kinds) - set(KINDS):
            raise ItemError("items has unknown kinds: upgrade mlmigrate")
        self._at: dict[Kind, dict[str, int]] = {kind: {} for kind in KINDS}
        for at, (kind, id) in enumerate(zip(kinds, ids, strict=True)):
            self._at[kind][unescape(id)] = at

    def __len__(self) -> int:
        return sum(map(len, self._at.values()))

    def refs(self, kind: Kind, experiments: frozenset[str] | None) -> Iterator[Ref]:
        """Yield the refs of one kind, of what has a home those of some experiments."""
        homes = None
        if kind in _AT_HOME and experiments is not None:
            homes = self.table.column("experiment_id").to_pylist()
        for id, at in self._at[kind].items():
            if homes is None or unescape(homes[at] or "") in (experiments or ()):
                yield Ref(kind, id)

    def get(self, ref: Ref) -> Row | None:
        """Return what is known of an item."""
        at = self._at[ref.kind].get(ref.id)
        return None if at is None else self.row(at)

    def row(self, at: int) -> Row:
        """Return one row of the table."""

        def value(name: str) -> Any:
            return self.table.column(name)[at].as_py()

        lifecycle = "deleted" if value("lifecycle") == "deleted" else "active"
        mark, experiment = value("mark"), value("experiment_id")
        return Row(
            Ref(value("kind"), unescape(value("id"))),
            value("segment"),
            value("item"),
            unescape(value("origin")),
            unescape(value("name") or ""),
            None if mark is None else unescape(mark),
            value("digest"),
            cast("Lifecycle", lifecycle),
            None if experiment is None else unescape(experiment),
            {name: value(name) or 0 for name in _COUNTS},
        )

    def find(self, origin: Ref) -> Ref | None:
        """Return the item of an origin; see `mlmigrate.contract.Sink.copies`."""
        if origin.kind == "experiment":
            bearing, named = self._experiments
            id = bearing.get(origin.id) or named.get(origin.id.partition("/")[2])
            return None if id is None else Ref("experiment", id)
        if origin.kind in ENTITIES:
            own = self.get(origin)
            return own.ref if own is not None else self._named.get(origin)
        id = self._renamed[origin.kind].get(origin.id, origin.id)
        row = self.get(Ref(origin.kind, id))
        return row.ref if row is not None and row.origin == origin.id else None

    @cached_property
    def _renamed(self) -> dict[str, dict[str, str]]:
        """Origin -> id for the items whose id is not their origin."""
        found: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
        names = ("kind", "id", "origin")
        columns = [self.table.column(name).to_pylist() for name in names]
        rows = zip(*columns, strict=True)
        for kind, id, origin in rows:
            if id != origin:
                found[kind].setdefault(unescape(origin), unescape(id))
        return found

    @cached_property
    def _named(self) -> dict[Ref, Ref]:
        """Address -> ref of entities."""
        found: dict[Ref, Ref] = {}
        for kind in ENTITIES:
            for _, at in sorted(self._at[kind].items()):
                row = self.row(at)
                home = row.experiment
                place = None if home is None else Ref("experiment", home)
                found.setdefault(address(kind, Entity(row.name, place)), row.ref)
        return found

    @cached_property
    def _experiments(self) -> tuple[dict[str, str], dict[str, str]]:
        """Origin -> id, and name -> id, of experiments."""
        bearing: dict[str, str] = {}
        named: dict[str, str] = {}
        for id, at in self._at["experiment"].items():
            row = self.row(at)
            named.setdefault(unescape(self.table.column("name")[at].as_py() or ""), id)
            if row.mark is not None:
                for origin in origins_of(row.origin):
                    bearing.setdefault(origin, id)
        return bearing, named


_COUNTS = sorted(set(COUNTED.values()))


def newest(tables: Sequence[pa.Table]) -> pa.Table:
    """Return of each item the row of the last of *tables* that has it, in order."""
    if not tables:
        return TABLES["items"].empty_table()
    table = pa.concat_tables([each.cast(TABLES["items"]) for each in tables])
    last: dict[tuple[str, str], int] = {}
    kinds, ids = table.column("kind").to_pylist(), table.column("id").to_pylist()
    for at, key in enumerate(zip(kinds, ids, strict=True)):
        last[key] = at
    if len(last) == len(table):
        return table
    return table.take(of_numbers(np.sort(np.array(list(last.values()), np.int64))))
