"""Sink ``mlflow_db``: a new or a filled MLflow database, loaded in bulk.

Every delivery is written in one transaction together with its mark, after its
artifacts: a copy that bears a mark is whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Literal

import sqlalchemy as sa

from mlmigrate.artifacts import is_local, redact, short
from mlmigrate.contract import (
    Capabilities,
    Copy,
    Delivery,
    ModelFacts,
    Selection,
    TraceFacts,
    Written,
)
from mlmigrate.entities import ENTITIES
from mlmigrate.errors import ItemError, UsageError
from mlmigrate.model import (
    Entity,
    Experiment,
    Failed,
    Finding,
    Item,
    Kind,
    LoggedModel,
    Problem,
    Ref,
    RegisteredModel,
    Run,
    Trace,
)
from mlmigrate.partial_files import remove_abandoned
from mlmigrate.stores.mlflow_db import copies, entity_rows, schema
from mlmigrate.stores.mlflow_db.experiment_rows import experiment_ids, write_experiment
from mlmigrate.stores.mlflow_db.logged_model_rows import write_logged_model
from mlmigrate.stores.mlflow_db.model_rows import write_model
from mlmigrate.stores.mlflow_db.reading import DbReader
from mlmigrate.stores.mlflow_db.run_rows import write_run
from mlmigrate.stores.mlflow_db.schema import names_table
from mlmigrate.stores.mlflow_db.stored import Stored, new_id, store
from mlmigrate.stores.mlflow_db.trace_rows import write_trace
from mlmigrate.stores.mlflow_db.transaction import Transaction
from mlmigrate.workspaces import DEFAULT

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
    "logged_model.name": ("logged_models", "name"),
    "logged_model.model_type": ("logged_models", "model_type"),
    "logged_model.status_message": ("logged_models", "status_message"),
    "logged_model_param.key": ("logged_model_params", "param_key"),
    "logged_model_tag.key": ("logged_model_tags", "tag_key"),
    "logged_model_metric.key": ("logged_model_metrics", "metric_name"),
    "logged_model_metric.dataset": ("logged_model_metrics", "dataset_name"),
    "logged_model_metric.digest": ("logged_model_metrics", "dataset_digest"),
    "registered_model.name": ("registered_models", "name"),
    "registered_model.description": ("registered_models", "description"),
    "model_version.description": ("model_versions", "description"),
    "model_version.user": ("model_versions", "user_id"),
    "model_version.source": ("model_versions", "source"),
    "model_version.storage_location": ("model_versions", "storage_location"),
    "model_version.run_link": ("model_versions", "run_link"),
    "model_version.status_message": ("model_versions", "status_message"),
    "model_version_tag.key": ("model_version_tags", "key"),
    "trace.client_request_id": ("trace_info", "client_request_id"),
    "trace.request_preview": ("trace_info", "request_preview"),
    "trace.response_preview": ("trace_info", "response_preview"),
    "trace_tag.key": ("trace_tags", "key"),
    "trace_tag.value": ("trace_tags", "value"),
    "trace_metadata.key": ("trace_request_metadata", "key"),
    "trace_metadata.value": ("trace_request_metadata", "value"),
    "span.name": ("spans", "name"),
    "span.type": ("spans", "type"),
    "assessment.name": ("assessments", "name"),
    "assessment.source_type": ("assessments", "source_type"),
    "assessment.source_id": ("assessments", "source_id"),
}


_MARKED: dict[Kind, copies.Marked] = {
    "run": copies.RUNS,
    "logged_model": copies.LOGGED_MODELS,
}
#: Transactions that are written to PostgreSQL at once.
_CONNECTIONS = 2
#: Items whose artifacts are copied at once.
_FILES = 8
#: Run ids in one query.
_IDS = 500

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


class DbSink:
    """See `mlmigrate.contract.Sink`."""

    parallel: Literal["process", "thread"] = "process"

    def __init__(self, url: sa.URL, options: Mapping[str, Any]) -> None:
        self.location = redact(url.render_as_string())
        self._workspace: str = options.get("workspace") or DEFAULT
        if self._workspace != DEFAULT and "workspace" not in _entities():
            raise UsageError(
                "the MLflow that is installed has no workspaces: upgrade it, or leave"
                " out -o workspace"
            )
        self._root: str | None = _artifact_root(url, options, self._workspace)
        self._stand_in: TemporaryDirectory[str] | None = None
        place = url
        if options.get("dry") and not schema.exists(url):
            # A plan makes no database: an empty one elsewhere stands in for it.
            self._stand_in = TemporaryDirectory(prefix="mlmigrate-plan-")
            place = sa.URL.create("sqlite", database=f"{self._stand_in.name}/plan.db")
        self._url, self._place = url, place
        #: A schema takes seconds to make: nothing waits for it before it must.
        self._making = schema.begin(place)
        #: Origin -> id of the items whose ids are not their origins, by kind.
        self._renamed: dict[Kind, dict[str, str]] = {}
        #: Whether something is in other workspaces, once looked up.
        self._shared: bool | None = None
        #: What was asked for, and is there.
        self._elsewhere: set[Ref] = set()

    @cached_property
    def _made(self) -> bool:
        """Whether this process made the database, which it waits for here."""
        making, self._making = self._making, None
        return making is not None and making.wait()

    @cached_property
    def _engine(self) -> sa.Engine:
        made = self._made
        engine = sa.create_engine(self._place, **_engine_options(self._place))
        if made and self._place.get_backend_name() == "postgresql":
            sa.event.listen(engine, "begin", _trust_references)
        if self._place.get_backend_name() == "sqlite":
            sa.event.listen(engine, "connect", _configure_sqlite)
            sa.event.listen(engine, "begin", _begin_immediate)
        return engine

    @property
    def _driver_error(self) -> type[Exception]:
        """What the database's driver raises: PEP 249 gives its errors one root."""
        driver: Any = self._engine.dialect.loaded_dbapi
        root: type[Exception] = driver.Error
        return root

    @cached_property
    def _tables(self) -> Mapping[str, sa.Table]:
        metadata = sa.MetaData()
        metadata.reflect(self._engine)
        if self._made:
            _drop_metric_indexes(self._engine, metadata.tables)
        return metadata.tables

    @cached_property
    def _reader(self) -> DbReader:
        return DbReader.over(self._engine, self.location, self._workspace, self._tables)

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
            return Capabilities(
                keeps_ids=True,
                needs_start=True,
                negative_zero=False,
                logged_models=_models(nan="zero"),
                one_dataset_a_digest=True,
                traces=TraceFacts(),
                entities=_entities(),
                acts=True,
            )
        text = {}
        for name, (table, column) in _TEXT_COLUMNS.items():
            length = getattr(self._tables[table].c[column].type, "length", None)
            if length is not None:
                text[name] = length
        entities = _entities()
        strict_json = set()
        for table in {each.name for kind in entities for each in ENTITIES[kind].tables}:
            for held in self._tables[table].columns if table in self._tables else ():
                if (length := getattr(held.type, "length", None)) is not None:
                    text[f"{table}.{held.name}"] = length
                if isinstance(held.type, sa.JSON):
                    strict_json.add(f"{table}.{held.name}")
        mysql = url.get_backend_name() != "postgresql"
        return Capabilities(
            keeps_ids=True,
            needs_start=True,
            text=text,
            infinities=not mysql,
            negative_zero=not mysql,
            logged_models=_models(nan="zero" if mysql else "kept"),
            one_dataset_a_digest=True,
            traces=TraceFacts(),
            entities=entities,
            strict_json=frozenset(strict_json),
            acts=True,
            folds_keys=mysql,
            nul=mysql,
            max_experiment_id=2**31 - 1,
        )

    def finish(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Sink.finish`: make the indexes that are missing."""
        have = self._indexes()
        missing = [name for name in schema.METRIC_INDEXES if name not in have]
        # SQLite takes one after the other; a server makes them at once.
        is_file = self._place.get_backend_name() == "sqlite"
        with ThreadPoolExecutor(1 if is_file else len(missing) or 1) as pool:
            list(pool.map(self._make_index, missing))
        if is_file:
            # One killed when a new file just had its name left it another beside that.
            remove_abandoned(Path(self._place.database or "").parent)
        return ()

    def _indexes(self) -> set[str | None]:
        with self._engine.connect() as connection:
            found = sa.inspect(connection).get_indexes("metrics")
        return {index["name"] for index in found}

    def _make_index(self, name: str) -> None:
        try:
            with self._engine.begin() as connection:
                quoted = connection.dialect.identifier_preparer.quote
                listed = ", ".join(map(quoted, schema.METRIC_INDEXES[name]))
                connection.exec_driver_sql(f"create index {name} on metrics ({listed})")
        except sa.exc.DBAPIError:
            if name not in self._indexes():  # else another copy made it just now
                raise

    def copies(self, origins: Iterable[Ref]) -> Mapping[Ref, Copy]:
        """See `mlmigrate.contract.Sink.copies`."""
        wanted: dict[Kind, list[Ref]] = defaultdict(list)
        for ref in origins:
            wanted[ref.kind].append(ref)
        tables = self._tables
        found: dict[Ref, Copy] = {}
        with self._engine.connect() as connection:
            if refs := wanted["experiment"]:
                found.update(
                    copies.experiment_copies(connection, tables, refs, self._workspace)
                )
            for kind, place in _MARKED.items():
                refs = wanted[kind]
                if refs and kind not in self._renamed:
                    self._renamed[kind] = copies.renamed(
                        connection, tables, place, self._workspace
                    )
                for at in range(0, len(refs), _IDS):
                    part = refs[at : at + _IDS]
                    marked = copies.marked_copies(
                        connection, tables, place, part, self._renamed[kind]
                    )
                    found.update(self._at_home(connection, part, marked))
            traces = wanted["trace"]
            for at in range(0, len(traces), _IDS):
                part = traces[at : at + _IDS]
                there = copies.trace_copies(connection, tables, part)
                found.update(self._at_home(connection, part, there))
            for kind in _entities():
                if refs := wanted[kind]:
                    there = entity_rows.copies(
                        connection, tables, kind, refs, self._workspace
                    )
                    found.update(self._at_home(connection, refs, there))
            if models := {ref.id for ref in wanted["registered_model"]}:
                found.update(
                    copies.model_copies(connection, tables, models, self._workspace)
                )
        return found

    def _at_home(
        self, connection: sa.Connection, refs: Sequence[Ref], found: Mapping[Ref, Copy]
    ) -> dict[Ref, Copy]:
        """Return those copies that are in the workspace; note which are in others."""
        if self._shared is None:
            self._shared = copies.others(connection, self._tables, self._workspace)
        if not self._shared or not refs:
            return dict(found)
        kind = refs[0].kind
        # What is looked for in one workspace alone may have its id in another.
        ids = {ref: found[ref].ref.id if ref in found else ref.id for ref in refs}
        away = copies.elsewhere(
            connection, self._tables, kind, list(ids.values()), self._workspace
        )
        self._elsewhere |= {ref for ref, id in ids.items() if id in away}
        return {ref: copy for ref, copy in found.items() if ref not in self._elsewhere}

    # -- writing ----------------------------------------------------------------

    def refusals(self, deliveries: Sequence[Delivery]) -> list[Failed | None]:
        """See `mlmigrate.contract.Foretelling`."""
        ids = map(self._id_of, deliveries)
        return [id if isinstance(id, Failed) else None for id in ids]

    def write(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        """See `mlmigrate.contract.Sink.write`."""
        stored: list[Stored | Failed] = self._store(deliveries)
        sound = [
            (delivery, place)
            for delivery, place in zip(deliveries, stored, strict=True)
            if isinstance(place, Stored)
        ]
        answers = iter(self._write_parts(self._parts(sound)))
        return [
            place if isinstance(place, Failed) else next(answers) for place in stored
        ]

    def _parts(
        self, sound: Sequence[tuple[Delivery, Stored]]
    ) -> list[Sequence[tuple[Delivery, Stored]]]:
        """Cut deliveries into transactions that can be written at once.

        PostgreSQL checks every row's reference, in one process a connection. Runs
        with dataset inputs share rows with others.
        """
        alone = self._url.get_backend_name() != "postgresql" or any(
            delivery.item.inputs or not isinstance(delivery.item.header, Run)
            for delivery, _ in sound
        )
        size = len(sound) if alone else -(-len(sound) // _CONNECTIONS)
        return [sound[at : at + size] for at in range(0, len(sound), size or 1)]

    def _write_parts(
        self, parts: Sequence[Sequence[tuple[Delivery, Stored]]]
    ) -> list[Written | Failed]:
        if len(parts) < 2:
            return self._write_rows(parts[0]) if parts else []
        with ThreadPoolExecutor(len(parts)) as pool:
            return list(chain.from_iterable(pool.map(self._write_rows, parts)))

    def _write_rows(
        self, sound: Sequence[tuple[Delivery, Stored]]
    ) -> list[Written | Failed]:
        try:
            with self._engine.begin() as connection:
                return list(self._write_all(connection, sound))
        except (
            sa.exc.SQLAlchemyError,
            self._driver_error,  # bulk loads bypass SQLAlchemy, which would wrap it
            OverflowError,  # an integer's size
            ItemError,
        ) as error:
            return self._one_by_one(sound, error)

    def _one_by_one(
        self, sound: Sequence[tuple[Delivery, Stored]], error: Exception
    ) -> list[Written | Failed]:
        if len(sound) == 1:
            return [Failed(sound[0][0].item.ref, f"not written: {short(error)}")]
        return [answer for one in sound for answer in self._write_rows([one])]

    def _write_all(
        self, connection: sa.Connection, sound: Sequence[tuple[Delivery, Stored]]
    ) -> Iterator[Written]:
        transaction = Transaction(connection, self._tables, self._workspace)
        if any(delivery.item.ref.kind != "workspace" for delivery, _ in sound):
            entity_rows.make_known(transaction)
        limit = self.capabilities.max_experiment_id or 2**63 - 1
        kept = experiment_ids(transaction, [delivery for delivery, _ in sound], limit)
        refs: list[Ref] = []
        for at, (delivery, stored) in enumerate(sound):
            header = delivery.item.header
            match header:
                case Experiment():
                    id = kept.get(at)
                    ref = write_experiment(transaction, delivery, id, self._root)
                case Run():
                    ref = write_run(transaction, delivery, stored)
                case LoggedModel():
                    ref = write_logged_model(transaction, delivery, stored)
                case Trace():
                    ref = write_trace(transaction, delivery, stored)
                case RegisteredModel():
                    ref = write_model(transaction, delivery, header)
                case Entity():
                    ref = entity_rows.write_entity(transaction, delivery)
            refs.append(ref)
            if ref.kind in self._renamed and ref.id != delivery.item.origin:
                self._renamed[ref.kind][delivery.item.origin] = ref.id
        transaction.flush()
        if connection.dialect.name == "postgresql" and kept:
            _bump_sequence(connection)
        for ref, (_, stored) in zip(refs, sound, strict=True):
            yield Written(ref, stored.checksums, stored.files, stored.bytes)

    def _store(self, deliveries: Sequence[Delivery]) -> list[Stored | Failed]:
        def store_one(delivery: Delivery) -> Stored | Failed:
            id = self._id_of(delivery)
            if isinstance(id, Failed):
                return id
            limit = self._longest_uri(delivery.item.ref.kind)
            return store(delivery, id, self._root, limit)

        if not any(delivery.item.artifacts for delivery in deliveries):
            return list(map(store_one, deliveries))
        with ThreadPoolExecutor(_FILES) as pool:
            return list(pool.map(store_one, deliveries))

    def _id_of(self, delivery: Delivery) -> str | Failed:
        """Return the id that an item gets. Where another workspace has a copy of the
        same origin, which has its id, it keeps the one that it has at the source.
        """
        item = delivery.item
        if delivery.into is not None:
            return delivery.into.id
        kind, own = item.ref.kind, item.ref.id
        if Ref(kind, item.origin) not in self._elsewhere:
            return new_id(item, item.origin)
        if own != item.origin and kind in _MARKED:
            with self._engine.connect() as connection:
                taken = copies.elsewhere(
                    connection, self._tables, kind, [own], self._workspace
                )
            if not taken:
                return new_id(item, own)
        what = "is in another workspace of the sink, and its id is there once"
        return Failed(item.ref, f"not written: it {what}")

    def _longest_uri(self, kind: Kind) -> int | None:
        if self._url.get_backend_name() == "sqlite":
            return None
        column = self._tables["runs"].c.artifact_uri
        if kind == "logged_model":
            column = self._tables["logged_models"].c.artifact_location
        return getattr(column.type, "length", None)


def _entities() -> frozenset[Kind]:
    """Return the kinds of entities that the installed MLflow has tables for."""
    kinds = (each.kind for each in ENTITIES.values() if names_table(each.own.name))
    return frozenset(kinds)


def _models(*, nan: Literal["kept", "zero"]) -> ModelFacts:
    return ModelFacts(nan=nan, one_value=True, needs_runs=True, of_versions=False)


def _artifact_root(
    url: sa.URL, options: Mapping[str, Any], workspace: str
) -> str | None:
    """Return where artifacts go: those of a workspace to where MLflow puts them, too
    (``WorkspaceAwareSqlAlchemyStore``).
    """
    root = _store_root(url, options)
    if root is None or workspace == DEFAULT:
        return root
    return f"{root}/workspaces/{workspace}"


def _store_root(url: sa.URL, options: Mapping[str, Any]) -> str | None:
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


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin below, immediately
    connection.execute("pragma cache_size=-32768")
    # Every reference is written with what it refers to; checking costs a third.
    connection.execute("pragma foreign_keys=off")


def _begin_immediate(connection: sa.Connection) -> None:
    """Take the write lock at once: a read that turns into a write may find another
    writer in between, and fails.
    """
    connection.exec_driver_sql("begin immediate")


def _trust_references(connection: sa.Connection) -> None:
    """Spare a new database, which nobody else writes to, the look-up of each row's
    run, as far as PostgreSQL lets this user: rows are written with what they refer to.
    """
    connection.exec_driver_sql(
        "select set_config('session_replication_role', 'replica', true)"
        " where current_setting('is_superuser') = 'on'"
    )


def _bump_sequence(connection: sa.Connection) -> None:
    connection.exec_driver_sql(
        "select setval(pg_get_serial_sequence('experiments', 'experiment_id'),"
        " greatest((select max(experiment_id) from experiments), 1))"
    )
