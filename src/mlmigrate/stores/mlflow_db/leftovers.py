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
#: Rows of the first table mean nothing without the row of the third that they name.
_OWNED = (
    ("params", "run_uuid", "runs", "run"),
    ("tags", "run_uuid", "runs", "run"),
    ("metrics", "run_uuid", "runs", "run"),
    ("inputs", "destination_id", "runs", "run"),
    ("experiment_tags", "experiment_id", "experiments", "experiment"),
    ("registered_model_tags", "name", "registered_models", "model"),
    ("registered_model_aliases", "name", "registered_models", "model"),
    ("model_versions", "name", "registered_models", "model"),
    ("model_version_tags", "name", "model_versions", "model version"),
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
    for name, key, owner, title in _OWNED:
        if name not in tables.columns or owner not in tables.columns:
            continue
        whole = "run_uuid" if owner == "runs" else key
        known: Any = tables.select(owner, whole)
        lost: Any = sa.column(key).not_in(known)
        if name == "inputs":
            lost = sa.and_(lost, _is_dataset())
        if count := tables.count(name, lost):
            what = f"table {name}: {count} rows belong to no {title}: not copied"
            yield Problem(tables.location, what)
