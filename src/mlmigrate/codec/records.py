"""Rows of untrusted tables, back to records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from mlmigrate.codec.schema import POINTS, TABLES
from mlmigrate.codec.text import unescape
from mlmigrate.entities import ENTITIES
from mlmigrate.errors import ItemError
from mlmigrate.metrics import by_series, history, union
from mlmigrate.model import (
    Alias,
    Artifact,
    Assessment,
    DatasetInput,
    Entity,
    Experiment,
    Finding,
    Header,
    Item,
    Kind,
    LoggedModel,
    Loss,
    MetricHistory,
    ModelLink,
    ModelMetric,
    ModelVersion,
    Note,
    Param,
    Problem,
    Ref,
    RegisteredModel,
    Row,
    Run,
    Span,
    Tag,
    Trace,
    TraceLink,
)


class Block:
    """Some rows of one table, those of whole items, as columns of Python values."""

    def __init__(self, name: str, table: pa.Table) -> None:
        """Take *table* apart.

        Raises:
            ItemError: it is not what an archive holds.
        """
        self._name = name
        table = table.unify_dictionaries()
        self._items = _numbers(table.column("item"))
        self.columns: dict[str, Any] = {}
        #: Of each text of a table of points, what its codes stand for; -1 for nothing.
        self.texts: dict[str, list[str]] = {}
        for column in list(TABLES[name])[2:]:
            data = table.column(column.name)
            if data.null_count and not column.nullable:
                raise ItemError(f"{name}.{column.name} has rows without a value")
            if name in POINTS and column.type != pa.string():
                self.columns[column.name] = data.to_numpy()
            elif name in POINTS:
                codes, self.texts[column.name] = _codes(data)
                self.columns[column.name] = codes
            elif column.type == pa.string():
                self.columns[column.name] = _texts(data)
            else:
                self.columns[column.name] = data.to_pylist()

    def rows(self, number: int) -> slice:
        """Return where the rows of an item are."""
        low, high = np.searchsorted(self._items, [number, number + 1])
        return slice(int(low), int(high))

    def records(self, number: int, *names: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of an item, the named columns of each."""
        rows = self.rows(number)
        return zip(*(self.columns[name][rows] for name in names), strict=True)


def _numbers(data: pa.ChunkedArray) -> Any:
    numbers = data.to_numpy()
    if len(numbers) > 1 and (numbers[1:] < numbers[:-1]).any():
        raise ItemError("the numbers of items do not ascend")
    return numbers


def _codes(data: pa.ChunkedArray) -> tuple[Any, list[str]]:
    if not len(data):
        return np.empty(0, np.int32), []
    array = data.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    keys = [unescape(text) for text in array.dictionary.to_pylist()]
    return array.indices.fill_null(-1).to_numpy(), keys


def _texts(data: pa.ChunkedArray) -> list[str | None]:
    """Return texts, equal ones as one object: a repeated text takes no memory."""
    result: list[str | None] = []
    for chunk in data.chunks:
        array = chunk
        if not pa.types.is_dictionary(array.type):
            array = array.dictionary_encode()
        texts = [unescape(text) for text in array.dictionary.to_pylist()]
        result += [
            None if code is None else texts[code] for code in array.indices.to_pylist()
        ]
    return result


Fetch = Callable[[str], Block]


def decode(
    ref: Ref, origin: str, mark: str | None, number: int, block: Fetch
) -> tuple[Item, dict[str, str]]:
    """Make an item of its rows.

    Args:
        ref: its own.
        origin: its origin.
        mark: the text of its mark.
        number: its number in the segment.
        block: returns rows of a table, its own among them.

    Returns:
        The item, and the SHA-256 of the artifacts that are in the archive, by path.

    Raises:
        ItemError: its rows are not there, or are no records.
    """
    header = _header(ref.kind, number, block)
    artifacts, checksums = [], {}
    for path, size, checksum in block("artifacts").records(
        number, "path", "size", "sha256"
    ):
        artifacts.append(Artifact(path, size))
        if checksum is not None:
            checksums[path] = checksum
    return (
        Item(
            ref,
            header,
            origin,
            params=tuple(
                Param(*row) for row in block("params").records(number, "key", "value")
            ),
            tags=tuple(
                Tag(*row) for row in block("tags").records(number, "key", "value")
            ),
            metrics=tuple(_metrics(ref.kind, number, block)),
            inputs=tuple(_datasets(number, block)),
            links=tuple(_links(ref.kind, number, block)),
            model_metrics=tuple(_model_metrics(ref.kind, number, block)),
            artifacts=tuple(artifacts),
            versions=tuple(_versions(number, block)),
            aliases=tuple(
                Alias(*row)
                for row in block("aliases").records(number, "alias", "version")
            ),
            **_of_trace(ref.kind, number, block),
            rows=tuple(_entity_rows(ref.kind, number, block)),
            mark=mark,
            findings=tuple(findings(number, block("findings"))),
        ),
        checksums,
    )


