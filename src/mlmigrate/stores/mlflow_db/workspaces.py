"""Workspaces: the column of that name, in tables whose rows belong to no other row's
experiment; and the table ``workspaces``, which a server's provider may know better.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlmigrate import entities
from mlmigrate.entities import ENTITIES
from mlmigrate.workspaces import COLUMN, DEFAULT

if TYPE_CHECKING:
    from mlmigrate.stores.mlflow_db.tables import Tables

_OWN = ENTITIES["workspace"].own
_CATALOG = _OWN.name
#: The tables whose rows everything else in a workspace belongs to.
_ROOTS = (
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


def names(tables: Tables) -> list[str]:
    """Return the names of all workspaces: of those that hold something, and of those
    that the catalog knows.
    """
    found = {str(row[0]) for row in tables.rows(_CATALOG, "name")}
    for table in _ROOTS:
        if COLUMN in tables.columns.get(table, ()):
            query: Any = sa.select(sa.column(COLUMN)).select_from(sa.table(table))
            found |= {str(row[0] or DEFAULT) for row in tables.fetch(query.distinct())}
    return sorted(found)


def ids(tables: Tables) -> Iterator[str]:
    """Yield the workspace that is read: of the default one, which is everywhere, only
    if something is said.
    """
    if tables.workspace != DEFAULT:
        yield tables.workspace
        return
    others = sorted(tables.columns.get(_CATALOG, set()) - {"name"})
    for _, *said in tables.rows(_CATALOG, "name", *others, where={"name": DEFAULT}):
        row = dict(zip(others, said, strict=True))
        if any(entities.said_by_others(_OWN, row).values()):
            yield DEFAULT
