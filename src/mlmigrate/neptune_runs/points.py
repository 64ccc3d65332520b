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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlmigrate.codec.arrays import of_numbers, of_texts
from mlmigrate.errors import ItemError, translated
from mlmigrate.metrics import history
from mlmigrate.model import MetricHistory
from mlmigrate.neptune_runs.attributes import MILLIONTHS, FloatSeries

#: The largest step: above, its millionths have more than 18 digits.
_LARGEST_STEP = 999_999_999_999
#: Milliseconds from 1970 to 9999: what a time is on every server.
_LATEST = 253_402_300_799_999
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


def divide(metric: MetricHistory) -> Divided:
    """Divide the points of a metric, which are in normal form."""
    steps, times, values = metric.steps, metric.timestamps, metric.values
    finite = np.isfinite(values)
    fits = (np.abs(steps.astype(np.float64)) <= _LARGEST_STEP) & finite
    sound = (times >= 0) & (times <= _LATEST)
    # Of several points of a step the last is shown, as MLflow does.
    shown = np.flatnonzero(fits)
    last = np.append(steps[shown][1:] != steps[shown][:-1], True)
    shown = shown[last[: len(shown)]]
    when = np.maximum.accumulate(np.clip(times[shown], 0, _LATEST))
    # Not every server keeps the sign of a zero.
    signed = (values == 0) & np.signbit(values)
    series = FloatSeries(steps[shown] * MILLIONTHS, when, values[shown] + 0.0)
    moved = np.zeros(len(steps), dtype=bool)
    moved[shown] = when != times[shown]
    kept = np.zeros(len(steps), dtype=bool)
    kept[shown] = True
    bad = ~kept | moved | signed
    if not bad.any():
        return Divided(series, None)
    why = []
    repeated = int((fits & ~kept).sum())
    for count, what in (
        (int((~finite).sum()), "values that are not finite"),
        (int((finite & ~fits).sum()), "steps of more than 12 digits"),
        (int(signed.sum()), "values that are -0.0"),
        (repeated, "points beside another of their step"),
        (int((moved & sound).sum()), "times before that of an earlier step"),
        (int((moved & ~sound).sum()), "times before 1970 or after 9999"),
    ):
        if count:
            why.append(f"{count} {what}")
    troubled = np.isin(steps, steps[bad])
    aside = MetricHistory(
        metric.key, steps[troubled], times[troubled], values[troubled]
    )
    return Divided(series, aside, why)


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
