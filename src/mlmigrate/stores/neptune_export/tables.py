"""The rows of an archive: one pass over a run's part files, points as columns."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlmigrate.artifacts import short
from mlmigrate.codec.arrays import of_numbers, of_texts
from mlmigrate.errors import ItemError, translated
from mlmigrate.model import Float64s, Int64s
from mlmigrate.neptune_runs import series
from mlmigrate.neptune_runs.attributes import FloatSeries, Scalar, ScalarType
from mlmigrate.neptune_runs.mapping import EXPERIMENT, ORIGIN
from mlmigrate.stores.neptune_export import columns
from mlmigrate.stores.neptune_export.layout import Entry

_ROWS = 1 << 17  # of one batch
#: The column of each type of attribute with one value.
_SCALARS: Mapping[str, tuple[ScalarType, str]] = {
    "int": ("int", "int_value"),
    "float": ("float", "float_value"),
    "string": ("string", "string_value"),
    "bool": ("bool", "bool_value"),
    "datetime": ("datetime", "datetime_value"),
    "string_set": ("string_set", "string_set_value"),
}
_LINES: Mapping[str, str] = {
    "string_series": "string_value",
    "histogram_series": "histogram_value",
}
_FILES = ("file", "file_series", "file_set", "artifact")
_FACTS = ("attribute_path", "string_value")
#: Takes a point of a series that MLflow has no place for: the path of its attribute,
#: its step in millionths, its time in milliseconds, and its line.
Write = Callable[[str, int | None, int | None, str], None]


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file of an attribute; one of several where the attribute is a series."""

    attribute: str
    type: str
    step: int | None  # in millionths
    path: str  # below the files of the project


@dataclass(slots=True)
class Points:
    """The points of one series, as they were read."""

    steps: list[Int64s] = field(default_factory=list)
    timestamps: list[Int64s] = field(default_factory=list)
    values: list[Float64s] = field(default_factory=list)


@dataclass(slots=True)
class Rows:
    """What the part files of a run say."""

    scalars: dict[str, Scalar] = field(default_factory=dict)
    points: dict[str, Points] = field(default_factory=lambda: defaultdict(Points))
    files: list[FileRow] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    repairs: Counter[str] = field(default_factory=Counter)

    def floats(self, up_to: int | None = None) -> dict[str, FloatSeries]:
        """Return the float series, but for points behind the step *up_to*."""
        found = {}
        for path, points in self.points.items():
            steps = np.concatenate(points.steps)
            times = np.concatenate(points.timestamps)
            values = np.concatenate(points.values)
            if up_to is not None:
                kept = steps <= up_to
                steps, times, values = steps[kept], times[kept], values[kept]
            if len(steps):
                found[path] = FloatSeries(steps, times, values)
        return found


def read_rows(entry: Entry, write: Write, *, points: bool = True) -> Rows:
    """Read all of a run.

    Args:
        entry: the run.
        write: gets each point of the series that are lines, in the order of the files.
        points: whether those of float series are wanted, which most rows are.

    Raises:
        ItemError: none of its part files can be read.
    """
    rows = Rows()
    read = 0
    for _, path in sorted(entry.parts.items()):
        try:
            for table in _tables(path, entry, rows):
                _add(rows, table, write, entry.zone, points=points)
            read += 1
        except (ItemError, OSError) as error:
            rows.wrong.append(f"{path.name} cannot be read whole: {error}")
    if not read and not (rows.scalars or rows.points or rows.files):
        raise ItemError("; ".join(rows.wrong) or "no part of it is there")
    return rows


def own_facts(entry: Entry) -> tuple[str, str]:
    """Return what an entry that mlmigrate wrote was at first, and the name of its
    experiment; '' where it did not. Only part 0 is looked at, where such values are.
    """
    found: dict[str, str] = {}
    part = entry.parts.get(0)
    try:
        for table in _tables(part, entry, Rows(), _FACTS) if part else ():
            paths = table["attribute_path"].combine_chunks()
            if ORIGIN in paths.dictionary.to_pylist():
                wanted = pc.is_in(
                    paths.cast(pa.string()), of_texts([ORIGIN, EXPERIMENT])
                )
                for row in table.filter(wanted).to_pylist():
                    found[row["attribute_path"]] = row.get("string_value") or ""
    except (ItemError, OSError):
        pass  # told where the run itself is read
    return found.get(ORIGIN, ""), found.get(EXPERIMENT, "")


def paths_of(entry: Entry, *, attributes: bool) -> tuple[set[str], set[str]]:
    """Return the paths of a run's attributes, none unless *attributes*, and those of
    its files: less is read than by `read_rows`.

    Raises:
        ItemError: a part file cannot be read.
        OSError: likewise.
    """
    held: set[str] = set()
    files: set[str] = set()
    wanted = ("attribute_path",) if attributes else ("attribute_type",)
    for path in entry.parts.values():
        for table in _tables(path, entry, Rows(), (*wanted, "file_value")):
            if attributes:
                held.update(pc.unique(table["attribute_path"]).to_pylist())
            if "file_value" in table.column_names:
                said = pc.struct_field(table["file_value"], "path")
                files.update(said.drop_null().to_pylist())
    return held, files


