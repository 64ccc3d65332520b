"""Entities with all their rows, from the tables that `mlmigrate.entities` describes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from mlmigrate import entities
from mlmigrate.entities import ENTITIES, Table
from mlmigrate.model import Entity, Finding, Item, Kind, Problem, Ref, Row
from mlmigrate.stores.mlflow_db import workspaces
from mlmigrate.stores.mlflow_db.experiments import id_of
from mlmigrate.stores.mlflow_db.tables import Tables
from mlmigrate.stores.mlflow_db.values import Escaped, text
from mlmigrate.workspaces import COLUMN

_HOME = "experiment_id"


def ids(
    tables: Tables, kind: Kind, experiments: frozenset[str] | None
) -> Iterator[str]:
    """Yield the ids of the entities of a kind; where they belong to experiments, those
    of some; of all if None.
    """
    description = ENTITIES[kind]
    if description.houses:
        yield from workspaces.ids(tables)
        return
    own = description.own
    always = _always(tables, own)
    for id, home, *held in tables.keyed(own.name, own.owner, _HOME, *always):
        if any(
            one is not None and text(one) != other
            for one, other in zip(held, always.values(), strict=True)
        ):
            continue
        if (
            not description.of_experiment
            or experiments is None
            or id_of(home) in experiments
        ):
            yield str(text(id))


def read(tables: Tables, kind: Kind, ids: list[str]) -> dict[Ref, Item]:
    """Read some entities of a kind: those that are there, at most `tables.IN` at once.

    Raises:
        StoreError: the database does not answer, or its file is damaged.
    """
    description = ENTITIES[kind]
    rows: dict[str, list[Row]] = defaultdict(list)
    findings: dict[str, list[Finding]] = defaultdict(list)
    headers: dict[str, Entity] = {}
    for table in description.tables:
        own = table is description.own
        for id, said in _rows(tables, table, ids):
            where = f"{tables.location} {kind.replace('_', ' ')} {id}"
            home = said.pop(_HOME, None) if own and description.of_experiment else None
            plain = {
                name: _plain(value)
                for name, value in said.items()
                if name not in table.secret
            }
            findings[id] += _left_out(table, said, where)
            findings[id] += _escaped(table, plain, where)
            if own:
                experiment = Ref("experiment", id_of(home))
                headers[id] = Entity(
                    entities.name(kind, id, plain),
                    experiment if description.of_experiment else None,
                )
            rows[id].append(entities.row(table.name, plain))
    if description.houses:  # what the catalog does not know may hold something
        for id in set(ids) - headers.keys():
            headers[id] = Entity(id)
            rows[id].append(entities.row(description.own.name, {}))
    return {
        Ref(kind, id): Item(
            Ref(kind, id),
            header,
            origin=id,
            rows=tuple(rows[id]),
            findings=tuple(findings[id]),
        )
        for id, header in headers.items()
    }


def _left_out(table: Table, said: Mapping[str, Any], where: str) -> Iterator[Finding]:
    for name in table.secret:
        if said.get(name):
            yield Problem(where, f"its {name} is not carried over: give it anew")


def _escaped(table: Table, plain: Mapping[str, Any], where: str) -> Iterator[Finding]:
    for name, value in plain.items():
        if isinstance(value, Escaped):
            what = f"{table.name}.{name} is not UTF-8: kept with \\x escapes"
            yield Problem(where, what)


def _rows(
    tables: Tables, table: Table, ids: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of some entities in one table: whose, and their columns."""
    have = tables.columns.get(table.name, set())
    if table.owner not in have:
        return
    always = _always(tables, table)
    columns = sorted(have - {table.owner, COLUMN} - always.keys())
    query = tables.select(table.name, table.owner, *columns)
    owner: Any = sa.column(table.owner)
    query = query.where(owner.in_(ids))
    for name, value in always.items():
        query = query.where(sa.column(name) == value)
    in_json = tables.json_columns(table.name)
    order = [table.owner, *(name for name in table.key if name in have)]
    for id, *values in tables.fetch(query.order_by(*map(sa.column, order))):
        row = dict(zip(columns, values, strict=True))
        said = entities.without_given(table, row)
        for name in in_json & said.keys():
            # SQLite takes a column of the type JSON for one of numbers.
            if isinstance(said[name], int | float) and not isinstance(said[name], bool):
                said[name] = json.dumps(said[name])
            elif said[name] == "null":  # to MLflow the same as NULL
                said[name] = None
        yield str(text(id)), said


def _always(tables: Tables, table: Table) -> dict[str, str]:
    """Return what the columns hold, of those that this revision has, by which rows are
    told that are an entity's.
    """
    have = tables.columns.get(table.name, set())
    return {name: value for name, value in table.always.items() if name in have}


def _plain(value: Any) -> Any:
    """Return a value in the form that `mlmigrate.model.Row` has."""
    match value:
        case bool():
            return int(value)
        case None | int() | float() | str():
            return value
        case dict() | list():  # a driver takes JSON apart
            return json.dumps(value)
        case _:
            return text(value)
