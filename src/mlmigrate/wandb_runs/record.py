"""A run's own record: the tables of an archive, for this run alone.

W&B holds every value of a run in its own places; this copy beside them is in an open
format (``docs/archive-format.md``), and depends on nobody's reading of a config.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from mlmigrate.codec import TABLES, Entry, Rows
from mlmigrate.model import Item, MetricHistory

#: Points in one portion of the table of points.
_PORTION = 200_000


def record_tables(
    item: Item, *, digest: str, source: str
) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of a Parquet file for each kind of record.

    Args:
        item: a run, whole.
        digest: that of the run as its source has it.
        source: where it was read, redacted.

    Raises:
        ItemError: a value is longer than a table holds.
    """
    entry = Entry(item, 0, digest, source)
    table_rows = Rows(0)
    table_rows.add(entry)
    for name in TABLES:
        if not table_rows.bytes[name]:
            continue
        tables = _points(entry) if name == "metrics" else [table_rows.take(name)]
        data = BytesIO()
        writer = None
        for table in tables:
            writer = writer or pq.ParquetWriter(data, table.schema, compression="zstd")
            writer.write_table(table)
        assert writer is not None
        writer.close()
        yield f"{name}.parquet", data.getvalue()


def _points(entry: Entry) -> Iterator[pa.Table]:
    """Yield the points of a run as tables, not all at once: they may be millions."""
    waiting: list[MetricHistory] = []
    for metric in entry.item.metrics:
        for at in range(0, len(metric.steps), _PORTION):
            portion = slice(at, at + _PORTION)
            waiting.append(
                MetricHistory(
                    metric.key,
                    metric.steps[portion],
                    metric.timestamps[portion],
                    metric.values[portion],
                )
            )
            if sum(len(each.steps) for each in waiting) >= _PORTION:
                yield _table(entry, waiting)
                waiting = []
    if waiting:
        yield _table(entry, waiting)


def _table(entry: Entry, metrics: list[MetricHistory]) -> pa.Table:
    some = Rows(0)
    some.add(replace(entry, item=replace(entry.item, metrics=tuple(metrics))))
    return some.take("metrics")
