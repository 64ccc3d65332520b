"""Source ``mlflow_db``: any MLflow database since 2019, by the columns that are there.

Nothing is upgraded: tables and columns that a revision lacks read as absent. Every
table that holds rows and is not carried over is named in the findings.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import RLock
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote

import numpy as np
import sqlalchemy as sa

from mlmigrate import marks
from mlmigrate.artifacts import (
    Place,
    Remote,
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
#: Rows of the tables on the left mean nothing without their run.
_OWNED = ("params", "tags", "metrics")
_RUN_SOURCE = re.compile(r"^runs:/([^/]+)/?(.*)$")
_IN_RUN = re.compile(r"[/\\]([0-9a-f]{32})[/\\]artifacts(?:[/\\](.*))?$")
_IN = 500  # the fewest parameters that a SQLite takes in one statement are 999


class DbReader:
    """See `mlmigrate.contract.Source`."""

    # One connection holds one snapshot; a thread reads ahead while another writes.
    parallel: Literal["process", "thread"] = "thread"

    def __init__(self, location: str, options: Mapping[str, Any]) -> None:
        path = snapshot.sqlite_path(location)
        self._engine, self._shared, self._cleanup = snapshot.open_readonly(
            location, options.get("temp-dir")
        )
        self._connection: sa.Connection | None = self._engine.connect()
        if path is not None:
            driver: Any = self._connection.connection.driver_connection
            # What is not UTF-8 is shown, not refused.
            driver.text_factory = lambda data: data.decode("utf-8", "backslashreplace")
        self._set_up(
            str(path) if path else snapshot.redacted(location),
            path.parent if path else None,
            parse_maps(options.get("map-artifacts") or ()),
        )

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
        self._place_of = lru_cache(maxsize=64)(self._find_place)
        with self._lock, _connected(self) as connection:
            metadata = sa.MetaData()
            try:
                metadata.reflect(connection)
            except sa.exc.SQLAlchemyError as error:
                raise StoreError(f"{location} cannot be read: {short(error)}") from error
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
                known = [str(row[0]) for row in self._rows("experiments", "experiment_id")]
                named = {str(row[0]) for row in self._rows("runs", "experiment_id")}
                for id in [*known, *sorted(named - set(known))]:
                    yield Ref("experiment", id)
            case "run":
                for id, experiment in self._rows("runs", "run_uuid", "experiment_id"):
                    if (
                        selection.experiments is None
                        or str(experiment) in selection.experiments
                    ):
                        yield Ref("run", id)
            case "registered_model":
                for row in self._rows("registered_models", "name"):
                    yield Ref("registered_model", row[0])
            case _:
                return

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        found: dict[Ref, Item] = {}
        with self._lock:
            runs = [ref.id for ref in refs if ref.kind == "run"]
            for at in range(0, len(runs), _IN):
                found.update(self._read_runs(runs[at : at + _IN]))
            for ref in refs:
                if ref.kind == "experiment":
                    found.update(self._read_experiment(ref))
                elif ref.kind == "registered_model":
                    found.update(self._read_model(ref))
        for ref in refs:
            yield found.get(ref) or Failed(ref, f"{self.location} holds no such thing")

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

    def close(self) -> None:
        """See `mlmigrate.contract.Source.close`."""
        if self._connection is not None:
            self._connection.close()
            self._engine.dispose()
            self._cleanup()
            self._connection = None

    # -- queries ----------------------------------------------------------------

    def _select(self, table: str, *columns: str) -> sa.Select[Any]:
        """Select columns without their types: a value comes as it is stored, and a
        column that this revision lacks as NULL."""
        have = self._columns.get(table, set())
        return sa.select(
            *(
                sa.column(name) if name in have else sa.null().label(name)
                for name in columns
            )
        ).select_from(sa.table(table))

    def _rows(
        self, table: str, *columns: str, where: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Return the rows of a table that may be absent, ordered by its first column;
        *where* maps a column to a value or a list of values."""
        if table not in self._tables:
            return []
        query = self._select(table, *columns).order_by(sa.column(columns[0]))
        for name, wanted in (where or {}).items():
            column: Any = sa.column(name)
            many = isinstance(wanted, list)
            query = query.where(column.in_(wanted) if many else column == wanted)
        with self._lock, _connected(self) as connection:
            return list(connection.execute(query).tuples())

    def _count(self, table: str, where: Any = None) -> int:
        query = sa.select(sa.func.count()).select_from(sa.table(table))
        if where is not None:
            query = query.where(where)
        with self._lock, _connected(self) as connection:
            return int(connection.scalar(query) or 0)

    # -- experiments ------------------------------------------------------------

    def _read_experiment(self, ref: Ref) -> dict[Ref, Item]:
        key = int(ref.id) if re.fullmatch(r"-?\d+", ref.id) else ref.id
        rows = self._rows(
            "experiments",
            "name",
            "artifact_location",
            "lifecycle_stage",
            "creation_time",
            "last_update_time",
            "workspace",
            where={"experiment_id": key},
        )
        pairs = self._rows("experiment_tags", "key", "value", where={"experiment_id": key})
        where = f"{self.location} experiment {ref.id}"
        lifted = marks.lift((key, value or "") for key, value in pairs)
        if not rows:
            name = f"recovered-{ref.id}"
            problem = Problem(where, f"its row is gone; recovered as {name!r}")
            header = Experiment(name)
            return {
                ref: Item(ref, header, f"{ref.id}/{name}", findings=(problem,))
            }
        name, location, stage, created, updated, workspace = rows[0]
        findings: list[Finding] = []
        if workspace not in (None, "default"):
            findings.append(Note(where, f"its workspace {workspace!r} is not kept"))
        header = Experiment(
            name=str(name),
            artifact_location=location or None,
            lifecycle="deleted" if stage == "deleted" else "active",
            creation_time=_whole(created),
            last_update_time=_whole(updated),
        )
        item = Item(
            ref,
            header,
            origin=lifted.origin or f"{ref.id}/{name}",
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
        inputs = self._inputs(ids)
        found: dict[Ref, Item] = {}
        for row in self._run_rows(ids):
            id = row["run_uuid"]
            lifted = marks.lift((key, value or "") for key, value in tags[id])
            where = f"{self.location} run {id}"
            artifacts, findings = self._list_artifacts(id, row, where)
            header = Run(
                experiment=Ref("experiment", str(row["experiment_id"])),
                name=row["name"] or dict(tags[id]).get("mlflow.runName") or None,
                status=row["status"] or "RUNNING",
                start_time=_whole(row["start_time"]),
                end_time=_whole(row["end_time"]),
                user=row["user_id"] or None,
                lifecycle="deleted"
                if row["lifecycle_stage"] == "deleted"
                else "active",
                deleted_time=_whole(row["deleted_time"]),
                artifact_uri=row["artifact_uri"] or None,
                parent=Ref("run", lifted.parent) if lifted.parent else None,
                source_type=row["source_type"] or None,
                source_name=row["source_name"] or None,
                source_version=row["source_version"] or None,
                entry_point=row["entry_point_name"] or None,
            )
            origin = lifted.origin if marks.load(lifted.mark) else None
            ref = Ref("run", id)
            found[ref] = Item(
                ref,
                header,
                origin=origin or id,
                params=tuple(Param(key, value or "") for key, value in params[id]),
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
        for id, key, value in self._rows(
            table, "run_uuid", "key", "value", where={"run_uuid": ids}
        ):
            pairs[id].append((key, value if value is None else str(value)))
        return pairs

    def _metrics(
        self, ids: list[str], problems: dict[str, list[Finding]]
    ) -> dict[str, list[MetricHistory]]:
        """Read all points of some runs as columns, then cut them by (run, key)."""
        query = self._select(
            "metrics", "run_uuid", "key", "step", "timestamp", "value", "is_nan"
        )
        query = query.where(sa.column("run_uuid").in_(ids))
        query = query.order_by(sa.column("run_uuid"), sa.column("key"))
        metrics: dict[str, list[MetricHistory]] = defaultdict(list)
        open_key: tuple[str, str] | None = None
        points: list[tuple[Any, ...]] = []

        def flush() -> None:
            if open_key is not None and points:
                run, key = open_key
                metrics[run].append(self._history(key, points, run, problems))

        with _connected(self) as connection:
            result = connection.execute(query)
            while rows := result.fetchmany(20_000):
                start = 0
                for at, row in enumerate(rows):
                    if (row[0], row[1]) != open_key:
                        points.extend(rows[start:at])
                        flush()
                        points.clear()
                        open_key, start = (row[0], row[1]), at
                points.extend(rows[start:])
        flush()
        return metrics

    def _history(
        self,
        key: str,
        points: list[tuple[Any, ...]],
        run: str,
        problems: dict[str, list[Finding]],
    ) -> MetricHistory:
        _, _, steps, timestamps, values, nans = zip(*points, strict=True)
        try:
            columns = _columns(steps, timestamps, values, nans)
        except (TypeError, ValueError, OverflowError):
            # SQLite holds any text in a numeric column: find the rows that do.
            sound = [point for point in points if _is_sound(point)]
            what = f"metric {key}: {len(points) - len(sound)} rows are no points"
            problems[run].append(Problem(f"{self.location} run {run}", what))
            if not sound:
                return history(key, *_columns((), (), (), ()))
            _, _, steps, timestamps, values, nans = zip(*sound, strict=True)
            columns = _columns(steps, timestamps, values, nans)
        return history(key, *columns)

    def _inputs(self, ids: list[str]) -> dict[str, list[DatasetInput]]:
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
                tags[link].append(Tag(name, value or ""))
        for link, dataset, run in links:
            if dataset in datasets:
                inputs[run].append(
                    DatasetInput(*datasets[dataset], tags=tuple(tags[link]))
                )
        return inputs

    # -- artifacts --------------------------------------------------------------

    def _find_place(self, id: str) -> Place:
        row = self._run_rows([id])[0]
        return self._place(id, row)

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
            if uri and uri.startswith("mlflow-artifacts:") and held:
                if not any(map(Path.is_dir, layout)):
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

    def _read_model(self, ref: Ref) -> dict[Ref, Item]:
        rows = self._rows(
            "registered_models",
            "name",
            "description",
            "creation_time",
            "last_updated_time",
            where={"name": ref.id},
        )
        if not rows:
            return {}
        _, description, created, updated = rows[0]
        pairs = self._rows("registered_model_tags", "key", "value", where={"name": ref.id})
        aliases = self._rows(
            "registered_model_aliases", "alias", "version", where={"name": ref.id}
        )
        version_tags: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for number, key, value in self._rows(
            "model_version_tags", "version", "key", "value", where={"name": ref.id}
        ):
            version_tags[number].append((key, value or ""))
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
        versions, hidden = [], 0
        for row in self._rows("model_versions", *names, where={"name": ref.id}):
            fields = dict(zip(names, row, strict=True))
            if fields["current_stage"] == "Deleted_Internal":
                hidden += 1
                continue
            versions.append(_version(ref.id, fields, version_tags[fields["version"]]))
        where = f"{self.location} model {ref.id}"
        findings: list[Finding] = []
        if hidden:
            what = f"{hidden} internally deleted versions are not copied"
            findings.append(Note(where, what))
        item = Item(
            ref,
            RegisteredModel(
                ref.id, description or None, _whole(created), _whole(updated)
            ),
            origin=ref.id,
            tags=marks.lift((key, value or "") for key, value in pairs).tags,
            versions=tuple(versions),
            aliases=tuple(Alias(alias, int(number)) for alias, number in aliases),
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
            used = sa.select(sa.column("source_id")).select_from(sa.table("inputs"))
            unused = self._count("datasets", sa.column("dataset_uuid").not_in(used))
            if unused:
                what = f"table datasets: {unused} datasets that no run uses are left"
                yield Problem(self.location, what)

    def _orphans(self) -> Iterator[Finding]:
        """SQLite checks no foreign keys unless asked: rows may outlive their run."""
        runs = sa.select(sa.column("run_uuid")).select_from(sa.table("runs"))
        for name in _OWNED:
            if name in self._tables:
                count = self._count(name, sa.column("run_uuid").not_in(runs))
                if count:
                    what = f"table {name}: {count} rows belong to no run: not copied"
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


def _columns(steps: Any, timestamps: Any, values: Any, nans: Any) -> tuple[Any, Any, Any]:
    if not all(isinstance(value, float | int) for value in values):
        raise TypeError
    floats = np.array(values, dtype=np.float64)
    nan = np.array([bool(flag) for flag in nans], dtype=bool)
    if nan.any():
        floats[nan] = np.nan
    return (
        np.array([step or 0 for step in steps], dtype=np.int64),
        np.array(timestamps, dtype=np.int64),
        floats,
    )


def _is_sound(point: tuple[Any, ...]) -> bool:
    try:
        _columns((point[2],), (point[3],), (point[4],), (point[5],))
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _whole(value: Any) -> int | None:
    """Return a time as an integer; None where it is absent or no number."""
    if value is None or isinstance(value, bool):
        return None
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _version(
    model: str, fields: Mapping[str, Any], pairs: list[tuple[str, str]]
) -> ModelVersion:
    lifted = marks.lift(pairs)
    created = _whole(fields["creation_time"])
    source = fields["source"] or None
    match = source and (_RUN_SOURCE.match(source) or _IN_RUN.search(source))
    origin = lifted.origin if marks.load(lifted.mark) else None
    number = int(fields["version"])
    return ModelVersion(
        version=number,
        origin=origin or f"{model}/{number}@{created}",
        creation_time=created,
        last_updated_time=_whole(fields["last_updated_time"]),
        description=fields["description"] or None,
        user=fields["user_id"] or None,
        stage=fields["current_stage"] or "None",
        source=source,
        source_run=Ref("run", match.group(1)) if match else None,
        source_path=(match.group(2) or "").replace("\\", "/") if match else None,
        storage_location=fields["storage_location"] or None,
        run=Ref("run", fields["run_id"]) if fields["run_id"] else None,
        run_link=fields["run_link"] or None,
        status=fields["status"] or "READY",
        status_message=fields["status_message"] or None,
        tags=lifted.tags,
        mark=lifted.mark,
    )
