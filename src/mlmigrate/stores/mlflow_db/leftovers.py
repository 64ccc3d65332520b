"""What a database holds and no item carries: other tables, and rows without owner."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import sqlalchemy as sa

from mlmigrate.entities import ENTITIES, Table
from mlmigrate.errors import StoreError
from mlmigrate.model import Finding, Problem
from mlmigrate.stores.mlflow_db.links import ENDS
from mlmigrate.stores.mlflow_db.tables import Tables
from mlmigrate.workspaces import COLUMN, DEFAULT

#: Tables that are carried over, or that only repeat what others say.
CARRIED = {
    "alembic_version",
    "datasets",
    "experiment_tags",
    "experiments",
    "input_tags",
    "inputs",
    "latest_metrics",
    "logged_model_metrics",
    "logged_model_params",
    "logged_model_tags",
    "logged_models",
    "metrics",
    "model_version_tags",
    "model_versions",
    "params",
    "registered_model_aliases",
    "registered_model_tags",
    "registered_models",
    "runs",
    "tags",
    "assessments",
    "entity_associations",
    "span_metrics",
    "spans",
    "trace_info",
    "trace_metrics",
    "trace_request_metadata",
    "trace_tags",
    *(table.name for each in ENTITIES.values() for table in each.tables),
}
#: Tables whose rows MLflow makes by itself: locks, leases and sums over others.
_DERIVED = re.compile(r"sql_.*|job_locks|scheduler_leases|sqlite_.*")
#: A table, a query that counts some of its rows, and what is to be said of them.
_Look: TypeAlias = tuple[str, sa.Select[Any], str]

_RUN = {"run_uuid": "run_uuid"}
_LOGGED = {"model_id": "model_id"}
_MODEL = {"name": "name"}
_TRACE = {"request_id": "request_id"}
_VERSION = {"name": "name", "version": "version"}
_OF_TRACE: Any = sa.column("source_type") == "trace"
_LINKS = "entity_associations"
#: Rows of the first table mean nothing without the row of another that they name: by
#: which columns, there called what; and what such a row is.
_OWNED = (
    ("params", "runs", _RUN, "run"),
    ("tags", "runs", _RUN, "run"),
    ("metrics", "runs", _RUN, "run"),
    ("latest_metrics", "runs", _RUN, "run"),
    ("inputs", "runs", {"destination_id": "run_uuid"}, "run"),
    ("input_tags", "inputs", {"input_uuid": "input_uuid"}, "input"),
    (
        "experiment_tags",
        "experiments",
        {"experiment_id": "experiment_id"},
        "experiment",
    ),
    ("logged_model_params", "logged_models", _LOGGED, "logged model"),
    ("logged_model_tags", "logged_models", _LOGGED, "logged model"),
    ("logged_model_metrics", "logged_models", _LOGGED, "logged model"),
    ("registered_model_tags", "registered_models", _MODEL, "model"),
    ("registered_model_aliases", "registered_models", _MODEL, "model"),
    ("model_versions", "registered_models", _MODEL, "model"),
    ("model_version_tags", "model_versions", _VERSION, "model version"),
    ("trace_info", "experiments", {"experiment_id": "experiment_id"}, "experiment"),
    ("trace_tags", "trace_info", _TRACE, "trace"),
    ("trace_request_metadata", "trace_info", _TRACE, "trace"),
    ("spans", "trace_info", {"trace_id": "request_id"}, "trace"),
    ("assessments", "trace_info", {"trace_id": "request_id"}, "trace"),
    ("entity_associations", "trace_info", {"source_id": "request_id"}, "trace"),
    *(
        (
            table.name,
            each.own.name,
            {table.owner: each.own.owner},
            each.kind.replace("_", " "),
        )
        for each in ENTITIES.values()
        for table in each.tables[1:]
        if table.name != _LINKS
    ),
    *(
        (
            each.own.name,
            "experiments",
            {"experiment_id": "experiment_id"},
            "experiment",
        )
        for each in ENTITIES.values()
        if each.of_experiment
    ),
)


def findings(tables: Tables) -> Iterator[Finding]:
    """Name every table that holds rows which no item carries, and of a file those in
    which damage hides whether they do.

    Raises:
        StoreError: a server does not answer.
    """
    for look in (_uncarried, _linked, _orphans):
        for name, query, what in look(tables):
            # What stands in no workspace is told with the default one.
            here = tables.is_here(name)
            if here is None and tables.workspace != DEFAULT:
                continue
            try:
                count = tables.fetch(query if here is None else query.where(here))[0][0]
            except StoreError as error:
                if not tables.is_file:
                    raise
                problem = f"table {name}: rows may be left behind: {error}"
                yield Problem(tables.location, problem)
                continue
            if count:
                problem = f"table {name}: {count} {what}"
                yield Problem(tables.location, problem)


def _is_dataset() -> Any:
    return sa.and_(
        sa.column("source_type") == "DATASET", sa.column("destination_type") == "RUN"
    )


def _is_link() -> Any:
    """Tell rows of `links` from those that this version does not know."""
    return sa.or_(
        *(
            sa.and_(
                sa.column("source_type") == run_end,
                sa.column("destination_type") == model_end,
            )
            for run_end, model_end in ENDS.values()
        )
    )


def _tables(name: str) -> Iterator[Table]:
    """Yield what entities have in a table."""
    for each in ENTITIES.values():
        yield from (table for table in each.tables if table.name == name)


def _is(table: Table) -> Any:
    """Tell the rows of a table that are an entity's."""
    return sa.and_(*(sa.column(name) == held for name, held in table.always.items()))


