"""What a database holds and no item carries: other tables, and rows without owner."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from mlmigrate.model import Finding, Problem
from mlmigrate.stores.mlflow_db.tables import Tables

#: Tables that are carried over, or that only repeat what others say.
CARRIED = {
    "alembic_version",
    "datasets",
    "experiment_tags",
    "experiments",
    "input_tags",
    "inputs",
    "latest_metrics",
    "metrics",
    "model_version_tags",
    "model_versions",
    "params",
    "registered_model_aliases",
    "registered_model_tags",
    "registered_models",
    "runs",
    "tags",
}
#: Tables whose rows MLflow makes by itself: locks, leases and sums over others.
_DERIVED = re.compile(r"sql_.*|job_locks|scheduler_leases|sqlite_.*|workspaces")
_RUN = {"run_uuid": "run_uuid"}
_MODEL = {"name": "name"}
_VERSION = {"name": "name", "version": "version"}
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
    ("registered_model_tags", "registered_models", _MODEL, "model"),
    ("registered_model_aliases", "registered_models", _MODEL, "model"),
    ("model_versions", "registered_models", _MODEL, "model"),
    ("model_version_tags", "model_versions", _VERSION, "model version"),
)


def findings(tables: Tables) -> Iterator[Finding]:
    """Name every table that holds rows which no item carries."""
    yield from _uncarried(tables)
    yield from _orphans(tables)


def counts(tables: Tables) -> Mapping[str, int]:
    """Count what `mlmigrate.inspection` names of the kinds that are not carried."""
    kinds = {"logged_models": "logged_models", "traces": "trace_info"}
    return {
        kind: tables.count(table) if table in tables.columns else 0
        for kind, table in kinds.items()
    }


def _is_dataset() -> Any:
    return sa.and_(
        sa.column("source_type") == "DATASET", sa.column("destination_type") == "RUN"
    )


def _uncarried(tables: Tables) -> Iterator[Finding]:
    where = tables.location
    for name in tables.names:
        if name in CARRIED or _DERIVED.fullmatch(name):
            continue
        if count := tables.count(name):
            yield Problem(where, f"table {name}: {count} rows are not carried over")
    if "inputs" not in tables.columns:
        return
    if other := tables.count("inputs", sa.not_(_is_dataset())):
        what = f"table inputs: {other} links to models are not carried over"
        yield Problem(where, what)
    if "datasets" in tables.columns:
        used: Any = tables.select("inputs", "source_id").where(_is_dataset())
        unused = tables.count("datasets", sa.column("dataset_uuid").not_in(used))
        if unused:
            what = f"table datasets: {unused} datasets that no run uses are left"
            yield Problem(where, what)


def _orphans(tables: Tables) -> Iterator[Finding]:
    """SQLite checks no foreign keys unless asked: rows may outlive their run."""
    for name, owner, keys, title in _OWNED:
        here = tables.columns.get(name, set())
        there = tables.columns.get(owner, set())
        if not (keys.keys() <= here and set(keys.values()) <= there):
            continue
        rows = sa.table(name, *map(sa.column, keys))
        owners = sa.table(owner, *map(sa.column, keys.values()))
        same = (owners.c[whole] == rows.c[key] for key, whole in keys.items())
        # Unlike NOT IN, this holds for NULL, too.
        lost: Any = ~sa.exists().where(*same).correlate(rows)
        if name == "inputs":
            lost = sa.and_(lost, _is_dataset())
        query = sa.select(sa.func.count()).select_from(rows).where(lost)
        if count := tables.fetch(query)[0][0]:
            what = f"table {name}: {count} rows belong to no {title}: not copied"
            yield Problem(tables.location, what)
