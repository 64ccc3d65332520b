"""Records as rows of Arrow tables, and back: what an archive's Parquet files hold.

One table a kind of record. The rows of an item bear its number within the segment,
ascending, so that a batch of items is a range of rows.
"""

from __future__ import annotations

from mlmigrate.codec.records import Block, Fetch, decode, findings
from mlmigrate.codec.rows import Entry, Rows, finding_row, written_schema
from mlmigrate.codec.schema import ADDED, COUNTED, TABLES
from mlmigrate.codec.text import escape, unescape

__all__ = [
    "ADDED",
    "COUNTED",
    "TABLES",
    "Block",
    "Entry",
    "Fetch",
    "Rows",
    "decode",
    "escape",
    "finding_row",
    "findings",
    "unescape",
    "written_schema",
]
