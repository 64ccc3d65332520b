"""Runs into ``runs``, ``params``, ``tags``, ``metrics``, ``latest_metrics``, and their
dataset inputs into ``datasets``, ``inputs`` and ``input_tags``.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from mlmigrate import marks
from mlmigrate.contract import Delivery
from mlmigrate.metrics import latest
from mlmigrate.model import DatasetInput, MetricHistory, Ref, Run, Tag
from mlmigrate.stores.mlflow_db.copies import run_id
from mlmigrate.stores.mlflow_db.logged_model_rows import add_links
from mlmigrate.stores.mlflow_db.stored import Stored
from mlmigrate.stores.mlflow_db.transaction import Transaction


def write_run(transaction: Transaction, delivery: Delivery, stored: Stored) -> Ref:
    """Insert a run, or what the one that stands lacks, with its mark."""
    item, header = delivery.item, delivery.item.header
    assert isinstance(header, Run)
    id = stored.id
    values = {
        "name": header.name,
        "source_type": header.source_type,
        "source_name": header.source_name or "",
        "entry_point_name": header.entry_point or "",
        "source_version": header.source_version or "",
        "user_id": header.user or "",
        "status": header.status,
        "start_time": header.start_time,
        "end_time": header.end_time,
        "deleted_time": header.deleted_time,
        "lifecycle_stage": header.lifecycle,
        "artifact_uri": stored.uri,
        "experiment_id": int(header.experiment.id),
    }
    mark = replace(delivery.mark, checksums=stored.checksums)
    tags = [*item.tags, *marks.own_tags(delivery, mark=mark)]
    if header.parent is not None:
        tags.append(Tag(marks.PARENT, run_id(header.parent.id)))
    if delivery.into is None:
        transaction.add("runs", {"run_uuid": id, **values})
    else:
        table = transaction.tables["runs"]
        transaction.connection.execute(
            sa.update(table).where(table.c.run_uuid == id).values(**values)
        )
        _clear(transaction, "tags", id, [tag.key for tag in tags])
        _clear(transaction, "params", id, [param.key for param in item.params])
    for tag in tags:
        transaction.add("tags", {"run_uuid": id, "key": tag.key, "value": tag.value})
    for param in item.params:
        transaction.add(
            "params", {"run_uuid": id, "key": param.key, "value": param.value}
        )
    _add_latest(transaction, delivery, id)
    transaction.metrics.extend((id, metric) for metric in item.metrics)
    for entry in item.inputs:
        _add_input(transaction, entry, id, int(header.experiment.id))
    add_links(transaction, id, item.links, new=delivery.into is None)
    return Ref("run", id)


def _clear(transaction: Transaction, name: str, id: str, keys: Sequence[str]) -> None:
    table = transaction.tables[name]
    for at in range(0, len(keys), 500):
        transaction.connection.execute(
            sa.delete(table).where(
                table.c.run_uuid == id, table.c.key.in_(keys[at : at + 500])
            )
        )


def _add_latest(transaction: Transaction, delivery: Delivery, id: str) -> None:
    table = transaction.tables["latest_metrics"]
    standing: dict[str, Any] = {}
    if delivery.into is not None and delivery.item.metrics:
        query = sa.select(table).where(table.c.run_uuid == id)
        standing = {row.key: row for row in transaction.connection.execute(query)}
    for metric in delivery.item.metrics:
        row = _latest_row(metric, id)
        before = standing.get(metric.key)
        if before is not None:
            order = (before.step, before.timestamp or 0, before.value)
            if order >= (row["step"], row["timestamp"], row["value"]):
                continue
            _clear(transaction, "latest_metrics", id, [metric.key])
        transaction.add("latest_metrics", row)


def _add_input(
    transaction: Transaction, entry: DatasetInput, run: str, experiment: int
) -> None:
    known = transaction.datasets
    key = (experiment, entry.name, entry.digest)
    if key not in known:
        table = transaction.tables["datasets"]
        found = transaction.connection.scalar(
            sa.select(table.c.dataset_uuid).where(
                table.c.experiment_id == experiment,
                table.c.name == entry.name,
                table.c.digest == entry.digest,
            )
        )
        known[key] = found or uuid.uuid4().hex
        if found is None:
            transaction.add(
                "datasets",
                {
                    "dataset_uuid": known[key],
                    "experiment_id": experiment,
                    "name": entry.name,
                    "digest": entry.digest,
                    "dataset_source_type": entry.source_type,
                    "dataset_source": entry.source,
                    "dataset_schema": entry.schema,
                    "dataset_profile": entry.profile,
                },
            )
    link = uuid.uuid4().hex
    transaction.add(
        "inputs",
        {
            "input_uuid": link,
            "source_type": "DATASET",
            "source_id": known[key],
            "destination_type": "RUN",
            "destination_id": run,
            "step": 0,
        },
    )
    for tag in entry.tags:
        transaction.add(
            "input_tags",
            {"input_uuid": link, "name": tag.key, "value": tag.value},
        )


def _latest_row(metric: MetricHistory, run: str) -> dict[str, Any]:
    at = latest(metric)
    value = float(metric.values[at])
    nan = math.isnan(value)
    return {
        "run_uuid": run,
        "key": metric.key,
        "value": 0.0 if nan else value,
        "timestamp": int(metric.timestamps[at]),
        "step": int(metric.steps[at]),
        "is_nan": nan,
    }