def _count(table: Any, where: Any = None) -> sa.Select[Any]:
    query = sa.select(sa.func.count()).select_from(table)
    return query if where is None else query.where(where)


def _uncarried(tables: Tables) -> Iterator[_Look]:
    for name in tables.names:
        if name not in CARRIED and not _DERIVED.fullmatch(name):
            yield name, _count(sa.table(name)), "rows are not carried over"


def _linked(tables: Tables) -> Iterator[_Look]:
    unused: Any = None
    if "inputs" in tables.columns:
        known = sa.or_(_is_dataset(), _is_link())
        others = _count(sa.table("inputs"), sa.not_(known))
        yield "inputs", others, "links of an unknown kind are not carried over"
        runs: Any = sa.select(sa.column("run_uuid")).select_from(sa.table("runs"))
        lost = sa.and_(_is_link(), sa.column("source_id").not_in(runs))
        what = "links to logged models belong to no run: not copied"
        yield "inputs", _count(sa.table("inputs"), lost), what
        used: Any = tables.select("inputs", "source_id").where(_is_dataset())
        unused = sa.column("dataset_uuid").not_in(used)
    if _LINKS in tables.columns:
        known = sa.or_(_OF_TRACE, *(_is(table) for table in _tables(_LINKS)))
        others = _count(sa.table(_LINKS), sa.not_(known))
        yield _LINKS, others, "links of an unknown kind are not carried over"
    if "datasets" in tables.columns:
        left = _count(sa.table("datasets"), unused)
        yield "datasets", left, "datasets that no run uses are left"


def _orphans(tables: Tables) -> Iterator[_Look]:
    """SQLite checks no foreign keys unless asked: rows may outlive their run."""
    for name, owner, named, title in _OWNED:
        if not named.keys() <= tables.columns.get(name, set()):
            continue
        held = tables.columns[name] & tables.columns.get(owner, set()) & {COLUMN}
        keys = {**named, **{each: each for each in held}}
        rows = sa.table(name, *map(sa.column, keys))
        owners = sa.table(owner, *map(sa.column, keys.values()))
        same = (
            _plain(owners, whole) == _plain(rows, key) for key, whole in keys.items()
        )
        # Unlike NOT IN, this holds for NULL, too.
        lost: Any = ~sa.exists().where(*same).correlate(rows)
        if not set(keys.values()) <= tables.columns.get(owner, set()):
            lost = sa.true()
        if name == "inputs":
            lost = sa.and_(lost, _is_dataset())
        if name == "entity_associations":
            lost = sa.and_(lost, _OF_TRACE)
        what = f"rows belong to no {title}: not copied"
        yield name, _count(rows, lost), what


def _plain(table: sa.TableClause, name: str) -> sa.ColumnElement[Any]:
    """Return a column; of that of workspaces, the default one in one form."""
    column: sa.ColumnElement[Any] = table.c[name]
    if name != COLUMN:
        return column
    return sa.func.coalesce(sa.func.nullif(column, ""), DEFAULT)