_COLUMNS: dict[str, tuple[type, str, tuple[str, ...]]] = {
    "experiment": (
        Experiment,
        "experiments",
        (
            "name",
            "artifact_location",
            "lifecycle",
            "creation_time",
            "last_update_time",
        ),
    ),
    "run": (
        Run,
        "runs",
        tuple(column.name for column in list(TABLES["runs"])[3:]),
    ),
    "logged_model": (
        LoggedModel,
        "logged_models",
        tuple(column.name for column in list(TABLES["logged_models"])[3:]),
    ),
    "trace": (
        Trace,
        "traces",
        tuple(column.name for column in list(TABLES["traces"])[3:]),
    ),
    "registered_model": (
        RegisteredModel,
        "registered_models",
        ("name", "description", "creation_time", "last_updated_time"),
    ),
    **dict.fromkeys(ENTITIES, (Entity, "entities", ("name", "experiment_id"))),
}


def _header(kind: Kind, number: int, block: Fetch) -> Header:
    columns = _COLUMNS.get(kind)
    if columns is None:
        raise ItemError(f"the archive has an item of the unknown kind {kind!r}")
    type_, table, names = columns
    rows = list(block(table).records(number, *names))
    if len(rows) != 1:
        raise ItemError(f"has {len(rows)} rows in {table}")
    values = dict(zip(names, rows[0], strict=True))
    if values.get("lifecycle", "active") not in ("active", "deleted"):
        raise ItemError(f"its lifecycle is {values['lifecycle']!r}")
    if type_ is Run:
        parent = values.pop("parent_run_id")
        values["experiment"] = Ref("experiment", values.pop("experiment_id"))
        values["parent"] = None if parent is None else Ref("run", parent)
    if type_ in (LoggedModel, Trace):
        source = values.pop("source_run_id")
        values["experiment"] = Ref("experiment", values.pop("experiment_id"))
        values["source_run"] = None if source is None else Ref("run", source)
    if type_ is Entity:
        home = values.pop("experiment_id")
        values["experiment"] = None if home is None else Ref("experiment", home)
    header: Header = type_(**values)
    return header


def _metrics(kind: Kind, number: int, block: Fetch) -> Iterator[MetricHistory]:
    if kind == "logged_model":
        return
    found: dict[str, MetricHistory] = {}
    for _, metric in _histories(number, block("metrics"), ()):
        own = found.get(metric.key)
        found[metric.key] = metric if own is None else union(own, metric)
    yield from found.values()


def _model_metrics(kind: Kind, number: int, block: Fetch) -> Iterator[ModelMetric]:
    if kind != "logged_model":
        return
    names = ("run_id", "dataset", "dataset_digest")
    found = []
    for texts, metric in _histories(number, block("model_metrics"), names):
        run, dataset, checksum = texts
        if run is None:
            raise ItemError("model_metrics.run_id has rows without a value")
        found.append(ModelMetric(Ref("run", run), metric, dataset, checksum))
    yield from by_series(found).values()


def _histories(
    number: int, block: Block, names: tuple[str, ...]
) -> Iterator[tuple[list[str | None], MetricHistory]]:
    """Yield histories as they stand, each with the texts *names* beside its key."""
    rows = block.rows(number)
    columns = [block.columns[name][rows] for name in ("key", *names)]
    size = len(columns[0])
    if not size:
        return
    changes = np.zeros(size - 1, dtype=bool)
    for codes in columns:
        changes |= codes[1:] != codes[:-1]
    cuts = [0, *(np.flatnonzero(changes) + 1).tolist(), size]
    for low, high in pairwise(cuts):
        part = slice(rows.start + low, rows.start + high)
        texts = [
            block.texts[name][codes[low]] if codes[low] >= 0 else None
            for name, codes in zip(("key", *names), columns, strict=True)
        ]
        metric = history(
            texts[0] or "",
            block.columns["step"][part].copy(),
            block.columns["timestamp"][part].copy(),
            block.columns["value"][part].copy(),
        )
        yield texts[1:], metric