def _tables(
    path: Path, entry: Entry, rows: Rows, only: Iterable[str] | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of an entry in one file, with texts that repeat as dictionaries;
    of the columns in *only*, if given.

    Raises:
        ItemError: the file is damaged, or is no table of the exporter's.
        OSError: it cannot be read.
    """
    with translated(
        lambda error: ItemError(short(error)), passing=(ItemError, OSError)
    ):
        file = pq.ParquetFile(path, memory_map=True, read_dictionary=list(columns.KEYS))
        names = set(file.schema_arrow.names)
        if lacking := {"attribute_path", "attribute_type"} - names:
            raise ItemError(f"it has no column {', '.join(sorted(lacking))}")
        if unknown := sorted(names - _KNOWN):
            rows.repairs[f"columns that are not known: {', '.join(unknown)}"] += 1
        told = {*(_KNOWN if only is None else only)} - {"run_id", "project_id"}
        if entry.shared:
            told |= {"run_id", "project_id"}
        wanted = [name for name in file.schema_arrow.names if name in told]
        for batch in file.iter_batches(_ROWS, columns=wanted, use_threads=False):
            table = columns.typed(pa.Table.from_batches([batch]))
            table.validate(full=True)  # of what is damaged Arrow reads anything
            if entry.shared:
                own = pc.and_(
                    pc.equal(table["run_id"].cast(pa.string()), entry.id),
                    pc.equal(table["project_id"].cast(pa.string()), entry.project),
                )
                table = table.filter(own)
            yield table


_KNOWN = {
    *columns.KEYS,
    *("step", "timestamp", "int_value", "float_value", "string_value", "bool_value"),
    *("datetime_value", "string_set_value", "file_value", "histogram_value"),
}


def read_scalars(entry: Entry) -> dict[str, Scalar]:
    """Return the attributes with one value.

    Raises:
        ItemError: none of its part files can be read.
    """
    return read_rows(entry, _ignore, points=False).scalars


def _ignore(path: str, step: int | None, time: int | None, line: str) -> None:
    """Take a point, and do nothing."""


def _add(
    rows: Rows, table: pa.Table, write: Write, zone: str | None, *, points: bool
) -> None:
    codes, types = columns.codes(table["attribute_type"])
    for code in np.unique(codes).tolist():
        type = types[code] if code >= 0 else None
        if type == "float_series" and not points:
            continue
        at = np.flatnonzero(codes == code)
        part = table.take(of_numbers(at)) if len(at) < len(codes) else table
        if type is None:
            rows.wrong.append("rows without a type of their attribute: left out")
        elif type == "float_series":
            _add_points(rows, part, zone)
        elif type in _SCALARS:
            _add_scalars(rows, part, *_SCALARS[type])
        elif type in _FILES:
            _add_files(rows, part, type)
        else:
            _add_lines(rows, part, type, write, zone)


def _add_points(rows: Rows, table: pa.Table, zone: str | None) -> None:
    codes, names = columns.codes(table["attribute_path"])
    steps, times = columns.steps(table), columns.times(table, zone)
    at, when, said = steps.values, times.values, columns.values(table)
    if steps.gaps:
        rows.repairs["points without a step: taken as step 0"] += steps.gaps
    if times.gaps:
        rows.repairs["points without a time: taken as 1970"] += times.gaps
    if not (codes[1:] >= codes[:-1]).all():
        order = np.argsort(codes, kind="stable")
        codes, at, when, said = codes[order], at[order], when[order], said[order]
    bounds = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    for start, end in pairwise(bounds):
        if start == end:
            continue
        code = codes[start]
        points = rows.points[(names[code] if code >= 0 else None) or ""]
        points.steps.append(at[start:end])
        points.timestamps.append(when[start:end])
        points.values.append(said[start:end])


def _add_scalars(rows: Rows, table: pa.Table, type: ScalarType, column: str) -> None:
    said = table[column] if column in table.column_names else None
    if said is None:
        rows.wrong.append(f"{table.num_rows} values of type {type} have no column")
        return
    if type == "datetime":
        values: list[Any] = columns.times(table, name=column).listed()
    else:
        values = said.to_pylist()
    for path, value in zip(table["attribute_path"].to_pylist(), values, strict=True):
        if value is None:
            continue  # another run of the same batch has this attribute
        found: Any = value
        if isinstance(value, list):
            found = tuple(sorted({word for word in value if word is not None}))
        name, number = path or "", 2
        scalar = Scalar(type, found)
        while name in rows.scalars and rows.scalars[name] != scalar:
            name, number = f"{path}~{number}", number + 1
        if name != path and name not in rows.scalars:
            rows.repairs[f"values of {path} beside its first: kept as {name}"] += 1
        rows.scalars[name] = scalar


def _add_files(rows: Rows, table: pa.Table, type: str) -> None:
    if "file_value" not in table.column_names:
        rows.wrong.append(f"{table.num_rows} files of type {type} have no column")
        return
    steps = columns.steps(table).listed()
    for path, value, step in zip(
        table["attribute_path"].to_pylist(),
        table["file_value"].to_pylist(),
        steps,
        strict=True,
    ):
        if value is not None and value.get("path"):
            rows.files.append(FileRow(path or "", type, step, value["path"]))


def _add_lines(
    rows: Rows, table: pa.Table, type: str, write: Write, zone: str | None
) -> None:
    column = _LINES.get(type)
    steps = columns.steps(table).listed()
    times = columns.times(table, zone).listed()
    paths = table["attribute_path"].to_pylist()
    if column is not None and column in table.column_names:
        values = table[column].to_pylist()
    else:
        values = [_whole_row(row) for row in table.to_pylist()]
    for path, step, time, value in zip(paths, steps, times, values, strict=True):
        if value is None:
            if step is None and time is None:
                continue
            rows.repairs[f"points of {path} without a value: left out"] += 1
            continue
        write(path or "", step, time, series.line(step, time, value))


def _whole_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a type that is not known, for JSON."""
    said: dict[str, Any] = json.loads(json.dumps(row, default=_as_text))
    return {name: value for name, value in said.items() if value is not None}


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
