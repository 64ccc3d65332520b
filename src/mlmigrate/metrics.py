"""Metric histories as columns: normal form, difference and union.

A point is (step, timestamp, value). Two points are identical when all three have the
same bits; every NaN counts as the same NaN, as in MLflow's ``metrics`` table.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from mlmigrate.model import Float64s, Int64s, MetricHistory, ModelMetric

#: What tells a logged model's metrics apart: key, run, dataset's name and digest.
Series: TypeAlias = tuple[str, str, str | None, str | None]

_NAN_BITS = np.float64(np.nan).view(np.int64)


def value_bits(values: Float64s) -> Int64s:
    """Return the values as integers whose equality is identity of points."""
    bits = values.view(np.int64)
    nan = np.isnan(values)
    if nan.any():
        bits = bits.copy()
        bits[nan] = _NAN_BITS
    return bits


def history(
    key: str, steps: Int64s, timestamps: Int64s, values: Float64s
) -> MetricHistory:
    """Make a history in normal form: sorted, each point once."""
    if len(steps) > 1 and not (steps[1:] > steps[:-1]).all():
        bits = value_bits(values)
        order = np.lexsort((bits, timestamps, steps))
        steps, timestamps, values, bits = (
            steps[order],
            timestamps[order],
            values[order],
            bits[order],
        )
        fresh = np.empty(len(steps), dtype=bool)
        fresh[0] = True
        fresh[1:] = (
            (steps[1:] != steps[:-1])
            | (timestamps[1:] != timestamps[:-1])
            | (bits[1:] != bits[:-1])
        )
        if not fresh.all():
            steps, timestamps, values = steps[fresh], timestamps[fresh], values[fresh]
    return MetricHistory(key, steps, timestamps, values)


def _points(metric: MetricHistory) -> np.ndarray:
    """Return one comparable void element a point, for set operations."""
    table = np.empty(
        len(metric.steps), dtype=[("s", np.int64), ("t", np.int64), ("v", np.int64)]
    )
    table["s"] = metric.steps
    table["t"] = metric.timestamps
    table["v"] = value_bits(np.ascontiguousarray(metric.values))
    return table


def missing(held: MetricHistory | None, wanted: MetricHistory) -> MetricHistory:
    """Return the points of *wanted* that *held* lacks."""
    if held is None or not len(held.steps):
        return wanted
    lacking = ~np.isin(_points(wanted), _points(held))
    return MetricHistory(
        wanted.key,
        wanted.steps[lacking],
        wanted.timestamps[lacking],
        wanted.values[lacking],
    )


def union(one: MetricHistory, other: MetricHistory) -> MetricHistory:
    """Return the points of both."""
    return history(
        one.key,
        np.concatenate([one.steps, other.steps]),
        np.concatenate([one.timestamps, other.timestamps]),
        np.concatenate([one.values, other.values]),
    )


def latest(metric: MetricHistory) -> int:
    """Return the index of the point that MLflow shows as the metric's value.

    The order is (step, timestamp, value), where NaN counts as 0: the rule of the
    ``latest_metrics`` table.
    """
    last = len(metric.steps) - 1
    step, timestamp = metric.steps[last], metric.timestamps[last]
    first = last
    while (
        first > 0
        and metric.steps[first - 1] == step
        and metric.timestamps[first - 1] == timestamp
    ):
        first -= 1
    if first == last:
        return last
    values = np.nan_to_num(
        metric.values[first : last + 1], nan=0.0, posinf=np.inf, neginf=-np.inf
    )
    return first + int(np.argmax(values))


# -- logged models --------------------------------------------------------------------


def with_zeros(metrics: Iterable[ModelMetric]) -> list[tuple[str, str]]:
    """Return the run and the key of each metric of which a value is 0.0: one that may
    stand for a NaN, see `with_nan`.
    """
    found = (each for each in metrics if (value_bits(each.history.values) == 0).any())
    return sorted({(metric.run.id, metric.history.key) for metric in found})


def with_nan(
    metrics: Iterable[ModelMetric],
    unknown: Mapping[tuple[str, str], Container[tuple[int, int]]],
) -> tuple[ModelMetric, ...]:
    """Return a logged model's metrics with NaN for each 0.0 that stands for one.

    MLflow's database has no place for NaN beside a logged model, and holds 0.0 for it
    (table ``logged_model_metrics``); the run that measured it has the NaN.

    Args:
        metrics: as they are held.
        unknown: a run and a key -> the steps and times at which that run has NaN.
    """
    return tuple(
        replace(metric, history=_with_nan(metric.history, places))
        if (places := unknown.get((metric.run.id, metric.history.key)))
        else metric
        for metric in metrics
    )


def _with_nan(
    metric: MetricHistory, unknown: Container[tuple[int, int]]
) -> MetricHistory:
    zeros = np.flatnonzero(value_bits(metric.values) == 0)
    steps, timestamps = metric.steps[zeros].tolist(), metric.timestamps[zeros].tolist()
    places = zip(zeros.tolist(), zip(steps, timestamps, strict=True), strict=True)
    found = [at for at, place in places if place in unknown]
    if not found:
        return metric
    values = metric.values.copy()
    values[found] = np.nan
    return history(metric.key, metric.steps, metric.timestamps, values)


def series_of(metric: ModelMetric) -> Series:
    """Return what tells a metric of a logged model from its others."""
    return metric.history.key, metric.run.id, metric.dataset, metric.dataset_digest


def by_series(metrics: Iterable[ModelMetric]) -> dict[Series, ModelMetric]:
    """Return the metrics of a logged model, those of one series joined."""
    found: dict[Series, ModelMetric] = {}
    for metric in metrics:
        series = series_of(metric)
        own = found.get(series)
        joined = metric.history if own is None else union(own.history, metric.history)
        found[series] = replace(metric, history=joined)
    return found


def model_additions(
    held: Iterable[ModelMetric], wanted: Iterable[ModelMetric]
) -> tuple[list[ModelMetric], list[str]]:
    """Return what *held* lacks of *wanted*, and the keys that differ both ways."""
    own, lacking, both = by_series(held), [], []
    for series, metric in by_series(wanted).items():
        there = own[series].history if series in own else None
        new = missing(there, metric.history)
        if not len(new.steps):
            continue
        lacking.append(replace(metric, history=new))
        if there is not None and len(missing(metric.history, there).steps):
            both.append(metric.history.key)
    return lacking, both


def one_value(metrics: Iterable[ModelMetric]) -> tuple[list[ModelMetric], int]:
    """Leave one value a key, run, step and time: one on a dataset rather than another,
    and of several the greatest.

    Returns:
        What is left, and how many points are not.
    """
    groups: dict[tuple[str, str], list[ModelMetric]] = {}
    order = sorted(by_series(metrics).values(), key=lambda each: each.dataset is None)
    for metric in order:
        groups.setdefault(series_of(metric)[:2], []).append(metric)
    left: list[ModelMetric] = []
    dropped = 0
    for group in groups.values():
        whole = [metric.history for metric in group]
        places = np.empty(
            sum(len(each.steps) for each in whole),
            dtype=[("s", np.int64), ("t", np.int64)],
        )
        places["s"] = np.concatenate([each.steps for each in whole])
        places["t"] = np.concatenate([each.timestamps for each in whole])
        values = np.concatenate([each.values for each in whole])
        of = np.repeat(np.arange(len(whole)), [len(each.steps) for each in whole])
        # The first of each place counts: of the first dataset, the greatest value.
        rank = np.lexsort((-values, of))
        _, first = np.unique(places[rank], return_index=True)
        chosen = np.zeros(len(places), dtype=bool)
        chosen[rank[first]] = True
        dropped += len(places) - len(first)
        for at, metric in enumerate(group):
            mine = chosen[of == at]
            if mine.any():
                left.append(replace(metric, history=_part(metric.history, mine)))
    return left, dropped


def _part(metric: MetricHistory, chosen: np.ndarray) -> MetricHistory:
    return replace(
        metric,
        steps=metric.steps[chosen],
        timestamps=metric.timestamps[chosen],
        values=metric.values[chosen],
    )