def _links(kind: Kind, number: int, block: Fetch) -> Iterator[ModelLink]:
    if kind != "run":
        return
    own = block("model_links").records(number, "model_id", "role", "step")
    for model, role, step in own:
        if role not in ("input", "output"):
            raise ItemError(f"the role of a logged model is {role!r}")
        yield ModelLink(Ref("logged_model", model), role, step)


def _of_trace(kind: Kind, number: int, block: Fetch) -> dict[str, Any]:
    if kind != "trace":
        return {}
    pairs = block("trace_metadata").records(number, "key", "value")
    assessments = []
    for row in _records(number, block, "assessments"):
        run = row.pop("run_id")
        renamed = {"id": row.pop("assessment_id"), "span": row.pop("span_id")}
        row["run"] = None if run is None else Ref("run", run)
        assessments.append(Assessment(**renamed, **row))
    spans = []
    for row in _records(number, block, "spans"):
        renamed = {"id": row.pop("span_id"), "parent": row.pop("parent_span_id")}
        spans.append(Span(**renamed, **row))
    links = _records(number, block, "trace_links")
    return {
        "metadata": tuple(Tag(key, value) for key, value in pairs),
        "spans": tuple(spans),
        "assessments": tuple(assessments),
        "trace_links": tuple(TraceLink(**row) for row in links),
    }


def _entity_rows(kind: Kind, number: int, block: Fetch) -> Iterator[Row]:
    if kind not in ENTITIES:
        return
    known = {table.name for table in ENTITIES[kind].tables}
    own = 0
    for table, values in block("entity_rows").records(number, "table", "values"):
        if table not in known:
            raise ItemError(f"{table} is no table of a {kind}: upgrade mlmigrate")
        try:
            said = json.loads(values)
        except (ValueError, RecursionError) as error:
            raise ItemError(f"a row of {table} is no JSON") from error
        if not isinstance(said, dict):
            raise ItemError(f"a row of {table} is no JSON object")
        own += table == ENTITIES[kind].own.name
        yield Row(table, values)
    if own != 1:
        raise ItemError(f"has {own} rows in {ENTITIES[kind].own.name}")


def _records(number: int, block: Fetch, table: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of an item's trace, by column, without the trace's id."""
    names = [column.name for column in list(TABLES[table])[3:]]
    for row in block(table).records(number, *names):
        yield dict(zip(names, row, strict=True))


def _datasets(number: int, block: Fetch) -> Iterator[DatasetInput]:
    names = ("name", "digest", "source_type", "source", "schema", "profile")
    rows = list(block("datasets").records(number, "dataset", *names))
    tags: dict[int, list[Tag]] = {}
    if rows:
        own = block("dataset_tags").records(number, "dataset", "key", "value")
        for at, key, value in own:
            tags.setdefault(at, []).append(Tag(key, value))
    for at, *values in rows:
        fields = dict(zip(names, values, strict=True))
        yield DatasetInput(**fields, tags=tuple(tags.get(at, ())))


_VERSION_REFS: dict[str, Kind] = {
    "source_run": "run",
    "run": "run",
    "source_model": "logged_model",
    "logged_model": "logged_model",
}


def _versions(number: int, block: Fetch) -> Iterator[ModelVersion]:
    names = [column.name for column in list(TABLES["model_versions"])[3:]]
    rows = list(block("model_versions").records(number, *names))
    tags: dict[int, list[Tag]] = {}
    if rows:
        own = block("version_tags").records(number, "version", "key", "value")
        for version, key, value in own:
            tags.setdefault(version, []).append(Tag(key, value))
    for row in rows:
        values = dict(zip(names, row, strict=True))
        for name, kind in _VERSION_REFS.items():
            id = values.pop(f"{name}_id")
            values[name] = None if id is None else Ref(kind, id)
        yield ModelVersion(**values, tags=tuple(tags.get(values["version"], ())))


def findings(number: int, block: Block) -> Iterator[Finding]:
    """Yield the findings in the rows of one number."""
    names = ("kind", "ref_kind", "ref_id", "where", "what", "carried")
    for kind, ref_kind, ref_id, where, what, carried in block.records(number, *names):
        if kind == "loss" and ref_kind is not None and ref_id is not None:
            yield Loss(Ref(ref_kind, ref_id), what, bool(carried))
        else:
            yield Note(where, what) if kind == "note" else Problem(where, what)
