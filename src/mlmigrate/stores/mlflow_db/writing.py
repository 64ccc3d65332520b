"""Sink ``mlflow_db``: a new or a filled MLflow database, loaded in bulk.

Every delivery is written in one transaction together with its mark, after its
artifacts: a copy that bears a mark is whole.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import md5
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Literal

import sqlalchemy as sa

from mlmigrate import marks
from mlmigrate.artifacts import (
    Remote,
    combined_checksum,
    is_local,
    local_path,
    redact,
    short,
    write_file,
)
from mlmigrate.contract import Capabilities, Copy, Delivery, Selection, Written
from mlmigrate.errors import ItemError, UsageError
from mlmigrate.merge import origins_of
from mlmigrate.metrics import latest
from mlmigrate.model import (
    DatasetInput,
    Experiment,
    Failed,
    Finding,
    Item,
    MetricHistory,
    ModelVersion,
    Problem,
    Ref,
    RegisteredModel,
    Run,
    Tag,
)
from mlmigrate.stores.mlflow_db import bulk, schema
from mlmigrate.stores.mlflow_db.reading import DbReader

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")
#: Columns whose length a server database enforces: field of `fit` -> table, column.
_TEXT_COLUMNS = {
    "experiment.name": ("experiments", "name"),
    "param.key": ("params", "key"),
    "param.value": ("params", "value"),
    "tag.key": ("tags", "key"),
    "tag.value": ("tags", "value"),
    "metric.key": ("metrics", "key"),
    "run.name": ("runs", "name"),
    "run.user": ("runs", "user_id"),
    "run.source_name": ("runs", "source_name"),
    "run.source_version": ("runs", "source_version"),
    "run.entry_point": ("runs", "entry_point_name"),
    "dataset.name": ("datasets", "name"),
    "dataset.digest": ("datasets", "digest"),
    "dataset.source_type": ("datasets", "dataset_source_type"),
    "dataset_tag.key": ("input_tags", "name"),
    "dataset_tag.value": ("input_tags", "value"),
    "registered_model.name": ("registered_models", "name"),
    "registered_model.description": ("registered_models", "description"),
    "model_version.description": ("model_versions", "description"),
    "model_version.user": ("model_versions", "user_id"),
    "model_version.source": ("model_versions", "source"),
    "model_version.storage_location": ("model_versions", "storage_location"),
    "model_version.run_link": ("model_versions", "run_link"),
    "model_version.status_message": ("model_versions", "status_message"),
    "model_version_tag.key": ("model_version_tags", "key"),
}


_LATEST_CHECKS = (
    (
        "select count(*) from latest_metrics l left join metrics m on m.{key} = l.{key}"
        " and m.timestamp = l.timestamp and m.step = l.step and m.run_uuid = l.run_uuid"
        " and m.value = l.value and m.is_nan = l.is_nan where m.run_uuid is null",
        "rows are no points of their runs",
    ),
    (
        "select count(*) from (select run_uuid, {key}, max(step) as step from metrics"
        " group by run_uuid, {key}) m left join latest_metrics l on l.run_uuid ="
        " m.run_uuid and l.{key} = m.{key} where l.step is null or l.step < m.step",
        "rows are missing or older than their history",
    ),
)


@dataclass(frozen=True, slots=True)
class _Stored:
    """A run's artifacts as written: where, and what."""

    uri: str | None
    checksums: str | None
    files: int
    bytes: int


