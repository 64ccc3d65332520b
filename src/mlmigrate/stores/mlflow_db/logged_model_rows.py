"""Logged models into the tables ``logged_model*``, links of runs into ``inputs``."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from mlmigrate import marks
from mlmigrate.contract import Delivery
from mlmigrate.model import LoggedModel, ModelLink, ModelMetric, Ref
from mlmigrate.stores.mlflow_db.copies import model_id
from mlmigrate.stores.mlflow_db.links import ENDS
from mlmigrate.stores.mlflow_db.logged_models import STATUSES
from mlmigrate.stores.mlflow_db.stored import Stored
from mlmigrate.stores.mlflow_db.transaction import Transaction

_IN = 500


def write_logged_model(
    transaction: Transaction, delivery: Delivery, stored: Stored
) -> Ref:
    """Insert a logged model, or what the one that stands lacks, with its mark."""
    item, header = delivery.item, delivery.item.header
    assert isinstance(header, LoggedModel)
    id = stored.id
    home = int(header.experiment.id)
    created = header.creation_time or 0
    values = {
        "experiment_id": home,
        "name": header.name,
        "artifact_location": stored.uri or "",
        "creation_timestamp_ms": created,
        "last_updated_timestamp_ms": header.last_updated_time or created,
        "status": STATUSES.index(header.status) if header.status in STATUSES else 0,
        "lifecycle_stage": header.lifecycle,
        "model_type": header.model_type,
        "source_run_id": header.source_run.id if header.source_run else None,
        "status_message": header.status_message,
    }
    mark = replace(delivery.mark, checksums=stored.checksums)
    tags = [*item.tags, *marks.own_tags(delivery, mark=mark)]
    if delivery.into is None:
        transaction.add("logged_models", {"model_id": id, **values})
    else:
        table = transaction.tables["logged_models"]
        transaction.connection.execute(
            sa.update(table).where(table.c.model_id == id).values(**values)
        )
        _clear(transaction, id, "tag", [tag.key for tag in tags])
        _clear(transaction, id, "param", [param.key for param in item.params])
        _clear_points(transaction, id, item.model_metrics)
    own = {"model_id": id, "experiment_id": home}
    for tag in tags:
        row = {**own, "tag_key": tag.key, "tag_value": tag.value}
        transaction.add("logged_model_tags", row)
    for param in item.params:
        row = {**own, "param_key": param.key, "param_value": param.value}
        transaction.add("logged_model_params", row)
    for metric in item.model_metrics:
        _add_points(transaction, id, home, metric)
    return Ref("logged_model", id)


def _clear(transaction: Transaction, id: str, word: str, keys: Sequence[str]) -> None:
    table = transaction.tables[f"logged_model_{word}s"]
    for at in range(0, len(keys), _IN):
        chosen = table.c[f"{word}_key"].in_(keys[at : at + _IN])
        transaction.connection.execute(
            sa.delete(table).where(table.c.model_id == id, chosen)
        )


def _clear_points(
    transaction: Transaction, id: str, metrics: Sequence[ModelMetric]
) -> None:
    """Make way for points: there is one a metric, run, step and time."""
    table = transaction.tables["logged_model_metrics"]
    statement = sa.delete(table).where(
        table.c.model_id == id,
        table.c.metric_name == sa.bindparam("key"),
        table.c.run_id == sa.bindparam("run"),
        table.c.metric_step == sa.bindparam("step"),
        table.c.metric_timestamp_ms == sa.bindparam("time"),
    )
    places = [
        {"key": metric.history.key, "run": metric.run.id, "step": step, "time": time}
        for metric in metrics
        for step, time, _ in _points(metric)
    ]
    if places:
        transaction.connection.execute(statement, places)


def _points(metric: ModelMetric) -> Iterator[tuple[int, int, float]]:
    own = metric.history
    columns = (own.steps.tolist(), own.timestamps.tolist(), own.values.tolist())
    return zip(*columns, strict=True)


def _add_points(
    transaction: Transaction, id: str, home: int, metric: ModelMetric
) -> None:
    connection, runs = transaction.connection, transaction.tables["runs"]
    place = sa.select(runs.c.experiment_id).where(runs.c.run_uuid == metric.run.id)
    row: dict[str, Any] = {
        "model_id": id,
        "metric_name": metric.history.key,
        "experiment_id": connection.scalar(place) or home,
        "run_id": metric.run.id,
        "dataset_uuid": _dataset(transaction, home, metric),
        "dataset_name": metric.dataset,
        "dataset_digest": metric.dataset_digest,
    }
    for step, timestamp, value in _points(metric):
        transaction.add(
            "logged_model_metrics",
            {
                **row,
                "metric_step": step,
                "metric_timestamp_ms": timestamp,
                # SQLite would make NULL of it, which MLflow cannot show.
                "metric_value": 0.0 if _nan_is_null(transaction, value) else value,
            },
        )


def _nan_is_null(transaction: Transaction, value: float) -> bool:
    return math.isnan(value) and transaction.connection.dialect.name != "postgresql"


def _dataset(transaction: Transaction, home: int, metric: ModelMetric) -> Any:
    if metric.dataset is None:
        return None
    key = (home, metric.dataset, metric.dataset_digest or "")
    if key in transaction.datasets:
        return transaction.datasets[key]
    table = transaction.tables["datasets"]
    return transaction.connection.scalar(
        sa.select(table.c.dataset_uuid).where(
            table.c.experiment_id == home,
            table.c.name == metric.dataset,
            table.c.digest == metric.dataset_digest,
        )
    )


def add_links(
    transaction: Transaction, run: str, links: Sequence[ModelLink], *, new: bool
) -> None:
    """Link a run to the logged models that it made and used; *new*: it had no links."""
    table = transaction.tables["inputs"]
    for link in links:
        run_end, model_end = ENDS[link.role]
        row: dict[str, Any] = {
            "source_type": run_end,
            "source_id": run,
            "destination_type": model_end,
            "destination_id": model_id(link.model.id),
        }
        if not new:
            same = (table.c[name] == value for name, value in row.items())
            transaction.connection.execute(sa.delete(table).where(*same))
        row |= {"input_uuid": uuid.uuid4().hex, "step": link.step}
        transaction.add("inputs", row)
