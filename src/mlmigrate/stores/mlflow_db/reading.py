"""Source ``mlflow_db``: any MLflow database since 2019, by the columns that are there.

Nothing is upgraded: tables and columns that a revision lacks read as absent. Every
table that holds rows and is not carried over is named in the findings.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import RLock
from typing import Any, BinaryIO, Literal, TypeAlias, TypeVar
from urllib.parse import unquote

import numpy as np
import sqlalchemy as sa

from mlmigrate import marks
from mlmigrate.artifacts import (
    Place,
    Remote,
    lift_source,
    list_folder,
    locate,
    open_file,
    parse_maps,
    short,
)
from mlmigrate.contract import Selection
from mlmigrate.errors import ItemError, StoreError
from mlmigrate.metrics import history
from mlmigrate.model import (
    Alias,
    Artifact,
    DatasetInput,
    Experiment,
    Failed,
    Finding,
    Item,
    MetricHistory,
    ModelVersion,
    Note,
    Param,
    Problem,
    Ref,
    RegisteredModel,
    Run,
    Tag,
)
from mlmigrate.stores.mlflow_db import snapshot

#: Tables that are carried over, or that only repeat what others say.
CARRIED = {
    "alembic_version",
    "datasets",
    "experiment_tags",
    "experiments",
    "input_tags",
    "inputs",
    "latest_metrics",
    "metrics",
    "model_version_tags",
    "model_versions",
    "params",
    "registered_model_aliases",
    "registered_model_tags",
    "registered_models",
    "runs",
    "tags",
}
#: Tables whose rows MLflow makes by itself: locks, leases and sums over others.
_DERIVED = re.compile(r"sql_.*|job_locks|scheduler_leases|sqlite_.*|workspaces")
#: Rows of the first table mean nothing without the row of the third that they name.
_OWNED = (
    ("params", "run_uuid", "runs", "run"),
    ("tags", "run_uuid", "runs", "run"),
    ("metrics", "run_uuid", "runs", "run"),
    ("inputs", "destination_id", "runs", "run"),
    ("experiment_tags", "experiment_id", "experiments", "experiment"),
    ("registered_model_tags", "name", "registered_models", "model"),
    ("registered_model_aliases", "name", "registered_models", "model"),
    ("model_versions", "name", "registered_models", "model"),
    ("model_version_tags", "name", "model_versions", "model version"),
)
_STATUSES = frozenset({"RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"})
_PART = 20_000  # rows at a time on their way into columns
#: From how many rows on a table without an index by run is sorted once, for all.
_SORT = 50_000
_T = TypeVar("_T")
_Rows: TypeAlias = list[tuple[Any, ...]]
_IN = 500  # the fewest parameters that a SQLite takes in one statement are 999


class DbReader:
    """See `mlmigrate.contract.Source`."""

    # One connection holds one snapshot; a thread reads ahead while another writes.
    parallel: Literal["process", "thread"] = "thread"

    def __init__(self, location: str, options: Mapping[str, Any]) -> None:
        path = snapshot.sqlite_path(location)
        self._engine, self._shared, self._cleanup = snapshot.open_readonly(
            options.get("snapshot") or location, options.get("temp-dir")
        )
        try:
            self._connection: sa.Connection | None = self._engine.connect()
            self._set_up(
                str(path) if path else snapshot.redacted(location),
                path.parent if path else None,
                parse_maps(options.get("map-artifacts") or ()),
            )
        except BaseException:
            self._cleanup()
            raise

    @property
    def shared(self) -> str:
        """What another process gives as option ``snapshot`` to read the same state.

        It holds until this reader is closed.
        """
        return self._shared

    @classmethod
    def over(cls, engine: sa.Engine, location: str) -> DbReader:
        """Read back through an engine that someone else opened and closes."""
        reader = cls.__new__(cls)
        reader._connection = None
        reader._shared = ""
        reader._engine = engine
        database = engine.url.database or ""
        folder = Path(database).parent if engine.dialect.name == "sqlite" else None
        reader._set_up(location, folder, [])
        return reader

    def _set_up(
        self, location: str, folder: Path | None, maps: list[tuple[str, str]]
    ) -> None:
        self.location = location
        self._folder = folder
        self._maps = maps
        self._lock = RLock()
        self._is_file = self._engine.dialect.name == "sqlite"
        self._sorted: dict[str, str] = {}
        self._place_of = lru_cache(maxsize=64)(self._find_place)
        with self._lock, _connected(self) as connection:
            metadata = sa.MetaData()
            try:
                metadata.reflect(connection)
            except sa.exc.SQLAlchemyError as error:
                raise StoreError(
                    f"{location} cannot be read: {short(error)}"
                ) from error
        self._tables = metadata.tables
        if "runs" not in self._tables or "experiments" not in self._tables:
            raise StoreError(
                f"{location} holds no tables of MLflow's; is it the right database?"
            )
        # Text affinity is all there is in SQLite: compare and bind without types.
        self._columns = {
            name: set(table.columns.keys()) for name, table in self._tables.items()
        }

    # -- the contract -----------------------------------------------------------

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        match selection.kind:
            case "experiment":
                yield from (Ref("experiment", id) for id in self._experiments())
            case "run":
                for id, experiment in self._keyed("runs", "run_uuid", "experiment_id"):
                    if (
                        selection.experiments is None
                        or _experiment(experiment) in selection.experiments
                    ):
                        yield Ref("run", str(id))
            case "registered_model":
                for (name,) in self._names():
                    yield Ref("registered_model", str(name))
            case _:
                return

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        for at in range(0, len(refs), _IN):
            yield from self._read_part(refs[at : at + _IN])

    def _read_part(self, refs: Sequence[Ref]) -> list[Item | Failed]:
        try:
            found = self._find(refs)
        except StoreError as error:
            snapshot.check_unchanged(self._shared)
            if not self._is_file:
                raise  # a server that does not answer has no bad item
            if len(refs) == 1:
                return [Failed(refs[0], str(error))]
            # One damaged page of the file costs the items on it alone.
            return [item for ref in refs for item in self._read_part([ref])]
        snapshot.check_unchanged(self._shared)
        missing = f"{self.location} holds no such"
        return [found.get(ref) or Failed(ref, f"{missing} {ref.kind}") for ref in refs]

    def _find(self, refs: Sequence[Ref]) -> dict[Ref, Item]:
        found: dict[Ref, Item] = {}
        with self._lock:
            runs = [ref.id for ref in refs if ref.kind == "run"]
            if runs:
                found.update(self._read_runs(runs))
            for ref in refs:
                if ref.kind == "experiment":
                    found.update(self._read_experiment(ref))
                elif ref.kind == "registered_model":
                    found.update(self._read_model(ref))
        return found

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        with self._lock:
            place = self._place_of(ref.id)
        if place.folder is not None:
            return open_file(place.folder, path)
        if place.uri is not None:
            return Remote(place.uri).open(path)
        raise ItemError(f"{ref}: its artifacts are nowhere to be read")

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        with self._lock:
            if self._connection is not None:
                snapshot.check_unchanged(self._shared)
            return [*self._left_behind(), *self._orphans()]

    def count_uncarried(self) -> Mapping[str, int]:
        """Count what the store holds of the kinds that are not carried over."""
        tables = {"logged_models": "logged_models", "traces": "trace_info"}
        return {
            kind: self._count(table) if table in self._tables else 0
            for kind, table in tables.items()
        }

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        if self._connection is not None:
            self._connection.close()
            self._engine.dispose()
            self._cleanup()
            self._connection = None

    # -- queries ----------------------------------------------------------------

    def _select(self, table: str, *columns: str) -> sa.Select[Any]:
        """Select columns without their types: a value comes as it is stored.

        A column that this revision lacks comes as NULL.
        """
        have = self._columns.get(table, set())
        wanted: list[Any] = [
            sa.column(name) if name in have else sa.null().label(name)
            for name in columns
        ]
        return sa.select(*wanted).select_from(sa.table(table))

    def _rows(
        self, table: str, *columns: str, where: Mapping[str, Any] | None = None
    ) -> _Rows:
        """Return the rows of a table that may be absent, ordered by its first column.

        *where* maps a column to a value or a list of values.
        """
        if table not in self._tables:
            return []
        query = self._select(table, *columns).order_by(sa.column(columns[0]))
        for name, wanted in (where or {}).items():
            column: Any = sa.column(name)
            many = isinstance(wanted, list)
            query = query.where(column.in_(wanted) if many else column == wanted)
        return self._run(query, _together)

    def _keyed(self, table: str, key: str, *others: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a large table by its key, some thousands at a time."""
        query = self._select(table, key, *others).order_by(sa.column(key))
        rows = self._run(query.limit(_PART), _together)
        while rows:
            yield from rows
            later = query.where(sa.column(key) > rows[-1][0])
            rows = self._run(later.limit(_PART), _together)

    def _run(
        self, query: sa.Select[Any], consume: Callable[[Iterator[_Rows]], _T]
    ) -> _T:
        """Hand the rows of a query to *consume*, in parts.

        Raises:
            StoreError: the database does not answer, or its file is damaged.
        """
        with self._lock, _connected(self) as connection:
            try:
                try:
                    return consume(self._parts(connection, query))
                except (sqlite3.OperationalError, sa.exc.OperationalError) as error:
                    if "decode to UTF-8" not in str(error):
                        raise
                # Text that is not UTF-8 is rare, and to look for it takes long.
                driver: Any = connection.connection.driver_connection
                driver.text_factory = _decoded
                try:
                    return consume(self._parts(connection, query))
                finally:
                    driver.text_factory = str
            except (sqlite3.Error, sa.exc.SQLAlchemyError) as error:
                cause = getattr(error, "orig", None) or error
                raise StoreError(
                    f"{self.location} cannot be read: {short(cause)}"
                ) from error

    def _parts(
        self, connection: sa.Connection, query: sa.Select[Any]
    ) -> Iterator[_Rows]:
        if self._is_file:
            # Straight from the driver: SQLAlchemy's rows take as long again.
            result = connection.execute(query)
            cursor: Any = result.cursor
            while plain := cursor.fetchmany(_PART):
                yield plain
            result.close()
            return
        # A sink's engine may be in autocommit, where PostgreSQL has no such cursors.
        stream = self._connection is not None
        result = connection.execute(query, execution_options={"stream_results": stream})
        rows: Any
        for rows in result.partitions(_PART):
            yield [tuple(row) for row in rows]

    def _count(self, table: str, where: Any = None) -> int:
        query = sa.select(sa.func.count()).select_from(sa.table(table))
        if where is not None:
            query = query.where(where)
        return int(self._run(query, _together)[0][0])

    def _by_run(self, table: str) -> str:
        """Return the table to read some runs of *table* from.

        Databases of before 2022 have no index by run: to read them run by run would
        scan all rows each time, so a large table is sorted once, beside the database.
        """
        if not self._is_file or self._connection is None or table not in self._tables:
            return table
        if table not in self._sorted:
            self._sorted[table] = table
            indexes = self._tables[table].indexes
            known = {next(iter(index.columns)).name for index in indexes}
            if "run_uuid" not in known and self._count(table) > _SORT:
                copy = f"mlmigrate_{table}"
                try:
                    for statement in (
                        f"CREATE TEMP TABLE {copy} AS SELECT * FROM {table}"
                        " ORDER BY run_uuid",
                        f"CREATE INDEX temp.{copy}_run ON {copy} (run_uuid)",
                    ):
                        self._connection.exec_driver_sql(statement)
                except sa.exc.DBAPIError:
                    return table  # no space, or a damaged page: the slow way it is
                self._sorted[table] = copy
                self._columns[copy] = self._columns[table]
        return self._sorted[table]

    # -- experiments ------------------------------------------------------------

    def _experiments(self) -> Iterator[str]:
        """Yield the ids of all experiments, also those that only runs tell of."""
        for row in self._keyed("experiments", "experiment_id"):
            yield str(row[0])
        known: Any = sa.select(sa.column("experiment_id")).select_from(
            sa.table("experiments")
        )
        at: Any = sa.column("experiment_id")
        query = sa.select(at).distinct().select_from(sa.table("runs"))
        lost = self._run(query.where(at.is_(None) | at.not_in(known)), _together)
        yield from sorted(_experiment(row[0]) for row in lost)

    def _experiment_rows(self, id: str) -> tuple[_Rows, list[tuple[str, str]]]:
        limit = 2**63 if self._is_file else 2**31
        if not re.fullmatch(r"-?\d{1,19}", id) or not -limit <= int(id) < limit:
            return [], []
        where = {"experiment_id": int(id)}
        rows = self._rows(
            "experiments",
            "name",
            "artifact_location",
            "lifecycle_stage",
            "creation_time",
            "last_update_time",
            "workspace",
            where=where,
        )
        tags = self._rows("experiment_tags", "key", "value", where=where)
        return rows, [(_text(key) or "", _text(value) or "") for key, value in tags]

    def _read_experiment(self, ref: Ref) -> dict[Ref, Item]:
        rows, pairs = self._experiment_rows(ref.id)
        where = f"{self.location} experiment {ref.id}"
        lifted = marks.lift(pairs)
        if not rows:
            name = f"recovered-{ref.id}"
            problem = Problem(where, f"its row is gone; recovered as {name!r}")
            header = Experiment(name)
            return {ref: Item(ref, header, f"{ref.id}/{name}", findings=(problem,))}
        name, location, stage, created, updated, workspace = rows[0]
        findings: list[Finding] = []
        if workspace not in (None, "", "default"):
            findings.append(Problem(where, f"its workspace {workspace!r} is not kept"))
        header = Experiment(
            name=_text(name) or f"recovered-{ref.id}",
            artifact_location=_text(location) or None,
            lifecycle="deleted" if stage == "deleted" else "active",
            creation_time=_time(created, "creation_time", where, findings),
            last_update_time=_time(updated, "last_update_time", where, findings),
        )
        findings += _escapes(where, header, lifted)
        item = Item(
            ref,
            header,
            origin=lifted.origin or f"{ref.id}/{header.name}",
            tags=lifted.tags,
            mark=lifted.mark,
            findings=tuple(findings),
        )
        return {ref: item}

    # -- runs -------------------------------------------------------------------

    def _read_runs(self, ids: list[str]) -> dict[Ref, Item]:
        problems: dict[str, list[Finding]] = defaultdict(list)
        params = self._pairs("params", ids)
        tags = self._pairs("tags", ids)
        metrics = self._metrics(ids, problems)
        inputs = self._inputs(ids, problems)
        found: dict[Ref, Item] = {}
        for row in self._run_rows(ids):
            id = str(row["run_uuid"])
            lifted = marks.lift(tags[id])
            where = f"{self.location} run {id}"
            artifacts, findings = self._list_artifacts(id, row, where)
            names = dict(tags[id])
            header = Run(
                experiment=Ref("experiment", _experiment(row["experiment_id"])),
                name=_text(row["name"]) or names.get("mlflow.runName") or None,
                status=_status(row["status"], where, findings),
                start_time=_time(row["start_time"], "start_time", where, findings),
                end_time=_time(row["end_time"], "end_time", where, findings),
                user=_text(row["user_id"]) or names.get("mlflow.user") or None,
                lifecycle="deleted"
                if row["lifecycle_stage"] == "deleted"
                else "active",
                deleted_time=_time(
                    row["deleted_time"], "deleted_time", where, findings
                ),
                artifact_uri=_text(row["artifact_uri"]) or None,
                parent=Ref("run", lifted.parent) if lifted.parent else None,
                source_type=_text(row["source_type"]) or None,
                source_name=_text(row["source_name"]) or None,
                source_version=_text(row["source_version"]) or None,
                entry_point=_text(row["entry_point_name"]) or None,
            )
            origin = lifted.origin if marks.load(lifted.mark) else None
            findings += _escapes(where, header, lifted, params[id], metrics[id])
            ref = Ref("run", id)
            found[ref] = Item(
                ref,
                header,
                origin=origin or id,
                params=tuple(Param(key, value) for key, value in params[id]),
                tags=lifted.tags,
                metrics=tuple(metrics[id]),
                inputs=tuple(inputs[id]),
                artifacts=tuple(artifacts),
                mark=lifted.mark,
                findings=(*problems[id], *findings),
            )
        return found

    def _run_rows(self, ids: list[str]) -> list[dict[str, Any]]:
        names = (
            "run_uuid",
            "name",
            "source_type",
            "source_name",
            "entry_point_name",
            "user_id",
            "status",
            "start_time",
            "end_time",
            "deleted_time",
            "source_version",
            "lifecycle_stage",
            "artifact_uri",
            "experiment_id",
        )
        rows = self._rows("runs", *names, where={"run_uuid": ids})
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _pairs(self, table: str, ids: list[str]) -> dict[str, list[tuple[str, str]]]:
        pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
        if table in self._tables:
            query = self._select(self._by_run(table), "run_uuid", "key", "value")
            query = query.where(sa.column("run_uuid").in_(ids))
            for id, key, value in self._run(query, _together):
                pairs[id].append((_text(key) or "", _text(value) or ""))
        return pairs

    def _metrics(
        self, ids: list[str], problems: dict[str, list[Finding]]
    ) -> dict[str, list[MetricHistory]]:
        """Read all points of some runs.

        A metric of which only the latest point is left, in the table that repeats it,
        has that point.
        """
        metrics: dict[str, list[MetricHistory]] = defaultdict(list)
        held = self._histories("metrics", ids, problems)
        for (run, _), metric in held.items():
            metrics[run].append(metric)
        for (run, key), metric in self._histories("latest_metrics", ids, None).items():
            if (run, key) not in held:
                metrics[run].append(metric)
                what = f"metric {key}: its points are gone, but for the latest"
                problems[run].append(Problem(f"{self.location} run {run}", what))
        return metrics

    def _histories(
        self, table: str, ids: list[str], problems: dict[str, list[Finding]] | None
    ) -> dict[tuple[str, str], MetricHistory]:
        if table not in self._tables:
            return {}
        have = self._columns[table]
        query: Any = sa.select(
            *(sa.column(name) for name in ("run_uuid", "key", "value", "timestamp")),
            *(
                sa.column(name) if name in have else sa.literal_column("0")
                for name in ("step", "is_nan")
            ),
        ).select_from(sa.table(self._by_run(table)))
        found, bad = self._run(
            query.where(sa.column("run_uuid").in_(ids)), _histories_of
        )
        for (run, key), count in bad.items():
            if problems is None:
                break
            what = f"metric {key}: {count} rows are no points"
            problems[run].append(Problem(f"{self.location} run {run}", what))
        return found

    def _inputs(
        self, ids: list[str], problems: dict[str, list[Finding]]
    ) -> dict[str, list[DatasetInput]]:
        inputs: dict[str, list[DatasetInput]] = defaultdict(list)
        links = self._rows(
            "inputs",
            "input_uuid",
            "source_id",
            "destination_id",
            where={
                "source_type": "DATASET",
                "destination_type": "RUN",
                "destination_id": ids,
            },
        )
        if not links:
            return inputs
        datasets: dict[str, Any] = {}
        tags: dict[str, list[Tag]] = defaultdict(list)
        for at in range(0, len(links), _IN):
            part = links[at : at + _IN]
            for row in self._rows(
                "datasets",
                "dataset_uuid",
                "name",
                "digest",
                "dataset_source_type",
                "dataset_source",
                "dataset_schema",
                "dataset_profile",
                where={"dataset_uuid": list({link[1] for link in part})},
            ):
                datasets[row[0]] = row[1:]
            for link, name, value in self._rows(
                "input_tags",
                "input_uuid",
                "name",
                "value",
                where={"input_uuid": [link[0] for link in part]},
            ):
                tags[link].append(Tag(_text(name) or "", _text(value) or ""))
        for link, dataset, run in links:
            if dataset not in datasets:
                what = f"dataset {dataset}, which it used, is gone"
                problems[run].append(Problem(f"{self.location} run {run}", what))
            else:
                name, checksum, kind, source, schema, profile = datasets[dataset]
                inputs[run].append(
                    DatasetInput(
                        _text(name) or "",
                        _text(checksum) or "",
                        _text(kind) or "",
                        _text(source) or "",
                        _text(schema),
                        _text(profile),
                        tuple(tags[link]),
                    )
                )
        return inputs

    # -- artifacts --------------------------------------------------------------

    def _find_place(self, id: str) -> Place:
        rows = self._run_rows([id])
        if not rows:
            raise ItemError(f"{self.location} holds no run {id}")
        return self._place(id, rows[0])

    def _place(self, id: str, row: Mapping[str, Any]) -> Place:
        uri = row["artifact_uri"]
        below = f"{row['experiment_id']}/{id}/artifacts"
        if uri and uri.startswith("mlflow-artifacts:"):
            below = unquote(uri.split(":", 1)[1].lstrip("/"))
        layout: list[Path] = []
        if self._folder is not None and ".." not in below.split("/"):
            roots = [self._folder / n for n in ("mlruns", "mlartifacts", "artifacts")]
            layout = [root / below for root in roots]
            held = any(root.is_dir() for root in roots[1:])
            proxied = uri is not None and uri.startswith("mlflow-artifacts:")
            if proxied and held and not any(map(Path.is_dir, layout)):
                return Place()  # its server's artifacts are here; it has none
        return locate(
            uri,
            where=f"{self.location} run {id}",
            owner=id,
            layout=layout,
            base=self._folder,
            maps=self._maps,
        )

    def _list_artifacts(
        self, id: str, row: Mapping[str, Any], where: str
    ) -> tuple[list[Artifact], list[Finding]]:
        place = self._place(id, row)
        if place.folder is not None:
            files, problems = list_folder(place.folder, where)
            return files, [*place.findings, *problems]
        if place.uri is None:
            return [], list(place.findings)
        if place.uri.startswith("mlflow-artifacts:"):
            what = (
                "its artifacts are held by an artifact server: copy from the server's"
                " URL, or give --map-artifacts mlflow-artifacts:/=FOLDER, its root"
            )
            return [], [Problem(where, what)]
        try:
            return Remote(place.uri).list(), list(place.findings)
        except ItemError as error:
            return [], [Problem(where, str(error))]

    # -- the registry -----------------------------------------------------------

    def _names(self) -> Iterator[tuple[str]]:
        """Yield the names of all models, each once."""
        if "registered_models" not in self._tables:
            return
        if "workspace" not in self._columns["registered_models"]:
            yield from ((row[0],) for row in self._keyed("registered_models", "name"))
            return
        query = self._select("registered_models", "name").distinct()
        query = query.order_by(sa.column("name"))
        for row in self._run(query, _together):
            spaces = self._workspaces(row[0])
            for number in range(len(spaces)):
                yield (row[0] if number == 0 else f"{row[0]}~{number + 1}",)

    def _workspaces(self, model: str) -> list[str]:
        rows = self._rows("registered_models", "workspace", where={"name": model})
        return sorted((str(row[0]) for row in rows), key=lambda w: (w != "default", w))

    def _model_key(self, id: str) -> tuple[str, str | None]:
        """Return the name and the workspace of a model.

        A name that several workspaces have bears a number in all but the first.
        """
        if "workspace" not in self._columns.get("registered_models", ()):
            return id, None
        spaces = self._workspaces(id)
        stem, _, number = id.rpartition("~")
        if not spaces and stem and number.isdigit():
            spaces = self._workspaces(stem)[int(number) - 1 : int(number)]
            return stem, spaces[0] if spaces else None
        return id, spaces[0] if spaces else None

    def _read_model(self, ref: Ref) -> dict[Ref, Item]:
        model, workspace = self._model_key(ref.id)
        only: dict[str, Any] = {"name": model}
        if workspace is not None:
            only["workspace"] = workspace
        rows = self._rows(
            "registered_models",
            "name",
            "description",
            "creation_time",
            "last_updated_time",
            where=only,
        )
        if not rows:
            return {}
        _, description, created, updated = rows[0]
        tags = self._rows("registered_model_tags", "key", "value", where=only)
        pairs = [(_text(key) or "", _text(value) or "") for key, value in tags]
        aliases = self._rows("registered_model_aliases", "alias", "version", where=only)
        version_tags: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for number, key, value in self._rows(
            "model_version_tags", "version", "key", "value", where=only
        ):
            version_tags[number].append((_text(key) or "", _text(value) or ""))
        names = (
            "version",
            "creation_time",
            "last_updated_time",
            "description",
            "user_id",
            "current_stage",
            "source",
            "run_id",
            "status",
            "status_message",
            "run_link",
            "storage_location",
        )
        where = f"{self.location} model {ref.id}"
        findings: list[Finding] = []
        if workspace not in (None, "default"):
            findings.append(Problem(where, f"its workspace {workspace!r} is not kept"))
        if ref.id != model:
            what = f"another workspace has a model {model!r}: read as {ref.id!r}"
            findings.append(Problem(where, what))
        versions, hidden = [], 0
        for row in self._rows("model_versions", *names, where=only):
            fields = dict(zip(names, row, strict=True))
            if fields["current_stage"] == "Deleted_Internal":
                hidden += 1
                continue
            if not isinstance(fields["version"], int):
                what = f"version {fields['version']!r} is no number: not copied"
                findings.append(Problem(where, what))
                continue
            versions.append(_version(ref.id, fields, version_tags[fields["version"]]))
        if hidden:
            what = f"{hidden} internally deleted versions are not copied"
            findings.append(Note(where, what))
        item = Item(
            ref,
            RegisteredModel(
                ref.id,
                _text(description) or None,
                _time(created, "creation_time", where, findings),
                _time(updated, "last_updated_time", where, findings),
            ),
            origin=ref.id,
            tags=marks.lift(pairs).tags,
            versions=tuple(versions),
            aliases=tuple(
                Alias(_text(alias) or "", number)
                for alias, number in aliases
                if isinstance(number, int)
            ),
            findings=tuple(findings),
        )
        return {ref: item}

    # -- what is left behind ----------------------------------------------------

    def _left_behind(self) -> Iterator[Finding]:
        for name in sorted(self._tables):
            if name in CARRIED or _DERIVED.fullmatch(name):
                continue
            count = self._count(name)
            if count:
                what = f"table {name}: {count} rows are not carried over"
                yield Problem(self.location, what)
        if "inputs" in self._tables:
            dataset = sa.and_(
                sa.column("source_type") == "DATASET",
                sa.column("destination_type") == "RUN",
            )
            other = self._count("inputs", sa.not_(dataset))
            if other:
                what = f"table inputs: {other} links to models are not carried over"
                yield Problem(self.location, what)
        if "datasets" in self._tables and "inputs" in self._tables:
            used: Any = (
                sa.select(sa.column("source_id"))
                .select_from(sa.table("inputs"))
                .where(dataset)
            )
            unused = self._count("datasets", sa.column("dataset_uuid").not_in(used))
            if unused:
                what = f"table datasets: {unused} datasets that no run uses are left"
                yield Problem(self.location, what)

    def _orphans(self) -> Iterator[Finding]:
        """SQLite checks no foreign keys unless asked: rows may outlive their run."""
        for name, key, owner, title in _OWNED:
            if name not in self._tables or owner not in self._tables:
                continue
            at: Any = sa.column(key)
            whole: Any = sa.column("run_uuid" if owner == "runs" else key)
            known: Any = sa.select(whole).select_from(sa.table(owner))
            lost: Any = at.not_in(known)
            if name == "inputs":
                lost = sa.and_(
                    lost,
                    sa.column("source_type") == "DATASET",
                    sa.column("destination_type") == "RUN",
                )
            if count := self._count(name, lost):
                what = f"table {name}: {count} rows belong to no {title}: not copied"
                yield Problem(self.location, what)


