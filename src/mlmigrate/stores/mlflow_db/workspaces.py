"""Workspaces: the column of that name, in tables whose rows belong to no other row's
experiment; and the table ``workspaces``, which a server's provider may know better.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlmigrate import entities
from mlmigrate.entities import ENTITIES
from mlmigrate.errors import StoreError
from mlmigrate.model import Finding, Problem
from mlmigrate.workspaces import COLUMN, DEFAULT

if TYPE_CHECKING:
    from mlmigrate.stores.mlflow_db.tables import Rows, Tables

_OWN = ENTITIES["workspace"].own
_CATALOG = _OWN.name
#: The tables whose rows everything else in a workspace belongs to.
ROOTS = (
    "experiments",
    "registered_models",
    *(each.own.name for each in ENTITIES.values() if not each.of_experiment),
)


def is_in(column: Any, workspace: str) -> sa.ColumnElement[bool]:
    """Tell the rows of a workspace by their column."""
    if workspace == DEFAULT:
        return sa.or_(column.is_(None), column.in_((DEFAULT, "")))
    same: sa.ColumnElement[bool] = column == workspace
    return same


def is_home(table: sa.Table, workspace: str) -> sa.ColumnElement[bool]:
    """Tell the rows of a table that stand in a workspace: all, where none does."""
    return is_in(table.c[COLUMN], workspace) if COLUMN in table.c else sa.true()


def names(tables: Tables) -> list[str]:
    """Return the names of all workspaces: of those that hold something, and of those
    that the catalog knows. What cannot be read of them tells none.
    """
    found = {DEFAULT}
    for table, column in ((_CATALOG, "name"), *((each, COLUMN) for each in ROOTS)):
        if column not in tables.columns.get(table, ()):
            continue
        query: Any = sa.select(sa.column(column)).select_from(sa.table(table))
        try:
            rows = tables.fetch(query.distinct())
        except StoreError:
            if not tables.is_file:
                raise
            continue  # a damaged page; `findings` tells of it
        names = (row[0] for row in rows)
        found |= {each for each in names if each and type(each) is str}
    return sorted(found)


def findings(tables: Tables) -> Iterator[Finding]:
    """Tell if what is said of workspaces cannot be read.

    Raises:
        StoreError: a server does not answer.
    """
    if _CATALOG not in tables.columns:
        return
    try:
        tables.rows(_CATALOG, *sorted(tables.columns[_CATALOG]))
    except StoreError as error:
        if not tables.is_file:
            raise
        what = f"table {_CATALOG}: what is said there is not copied: {error}"
        yield Problem(tables.location, what)


def _rows_of_default(tables: Tables, columns: list[str]) -> Rows:
    if "name" not in tables.columns.get(_CATALOG, ()):
        return []
    return tables.rows(_CATALOG, "name", *columns, where={"name": DEFAULT})


def ids(tables: Tables) -> Iterator[str]:
    """Yield the workspace that is read: of the default one, which is everywhere, only
    if something is said.
    """
    if tables.workspace != DEFAULT:
        yield tables.workspace
        return
    others = sorted(tables.columns.get(_CATALOG, set()) - {"name"})
    try:
        rows = _rows_of_default(tables, others)
    except StoreError:
        if not tables.is_file:
            raise
        return  # `findings` tells of it
    for _, *said in rows:
        row = dict(zip(others, said, strict=True))
        if any(entities.without_given(_OWN, row).values()):
            yield DEFAULT
