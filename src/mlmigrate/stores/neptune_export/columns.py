"""Columns of an archive's tables as arrays of numpy's.

Nothing here lets pyarrow see one of those: it would import pandas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlmigrate.codec.arrays import missing_in, numbers_in
from mlmigrate.model import Float64s, Int64s
from mlmigrate.stores.neptune_export.zones import utc

#: The columns whose texts repeat; they are read as dictionaries.
KEYS = ("attribute_path", "attribute_type", "run_id", "project_id")
_STEP, _TIME = pa.decimal128(18, 6), pa.timestamp("ms", tz="UTC")


_TYPES = {
    **dict.fromkeys(KEYS, pa.dictionary(pa.int32(), pa.string())),
    "int_value": pa.int64(),
    "string_value": pa.string(),
    "bool_value": pa.bool_(),
    "string_set_value": pa.list_(pa.string()),
    "file_value": pa.struct({"path": pa.string()}),
}


def typed(table: pa.Table) -> pa.Table:
    """Return a table whose values are of the types that the exporter gives them; of
    numbers and times see below.

    Raises:
        pa.ArrowException: they cannot be made such.
    """
    for name, type in _TYPES.items():
        if name in table.column_names and table.schema.field(name).type != type:
            at = table.column_names.index(name)
            table = table.set_column(at, name, table[name].cast(type))
    return table


@dataclass(frozen=True, slots=True)
class Numbers:
    """Whole numbers, 0 where one is missing."""

    values: Int64s
    missing: NDArray[np.bool_]

    @property
    def gaps(self) -> int:
        """How many are missing."""
        return int(self.missing.sum())

    def listed(self) -> list[int | None]:
        """Return them, None for what is missing."""
        pairs = zip(self.values.tolist(), self.missing.tolist(), strict=True)
        return [None if missing else value for value, missing in pairs]


def steps(table: pa.Table) -> Numbers:
    """Return steps in millionths."""
    column = _column(table, "step", _STEP)
    # A decimal of 18 digits is an integer of 128 bits, of which 64 hold all.
    data = column.buffers()[1]
    missing = missing_in(column)
    if data is None:
        return Numbers(np.zeros(len(column), dtype=np.int64), missing)
    low = np.frombuffer(data, dtype=np.int64)[::2]
    found = low[column.offset : column.offset + len(column)]
    return Numbers(np.where(missing, 0, found), missing)


def times(table: pa.Table, zone: str | None = None, name: str = "timestamp") -> Numbers:
    """Return times in milliseconds, which are local ones where a zone is given."""
    column = _column(table, name, _TIME)
    missing = missing_in(column)
    found = np.where(missing, 0, numbers_in(column))
    return Numbers(found if zone is None else utc(found, zone), missing)


def values(table: pa.Table) -> Float64s:
    """Return the values of points: one that is missing is NaN."""
    column = _column(table, "float_value", pa.float64())
    return np.where(missing_in(column), math.nan, numbers_in(column))


def codes(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[str | None]]:
    """Return texts that repeat as numbers, -1 for a missing one, and the texts."""
    array = column.combine_chunks()
    found = np.where(missing_in(array), -1, numbers_in(array.indices))
    return found.astype(np.int32), array.dictionary.to_pylist()


def _column(table: pa.Table, name: str, type: pa.DataType) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, type)
    column = table[name].combine_chunks()
    return column if column.type == type else column.cast(type, safe=name == "step")