class _connected:  # noqa: N801 - reads as a verb where it is used
    """The snapshot's one connection, or a new one of a sink's engine."""

    def __init__(self, reader: DbReader) -> None:
        self._reader = reader
        self._own: sa.Connection | None = None

    def __enter__(self) -> sa.Connection:
        held = self._reader._connection
        if held is not None:
            return held
        self._own = self._reader._engine.connect()
        return self._own

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            self._own.close()


class _Escaped(str):
    """Text that was not UTF-8, with escapes for what was not."""

    __slots__ = ()


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _Escaped(data.decode("utf-8", "backslashreplace"))


def _text(value: Any) -> str | None:
    """Return a value as text; SQLite holds anything in a text column."""
    if value is None or isinstance(value, str):
        return value
    return _decoded(value) if isinstance(value, bytes) else str(value)


def _escapes(
    where: str, header: Any, lifted: marks.Lifted, *more: Any
) -> list[Finding]:
    """Name the fields whose text was not UTF-8."""
    names = [name for name in header.__slots__ if _is_escaped(getattr(header, name))]
    pairs: list[tuple[str, str]] = [(tag.key, tag.value) for tag in lifted.tags]
    for entries in more:
        for entry in entries:
            pairs.append((entry.key, "") if isinstance(entry, MetricHistory) else entry)
    names += [str(pair[0]) for pair in pairs if any(map(_is_escaped, pair))]
    what = "is not UTF-8: kept with \\x escapes"
    return [Problem(where, f"{name} {what}") for name in names]