class DbSink:
    """See `mlmigrate.contract.Sink`."""

    parallel: Literal["process", "thread"] = "process"

    def __init__(self, url: sa.URL, options: Mapping[str, Any]) -> None:
        self.location = redact(url.render_as_string())
        self._artifact_root: str | None = _artifact_root(url, options)
        self._stand_in: TemporaryDirectory[str] | None = None
        place = url
        if options.get("dry") and not schema.exists(url):
            # A plan makes no database: an empty one elsewhere stands in for it.
            self._stand_in = TemporaryDirectory(prefix="mlmigrate-plan-")
            place = sa.URL.create("sqlite", database=f"{self._stand_in.name}/plan.db")
        self._url, self._place = url, place
        #: A schema takes seconds to make: nothing waits for it before it must.
        self._making = schema.begin(place)
        self._renamed: dict[str, str] | None = None

    @cached_property
    def _made(self) -> bool:
        """Whether this process made the database, which it waits for here."""
        making, self._making = self._making, None
        return making is not None and making.wait()

    @cached_property
    def _engine(self) -> sa.Engine:
        made = self._made
        engine = sa.create_engine(self._place, **_engine_options(self._place))
        if self._place.get_backend_name() == "sqlite":
            sa.event.listen(engine, "connect", _configure_sqlite(made))
            sa.event.listen(engine, "begin", _begin_immediate)
        return engine

    @cached_property
    def _tables(self) -> Mapping[str, sa.Table]:
        metadata = sa.MetaData()
        metadata.reflect(self._engine)
        if self._made:
            _drop_metric_indexes(self._engine, metadata.tables)
        return metadata.tables

    @cached_property
    def _reader(self) -> DbReader:
        return DbReader.over(self._engine, self.location)

    # -- the source half --------------------------------------------------------

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        return self._reader.refs(selection)

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        return self._reader.read(refs)

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        return self._reader.open(ref, path)

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`: ``latest_metrics``, which MLflow
        shows, must repeat what ``metrics`` holds.
        """
        with self._engine.connect() as connection:
            quoted = connection.dialect.identifier_preparer.quote_identifier("key")
            for query, what in _LATEST_CHECKS:
                count = connection.scalar(sa.text(query.format(key=quoted))) or 0
                if count:
                    yield Problem(self.location, f"latest_metrics: {count} {what}")

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        if self._making is not None:
            self._making.abandon()
            self._making = None
        if "_engine" in self.__dict__:
            self._engine.dispose()
        if self._stand_in is not None:
            self._stand_in.cleanup()

    # -- facts ------------------------------------------------------------------

    @cached_property
    def capabilities(self) -> Capabilities:
        """See `mlmigrate.contract.Sink.capabilities`."""
        url = self._url
        if url.get_backend_name() == "sqlite":
            # SQLite enforces no length, and stores -0.0 as the integer 0.
            return Capabilities(keeps_ids=True, needs_start=True, negative_zero=False)
        text = {}
        for name, (table, column) in _TEXT_COLUMNS.items():
            length = getattr(self._tables[table].c[column].type, "length", None)
            if length is not None:
                text[name] = length
        mysql = url.get_backend_name() != "postgresql"
        return Capabilities(
            keeps_ids=True,
            needs_start=True,
            text=text,
            infinities=not mysql,
            negative_zero=not mysql,
            folds_keys=mysql,
            nul=mysql,
            max_experiment_id=2**31 - 1,
        )

    def finish(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Sink.finish`: make the indexes that are missing."""
        with self._engine.begin() as connection:
            have = {
                index["name"] for index in sa.inspect(connection).get_indexes("metrics")
            }
            for name, columns in schema.METRIC_INDEXES.items():
                if name not in have:
                    table = sa.table("metrics", *map(sa.column, columns))
                    quoted = connection.dialect.identifier_preparer.quote
                    listed = ", ".join(
                        quoted(table.c[column].name) for column in columns
                    )
                    connection.exec_driver_sql(
                        f"create index {name} on metrics ({listed})"
                    )
        return ()

    def _t(self, name: str) -> sa.Table:
        return self._tables[name]

    # -- finding copies ---------------------------------------------------------

    def copies(self, origins: Iterable[Ref]) -> Mapping[Ref, Copy]:
        """See `mlmigrate.contract.Sink.copies`."""
        wanted = list(origins)
        found: dict[Ref, Copy] = {}
        with self._engine.connect() as connection:
            experiments = [ref for ref in wanted if ref.kind == "experiment"]
            if experiments:
                found.update(self._experiment_copies(connection, experiments))
            runs = [ref for ref in wanted if ref.kind == "run"]
            for at in range(0, len(runs), 500):
                found.update(self._run_copies(connection, runs[at : at + 500]))
            models = {ref.id: ref for ref in wanted if ref.kind == "registered_model"}
            if models:
                table = self._t("registered_models")
                for (name,) in connection.execute(sa.select(table.c.name)):
                    if name in models:
                        ref = Ref("registered_model", name)
                        found[models[name]] = Copy(ref, None)
        return found

    def _experiment_copies(
        self, connection: sa.Connection, origins: Sequence[Ref]
    ) -> dict[Ref, Copy]:
        table, tags = self._t("experiments"), self._t("experiment_tags")
        by_name: dict[str, Any] = {}
        by_id: dict[int, Any] = {}
        query = sa.select(table.c.experiment_id, table.c.name, table.c.lifecycle_stage)
        for standing in connection.execute(query):
            by_name[standing.name] = by_id[standing.experiment_id] = standing
        bearing: dict[str, int] = {}
        marked: dict[int, str] = {}
        own = sa.select(tags.c.experiment_id, tags.c.key, tags.c.value).where(
            tags.c.key.in_([marks.ORIGIN, marks.MARK])
        )
        for number, key, value in connection.execute(own):
            if key == marks.MARK:
                marked[number] = value
            else:
                for origin in origins_of(value or ""):
                    bearing.setdefault(origin, number)
        found = {}
        for ref in origins:
            bearer = by_id.get(bearing.get(ref.id, -1))
            row: Any = bearer or by_name.get(ref.id.partition("/")[2])
            if row is not None:
                found[ref] = Copy(
                    Ref("experiment", str(row.experiment_id)),
                    marks.load(marked.get(row.experiment_id)),
                    row.lifecycle_stage or "active",
                )
        return found

    def _run_copies(
        self, connection: sa.Connection, origins: Sequence[Ref]
    ) -> dict[Ref, Copy]:
        renamed = self._renamed_runs(connection)
        ids = {renamed.get(ref.id, run_id(ref.id)): ref for ref in origins}
        runs, tags = self._t("runs"), self._t("tags")
        marked = sa.select(tags.c.run_uuid, tags.c.value).where(
            tags.c.key == marks.MARK, tags.c.run_uuid.in_(list(ids))
        )
        texts = {row[0]: row[1] for row in connection.execute(marked)}
        query = sa.select(runs.c.run_uuid, runs.c.lifecycle_stage)
        return {
            ids[id]: Copy(
                Ref("run", id), marks.load(texts.get(id)), lifecycle or "active"
            )
            for id, lifecycle in connection.execute(
                query.where(runs.c.run_uuid.in_(list(ids)))
            )
        }

    def _renamed_runs(self, connection: sa.Connection) -> dict[str, str]:
        """Return origin -> run id for the runs that bear another id than their origin:
        those that a server once minted an id for.
        """
        if self._renamed is None:
            tags = self._t("tags")
            query = sa.select(tags.c.value, tags.c.run_uuid).where(
                tags.c.key == marks.ORIGIN, tags.c.value != tags.c.run_uuid
            )
            self._renamed = {row[0]: row[1] for row in connection.execute(query)}
        return self._renamed

    # -- writing ----------------------------------------------------------------

    def write(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        """See `mlmigrate.contract.Sink.write`."""
        stored: list[_Stored | Failed] = self._store_artifacts(deliveries)
        sound = [
            (delivery, place)
            for delivery, place in zip(deliveries, stored, strict=True)
            if isinstance(place, _Stored)
        ]
        answers = iter(self._write_rows(sound))
        return [
            place if isinstance(place, Failed) else next(answers) for place in stored
        ]

    def _write_rows(
        self, sound: Sequence[tuple[Delivery, _Stored]]
    ) -> list[Written | Failed]:
        if not sound:
            return []
        try:
            with self._engine.begin() as connection:
                return list(self._write_all(connection, sound))
        except sa.exc.SQLAlchemyError as error:
            return self._one_by_one(sound, error)
        except Exception as error:  # bulk loads raise the driver's own; others pass
            if not _of_driver(error):
                raise
            return self._one_by_one(sound, error)

    def _one_by_one(
        self, sound: Sequence[tuple[Delivery, _Stored]], error: Exception
    ) -> list[Written | Failed]:
        if len(sound) == 1:
            return [Failed(sound[0][0].item.ref, f"not written: {short(error)}")]
        return [answer for one in sound for answer in self._write_rows([one])]

    def _write_all(
        self, connection: sa.Connection, sound: Sequence[tuple[Delivery, _Stored]]
    ) -> Iterator[Written]:
        metrics: list[bulk.RunMetric] = []
        rows = _Rows(self._tables)
        kept = self._experiment_ids(connection, [delivery for delivery, _ in sound])
        answers = []
        for at, (delivery, stored) in enumerate(sound):
            header = delivery.item.header
            match header:
                case Experiment():
                    ref = self._write_experiment(connection, delivery, kept.get(at))
                case Run():
                    ref = self._write_run(connection, delivery, stored, rows, metrics)
                case RegisteredModel():
                    ref = self._write_model(connection, delivery, header)
            answers.append(Written(ref, stored.checksums, stored.files, stored.bytes))
        rows.flush(connection)
        bulk.insert(connection, metrics)
        if connection.dialect.name == "postgresql" and kept:
            _bump_sequence(connection)
        yield from answers

    # -- experiments ------------------------------------------------------------

    def _experiment_ids(
        self, connection: sa.Connection, deliveries: Sequence[Delivery]
    ) -> dict[int, int]:
        """Choose an id for each new experiment: its own where free and fitting."""
        wanted = {
            at: delivery.item.ref.id
            for at, delivery in enumerate(deliveries)
            if isinstance(delivery.item.header, Experiment) and delivery.into is None
        }
        if not wanted:
            return {}
        table = self._t("experiments")
        taken = set(connection.scalars(sa.select(table.c.experiment_id)))
        limit = self.capabilities.max_experiment_id or 2**63 - 1
        chosen: dict[int, int] = {}
        for at, id in wanted.items():
            number = int(id) if re.fullmatch(r"0|[1-9][0-9]{0,18}", id) else None
            if number is not None and number <= limit and number not in taken:
                chosen[at] = number
                taken.add(number)
        highest = max((id for id in taken if id < 2**31 - 1), default=0)
        for at in wanted:
            if at not in chosen:
                highest += 1
                chosen[at] = highest
        return chosen

    def _write_experiment(
        self, connection: sa.Connection, delivery: Delivery, id: int | None = None
    ) -> Ref:
        header = delivery.item.header
        assert isinstance(header, Experiment)
        table, tags = self._t("experiments"), self._t("experiment_tags")
        if delivery.into is not None:
            number = int(delivery.into.id)
            connection.execute(
                sa.update(table)
                .where(table.c.experiment_id == number)
                .values(lifecycle_stage=header.lifecycle)
            )
        else:
            assert id is not None
            number = id
            location = header.artifact_location
            if delivery.artifacts == "copy" and self._artifact_root:
                location = f"{self._artifact_root}/{number}"
            connection.execute(
                sa.insert(table).values(
                    experiment_id=number,
                    name=header.name,
                    artifact_location=location,
                    lifecycle_stage=header.lifecycle,
                    creation_time=header.creation_time,
                    last_update_time=header.last_update_time,
                )
            )
        new = {tag.key: tag.value for tag in delivery.item.tags}
        new.update(
            (t.key, t.value) for t in marks.own_tags(delivery, mark=delivery.mark)
        )
        connection.execute(
            sa.delete(tags).where(
                tags.c.experiment_id == number, tags.c.key.in_(list(new))
            )
        )
        connection.execute(
            sa.insert(tags),
            [
                {"experiment_id": number, "key": key, "value": value}
                for key, value in new.items()
            ],
        )
        return Ref("experiment", str(number))

    # -- runs -------------------------------------------------------------------

    def _write_run(
        self,
        connection: sa.Connection,
        delivery: Delivery,
        stored: _Stored,
        rows: _Rows,
        metrics: list[bulk.RunMetric],
    ) -> Ref:
        item, header = delivery.item, delivery.item.header
        assert isinstance(header, Run)
        id = delivery.into.id if delivery.into else run_id(item.origin)
        if id != item.origin and self._renamed is not None:
            self._renamed[item.origin] = id
        values = {
            "name": header.name,
            "source_type": header.source_type,
            "source_name": header.source_name or "",
            "entry_point_name": header.entry_point or "",
            "source_version": header.source_version or "",
            "user_id": header.user or "",
            "status": header.status,
            "start_time": header.start_time,
            "end_time": header.end_time,
            "deleted_time": header.deleted_time,
            "lifecycle_stage": header.lifecycle,
            "artifact_uri": stored.uri,
            "experiment_id": int(header.experiment.id),
        }
        mark = replace(delivery.mark, checksums=stored.checksums)
        tags = [*item.tags, *marks.own_tags(delivery, mark=mark)]
        if header.parent is not None:
            tags.append(Tag(marks.PARENT, run_id(header.parent.id)))
        if delivery.into is None:
            rows.add("runs", {"run_uuid": id, **values})
        else:
            table = self._t("runs")
            connection.execute(
                sa.update(table).where(table.c.run_uuid == id).values(**values)
            )
            self._clear(connection, "tags", id, [tag.key for tag in tags])
            self._clear(connection, "params", id, [param.key for param in item.params])
        for tag in tags:
            rows.add("tags", {"run_uuid": id, "key": tag.key, "value": tag.value})
        for param in item.params:
            rows.add("params", {"run_uuid": id, "key": param.key, "value": param.value})
        self._add_latest(connection, delivery, id, rows)
        metrics.extend((id, metric) for metric in item.metrics)
        for entry in item.inputs:
            self._add_input(connection, entry, id, int(header.experiment.id), rows)
        return Ref("run", id)

    def _clear(
        self, connection: sa.Connection, name: str, id: str, keys: Sequence[str]
    ) -> None:
        table = self._t(name)
        for at in range(0, len(keys), 500):
            connection.execute(
                sa.delete(table).where(
                    table.c.run_uuid == id, table.c.key.in_(keys[at : at + 500])
                )
            )

    def _add_latest(
        self, connection: sa.Connection, delivery: Delivery, id: str, rows: _Rows
    ) -> None:
        table = self._t("latest_metrics")
        standing: dict[str, Any] = {}
        if delivery.into is not None and delivery.item.metrics:
            query = sa.select(table).where(table.c.run_uuid == id)
            standing = {row.key: row for row in connection.execute(query)}
        for metric in delivery.item.metrics:
            row = _latest_row(metric, id)
            before = standing.get(metric.key)
            if before is not None:
                order = (before.step, before.timestamp or 0, before.value)
                if order >= (row["step"], row["timestamp"], row["value"]):
                    continue
                self._clear(connection, "latest_metrics", id, [metric.key])
            rows.add("latest_metrics", row)

    def _add_input(
        self,
        connection: sa.Connection,
        entry: DatasetInput,
        run: str,
        experiment: int,
        rows: _Rows,
    ) -> None:
        known = rows.datasets
        key = (experiment, entry.name, entry.digest)
        if key not in known:
            table = self._t("datasets")
            found = connection.scalar(
                sa.select(table.c.dataset_uuid).where(
                    table.c.experiment_id == experiment,
                    table.c.name == entry.name,
                    table.c.digest == entry.digest,
                )
            )
            known[key] = found or uuid.uuid4().hex
            if found is None:
                rows.add(
                    "datasets",
                    {
                        "dataset_uuid": known[key],
                        "experiment_id": experiment,
                        "name": entry.name,
                        "digest": entry.digest,
                        "dataset_source_type": entry.source_type,
                        "dataset_source": entry.source,
                        "dataset_schema": entry.schema,
                        "dataset_profile": entry.profile,
                    },
                )
        link = uuid.uuid4().hex
        rows.add(
            "inputs",
            {
                "input_uuid": link,
                "source_type": "DATASET",
                "source_id": known[key],
                "destination_type": "RUN",
                "destination_id": run,
            },
        )
        for tag in entry.tags:
            rows.add(
                "input_tags",
                {"input_uuid": link, "name": tag.key, "value": tag.value},
            )

    # -- artifacts --------------------------------------------------------------

    def _store_artifacts(
        self, deliveries: Sequence[Delivery]
    ) -> list[_Stored | Failed]:
        if not any(delivery.item.artifacts for delivery in deliveries):
            return [self._store_one(delivery) for delivery in deliveries]
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(self._store_one, deliveries))

    def _store_one(self, delivery: Delivery) -> _Stored | Failed:
        item, header = delivery.item, delivery.item.header
        if not isinstance(header, Run):
            return _Stored(None, None, 0, 0)
        if delivery.open is None or self._artifact_root is None:
            return _Stored(header.artifact_uri, None, 0, 0)
        id = delivery.into.id if delivery.into else run_id(item.origin)
        uri = f"{self._artifact_root}/{header.experiment.id}/{id}/artifacts"
        if delivery.into is not None and header.artifact_uri:
            uri = header.artifact_uri
        limit = getattr(self._t("runs").c.artifact_uri.type, "length", None)
        bounded = self._url.get_backend_name() != "sqlite"
        if bounded and limit is not None and len(uri) > limit:
            why = f"its artifact URI would have {len(uri)} characters; the column holds"
            return Failed(item.ref, f"{why} {limit}: give a shorter -o artifact-root")
        checksums: dict[str, str] = {}
        total = 0
        try:
            write = _writer(uri)
            for artifact in item.artifacts:
                with delivery.open(
                    delivery.read_ref or item.ref, artifact.path
                ) as data:
                    checksums[artifact.path], size = write(artifact.path, data)
                total += size
        except (OSError, ItemError) as error:
            return Failed(
                item.ref, f"its artifacts could not be copied: {short(error)}"
            )
        combined = combined_checksum(checksums) if not delivery.into else None
        return _Stored(uri, combined, len(checksums), total)

    # -- the registry -----------------------------------------------------------

    def _write_model(
        self, connection: sa.Connection, delivery: Delivery, header: RegisteredModel
    ) -> Ref:
        item, name = delivery.item, header.name
        models, tags = self._t("registered_models"), self._t("registered_model_tags")
        if delivery.into is None:
            connection.execute(
                sa.insert(models).values(
                    name=name,
                    creation_time=header.creation_time,
                    last_updated_time=header.last_updated_time,
                    description=header.description,
                )
            )
        elif header.description:
            connection.execute(
                sa.update(models)
                .where(models.c.name == name)
                .values(description=header.description)
            )
        new = {tag.key: tag.value for tag in item.tags}
        if delivery.into is None:
            new[marks.SOURCE] = delivery.source
        for key, value in new.items():
            connection.execute(sa.insert(tags).values(name=name, key=key, value=value))
        for version in item.versions:
            self._write_version(connection, delivery, name, version)
        aliases = self._t("registered_model_aliases")
        for alias in item.aliases:
            connection.execute(
                sa.insert(aliases).values(
                    name=name, alias=alias.name, version=alias.version
                )
            )
        return Ref("registered_model", name)

    def _write_version(
        self,
        connection: sa.Connection,
        delivery: Delivery,
        name: str,
        version: ModelVersion,
    ) -> None:
        table, tags = self._t("model_versions"), self._t("model_version_tags")
        where = (table.c.name == name, table.c.version == version.version)
        standing = connection.scalar(
            sa.select(sa.func.count()).select_from(table).where(*where)
        )
        if not standing:
            source, storage = self._version_source(connection, version)
            connection.execute(
                sa.insert(table).values(
                    name=name,
                    version=version.version,
                    creation_time=version.creation_time,
                    last_updated_time=version.last_updated_time,
                    description=version.description,
                    user_id=version.user,
                    current_stage=version.stage,
                    source=source,
                    run_id=version.run.id if version.run else None,
                    run_link=version.run_link,
                    status=version.status,
                    status_message=version.status_message,
                    storage_location=storage,
                )
            )
        mark = replace(delivery.mark, tags=None)
        new = {tag.key: tag.value for tag in version.tags}
        new[marks.ORIGIN], new[marks.MARK] = version.origin, marks.dump(mark)
        connection.execute(
            sa.delete(tags).where(
                tags.c.name == name,
                tags.c.version == version.version,
                tags.c.key.in_(list(new)),
            )
        )
        for key, value in new.items():
            connection.execute(
                sa.insert(tags).values(
                    name=name, version=version.version, key=key, value=value
                )
            )

    def _version_source(
        self, connection: sa.Connection, version: ModelVersion
    ) -> tuple[str | None, str | None]:
        """Return the source and storage location, rewritten to the copied artifacts."""
        source, storage = version.source, version.storage_location
        if version.source_run is None or source is None:
            return source, storage
        runs = self._t("runs")
        uri = connection.scalar(
            sa.select(runs.c.artifact_uri).where(
                runs.c.run_uuid == version.source_run.id
            )
        )
        if uri is None:
            return source, storage
        below = f"/{version.source_path}" if version.source_path else ""
        if source.startswith("runs:/"):
            return f"runs:/{version.source_run.id}{below}", f"{uri}{below}"
        return f"{uri}{below}", f"{uri}{below}" if storage else storage


class _Rows:
    """Rows of a transaction, inserted table by table in one statement each."""

    _ORDER = (
        "runs",
        "params",
        "tags",
        "latest_metrics",
        "datasets",
        "inputs",
        "input_tags",
    )

    def __init__(self, tables: Mapping[str, sa.Table]) -> None:
        self._tables = tables
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in self._ORDER}
        self.datasets: dict[tuple[int, str, str], str] = {}

    def add(self, table: str, row: dict[str, Any]) -> None:
        self._rows[table].append(row)

    def flush(self, connection: sa.Connection) -> None:
        for name in self._ORDER:
            if self._rows[name]:
                connection.execute(sa.insert(self._tables[name]), self._rows[name])


def run_id(origin: str) -> str:
    """Return the run id that a copy gets: its origin where that is one that MLflow
    accepts, otherwise one made from it, always the same.
    """
    if _RUN_ID.match(origin):
        return origin
    return md5(origin.encode(), usedforsecurity=False).hexdigest()


def _latest_row(metric: MetricHistory, run: str) -> dict[str, Any]:
    at = latest(metric)
    value = float(metric.values[at])
    nan = math.isnan(value)
    return {
        "run_uuid": run,
        "key": metric.key,
        "value": 0.0 if nan else value,
        "timestamp": int(metric.timestamps[at]),
        "step": int(metric.steps[at]),
        "is_nan": nan,
    }


def _writer(uri: str) -> Any:
    if is_local(uri):
        root = Path(local_path(uri))
        return lambda path, data: write_file(root, path, data)
    remote = Remote(uri)
    return remote.write


def _artifact_root(url: sa.URL, options: Mapping[str, Any]) -> str | None:
    root = options.get("artifact-root")
    if root:
        return (
            str(Path(root).absolute())
            if is_local(root) and "://" not in root
            else (root.rstrip("/"))
        )
    if url.get_backend_name() == "sqlite":
        return str(Path(url.database or "").absolute().parent / "mlartifacts")
    if options.get("artifacts", "copy") == "copy":
        raise UsageError(
            "a server database needs a place for artifacts:"
            " give -o artifact-root=URL, or --artifacts link"
        )
    return None


def _drop_metric_indexes(engine: sa.Engine, tables: Mapping[str, sa.Table]) -> None:
    """Put aside what `finish` makes faster than rows could maintain it."""
    with engine.begin() as connection:
        query = sa.select(sa.func.count()).select_from(tables["runs"])
        if connection.scalar(query):
            return  # somebody else writes to it already
        for index in list(tables["metrics"].indexes):
            if index.name in schema.METRIC_INDEXES:
                index.drop(connection)


def _engine_options(url: sa.URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    return {"pool_pre_ping": True}


def _configure_sqlite(made: bool) -> Any:
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin below, immediately
        connection.execute("pragma cache_size=-32768")
        # Every reference is written with what it refers to; checking costs a third.
        connection.execute("pragma foreign_keys=off")
        if made:
            # Nobody else reads a new database: with the rollback journal, unlike the
            # write-ahead log, each page is written once.
            connection.execute("pragma synchronous=normal")

    return configure


def _begin_immediate(connection: sa.Connection) -> None:
    """Take the write lock at once: a read that turns into a write may find another
    writer in between, and fails.
    """
    connection.exec_driver_sql("begin immediate")


def _bump_sequence(connection: sa.Connection) -> None:
    connection.exec_driver_sql(
        "select setval(pg_get_serial_sequence('experiments', 'experiment_id'),"
        " greatest((select max(experiment_id) from experiments), 1))"
    )


def _of_driver(error: Exception) -> bool:
    """Tell whether the database's driver raised *error*: bulk loads bypass
    SQLAlchemy, which would have wrapped it.
    """
    return type(error).__module__.split(".")[0] in {"sqlite3", "psycopg", "pymysql"}
