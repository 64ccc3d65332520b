"""Experiments, from the tables ``experiments`` and ``experiment_tags``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from mlmigrate import marks
from mlmigrate.model import Experiment, Finding, Item, Problem, Ref
from mlmigrate.stores.mlflow_db.tables import Rows, Tables
from mlmigrate.stores.mlflow_db.values import escapes, text, time
from mlmigrate.workspaces import DEFAULT


def ids(tables: Tables) -> Iterator[str]:
    """Yield the ids of all experiments, also those that only runs tell of: these are
    in the default workspace.
    """
    known = [str(row[0]) for row in tables.keyed("experiments", "experiment_id")]
    yield from known
    if tables.workspace != DEFAULT:
        return
    if tables.is_here("experiments") is not None:  # some are in other workspaces
        all_of_them: Any = sa.select(sa.column("experiment_id"))
        rows = tables.fetch(all_of_them.select_from(sa.table("experiments")))
        known += (str(row[0]) for row in rows)
    named = tables.keyed("runs", "run_uuid", "experiment_id")
    yield from sorted({id_of(row[1]) for row in named}.difference(known))


def id_of(value: Any) -> str:
    """Return the id of a run's experiment, which may be lost."""
    return "unknown" if value is None else str(value)


def read(tables: Tables, ref: Ref) -> Item:
    """Read one experiment; one whose row is gone is recovered by its id."""
    rows, pairs = _rows(tables, ref.id)
    where = f"{tables.location} experiment {ref.id}"
    if not rows:
        name = f"recovered-{ref.id}"
        problem = Problem(where, f"its row is gone; recovered as {name!r}")
        return Item(ref, Experiment(name), f"{ref.id}/{name}", findings=(problem,))
    lifted = marks.lift(pairs)
    name, location, stage, created, updated = rows[0]
    findings: list[Finding] = []
    header = Experiment(
        name=text(name) or f"recovered-{ref.id}",
        artifact_location=text(location) or None,
        lifecycle="deleted" if stage == "deleted" else "active",
        creation_time=time(created, "creation_time", where, findings),
        last_update_time=time(updated, "last_update_time", where, findings),
    )
    return Item(
        ref,
        header,
        origin=lifted.origin or f"{ref.id}/{header.name}",
        tags=lifted.tags,
        mark=lifted.mark,
        findings=(*findings, *escapes(where, header, lifted)),
    )


def _rows(tables: Tables, id: str) -> tuple[Rows, list[tuple[str, str]]]:
    limit = 2**63 if tables.is_file else 2**31
    if not re.fullmatch(r"-?\d{1,19}", id) or not -limit <= int(id) < limit:
        return [], []
    where = {"experiment_id": int(id)}
    rows = tables.rows(
        "experiments",
        "name",
        "artifact_location",
        "lifecycle_stage",
        "creation_time",
        "last_update_time",
        where=where,
    )
    tags = tables.rows("experiment_tags", "key", "value", where=where)
    return rows, [(text(key) or "", text(value) or "") for key, value in tags]