def _is_escaped(text: Any) -> bool:
    return isinstance(text, _Escaped)


def _experiment(value: Any) -> str:
    """Return the id of a run's experiment, which may be lost."""
    return "unknown" if value is None else str(value)


def _status(value: Any, where: str, findings: list[Finding]) -> str:
    if value in _STATUSES:
        return str(value)
    if value not in (None, ""):
        findings.append(Problem(where, f"status {value!r} is none: read as RUNNING"))
    return "RUNNING"


def _time(value: Any, name: str, where: str, findings: list[Finding]) -> int | None:
    time = _whole(value)
    if time is None and value is not None:
        findings.append(Problem(where, f"{name} {value!r} is no time: not copied"))
    return time


def _together(parts: Iterator[_Rows]) -> _Rows:
    return [row for part in parts for row in part]


class _Numbers(dict[tuple[Any, Any], int]):
    """Numbers (run, key) pairs as they come."""

    def __missing__(self, pair: tuple[Any, Any]) -> int:
        number = self[pair] = len(self)
        return number


def _histories_of(
    parts: Iterator[_Rows],
) -> tuple[dict[tuple[str, str], MetricHistory], Counter[tuple[str, str]]]:
    """Make histories of rows (run, key, value, timestamp, step, is NaN) in any order.

    Returns:
        The histories, and how many rows of each were no points.
    """
    numbers = _Numbers()
    bad: Counter[tuple[str, str]] = Counter()
    tables = []
    for part in parts:
        columns = list(zip(*part, strict=True))
        if not _is_plain(columns):
            rows = [row for row in part if _is_point(row) or bad.update([_pair(row)])]
            if not rows:
                continue
            columns = list(zip(*map(_plain, rows), strict=True))
        length = len(columns[0])
        codes = map(numbers.__getitem__, zip(columns[0], columns[1], strict=True))
        values = np.array(columns[2], dtype=np.float64)
        values[np.array(columns[5], dtype=bool)] = np.nan
        tables.append(
            (
                np.fromiter(codes, np.int64, count=length),
                np.array(columns[4], dtype=np.int64),
                np.array(columns[3], dtype=np.int64),
                values,
            )
        )
    if not tables:
        return {}, bad
    code, steps, times, values = map(np.concatenate, zip(*tables, strict=True))
    del tables
    order = np.argsort(code, kind="stable")
    bounds = np.searchsorted(code[order], np.arange(len(numbers) + 1))
    steps, times, values = steps[order], times[order], values[order]
    found = {}
    for pair, number in numbers.items():
        cut = slice(bounds[number], bounds[number + 1])
        found[pair] = history(pair[1], steps[cut], times[cut], values[cut])
    return found, bad


