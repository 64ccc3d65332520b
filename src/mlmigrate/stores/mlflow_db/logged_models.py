"""Logged models, from the tables ``logged_model*`` (MLflow >= 3.0)."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from mlmigrate import marks
from mlmigrate.metrics import history, with_nan, with_zeros
from mlmigrate.model import (
    Finding,
    Item,
    LoggedModel,
    ModelMetric,
    Param,
    Problem,
    Ref,
)
from mlmigrate.stores.mlflow_db.experiments import id_of
from mlmigrate.stores.mlflow_db.places import Around, Spot, listed
from mlmigrate.stores.mlflow_db.tables import IN, Tables
from mlmigrate.stores.mlflow_db.values import escapes, text, time

#: What the integers of the column ``status`` mean.
STATUSES = ("UNSPECIFIED", "PENDING", "READY", "FAILED")
_COLUMNS = (
    "model_id",
    "experiment_id",
    "name",
    "artifact_location",
    "creation_timestamp_ms",
    "last_updated_timestamp_ms",
    "status",
    "lifecycle_stage",
    "model_type",
    "source_run_id",
    "status_message",
)
_POINT = ("metric_value", "metric_timestamp_ms", "metric_step")
_SERIES = ("model_id", "metric_name", "run_id", "dataset_name", "dataset_digest")


def ids(tables: Tables, experiments: frozenset[str] | None) -> Iterator[str]:
    """Yield the ids of the logged models of some experiments; of all if None."""
    for id, experiment in tables.keyed("logged_models", "model_id", "experiment_id"):
        if experiments is None or id_of(experiment) in experiments:
            yield str(id)


def spot(tables: Tables, id: str) -> Spot | None:
    """Return what is known of where a model's artifacts are; None without a model."""
    columns = ("artifact_location", "experiment_id")
    found = tables.rows("logged_models", *columns, where={"model_id": id})
    return _spot(id, *found[0]) if found else None


def read(
    tables: Tables, ids: list[str], around: Around, *, zero_is_nan: bool
) -> dict[Ref, Item]:
    """Read some models: those that are there, at most `tables.IN` at once.

    Args:
        tables: where.
        ids: of the models.
        around: where their artifacts are looked for.
        zero_is_nan: a point is NaN where it is for the run that measured it; else it is
            0.0, as the table of models' metrics has it.

    Raises:
        StoreError: the database does not answer, or its file is damaged.
    """
    problems: dict[str, list[Finding]] = defaultdict(list)
    params = _pairs(tables, "logged_model_params", "param", ids)
    tags = _pairs(tables, "logged_model_tags", "tag", ids)
    metrics = _metrics(tables, ids, problems)
    if zero_is_nan:
        metrics = _with_nan(tables, metrics)
    found: dict[Ref, Item] = {}
    for values in tables.rows("logged_models", *_COLUMNS, where={"model_id": ids}):
        row = dict(zip(_COLUMNS, values, strict=True))
        id = str(row["model_id"])
        ref = Ref("logged_model", id)
        where = f"{tables.location} logged model {id}"
        lifted = marks.lift(tags[id])
        place = _spot(id, row["artifact_location"], row["experiment_id"])
        artifacts, findings = listed(around, place, where)
        header = _header(row, where, findings)
        measured = metrics.get(id, [])
        own = [metric.history for metric in measured]
        findings += escapes(where, header, lifted, params[id], own)
        origin = lifted.origin if marks.load(lifted.mark) else None
        found[ref] = Item(
            ref,
            header,
            origin=origin or id,
            params=tuple(Param(key, value) for key, value in params[id]),
            tags=lifted.tags,
            model_metrics=tuple(measured),
            artifacts=tuple(artifacts),
            mark=lifted.mark,
            findings=(*problems[id], *findings),
        )
    return found


def _spot(id: str, location: Any, experiment: Any) -> Spot:
    return Spot(id, text(location) or None, f"{experiment}/models/{id}/artifacts")


