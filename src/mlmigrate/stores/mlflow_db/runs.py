"""Runs with all their parts, from the table ``runs`` and those that name it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from mlmigrate import marks
from mlmigrate.contract import Glance
from mlmigrate.model import Finding, Item, Param, Problem, Ref, Run
from mlmigrate.stores.mlflow_db import inputs, links, points
from mlmigrate.stores.mlflow_db.experiments import id_of
from mlmigrate.stores.mlflow_db.places import Around, Spot, listed
from mlmigrate.stores.mlflow_db.tables import Tables
from mlmigrate.stores.mlflow_db.values import escapes, text, time

_STATUSES = frozenset({"RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"})
_COLUMNS = (
    "run_uuid",
    "name",
    "source_type",
    "source_name",
    "entry_point_name",
    "user_id",
    "status",
    "start_time",
    "end_time",
    "deleted_time",
    "source_version",
    "lifecycle_stage",
    "artifact_uri",
    "experiment_id",
)


def ids(tables: Tables, experiments: frozenset[str] | None) -> Iterator[str]:
    """Yield the ids of the runs of some experiments; of all if None."""
    for id, experiment in tables.keyed("runs", "run_uuid", "experiment_id"):
        if experiments is None or id_of(experiment) in experiments:
            yield str(id)


def rows(tables: Tables, ids: list[str]) -> list[dict[str, Any]]:
    """Return the rows of some runs, by column."""
    found = tables.rows("runs", *_COLUMNS, where={"run_uuid": ids})
    return [dict(zip(_COLUMNS, row, strict=True)) for row in found]


def spot(row: Mapping[str, Any]) -> Spot:
    """Return what a row tells of where the run's artifacts are."""
    id = str(row["run_uuid"])
    return Spot(id, text(row["artifact_uri"]), f"{row['experiment_id']}/{id}/artifacts")


def read(tables: Tables, ids: list[str], around: Around) -> dict[Ref, Item]:
    """Read some runs: those that are there, at most `tables.IN` at once.

    Raises:
        StoreError: the database does not answer, or its file is damaged.
    """
    problems: dict[str, list[Finding]] = defaultdict(list)
    params = _pairs(tables, "params", ids)
    tags = _pairs(tables, "tags", ids)
    metrics = points.read(tables, ids, problems)
    used = inputs.read(tables, ids, problems)
    models = links.read(tables, ids)
    found: dict[Ref, Item] = {}
    for row in rows(tables, ids):
        id = str(row["run_uuid"])
        ref = Ref("run", id)
        where = f"{tables.location} run {id}"
        lifted = marks.lift(tags[id])
        artifacts, findings = listed(around, spot(row), where)
        header = _header(row, dict(tags[id]), lifted.parent, where, findings)
        findings += escapes(where, header, lifted, params[id], metrics[id])
        origin = lifted.origin if marks.load(lifted.mark) else None
        found[ref] = Item(
            ref,
            header,
            origin=origin or id,
            params=tuple(Param(key, value) for key, value in params[id]),
            tags=lifted.tags,
            metrics=tuple(metrics[id]),
            inputs=tuple(used[id]),
            links=tuple(models[id]),
            artifacts=tuple(artifacts),
            mark=lifted.mark,
            findings=(*problems[id], *findings),
        )
    return found


def glances(tables: Tables, ids: list[str]) -> Iterator[Glance]:
    """Yield how some runs stand, at most `tables.IN` at once."""
    own = _pairs(tables, "tags", ids, [marks.ORIGIN, marks.MARK])
    for row in rows(tables, ids):
        id = str(row["run_uuid"])
        lifted = marks.lift(own[id])
        origin = lifted.origin if marks.load(lifted.mark) else None
        header = _header(row, {}, None, "", [])
        yield Glance(
            Ref("run", id),
            origin or id,
            header.status,
            header.end_time,
            header.lifecycle,
        )


def _header(
    row: Mapping[str, Any],
    tags: Mapping[str, str],
    parent: str | None,
    where: str,
    findings: list[Finding],
) -> Run:
    return Run(
        experiment=Ref("experiment", id_of(row["experiment_id"])),
        name=text(row["name"]) or tags.get("mlflow.runName") or None,
        status=_status(row["status"], where, findings),
        start_time=time(row["start_time"], "start_time", where, findings),
        end_time=time(row["end_time"], "end_time", where, findings),
        user=text(row["user_id"]) or tags.get("mlflow.user") or None,
        lifecycle="deleted" if row["lifecycle_stage"] == "deleted" else "active",
        deleted_time=time(row["deleted_time"], "deleted_time", where, findings),
        artifact_uri=text(row["artifact_uri"]) or None,
        parent=Ref("run", parent) if parent else None,
        source_type=text(row["source_type"]) or None,
        source_name=text(row["source_name"]) or None,
        source_version=text(row["source_version"]) or None,
        entry_point=text(row["entry_point_name"]) or None,
    )


def _status(value: Any, where: str, findings: list[Finding]) -> str:
    if value in _STATUSES:
        return str(value)
    if value not in (None, ""):
        findings.append(Problem(where, f"status {value!r} is none: read as RUNNING"))
    return "RUNNING"


def _pairs(
    tables: Tables, table: str, ids: list[str], keys: list[str] | None = None
) -> dict[str, list[tuple[str, str]]]:
    """Return the params or the tags of each run; all keys' if None."""
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    if table in tables.columns:
        query = tables.select(tables.by_run(table), "run_uuid", "key", "value")
        query = query.where(sa.column("run_uuid").in_(ids))
        if keys is not None:
            query = query.where(sa.column("key").in_(keys))
        for id, key, value in tables.fetch(query):
            pairs[id].append((text(key) or "", text(value) or ""))
    return pairs
