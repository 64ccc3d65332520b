"""Entities as a sink can hold them: by the width of each column."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mlmigrate import entities
from mlmigrate.contract import Capabilities
from mlmigrate.entities import ENTITIES
from mlmigrate.fit.fitting import Fitting
from mlmigrate.model import Item, Loss, Row

#: A string, which stays, or a number of Python's that JSON has no word for.
_NO_NUMBER = re.compile(r'("(?:[^"\\]|\\.)*")|-?\b(?:NaN|Infinity)\b')
_DISABLED = "DISABLED"
_WEBHOOKS = "webhooks"


def fitted_entity(item: Item, sink: Capabilities) -> tuple[Item, tuple[Loss, ...]]:
    """Return an entity, and what became of it: it has no tags to carry that in.

    Where what stands at the sink acts, a webhook is disabled: MLflow would call its
    address for whatever happens to the copy.
    """
    fitting = Fitting(item, sink)
    rows = tuple(_fitted(row, fitting) for row in _shown(item, fitting))
    fitting.losses += _given(item, sink)
    losses = tuple(Loss(item.ref, what, carried=False) for what in fitting.losses)
    return replace(item, rows=rows), losses


def _shown(item: Item, fitting: Fitting) -> Iterator[Row]:
    """Yield the rows that a sink can show: all of a database; of a server those that
    are not deleted, and that refer to none which is.
    """
    gone: dict[str, set[Any]] = defaultdict(set)
    for row in item.rows if fitting.sink.columns is not None else ():
        table, said = entities.table_of(item.ref.kind, row), entities.values(row)
        if table.hidden and table.hidden.items() <= said.items():
            label = entities.label(table, said)
            fitting.losses.append(f"{label} is deleted: the sink has no place for it")
            for name in table.key:
                gone[name].add(said[name])
    for row in item.rows:
        said = entities.values(row)
        if not any(said.get(name) in held for name, held in gone.items()):
            yield row


def switched(item: Item, held: Item, sink: Capabilities) -> Item:
    """Return an entity as it is switched where it stands: nobody's webhook is turned
    off, nor on.
    """
    status = status_of(held)
    if not sink.acts or status is None:
        return item
    rows = (
        entities.changed(row, status=status) if row.table == _WEBHOOKS else row
        for row in item.rows
    )
    return replace(item, rows=tuple(rows))


def status_of(item: Item) -> str | None:
    """Return whether a webhook is enabled, in MLflow's words; None of others."""
    for row in item.rows:
        if row.table == _WEBHOOKS:
            status: str | None = entities.values(row).get("status")
            return status
    return None


def _given(item: Item, sink: Capabilities) -> Iterator[str]:
    """Tell what the sink gives itself, or has no place for. The rows keep that: by
    their times it is told which of two is the later.
    """
    if sink.columns is None:
        return
    for table in ENTITIES[item.ref.kind].tables:
        rows = [entities.values(row) for row in item.rows if row.table == table.name]
        held = sink.columns.get(table.name)
        if rows and held is None:
            yield f"{table.name}: the sink has no place for its rows"
        elif held is not None:
            repeated = {table.minted, *table.key, *table.derived}
            given = {name for row in rows for name in row} - held - repeated
            if given:
                yield f"{table.name}: {', '.join(sorted(given))} is the sink's own"


def _fitted(row: Row, fitting: Fitting) -> Row:
    changed: dict[str, Any] = {}
    for column, value in entities.values(row).items():
        if isinstance(value, str):
            kind, label = f"{row.table}.{column}", f"{row.table} {column}"
            fits = value
            if kind in fitting.sink.strict_json:
                fits = _strict(value, fitting, label)
            fits = fitting.text(kind, fits, label)
            if fits != value:
                changed[column] = fits
    if fitting.sink.acts and row.table == _WEBHOOKS:
        changed["status"] = _DISABLED
    return entities.changed(row, **changed) if changed else row


def _strict(value: str, fitting: Fitting, label: str) -> str:
    """Return JSON in which what is no number is null; the rest as it is written."""
    count = sum(not found[1] for found in _NO_NUMBER.finditer(value))
    if not count:
        return value
    what = f"{count} numbers, NaN or infinite, became null: JSON has no word for them"
    fitting.losses.append(f"{label}: {what}")
    return _NO_NUMBER.sub(lambda found: found[1] or "null", value)
