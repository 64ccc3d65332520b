"""What an MLflow database holds of each origin."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import md5
from typing import Any, TypeAlias

import sqlalchemy as sa

from mlmigrate import marks
from mlmigrate.contract import Copy
from mlmigrate.entities import ENTITIES
from mlmigrate.merge import origins_of
from mlmigrate.mlflow_traces import trace_id
from mlmigrate.model import Kind, Ref
from mlmigrate.stores.mlflow_db.workspaces import ROOTS, is_home

Tables: TypeAlias = Mapping[str, sa.Table]


@dataclass(frozen=True, slots=True)
class Marked:
    """The tables of a kind of item whose copies bear tags, and their columns."""

    table: str
    id: str
    tags: str
    key: str
    value: str
    longest: int  # characters of an id


RUNS = Marked("runs", "run_uuid", "tags", "key", "value", 32)
LOGGED_MODELS = Marked(
    "logged_models", "model_id", "logged_model_tags", "tag_key", "tag_value", 36
)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*$")


def run_id(origin: str) -> str:
    """Return the run id that a copy gets: its origin where that is one that MLflow
    accepts, otherwise one made from it, always the same.
    """
    return _id(RUNS, origin)


def model_id(origin: str) -> str:
    """Return the id that a copy of a logged model gets, likewise."""
    return _id(LOGGED_MODELS, origin)


def _id(place: Marked, origin: str) -> str:
    if _ID.match(origin) and len(origin) <= place.longest:
        return origin
    made = md5(origin.encode(), usedforsecurity=False).hexdigest()
    return made if place is RUNS else f"m-{made}"


def experiment_copies(
    connection: sa.Connection,
    tables: Tables,
    origins: Sequence[Ref],
    workspace: str,
) -> dict[Ref, Copy]:
    """Find the experiment of a workspace that bears each origin, else the one of its
    name.
    """
    table, tags = tables["experiments"], tables["experiment_tags"]
    by_name: dict[str, Any] = {}
    by_id: dict[int, Any] = {}
    query = sa.select(
        table.c.experiment_id, table.c.name, table.c.lifecycle_stage
    ).where(is_home(table, workspace))
    for standing in connection.execute(query):
        by_name[standing.name] = by_id[standing.experiment_id] = standing
    bearing: dict[str, int] = {}
    marked: dict[int, str] = {}
    own = sa.select(tags.c.experiment_id, tags.c.key, tags.c.value).where(
        tags.c.key.in_([marks.ORIGIN, marks.MARK])
    )
    for number, key, value in connection.execute(own):
        if key == marks.MARK:
            marked[number] = value
        elif number in by_id:
            for origin in origins_of(value or ""):
                bearing.setdefault(origin, number)
    found = {}
    for ref in origins:
        bearer = by_id.get(bearing.get(ref.id, -1))
        row: Any = bearer or by_name.get(ref.id.partition("/")[2])
        if row is not None:
            found[ref] = Copy(
                Ref("experiment", str(row.experiment_id)),
                marks.load(marked.get(row.experiment_id)),
                row.lifecycle_stage or "active",
            )
    return found


def marked_copies(
    connection: sa.Connection,
    tables: Tables,
    place: Marked,
    origins: Sequence[Ref],
    renamed: Mapping[str, str],
) -> dict[Ref, Copy]:
    """Find the runs or logged models of these origins, of which *renamed* names those
    of other ids.
    """
    ids = {renamed.get(ref.id, _id(place, ref.id)): ref for ref in origins}
    items, tags = tables[place.table], tables[place.tags]
    marked = sa.select(tags.c[place.id], tags.c[place.value]).where(
        tags.c[place.key] == marks.MARK, tags.c[place.id].in_(list(ids))
    )
    texts = {row[0]: row[1] for row in connection.execute(marked)}
    query = sa.select(items.c[place.id], items.c.lifecycle_stage)
    return {
        ids[id]: Copy(
            Ref(ids[id].kind, id), marks.load(texts.get(id)), lifecycle or "active"
        )
        for id, lifecycle in connection.execute(
            query.where(items.c[place.id].in_(list(ids)))
        )
    }


def trace_copies(
    connection: sa.Connection, tables: Tables, origins: Sequence[Ref]
) -> dict[Ref, Copy]:
    """Find the traces of these origins."""
    ids = {trace_id(ref.id): ref for ref in origins}
    traces, tags = tables["trace_info"], tables["trace_tags"]
    marked = sa.select(tags.c.request_id, tags.c.value).where(
        tags.c.key == marks.MARK, tags.c.request_id.in_(list(ids))
    )
    texts = {row[0]: row[1] for row in connection.execute(marked)}
    query = sa.select(traces.c.request_id).where(traces.c.request_id.in_(list(ids)))
    return {
        ids[id]: Copy(Ref("trace", id), marks.load(texts.get(id)))
        for id in connection.scalars(query)
    }


def renamed(
    connection: sa.Connection, tables: Tables, place: Marked, workspace: str
) -> dict[str, str]:
    """Return origin -> id for those runs or logged models of a workspace that bear
    another id than their origin: a server once minted it.
    """
    tags = tables[place.tags]
    query = sa.select(tags.c[place.value], tags.c[place.id]).where(
        tags.c[place.key] == marks.ORIGIN, tags.c[place.value] != tags.c[place.id]
    )
    items, homes = tables[place.table], tables["experiments"]
    query = query.join(items, items.c[place.id] == tags.c[place.id]).join(
        homes, homes.c.experiment_id == items.c.experiment_id
    )
    query = query.where(is_home(homes, workspace))
    return {row[0]: row[1] for row in connection.execute(query)}


def model_copies(
    connection: sa.Connection, tables: Tables, names: Collection[str], workspace: str
) -> dict[Ref, Copy]:
    """Find the registered models of a workspace that have these names."""
    table = tables["registered_models"]
    query = sa.select(table.c.name).where(is_home(table, workspace))
    found = (Ref("registered_model", name) for name in connection.scalars(query))
    return {ref: Copy(ref, None) for ref in found if ref.id in names}


def others(connection: sa.Connection, tables: Tables, workspace: str) -> bool:
    """Tell whether anything is in other workspaces."""
    held = (tables[name] for name in ROOTS if name in tables)
    return any(
        connection.execute(
            sa.select(sa.literal(1))
            .select_from(table)
            .where(~is_home(table, workspace))
            .limit(1)
        ).first()
        for table in held
    )


def elsewhere(
    connection: sa.Connection,
    tables: Tables,
    kind: Kind,
    ids: Sequence[str],
    workspace: str,
) -> set[str]:
    """Return which items of a kind are in other workspaces, whose ids are there once:
    none of those that are known by their names.
    """
    table, id = _home_of(tables, kind)
    if id in (ENTITIES[kind].names if kind in ENTITIES else ()):
        return set()
    homes = tables["experiments"]
    query: Any = sa.select(table.c[id]).where(table.c[id].in_(list(ids)))
    if "experiment_id" in table.c:
        query = query.join(homes, homes.c.experiment_id == table.c.experiment_id)
        query = query.where(~is_home(homes, workspace))
    else:
        query = query.where(~is_home(table, workspace))
    return {str(found) for found in connection.scalars(query)}


def _home_of(tables: Tables, kind: Kind) -> tuple[sa.Table, str]:
    """Return the table of the items of a kind, and the column of their ids."""
    if kind in ENTITIES:
        own = ENTITIES[kind].own
        return tables[own.name], own.owner
    if kind == "trace":
        return tables["trace_info"], "request_id"
    place = RUNS if kind == "run" else LOGGED_MODELS
    return tables[place.table], place.id
