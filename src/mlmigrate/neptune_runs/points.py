"""Points that a Neptune series takes, and those that it refuses or drops.

A series of 2.x takes one finite value a step, in the order of steps, at times that do
not fall; steps have 18 digits, six of them behind the point. Steps of which a point is
not such are *troubled*: what a series shows of them is the nearest that it takes, and
all of their points are kept aside. What is read is the series without the troubled
steps, and what was kept aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mlmigrate.codec.arrays import of_numbers, of_texts
from mlmigrate.errors import ItemError, translated
from mlmigrate.metrics import history
from mlmigrate.model import Int64s, MetricHistory
from mlmigrate.neptune_runs.attributes import MILLIONTHS, FloatSeries

#: The largest step: above, its millionths have more than 18 digits.
LARGEST_STEP = 999_999_999_999
#: Milliseconds from 1970 to 9999: what a time is on every server.
_LATEST = 253_402_300_799_999
#: Truth values in a column.
Bools: TypeAlias = npt.NDArray[np.bool_]
_SCHEMA = pa.schema(
    {
        "key": pa.dictionary(pa.int32(), pa.string()),
        "step": pa.int64(),
        "timestamp": pa.int64(),
        "value": pa.float64(),
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Divided:
    """A metric as a series, and the points that are kept aside."""

    series: FloatSeries
    aside: MetricHistory | None
    why: Sequence[str] = ()


def divide(
    metric: MetricHistory,
    lowest_step: int = -LARGEST_STEP,
    standing: FloatSeries | None = None,
) -> Divided:
    """Divide the points of a metric, which are in normal form.

    Args:
        metric: the points.
        lowest_step: the least step that a series takes.
        standing: the series that is there, where that only grows: it is the beginning
            of what it becomes.

    Raises:
        ItemError: there are steps in it at which the metric has no point.
    """
    steps, times, values = metric.steps, metric.timestamps, metric.values
    finite = np.isfinite(values)
    small = (steps >= -LARGEST_STEP) & (steps <= LARGEST_STEP)
    units = np.where(small, steps, 0) * MILLIONTHS
    fits = small & (steps >= lowest_step) & finite
    # Of several points of a step the last is shown, as MLflow does.
    shown = np.flatnonzero(fits)
    last = np.append(steps[shown][1:] != steps[shown][:-1], True)
    shown = shown[last[: len(shown)]]
    late = np.zeros(len(steps), dtype=bool)
    first = 0
    if standing is not None and len(standing.steps):
        late = fits & (units <= standing.steps[-1])
        shown = shown[~late[shown]]
        first = int(standing.timestamps[-1])
        strange = int((~np.isin(standing.steps, units[small])).sum())
        if strange:
            raise ItemError(
                f"the series of metric {metric.key} at Neptune has {strange} steps that"
                " the run has not, and none can be deleted there: -o id-salt=TEXT makes"
                " a copy of its own"
            )
    when = np.maximum.accumulate(np.clip(times[shown], first, max(first, _LATEST)))
    # Not every server keeps the sign of a zero.
    new = FloatSeries(units[shown], when, values[shown] + 0.0)
    series = new if standing is None else _behind(standing, new)
    bad = ~_has(series, np.where(small, units, -1 - LARGEST_STEP * MILLIONTHS), metric)
    if not bad.any():
        return Divided(series, None)
    sound = (times >= 0) & (times <= _LATEST)
    is_shown = np.zeros(len(steps), dtype=bool)
    is_shown[shown] = True
    signed = (values == 0) & np.signbit(values)
    moved = is_shown & bad & ~signed
    why = []
    for mask, what in (
        (~finite, "values that are not finite"),
        (finite & ~small, "steps of more than 12 digits"),
        (finite & small & ~fits, f"steps below {lowest_step}"),
        (signed & ~late, "values that are -0.0"),
        (late & bad, "points that came when their series was past them"),
        (fits & ~late & ~is_shown, "points beside another of their step"),
        (moved & sound, "times before that of an earlier step"),
        (moved & ~sound, "times before 1970 or after 9999"),
    ):
        if mask.any():
            why.append(f"{int(mask.sum())} {what}")
    troubled = np.isin(steps, steps[bad])
    aside = MetricHistory(
        metric.key, steps[troubled], times[troubled], values[troubled]
    )
    return Divided(series, aside, why)


def _behind(standing: FloatSeries, new: FloatSeries) -> FloatSeries:
    return FloatSeries(
        np.concatenate([standing.steps, new.steps]),
        np.concatenate([standing.timestamps, new.timestamps]),
        np.concatenate([standing.values, new.values]),
    )


def _has(series: FloatSeries, units: Int64s, metric: MetricHistory) -> Bools:
    """Tell which points of a metric are in a series as they are, bit for bit."""
    if not len(series.steps):
        return np.zeros(len(units), dtype=bool)
    at = np.searchsorted(series.steps, units).clip(max=len(series.steps) - 1)
    found: Bools = (
        (series.steps[at] == units)
        & (series.timestamps[at] == metric.timestamps)
        & (series.values[at].view(np.int64) == metric.values.view(np.int64))
    )
    return found


def joined(
    key: str, series: MetricHistory | None, aside: MetricHistory | None
) -> MetricHistory:
    """Return the metric that a series and the points kept aside are."""
    if aside is None:
        assert series is not None
        return series
    if series is None:
        return history(key, aside.steps, aside.timestamps, aside.values)
    clear = ~np.isin(series.steps, aside.steps)
    return history(
        key,
        np.concatenate([series.steps[clear], aside.steps]),
        np.concatenate([series.timestamps[clear], aside.timestamps]),
        np.concatenate([series.values[clear], aside.values]),
    )


def dump(aside: Iterable[MetricHistory]) -> bytes:
    """Return the Parquet file that holds points kept aside."""
    data = BytesIO()
    with pq.ParquetWriter(data, _SCHEMA, compression="zstd") as writer:
        for metric in aside:
            at = of_numbers(np.zeros(len(metric.steps), dtype=np.int32))
            keys = pa.DictionaryArray.from_arrays(at, of_texts([metric.key]))
            numbers = map(of_numbers, (metric.steps, metric.timestamps, metric.values))
            writer.write_table(pa.table([keys, *numbers], schema=_SCHEMA))
    return data.getvalue()


def load(data: bytes) -> Mapping[str, MetricHistory]:
    """Return the points that `dump` put into a file, by their keys.

    Raises:
        ItemError: the file is damaged, or is none of ours.
    """
    with translated(lambda error: ItemError(f"points kept aside: {error}")):
        table = pq.read_table(BytesIO(data), use_threads=False).combine_chunks()
        keys = np.asarray(table["key"].cast(pa.string()), dtype=object)
        steps, times, values = (
            np.asarray(table[name].cast(type))
            for name, type in (
                ("step", pa.int64()),
                ("timestamp", pa.int64()),
                ("value", pa.float64()),
            )
        )
    found = {}
    for key in dict.fromkeys(keys.tolist()):
        of_key = keys == key
        found[str(key)] = history(
            str(key), steps[of_key], times[of_key], values[of_key]
        )
    return found
