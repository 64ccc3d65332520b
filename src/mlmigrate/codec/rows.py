"""Records as rows, on their way into tables. Metric points stay columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from mlmigrate.codec.arrays import of_numbers, of_values
from mlmigrate.codec.schema import POINTS, TABLES
from mlmigrate.codec.text import text_array
from mlmigrate.errors import ItemError
from mlmigrate.metrics import value_bits
from mlmigrate.model import (
    Assessment,
    Entity,
    Experiment,
    Finding,
    Item,
    LoggedModel,
    Loss,
    MetricHistory,
    ModelVersion,
    Note,
    Problem,
    Ref,
    RegisteredModel,
    Run,
    Trace,
)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An item as an archive holds it.

    ``checksums`` has the SHA-256 of each artifact whose bytes are in the archive; the
    others are known by path and size alone.
    """

    item: Item
    number: int  # within its segment
    digest: str
    source: str  # redacted location
    checksums: Mapping[str, str] = field(default_factory=dict)


#: What one value may take. Arrow's own limit for a column of a row group is 2 GiB.
LONGEST_TEXT = 512 << 20
_INT64 = range(-(2**63), 2**63)


class Rows:
    """Rows that wait to be written, of items of one segment."""

    def __init__(self, segment: int) -> None:
        self._segment = segment
        self._rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLES}
        self._points: dict[str, list[_Points]] = {name: [] for name in POINTS}
        #: Roughly what the rows of each table take.
        self.bytes: dict[str, int] = dict.fromkeys(TABLES, 0)

    def add(self, entry: Entry) -> None:
        """Add all rows of an item, or none.

        Raises:
            ItemError: it has a value that no column holds.
        """
        rows = list(_rows_of(entry))
        for table, values in rows:
            _check(table, values)
        for table, values in rows:
            self.put(table, entry.number, values)
        for table, points in _points_of(entry):
            if len(points[2].steps):
                self._points[table].append(points)
                self.bytes[table] += 24 * len(points[2].steps)

    def put(self, table: str, number: int, values: tuple[Any, ...]) -> None:
        """Add one row."""
        self._rows[table].append((self._segment, number, *values))
        self.bytes[table] += 16 + sum(
            len(value) for value in values if isinstance(value, str)
        )

    def take(self, table: str) -> pa.Table:
        """Return the rows of a table as columns, and forget them."""
        self.bytes[table] = 0
        if table in POINTS:
            return self._take_points(table)
        rows, self._rows[table] = self._rows[table], []
        schema = TABLES[table]
        columns = list(zip(*rows, strict=True)) or [()] * len(schema)
        return pa.table(
            [
                text_array(values)
                if column.type == pa.string()
                else of_values(values, column.type)
                for column, values in zip(schema, columns, strict=True)
            ],
            schema=schema,
        )

    def _take_points(self, table: str) -> pa.Table:
        histories, self._points[table] = self._points[table], []
        lengths = np.array([len(metric.steps) for _, _, metric in histories], np.int64)
        numbers = np.array([number for number, _, _ in histories], np.int32)
        rows = int(lengths.sum())
        width = sum(column.type == pa.string() for column in TABLES[table])

        def repeated(texts: list[str | None]) -> pa.Array:
            codes: dict[str, int] = {}
            each = np.array(
                [
                    -1 if text is None else codes.setdefault(text, len(codes))
                    for text in texts
                ],
                np.int32,
            )
            numbers = np.repeat(each, lengths)
            return pa.DictionaryArray.from_arrays(
                of_numbers(np.maximum(numbers, 0), numbers < 0),
                text_array(list(codes)),
            )

        def joined(columns: list[Any], type_: Any) -> Any:
            return np.concatenate(columns) if columns else np.empty(0, type_)

        values = joined([metric.values for _, _, metric in histories], np.float64)
        # Every NaN is the same NaN, on disk, too.
        values = value_bits(np.ascontiguousarray(values)).view(np.float64)
        columns = [
            of_numbers(np.full(rows, self._segment, np.int32)),
            of_numbers(np.repeat(numbers, lengths)),
            *(
                repeated([texts[at] for _, texts, _ in histories])
                for at in range(width)
            ),
            of_numbers(joined([metric.steps for _, _, metric in histories], np.int64)),
            of_numbers(
                joined([metric.timestamps for _, _, metric in histories], np.int64)
            ),
            of_numbers(values),
        ]
        return pa.table(columns, schema=written_schema(table))


