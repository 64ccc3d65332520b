"""A run's own record: the tables of an archive, for this run alone.

W&B holds every value of a run in its own places; this copy beside them is in an open
format (``docs/archive-format.md``), and depends on nobody's reading of a config.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import pyarrow.parquet as pq

from mlmigrate.codec import TABLES, Entry, Rows
from mlmigrate.model import Item


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
    table_rows = Rows(0)
    table_rows.add(Entry(item, 0, digest, source))
    for name in TABLES:
        if table_rows.bytes[name]:
            data = BytesIO()
            pq.write_table(table_rows.take(name), data, compression="zstd")
            yield f"{name}.parquet", data.getvalue()
