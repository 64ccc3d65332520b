"""Entities: row by row, what a copy lacks and which of two rows stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mlmigrate import entities
from mlmigrate.entities import ENTITIES, Table
from mlmigrate.errors import ItemError
from mlmigrate.model import Item, Note, Row

#: A row, and its columns.
_Said: TypeAlias = "tuple[Row, Mapping[str, Any]]"
_Key: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Lacking:
    """What the copy of an entity lacks."""

    rows: tuple[Row, ...]
    """To be added, or in the place of those with the same keys."""
    refused: tuple[Row, ...] = ()
    """In the place of which something else stands, and no time tells which is later."""
    older: tuple[Row, ...] = ()
    """In the place of which a row stands that was changed later."""
    notes: tuple[Note, ...] = ()


def entity_additions(
    held: Item,
    incoming: Item,
    columns: Mapping[str, frozenset[str]] | None = None,
) -> Lacking:
    """Return what of *incoming* is missing in *held*, its copy at a sink, as far as
    that holds it: see `mlmigrate.contract.Capabilities.columns`.

    A row that both have stands as it was changed last: by its own time, then by the
    entity's. Where no time tells, what stands at the sink stays, and gets what it does
    not say.
    """
    rows: list[Row] = []
    refused: list[Row] = []
    older: list[Row] = []
    notes: list[Note] = []
    ages = [_age(item) for item in (incoming, held)]
    for table in ENTITIES[incoming.ref.kind].tables:
        if columns is not None and table.name not in columns:
            continue
        kept = columns[table.name] if columns is not None else None
        standing = _of(table, held.rows, columns)
        wanted = _of(table, incoming.rows, columns)
        if table.numbered:
            for row, renumbered in _versions(table, wanted, standing, kept):
                rows.append(row)
                notes += (Note(str(incoming.ref), what) for what in renumbered)
            continue
        for key, (row, said) in wanted.items():
            if key not in standing:
                rows.append(row)
                continue
            own = standing[key][1]
            new, old = _says(table, said, kept), _says(table, own, kept)
            if new == old:
                continue
            # A reference that one of them lacks: it had not resolved when that came.
            lost = {name for name in table.refs if (name in new) != (name in old)}
            if all(new.get(each) == old.get(each) for each in {*new, *old} - lost):
                if lost & new.keys():
                    refs = {name: new[name] for name in lost & new.keys()}
                    rows.append(entities.changed(standing[key][0], **refs))
                continue
            mine, theirs = (
                (_time(table, each), age)
                for each, age in zip((said, own), ages, strict=True)
            )
            agree = all(new[name] == old[name] for name in new.keys() & old.keys())
            # What a row says no more can be taken from a database alone.
            stays = columns is not None or mine <= theirs
            if agree and new.keys() <= old.keys() and stays:
                continue
            if mine > theirs:
                rows.append(_in_its_place(table, row, own))
            elif mine == theirs and agree:
                rows.append(entities.row(table.name, {**said, **own}))
            elif mine == theirs:
                refused.append(row)
            else:
                older.append(row)
    return Lacking(tuple(rows), tuple(refused), tuple(older), tuple(notes))


def with_rows(held: Item, rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the rows of an entity, of which *rows* are new or stand for others."""
    if not held.rows and not rows:
        return ()
    grown: list[Row] = []
    for table in ENTITIES[held.ref.kind].tables:
        both = {**_of(table, held.rows), **_of(table, rows)}
        grown += (row for row, _ in both.values())
    return tuple(grown)


def _of(
    table: Table,
    rows: Sequence[Row],
    columns: Mapping[str, frozenset[str]] | None = None,
) -> dict[_Key, _Said]:
    """Return the rows of one table, by key."""
    found: dict[_Key, _Said] = {}
    for row in rows:
        if row.table == table.name:
            said = entities.values(row)
            try:
                found[entities.key(table, said, columns)] = row, said
            except TypeError as error:
                raise ItemError(f"{table.name}: a key is no single value") from error
    return found


def _versions(
    table: Table,
    wanted: Mapping[_Key, _Said],
    standing: Mapping[_Key, _Said],
    kept: frozenset[str] | None,
) -> Iterator[tuple[Row, list[str]]]:
    """Yield the versions that are nowhere among those that stand, the number of each
    its own where that is free.
    """
    (name,) = table.key
    numbers = {key[0] for key in standing}
    if not all(isinstance(key[0], int) for key in (*standing, *wanted)):
        raise ItemError(f"{table.name}: a {name} is no whole number")
    known = [_content(table, said, kept) for _, said in standing.values()]
    for (number,), (row, said) in sorted(wanted.items()):
        content = _content(table, said, kept)
        if content in known:
            known.remove(content)  # a version may come back: as often as it stands
            continue
        free = number
        if number in numbers:
            free = max(numbers) + 1
        numbers.add(free)
        if free == number:
            yield row, []
            continue
        what = f"{name} {number} is {name} {free} at the sink"
        yield entities.changed(row, **{name: free}), [what]


def _says(
    table: Table, said: Mapping[str, Any], kept: frozenset[str] | None
) -> dict[str, Any]:
    """Return what a row says in those columns that a sink holds as they are given."""
    content = entities.says(table, said)
    if kept is None:
        return content
    return {name: value for name, value in content.items() if name in kept}


def _content(
    table: Table, said: Mapping[str, Any], kept: frozenset[str] | None
) -> dict[str, Any]:
    content = _says(table, said, kept)
    return {name: value for name, value in content.items() if name not in table.key}


def _in_its_place(table: Table, row: Row, own: Mapping[str, Any]) -> Row:
    """Return a row with the drawn id of the one that it replaces."""
    if table.minted is None:
        return row
    return entities.changed(row, **{table.minted: own.get(table.minted)})


def _age(item: Item) -> int:
    own = ENTITIES[item.ref.kind].own
    return max(
        (_time(own, said) for _, said in _of(own, item.rows).values()), default=0
    )


def _time(table: Table, said: Mapping[str, Any]) -> int:
    found = said.get(table.updated) if table.updated is not None else None
    return found if isinstance(found, int) else 0