#: The number of an item, the texts of a table of points, and the points.
_Points: TypeAlias = tuple[int, tuple[str | None, ...], MetricHistory]


def _points_of(entry: Entry) -> Iterator[tuple[str, _Points]]:
    item, number = entry.item, entry.number
    for metric in item.metrics:
        yield "metrics", (number, (item.ref.id, metric.key), metric)
    for each in item.model_metrics:
        own, run = each.history, each.run.id
        texts = (item.ref.id, run, own.key, each.dataset, each.dataset_digest)
        yield "model_metrics", (number, texts, own)


def written_schema(table: str) -> pa.Schema:
    """Return the schema of what `Rows.take` returns: texts that repeat are codes."""
    schema = TABLES[table]
    if table not in POINTS:
        return schema
    coded = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            column.with_type(coded) if column.type == pa.string() else column
            for column in schema
        ]
    )


def _check(table: str, values: tuple[Any, ...]) -> None:
    for column, value in zip(list(TABLES[table])[2:], values, strict=True):
        if isinstance(value, str):
            if len(value) > LONGEST_TEXT // 4:
                raise ItemError(f"{table}.{column.name}: {len(value)} characters")
        elif isinstance(value, int) and value not in _INT64:
            raise ItemError(f"{table}.{column.name}: {value} does not fit 64 bits")
        elif value is None and not column.nullable:
            raise ItemError(f"{table}.{column.name} is missing")