def _is_plain(columns: list[tuple[Any, ...]]) -> bool:
    """Tell whether all values have the types that their columns are declared with."""
    run, key, value, timestamp, step, nan = (set(map(type, c)) for c in columns)
    return (
        run | key <= {str, _Escaped}
        and value <= {float, int}
        and timestamp | step <= {int}
        and nan <= {int, bool}
    )


def _pair(row: tuple[Any, ...]) -> tuple[str, str]:
    return _text(row[0]) or "", _text(row[1]) or ""


def _is_point(row: tuple[Any, ...]) -> bool:
    value = row[2]
    return (
        (isinstance(value, float | int) or (value is None and bool(row[5])))
        and all(isinstance(number, int) for number in row[3:5])
        and (row[5] is None or isinstance(row[5], int))
    )


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    value = float("nan") if row[2] is None else row[2]
    return (*_pair(row), value, row[3], row[4], bool(row[5]))


def _whole(value: Any) -> int | None:
    """Return a time as an integer; None where it is absent or no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return int(value)
    except (ValueError, OverflowError):
        return None


def _version(
    model: str, fields: Mapping[str, Any], pairs: list[tuple[str, str]]
) -> ModelVersion:
    lifted = marks.lift(pairs)
    created = _whole(fields["creation_time"])
    source = _text(fields["source"]) or None
    source_run, source_path = lift_source(source)
    origin = lifted.origin if marks.load(lifted.mark) else None
    number = int(fields["version"])
    return ModelVersion(
        version=number,
        origin=origin or f"{model}/{number}@{created}",
        creation_time=created,
        last_updated_time=_whole(fields["last_updated_time"]),
        description=_text(fields["description"]) or None,
        user=_text(fields["user_id"]) or None,
        stage=fields["current_stage"] or "None",
        source=source,
        source_run=Ref("run", source_run) if source_run else None,
        source_path=source_path,
        storage_location=_text(fields["storage_location"]) or None,
        run=Ref("run", fields["run_id"]) if fields["run_id"] else None,
        run_link=_text(fields["run_link"]) or None,
        status=fields["status"] or "READY",
        status_message=_text(fields["status_message"]) or None,
        tags=lifted.tags,
        mark=lifted.mark,
    )