def _header(row: Mapping[str, Any], where: str, findings: list[Finding]) -> LoggedModel:
    status, run = row["status"], text(row["source_run_id"])
    known = isinstance(status, int) and 0 <= status < len(STATUSES)
    if not known:
        what = f"status {status!r} is none: read as UNSPECIFIED"
        findings.append(Problem(where, what))
    created = row["creation_timestamp_ms"]
    updated = row["last_updated_timestamp_ms"]
    return LoggedModel(
        experiment=Ref("experiment", id_of(row["experiment_id"])),
        name=text(row["name"]) or "",
        status=STATUSES[status] if known else "UNSPECIFIED",
        status_message=text(row["status_message"]) or None,
        model_type=text(row["model_type"]) or None,
        source_run=Ref("run", run) if run else None,
        creation_time=time(created, "creation_timestamp_ms", where, findings),
        last_updated_time=time(updated, "last_updated_timestamp_ms", where, findings),
        lifecycle="deleted" if row["lifecycle_stage"] == "deleted" else "active",
        artifact_location=text(row["artifact_location"]) or None,
    )


def _pairs(
    tables: Tables, table: str, word: str, ids: list[str]
) -> dict[str, list[tuple[str, str]]]:
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    columns = ("model_id", f"{word}_key", f"{word}_value")
    for id, key, value in tables.rows(table, *columns, where={"model_id": ids}):
        pairs[id].append((text(key) or "", text(value) or ""))
    return pairs


def _metrics(
    tables: Tables, ids: list[str], problems: dict[str, list[Finding]]
) -> dict[str, list[ModelMetric]]:
    """Return the points of each model, at once put into columns."""
    columns: dict[Any, list[array[Any]]] = {}
    bad: Counter[tuple[str, str]] = Counter()
    rows = tables.rows(
        "logged_model_metrics", *_SERIES, *_POINT, where={"model_id": ids}
    )
    for *series, value, timestamp, step in rows:
        held = columns.setdefault(
            tuple(map(text, series)), [array("q"), array("q"), array("d")]
        )
        try:
            point = (int(step), int(timestamp), np.nan if value is None else value)
            for column, number in zip(held, point, strict=True):
                column.append(number)
        except (TypeError, ValueError, OverflowError):
            size = min(len(column) for column in held)
            for column in held:
                del column[size:]
            bad[str(series[0]), str(series[1])] += 1
    for (id, key), count in bad.items():
        what = f"metric {key}: {count} rows are no points"
        problems[id].append(Problem(f"{tables.location} logged model {id}", what))
    found: dict[str, list[ModelMetric]] = defaultdict(list)
    for (id, key, run, dataset, checksum), held in columns.items():
        if not len(held[0]):
            continue
        steps, timestamps = (np.frombuffer(each, np.int64) for each in held[:2])
        points = history(
            key or "", steps, timestamps, np.frombuffer(held[2], np.float64)
        )
        found[id].append(ModelMetric(Ref("run", run or ""), points, dataset, checksum))
    return found


def _with_nan(
    tables: Tables, metrics: Mapping[str, list[ModelMetric]]
) -> dict[str, list[ModelMetric]]:
    """Return the points with NaN where the table of runs' metrics tells of one."""
    doubtful = with_zeros(chain.from_iterable(metrics.values()))
    unknown: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)
    for at in range(0, len(doubtful), IN):
        part = doubtful[at : at + IN]
        where = {
            "run_uuid": sorted({run for run, _ in part}),
            "key": sorted({key for _, key in part}),
            "is_nan": True,
        }
        columns = ("run_uuid", "key", "step", "timestamp")
        for run, key, *place in tables.rows(
            tables.by_run("metrics"), *columns, where=where
        ):
            unknown[run, key].add(tuple(place))
    return {id: list(with_nan(own, unknown)) for id, own in metrics.items()}