def _rows_of(entry: Entry) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield (table, values) for each record but metric points."""
    item = entry.item
    id, header = item.ref.id, item.header
    yield "items", _index_row(entry)
    match header:
        case Experiment():
            yield (
                "experiments",
                (
                    id,
                    header.name,
                    header.artifact_location,
                    header.lifecycle,
                    header.creation_time,
                    header.last_update_time,
                ),
            )
        case Run():
            yield "runs", _run_row(id, header)
        case LoggedModel():
            yield "logged_models", _logged_model_row(id, header)
        case Trace():
            yield "traces", _trace_row(id, header)
        case Entity():
            home = header.experiment and header.experiment.id
            yield "entities", (item.ref.kind, id, header.name, home)
        case RegisteredModel():
            yield (
                "registered_models",
                (
                    id,
                    header.name,
                    header.description,
                    header.creation_time,
                    header.last_updated_time,
                ),
            )
    for param in item.params:
        yield "params", (id, param.key, param.value)
    for tag in item.tags:
        yield "tags", (item.ref.kind, id, tag.key, tag.value)
    for at, dataset in enumerate(item.inputs):
        yield (
            "datasets",
            (
                id,
                at,
                dataset.name,
                dataset.digest,
                dataset.source_type,
                dataset.source,
                dataset.schema,
                dataset.profile,
            ),
        )
        for tag in dataset.tags:
            yield "dataset_tags", (id, at, tag.key, tag.value)
    for link in item.links:
        yield "model_links", (id, link.model.id, link.role, link.step)
    for artifact in item.artifacts:
        checksum = entry.checksums.get(artifact.path)
        yield "artifacts", (id, artifact.path, artifact.size, checksum)
    for version in item.versions:
        yield "model_versions", _version_row(id, version)
        for tag in version.tags:
            yield "version_tags", (id, version.version, tag.key, tag.value)
    for pair in item.metadata:
        yield "trace_metadata", (id, pair.key, pair.value)
    for span in item.spans:
        yield "spans", (id, *astuple(span))
    for assessment in item.assessments:
        yield "assessments", _assessment_row(id, assessment)
    for linked in item.trace_links:
        yield "trace_links", (id, *astuple(linked))
    for row in item.rows:
        yield "entity_rows", (item.ref.kind, id, row.table, row.values)
    for alias in item.aliases:
        yield "aliases", (id, alias.name, alias.version)
    for finding in item.findings:
        yield "findings", (item.ref.kind, id, *finding_row(finding))


def _index_row(entry: Entry) -> tuple[Any, ...]:
    item, header = entry.item, entry.item.header
    histories = [*item.metrics, *(each.history for each in item.model_metrics)]
    keys = {metric.key for metric in histories if len(metric.steps)}
    home = getattr(header, "experiment", None)
    return (
        item.ref.kind,
        item.ref.id,
        item.origin,
        None if isinstance(header, Trace) else header.name,
        home.id if isinstance(home, Ref) else None,
        getattr(header, "lifecycle", None),
        entry.digest,
        item.mark,
        entry.source,
        len(item.params),
        len(item.tags),
        len(keys),
        sum(len(metric.steps) for metric in histories),
        len(item.inputs),
        len(item.artifacts),
        len(item.versions),
        len(item.aliases),
        len(item.findings),
        len(item.links),
        len(item.metadata),
        len(item.spans),
        len(item.assessments),
        len(item.trace_links),
        len(item.rows),
    )


def _run_row(id: str, run: Run) -> tuple[Any, ...]:
    return (
        id,
        run.experiment.id,
        run.name,
        run.status,
        run.start_time,
        run.end_time,
        run.user,
        run.lifecycle,
        run.deleted_time,
        run.artifact_uri,
        run.parent.id if run.parent else None,
        run.source_type,
        run.source_name,
        run.source_version,
        run.entry_point,
    )


def _logged_model_row(id: str, model: LoggedModel) -> tuple[Any, ...]:
    return (
        id,
        model.experiment.id,
        model.name,
        model.status,
        model.status_message,
        model.model_type,
        model.source_run.id if model.source_run else None,
        model.creation_time,
        model.last_updated_time,
        model.lifecycle,
        model.artifact_location,
    )


def _trace_row(id: str, trace: Trace) -> tuple[Any, ...]:
    return (
        id,
        trace.experiment.id,
        trace.state,
        trace.request_time,
        trace.execution_duration,
        trace.client_request_id,
        trace.request_preview,
        trace.response_preview,
        trace.source_run.id if trace.source_run else None,
        trace.artifact_location,
    )


def _assessment_row(trace: str, assessment: Assessment) -> tuple[Any, ...]:
    return (
        trace,
        assessment.id,
        assessment.name,
        assessment.kind,
        assessment.value,
        assessment.source_type,
        assessment.source_id,
        assessment.error,
        assessment.rationale,
        assessment.metadata,
        assessment.run.id if assessment.run else None,
        assessment.span,
        assessment.created,
        assessment.updated,
        assessment.overrides,
        assessment.valid,
    )


def _version_row(model: str, version: ModelVersion) -> tuple[Any, ...]:
    return (
        model,
        version.version,
        version.origin,
        version.creation_time,
        version.last_updated_time,
        version.description,
        version.user,
        version.stage,
        version.source,
        version.source_run.id if version.source_run else None,
        version.source_path,
        version.storage_location,
        version.run.id if version.run else None,
        version.run_link,
        version.status,
        version.status_message,
        version.mark,
        version.source_model.id if version.source_model else None,
        version.logged_model.id if version.logged_model else None,
    )


def finding_row(finding: Finding) -> tuple[Any, ...]:
    """Return the last columns of a row of ``findings`` or ``store_findings``."""
    match finding:
        case Problem(where, what):
            return ("problem", None, None, where, what, None)
        case Note(where, what):
            return ("note", None, None, where, what, None)
        case Loss(ref, what, carried):
            return ("loss", ref.kind, ref.id, str(ref), what, carried)
