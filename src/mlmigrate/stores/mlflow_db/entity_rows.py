"""Entities into the tables that `mlmigrate.entities` describes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from mlmigrate import entities
from mlmigrate.contract import Copy, Delivery
from mlmigrate.entities import ENTITIES, Table
from mlmigrate.errors import ItemError
from mlmigrate.model import Entity, Kind, Ref, Row
from mlmigrate.stores.mlflow_db.copies import Tables
from mlmigrate.stores.mlflow_db.transaction import Transaction
from mlmigrate.stores.mlflow_db.workspaces import is_home
from mlmigrate.workspaces import COLUMN, DEFAULT

_HOME = "experiment_id"
_LATER = "a later MLflow's; install that, and upgrade the database"


def write_entity(transaction: Transaction, delivery: Delivery) -> Ref:
    """Insert an entity, or write the rows that the one that stands lacks."""
    item, header = delivery.item, delivery.item.header
    assert isinstance(header, Entity)
    ref = delivery.into or item.ref
    connection = transaction.connection
    # Rows of one table that hold the same columns go in together.
    new: dict[tuple[str, tuple[str, ...]], list[dict[str, Any]]] = defaultdict(list)
    for row in item.rows:
        table = entities.table_of(ref.kind, row)
        held = transaction.tables.get(table.name)
        if held is None:
            raise ItemError(f"there is no table {table.name}: it is {_LATER}")
        said = _columns(transaction, table, ref, header, row)
        if delivery.into is None or not _updated(connection, held, table, said):
            new[table.name, tuple(said)].append(said)
    for (name, columns), rows in new.items():
        held = transaction.tables[name]
        bound = {
            column: _as(held.c[column], sa.bindparam(column), connection)
            for column in columns
        }
        connection.execute(sa.insert(_untyped(name, columns)).values(bound), rows)
    return ref


def copies(
    connection: sa.Connection,
    tables: Tables,
    kind: Kind,
    wanted: Sequence[Ref],
    workspace: str,
) -> dict[Ref, Copy]:
    """Find entities of a workspace by their ids, and by their addresses."""
    description = ENTITIES[kind]
    own = description.own
    table = tables[own.name]
    home = table.c[_HOME] if description.of_experiment else sa.literal("")
    names = [sa.type_coerce(table.c[each], sa.Text) for each in description.names]
    there: dict[Ref, Ref] = {}
    # Only what may be meant: to look through all for each would take quadratic time.
    ids = [ref.id for ref in wanted]
    homes = {each.partition("/")[0] for each in ids}
    named: Any = names[0].in_(_beginnings(ids))
    if description.of_experiment:
        named &= table.c[_HOME].in_([int(each) for each in homes if each.isdecimal()])
    query = sa.select(table.c[own.owner], home, *names).where(
        table.c[own.owner].in_(ids) | named, is_home(table, workspace)
    )
    for id, experiment, *said in sorted(
        connection.execute(query), key=lambda row: str(row[0])
    ):
        place = (
            Ref("experiment", str(experiment)) if description.of_experiment else None
        )
        columns = dict(zip(description.names, said, strict=True))
        name = entities.name(kind, str(id), columns)
        there[Ref(kind, str(id))] = ref = Ref(kind, str(id))
        there.setdefault(entities.address(kind, Entity(name, place)), ref)
    return {ref: Copy(there[ref], None) for ref in wanted if ref in there}


def make_known(transaction: Transaction) -> None:
    """Let MLflow know the workspace that is written to, if it does not yet."""
    own = ENTITIES["workspace"].own
    if transaction.workspace == DEFAULT or own.name not in transaction.tables:
        return
    table = transaction.tables[own.name]
    here = table.c[own.owner] == transaction.workspace
    query = sa.select(sa.func.count()).select_from(table).where(here)
    if not transaction.connection.scalar(query):
        row = {own.owner: transaction.workspace}
        transaction.connection.execute(sa.insert(table).values(row))


def _beginnings(addresses: Iterable[str]) -> list[str]:
    """Return what the first of the names may be that addresses hold."""
    found = set()
    for address in addresses:
        parts = address.partition("/")[2].split(": ")
        found |= {": ".join(parts[:at]) for at in range(1, len(parts) + 1)}
    return list(found)


def _columns(
    transaction: Transaction, table: Table, ref: Ref, header: Entity, row: Row
) -> dict[str, Any]:
    """Return all columns of a row, those included that say whose it is.

    Raises:
        ItemError: the installed MLflow's table lacks one of them.
    """
    held = transaction.tables[table.name]
    said = {**entities.values(row), **table.always, table.owner: ref.id}
    said |= transaction.home(table.name)
    if table is ENTITIES[ref.kind].own and header.experiment is not None:
        said[_HOME] = int(header.experiment.id)
    for name, value in said.items():
        if name not in held.c:
            raise ItemError(f"table {table.name} has no column {name}: it is {_LATER}")
        # What is neither true nor false, the database may refuse.
        if isinstance(held.c[name].type, sa.Boolean) and value in (0, 1):
            said[name] = bool(value)
    return said


def _updated(
    connection: sa.Connection, held: sa.Table, table: Table, said: Mapping[str, Any]
) -> bool:
    """Write a row over the one that has its place; False where there is none."""
    places = [table.owner, *table.key, *table.always, *({COLUMN} & said.keys())]
    # What the row does not say is NULL there, but for what was never read.
    kept = {*places, table.minted, *table.secret}
    blank = {each.name for each in held.columns if each.nullable} - said.keys() - kept
    untyped = _untyped(table.name, (*said, *blank))
    changed: dict[str, Any] = {name: sa.null() for name in blank}
    for name, value in said.items():
        if name not in kept:
            changed[name] = _as(held.c[name], sa.literal(value), connection)
    same = [untyped.c[name] == said.get(name) for name in places]
    if not changed:
        query: Any = sa.select(sa.func.count()).select_from(untyped).where(*same)
        return bool(connection.scalar(query))
    return (
        connection.execute(sa.update(untyped).where(*same).values(changed)).rowcount > 0
    )


def _untyped(name: str, columns: Iterable[str]) -> sa.TableClause:
    """Return a table of which the driver gets values as they are."""
    return sa.table(name, *map(sa.column, columns))


def _as(column: sa.Column[Any], given: Any, connection: sa.Connection) -> Any:
    """Return what stands for a value: JSON goes in as it is written."""
    is_json = isinstance(column.type, sa.JSON) and connection.dialect.name != "sqlite"
    return sa.cast(given, column.type) if is_json else given
