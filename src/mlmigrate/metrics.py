"""Metric histories as columns: normal form, difference and union.

A point is (step, timestamp, value). Two points are identical when all three have the
same bits; every NaN counts as the same NaN, as in MLflow's ``metrics`` table.
"""

from __future__ import annotations

import numpy as np

from mlmigrate.model import Float64s, Int64s, MetricHistory

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
