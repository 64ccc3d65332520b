"""Parquet files: how they are written, and how untrusted ones are read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlmigrate.artifacts import short
from mlmigrate.codec import ADDED, TABLES, Block, written_schema
from mlmigrate.errors import ItemError, translated

#: A row group is cut, at the end of an item, at so many bytes of values.
ROW_GROUP_BYTES = 1 << 20
#: Rows of a row group; only those of one large item are cut by it.
ROW_GROUP_ROWS = 1 << 20
#: What a row group may claim to take, before it is read at all.
_MOST_BYTES = 2 << 30
_DELTAS = ("step", "timestamp")
_READ = {"use_threads": False}


def writer(path: Path, table: str) -> pq.ParquetWriter:
    """Open a table for writing."""
    schema = written_schema(table)
    encodings = {}
    coded = [column.name for column in schema]
    if schema != TABLES[table]:  # a table of points
        numbers = ("step", "timestamp", "value")
        coded = [name for name in coded if name not in numbers]
        encodings = dict.fromkeys(_DELTAS, "DELTA_BINARY_PACKED")
        encodings["value"] = "BYTE_STREAM_SPLIT"
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=coded,
        column_encoding=encodings or None,
        write_statistics=["segment", "item"],
        write_page_checksum=True,
        store_schema=False,
    )


def write(path: Path, table: str, data: pa.Table) -> None:
    """Write a whole table."""
    with writer(path, table) as opened:
        opened.write_table(data, row_group_size=ROW_GROUP_ROWS)


class TableFile:
    """A table that is read by ranges of items; several threads may ask at once.

    Nothing in it is trusted: types and sizes are checked before, values as they are
    used.
    """

    def __init__(self, path: Path, table: str) -> None:
        """Open a file.

        Raises:
            ItemError: it is not a table of an archive.
        """
        self.table = table
        self._lock = threading.Lock()
        self._block: tuple[tuple[int, ...], Block] | None = None
        texts = [
            column.name
            for column in TABLES[table]
            if column.type == pa.string() and (table, column.name) not in ADDED
        ]
        with _damage(f"table {table} cannot be read"):
            self._file = pq.ParquetFile(
                path,
                read_dictionary=texts,
                page_checksum_verification=True,
                thrift_string_size_limit=64 << 20,
                thrift_container_size_limit=4 << 20,
            )
            self._check()
            self._firsts, self._lasts = self._ranges()

    def _check(self) -> None:
        schema = self._file.schema_arrow
        for column in TABLES[self.table]:
            at = schema.get_field_index(column.name)
            if at < 0 and (self.table, column.name) in ADDED:
                continue
            if at < 0:
                raise ValueError(f"there is no column {column.name}")
            type_ = schema.field(at).type
            if pa.types.is_dictionary(type_):
                type_ = type_.value_type
            if type_ != column.type:
                raise ValueError(f"{column.name} is {type_}, not {column.type}")
        for number in range(self._file.num_row_groups):
            group = self._file.metadata.row_group(number)
            absurd = not 0 <= group.num_rows <= ROW_GROUP_ROWS
            if absurd or not 0 <= group.total_byte_size <= _MOST_BYTES:
                raise ValueError(
                    f"row group {number} claims {group.num_rows} rows and"
                    f" {group.total_byte_size} bytes"
                )

    def _ranges(self) -> tuple[Any, Any]:
        """Return the first and the last item of each row group."""
        at = self._file.schema_arrow.get_field_index("item")
        bounds = []
        for number in range(self._file.num_row_groups):
            statistics = self._file.metadata.row_group(number).column(at).statistics
            if statistics is None or not statistics.has_min_max:
                bounds.append((0, 2**31))  # whoever wrote it left them out
            else:
                bounds.append((statistics.min, statistics.max))
        pairs = np.array(bounds, dtype=np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def block(self, numbers: Sequence[int]) -> Block:
        """Return rows, those of the items *numbers* among them.

        Raises:
            ItemError: they are damaged.
        """
        wanted = np.array(sorted(numbers), dtype=np.int64)
        # Those row groups that begin before, and end after, one of the numbers.
        low = np.searchsorted(wanted, self._firsts, side="left")
        high = np.searchsorted(wanted, self._lasts, side="right")
        groups = tuple(np.flatnonzero(low < high).tolist())
        with self._lock:
            if self._block is not None and self._block[0] == groups:
                return self._block[1]
            self._block = None
            table = self._read(list(groups))
            with _damage(f"table {self.table}"):
                block = Block(self.table, table)
            self._block = (groups, block)
            return block

    def whole(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rows.

        Raises:
            ItemError: they are damaged.
        """
        with self._lock:
            return self._read(list(range(self._file.num_row_groups)), columns)

    def groups(self) -> int:
        """Return how many row groups there are."""
        return int(self._file.num_row_groups)

    def group(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Return some columns of one row group.

        Raises:
            ItemError: they are damaged.
        """
        with self._lock:
            return self._read([number], columns)

    def _read(self, groups: list[int], columns: Sequence[str] | None = None) -> Any:
        names = list(columns or TABLES[self.table].names)
        with _damage(f"table {self.table} cannot be read"):
            there = set(self._file.schema_arrow.names)
            have = [name for name in names if name in there]
            data = self._file.read_row_groups(groups, columns=have, **_READ)
            data.validate(full=True)  # codes of no text, text that is none
            for column in TABLES[self.table]:
                if column.name in names and column.name not in there:
                    missing = pa.nulls(len(data), column.type)
                    data = data.append_column(column.name, missing)
        return data.select(names)

    def close(self) -> None:
        """Close the file."""
        self._file.close(force=True)


def plain(data: pa.Table, table: str) -> pa.Table:
    """Return a table with the types of its schema, where texts were read as codes.

    Raises:
        ItemError: it holds text that is none.
    """
    with _damage(f"table {table}"):
        whole = data.cast(TABLES[table])
        whole.validate(full=True)
    return whole


def _damage(what: str) -> AbstractContextManager[None]:
    """Tell of what Arrow, or a check of ours, finds wrong with a file."""
    return translated(lambda error: ItemError(f"{what}: {short(error)}"))
