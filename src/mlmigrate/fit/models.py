"""Logged models, their metrics, and links of runs to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlmigrate.fit.fitting import Fitting, fitted_metric
from mlmigrate.metrics import one_value
from mlmigrate.model import (
    Item,
    LoggedModel,
    MetricHistory,
    ModelLink,
    ModelMetric,
    Tag,
)

#: On a logged model, the versions that were registered from it: what gives ids itself
#: also writes this itself, when it is given those versions.
_REGISTERED = "mlflow.modelVersions"


def own_tags(item: Item, fitting: Fitting) -> tuple[Tag, ...]:
    """Return the tags of an item but for those that the sink writes itself."""
    if item.ref.kind != "logged_model" or fitting.sink.keeps_ids:
        return item.tags
    return tuple(tag for tag in item.tags if tag.key != _REGISTERED)


def fitted_logged_model(header: Any, fitting: Fitting) -> LoggedModel:
    """Return the header of a logged model as the sink holds it."""
    if not fitting.sink.keeps_times and header.creation_time is not None:
        fitting.losses.append("its times are given by the server")
        times = [header.creation_time, header.last_updated_time]
        fitting.whole.append({"field": "times", "text": json.dumps(times)})
        header = replace(header, creation_time=None, last_updated_time=None)
    elif fitting.sink.needs_start and header.creation_time is None:
        created = header.last_updated_time or 0
        fitting.losses.append("it had no creation time: its last update's, or 0")
        fitting.whole.append({"field": "creation_time", "text": ""})
        header = replace(header, creation_time=created)
    if not fitting.sink.keeps_legacy and header.status == "UNSPECIFIED":
        fitting.losses.append("its status, UNSPECIFIED, is PENDING there")
        fitting.whole.append({"field": "status", "text": header.status})
        header = replace(header, status="PENDING")
    if not fitting.sink.keeps_legacy and header.status_message:
        fitting.losses.append("its status message is given by the server")
        message = header.status_message
        fitting.whole.append({"field": "status_message", "text": message})
        header = replace(header, status_message=None)
    fitted: LoggedModel = replace(
        header,
        name=fitting.text("logged_model.name", header.name, "model name"),
        model_type=fitting.optional(
            "logged_model.model_type", header.model_type, "model type"
        ),
        status_message=fitting.optional(
            "logged_model.status_message", header.status_message, "status message"
        ),
    )
    return fitted


def fitted_links(links: Sequence[ModelLink], fitting: Fitting) -> tuple[ModelLink, ...]:
    """Return a run's links; none where the sink has no place for their models."""
    if fitting.sink.logged_models is not None:
        return tuple(links)
    for link in links:
        label = f"{link.role} {link.model}"
        fitting.losses.append(f"{label}: no place for logged models")
        fitting.whole.append({"field": label, "step": link.step})
    return ()


def fitted_model_metrics(
    metrics: Sequence[ModelMetric], fitting: Fitting
) -> tuple[ModelMetric, ...]:
    """Return the metrics of a logged model as the sink holds them."""
    facts = fitting.sink.logged_models
    if not metrics or facts is None:
        return tuple(metrics)
    before = list(dict.fromkeys(metric.history.key for metric in metrics))
    after = fitting.keys("logged_model_metric.key", before, "metric")
    keys = dict(zip(before, after, strict=True))
    found = []
    for metric in metrics:
        own = metric.history
        label = f"metric {own.key} of {metric.run}"
        if facts.nan == "left out":
            own = _without_nan(own, fitting, label)
            if not len(own.steps):
                continue
        zero = facts.nan == "zero"
        points = fitted_metric(keys[own.key], own, fitting, label, nan_is_zero=zero)
        name, checksum = metric.dataset, metric.dataset_digest
        found.append(
            replace(
                metric,
                history=points,
                dataset=fitting.optional("logged_model_metric.dataset", name, label),
                dataset_digest=fitting.optional(
                    "logged_model_metric.digest", checksum, label
                ),
            )
        )
    if not facts.one_value:
        return tuple(found)
    left, dropped = one_value(found)
    if not dropped:
        return tuple(found)
    fitting.losses.append(f"{dropped} points of metrics: others of their run and step")
    fitting.whole.append({"field": "metrics", "metrics": list(map(_plain, found))})
    return tuple(left)


def _without_nan(metric: MetricHistory, fitting: Fitting, label: str) -> MetricHistory:
    unknown = np.isnan(metric.values)
    if not unknown.any():
        return metric
    fitting.losses.append(f"{label}: {unknown.sum()} values NaN left out")
    times = metric.timestamps[unknown].tolist()
    points = zip(metric.steps[unknown].tolist(), times, strict=True)
    fitting.whole.append({"field": label, "nan": list(points)})
    known = ~unknown
    return replace(
        metric,
        steps=metric.steps[known],
        timestamps=metric.timestamps[known],
        values=metric.values[known],
    )


def _plain(metric: ModelMetric) -> list[Any]:
    points = metric.history
    columns = (points.steps.tolist(), points.timestamps.tolist())
    values = list(map(repr, points.values.tolist()))
    owner = [metric.run.id, metric.dataset, metric.dataset_digest]
    return [points.key, *owner, *columns, values]
