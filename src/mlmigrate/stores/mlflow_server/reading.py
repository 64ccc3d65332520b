"""The source half: experiments, runs and registered models of one MLflow server."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from mlmigrate import marks
from mlmigrate.artifacts import (
    Remote,
    is_local,
    lift_source,
    local_path,
    mapped,
    open_file,
    safe_join,
)
from mlmigrate.contract import Glance, Selection
from mlmigrate.errors import ItemError, StoreError
from mlmigrate.model import (
    Alias,
    Artifact,
    DatasetInput,
    Experiment,
    Failed,
    Finding,
    Item,
    Lifecycle,
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
from mlmigrate.stores.mlflow_server.histories import (
    MOST_AT_ONCE,
    RUNS_AT_ONCE,
    Histories,
    Latest,
)
from mlmigrate.stores.mlflow_server.rest import Json, Refused, Rest, filter_text, quoted

RUN_NAME = "mlflow.runName"
#: What a run was called at its origin where the server cannot leave a run unnamed:
#: JSON of {"given": name here, "name": name there, "tag": mlflow.runName there}.
NAMED = "mlmigrate.named"
#: On a run that a lost answer made twice: the run that stayed.
DUPLICATE = "mlmigrate.duplicate"
#: On an experiment that `finish` deletes, or whose runs it deletes, again.
RESTORED = "mlmigrate.restored"
#: On an active experiment while another is restored or deleted: the promise for that
#: one, which takes no tags as long as it is deleted, as ``what@id``.
RESTORING = "mlmigrate.restoring"

PROXIED = "mlflow-artifacts"
ALL = "ALL"
_RUNS_A_PAGE = 1000
_EXPERIMENTS_A_SEARCH = 100
_RUNS_KEPT = 4000
#: How often a run is read that changes under the reader.
_READS = 3
#: Of a run that may still be written.
_WRITING = ("RUNNING", "SCHEDULED", None)


class Reader:
    """Reads everything that `mlmigrate.model` has a record for."""

    def __init__(
        self, rest: Rest, *, threads: int, maps: Sequence[tuple[str, str]]
    ) -> None:
        self._rest = rest
        self._maps = maps
        self._kept: OrderedDict[str, Json] = OrderedDict()
        self._uris: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = threads
        self._listing = "experiments/search"
        # Two pools: a run's task waits for its histories, which wait for nothing.
        self._runs = ThreadPoolExecutor(max(2, threads // 2), "mlmigrate-read")
        self._histories = Histories(rest, threads=threads)

    def close(self) -> None:
        """Stop all threads. May be called twice."""
        self._runs.shutdown(cancel_futures=True)
        self._histories.close()

    def probe(self) -> None:
        """Check that this is an MLflow server that lets us in.

        Raises:
            StoreError: it is not, or does not.
        """
        try:
            try:
                self._rest.get(self._listing, max_results=1)
            except Refused as refusal:
                if not refusal.unknown:
                    raise
                self._listing = "experiments/list"  # before MLflow 1.28
                self._rest.get(self._listing, max_results=1)
        except Refused as refusal:
            raise StoreError(
                f"{self._rest.base} cannot be read: {refusal}. An MLflow tracking"
                " server is needed, at the URL that MLFLOW_TRACKING_URI would hold"
            ) from refusal

    # -- refs -------------------------------------------------------------------

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        if selection.kind == "experiment":
            for id in self.experiment_ids():
                yield Ref("experiment", id)
        elif selection.kind == "run":
            wanted = selection.experiments
            ids = [id for id in self.experiment_ids() if wanted is None or id in wanted]
            for run in self.search_runs(ids):
                tags = _pairs(run.get("data", {}).get("tags"))
                if any(key == DUPLICATE for key, _ in tags):
                    continue
                id = run_id(run)
                self._keep(id, run)
                yield Ref("run", id)
        elif selection.kind == "registered_model":
            for model in self.models():
                yield Ref("registered_model", model["name"])

    def experiments(self) -> Iterator[Json]:
        """Yield all experiments, active and deleted."""
        query = {"view_type": ALL, "max_results": 1000}
        return self._rest.pages(self._listing, "experiments", query)

    def experiment_ids(self) -> list[str]:
        """Return the ids of all experiments, the oldest first."""
        ids = {str(experiment["experiment_id"]) for experiment in self.experiments()}
        return sorted(ids, key=lambda one: (not one.isdigit(), len(one), one))

    def search_runs(
        self, experiments: Sequence[str], filter: str = "", view: str = ALL
    ) -> Iterator[Json]:
        """Yield the runs of some experiments.

        New runs come last, so that none is missed or seen twice while others are
        added.
        """
        for at in range(0, len(experiments), _EXPERIMENTS_A_SEARCH):
            body = {
                "experiment_ids": experiments[at : at + _EXPERIMENTS_A_SEARCH],
                "run_view_type": view,
                "max_results": _RUNS_A_PAGE,
                "order_by": ["attributes.start_time ASC"],
                **({"filter": filter} if filter else {}),
            }
            yield from self._rest.posted_pages("runs/search", "runs", body)

    def models(self) -> Iterator[Json]:
        """Yield all registered models, without the prompts."""
        query = {"max_results": 1000}
        return self._rest.pages("registered-models/search", "registered_models", query)

    # -- items ------------------------------------------------------------------

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        # A few ahead, and no more: memory holds no more than those.
        ahead: deque[tuple[Ref, Future[Item]]] = deque()
        waiting = self._with_histories(refs)
        try:
            while True:
                while len(ahead) < 2 * self._threads:
                    ref, known = next(waiting, (None, None))
                    if ref is None:
                        break
                    ahead.append((ref, self._runs.submit(self.read_one, ref, known)))
                if not ahead:
                    return
                ref, future = ahead.popleft()
                try:
                    yield future.result()
                except ItemError as error:
                    yield Failed(ref, str(error))
        finally:
            for _, future in ahead:
                future.cancel()

    def _with_histories(
        self, refs: Sequence[Ref]
    ) -> Iterator[tuple[Ref, Mapping[str, MetricHistory]]]:
        """Yield each ref, and those of its metrics that could be read with others'."""
        group: dict[str, Latest] = {}

        def together() -> Iterator[tuple[Ref, Mapping[str, MetricHistory]]]:
            found = self._histories.of_several(group)
            yield from ((Ref("run", id), found[id]) for id in group)
            group.clear()

        runs = [ref.id for ref in refs if ref.kind == "run"]
        alone = len(runs) < 2
        given = iter(()) if alone else self._runs.map(self._held_or_got, runs)
        for ref in refs:
            if alone or ref.kind != "run":
                yield from together()
                yield ref, {}
                continue
            run = next(given)
            if run is not None:
                self._keep(ref.id, run)
            latest = ((run or {}).get("data") or {}).get("metrics") or ()
            group[ref.id] = {str(point["key"]): point for point in latest}
            histories = sum(map(len, group.values()))
            if len(group) == RUNS_AT_ONCE or histories >= MOST_AT_ONCE:
                yield from together()
        yield from together()

    def glance(self, refs: Sequence[Ref]) -> Iterator[Glance]:
        """See `mlmigrate.contract.Glancing.glance`."""
        for run in self._runs.map(self._held_or_got, [ref.id for ref in refs]):
            if run is None:
                continue
            info = run["info"]
            lifted = marks.lift(_pairs((run.get("data") or {}).get("tags")))
            id = run_id(run)
            yield Glance(
                Ref("run", id),
                (lifted.origin if marks.load(lifted.mark) else None) or id,
                str(info.get("status") or "RUNNING"),
                _millis(info.get("end_time")),
                lifecycle(info),
            )

    def _held_or_got(self, id: str) -> Json | None:
        with self._lock:
            kept = self._kept.get(id)
        if kept is not None:
            return kept
        try:
            return self.run(id)
        except Refused:
            return None  # reading it tells why

    def read_one(
        self, ref: Ref, known: Mapping[str, MetricHistory] | None = None
    ) -> Item:
        """Read one item; metrics that are *known* already are not read again.

        Raises:
            ItemError: nothing of it can be read.
        """
        if ref.kind == "experiment":
            return self._read_experiment(ref)
        if ref.kind == "run":
            return self._read_run(ref, known or {})
        if ref.kind == "registered_model":
            return self._read_model(ref)
        raise ItemError(f"{self._rest.base}: {ref.kind}s are not read over REST")

    def experiment(self, id: str) -> Json:
        """Get one experiment, of any lifecycle."""
        answer = self._rest.get("experiments/get", experiment_id=id)
        return cast(Json, answer["experiment"])

    def _read_experiment(self, ref: Ref) -> Item:
        found = self.experiment(ref.id)
        lifted = marks.lift(_pairs(found.get("tags")))
        header = Experiment(
            name=found["name"],
            artifact_location=_text(found.get("artifact_location")),
            lifecycle=lifecycle(found),
            creation_time=_millis(found.get("creation_time")),
            last_update_time=_millis(found.get("last_update_time")),
        )
        return Item(
            ref,
            header,
            origin=origins_of(lifted.origin, f"{ref.id}/{header.name}")[0],
            tags=lifted.tags,
            mark=lifted.mark or None,
        )

    # -- runs -------------------------------------------------------------------

    def run(self, id: str) -> Json:
        """Get one run, of any lifecycle."""
        return cast(Json, self._rest.get("runs/get", run_id=id)["run"])

    def forget(self, id: str) -> None:
        """Drop what is remembered of a run that is about to change."""
        with self._lock:
            self._kept.pop(id, None)

    def forget_all(self) -> None:
        """Drop what is remembered of all runs."""
        with self._lock:
            self._kept.clear()

    def _keep(self, id: str, run: Json) -> None:
        with self._lock:
            self._kept[id] = run
            while len(self._kept) > _RUNS_KEPT:
                self._kept.popitem(last=False)

    def _read_run(self, ref: Ref, known: Mapping[str, MetricHistory]) -> Item:
        """Read one run as it was at one moment: what is being written is read again."""
        with self._lock:
            found = self._kept.pop(ref.id, None)
        if found is None:
            found = self.run(ref.id)
        for _ in range(_READS):
            item = self._run_item(ref, found, known)
            if found["info"].get("status") not in _WRITING:
                return item
            before, found, known = found, self.run(ref.id), {}
            if json.dumps(found) == json.dumps(before):  # NaN is equal to itself here
                return item
        where = f"{self._rest.base}: run {ref.id}"
        what = (
            "it was written all the while it was read, so its parts may be of different"
            " moments: run the same command again when it has ended"
        )
        return replace(item, findings=(*item.findings, Note(where, what)))

    def _run_item(
        self, ref: Ref, found: Json, known: Mapping[str, MetricHistory]
    ) -> Item:
        where = f"{self._rest.base}: run {ref.id}"
        info, data = found["info"], found.get("data") or {}
        lifted = marks.lift(named_there(info, _pairs(data.get("tags"))))
        keys = sorted({metric["key"] for metric in data.get("metrics") or ()})
        futures = [
            (key, self._histories.submit(ref.id, key))
            for key in keys
            if key not in known
        ]
        findings: list[Finding] = []
        inputs = self._inputs(found, where, findings)
        artifacts = self._list_artifacts(ref.id, where, findings)
        metrics = [known[key] for key in keys if key in known]
        for key, future in futures:
            try:
                metrics.append(future.result())
            except ItemError as error:
                findings.append(Problem(where, f"metric {key}: {error}"))
        header = Run(
            experiment=Ref("experiment", str(info["experiment_id"])),
            name=there_name(info, _pairs(data.get("tags"))),
            status=str(info.get("status") or "RUNNING"),
            start_time=_millis(info.get("start_time")),
            end_time=_millis(info.get("end_time")),
            user=_text(info.get("user_id")),
            lifecycle=lifecycle(info),
            artifact_uri=_text(info.get("artifact_uri")),
            parent=Ref("run", lifted.parent) if lifted.parent else None,
        )
        origin = lifted.origin if marks.load(lifted.mark) else None
        return Item(
            ref,
            header,
            origin=origin or ref.id,
            params=tuple(
                Param(key, value) for key, value in _pairs(data.get("params"))
            ),
            tags=lifted.tags,
            metrics=tuple(metrics),
            inputs=inputs,
            artifacts=artifacts,
            mark=lifted.mark or None,
            findings=tuple(findings),
        )

    def _inputs(
        self, found: Json, where: str, findings: list[Finding]
    ) -> tuple[DatasetInput, ...]:
        inputs = found.get("inputs") or {}
        links = len(inputs.get("model_inputs") or ())
        links += len((found.get("outputs") or {}).get("model_outputs") or ())
        if links:
            what = f"its {links} links to logged models are not carried over"
            findings.append(Problem(where, what))
        return tuple(_dataset(entry) for entry in inputs.get("dataset_inputs") or ())

    # -- artifacts --------------------------------------------------------------

    def _list_artifacts(
        self, id: str, where: str, findings: list[Finding]
    ) -> tuple[Artifact, ...]:
        try:
            return tuple(
                sorted(self.list_artifacts(id), key=lambda artifact: artifact.path)
            )
        except ItemError as error:
            findings.append(
                Problem(where, f"its artifacts cannot be listed by the server: {error}")
            )
            return ()

    def list_artifacts(self, id: str) -> Iterator[Artifact]:
        """Yield the files of a run, as the server sees them.

        Raises:
            ItemError: the server cannot list them.
        """
        folders, seen = [""], {""}
        while folders:
            query: Json = {"run_id": id}
            if folder := folders.pop():
                query["path"] = folder
            for info in self._rest.pages("artifacts/list", "files", query):
                path = str(info["path"])
                if path in seen:  # some stores list a folder inside itself
                    continue
                seen.add(path)
                if info.get("is_dir"):
                    folders.append(path)
                else:
                    yield Artifact(path, int(info.get("file_size") or 0))

    def open(self, ref: Ref, path: str) -> BinaryIO:
        """See `mlmigrate.contract.Source.open`."""
        if ref.kind != "run":
            raise ItemError(f"{ref}: only runs have artifacts here")
        safe_join(Path("/"), path)
        uri = self.artifact_uri(ref.id)
        replaced = mapped(uri, self._maps)
        if replaced is not None and is_local(replaced):
            return open_file(Path(local_path(replaced)), path)
        root = proxied_root(uri)
        if replaced is None and root is not None:
            place = f"/api/2.0/mlflow-artifacts/artifacts/{quoted(f'{root}/{path}')}"
            return self._rest.download(place)
        if replaced is None and (is_local(uri) or uri.startswith(f"{PROXIED}:")):
            return self._through_server(ref.id, path)
        try:
            return Remote(replaced or uri, tracking_uri=self._rest.base).open(path)
        except (ItemError, ImportError):
            # The server may hold credentials, or a library, that we lack.
            return self._through_server(ref.id, path)

    def _through_server(self, id: str, path: str) -> BinaryIO:
        return self._rest.download("/get-artifact", {"run_id": id, "path": path})

    def artifact_uri(self, id: str) -> str:
        """Return where a run's artifacts are: it never changes."""
        with self._lock:
            uri = self._uris.get(id)
        if uri is None:
            uri = str(self.run(id)["info"].get("artifact_uri") or "")
            with self._lock:
                self._uris[id] = uri
                while len(self._uris) > _RUNS_KEPT:
                    self._uris.popitem(last=False)
        return uri

    # -- the registry -----------------------------------------------------------

    def model(self, name: str) -> Json:
        """Get one registered model."""
        answer = self._rest.get("registered-models/get", name=name)
        return cast(Json, answer["registered_model"])

    def versions(self, name: str) -> list[Json]:
        """Return all versions of a model by number, without the deleted."""
        literal = filter_text(name)
        if literal is None:
            raise ItemError(f"model {name!r}: a name with both kinds of quotes")
        query = {"filter": f"name={literal}", "max_results": 1000}
        found = self._rest.pages("model-versions/search", "model_versions", query)
        return sorted(found, key=lambda version: int(version["version"]))

    def _read_model(self, ref: Ref) -> Item:
        found = self.model(ref.id)
        lifted = marks.lift(_pairs(found.get("tags")))
        aliases = tuple(
            Alias(alias["alias"], int(alias["version"]))
            for alias in found.get("aliases") or ()
        )
        versions = []
        findings: list[Finding] = []
        for entry in self.versions(ref.id):
            version = _version(entry)
            if entry.get("model_id"):
                what = f"its link to logged model {entry['model_id']} is not carried"
                where = f"{self._rest.base}: {ref.id} version {version.version}"
                findings.append(Problem(where, f"{what} over"))
            versions.append(version)
        return Item(
            ref,
            RegisteredModel(
                name=found["name"],
                description=_text(found.get("description")),
                creation_time=_millis(found.get("creation_timestamp")),
                last_updated_time=_millis(found.get("last_updated_timestamp")),
            ),
            origin=found["name"],
            tags=lifted.tags,
            versions=tuple(versions),
            aliases=aliases,
            mark=lifted.mark or None,
            findings=tuple(findings),
        )

    # -- what is not carried over -------------------------------------------------

    def findings(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Source.findings`."""
        ids = self.experiment_ids()
        where = self._rest.base
        kinds = (
            ("prompts", self._prompts()),
            ("logged models", self._logged_models(ids)),
            ("traces", self._any_traces(ids)),
        )
        for name, entries in kinds:
            try:
                count = sum(1 for _ in _first(entries, 1000))
            except Refused as refusal:
                if not refusal.absent and refusal.status != 400:
                    what = f"{name} cannot be counted: {refusal}"
                    yield Note(where, what)
                continue
            if count:
                many = "1000 or more" if count == 1000 else str(count)
                yield Problem(where, f"{many} {name} are not carried over")

    def _prompts(self) -> Iterator[Json]:
        query = {
            "filter": "tags.`mlflow.prompt.is_prompt` = 'true'",
            "max_results": 1000,
        }
        return self._rest.pages("registered-models/search", "registered_models", query)

    def _logged_models(self, experiments: Sequence[str]) -> Iterator[Json]:
        for at in range(0, len(experiments), _EXPERIMENTS_A_SEARCH):
            ids = experiments[at : at + _EXPERIMENTS_A_SEARCH]
            body = {"experiment_ids": ids, "max_results": 50}
            yield from self._rest.posted_pages("logged-models/search", "models", body)

    def _any_traces(self, experiments: Sequence[str]) -> Iterator[Json]:
        try:
            yield from self._traces(experiments)
        except Refused as refusal:
            if not refusal.unknown:
                raise
            yield from self._older_traces(experiments)

    def _traces(self, experiments: Sequence[str]) -> Iterator[Json]:
        for at in range(0, len(experiments), _EXPERIMENTS_A_SEARCH):
            body = {
                "locations": [
                    {
                        "type": "MLFLOW_EXPERIMENT",
                        "mlflow_experiment": {"experiment_id": id},
                    }
                    for id in experiments[at : at + _EXPERIMENTS_A_SEARCH]
                ],
                "max_results": 500,
            }
            path = "/api/3.0/mlflow/traces/search"
            yield from self._rest.posted_pages(path, "traces", body)

    def _older_traces(self, experiments: Sequence[str]) -> Iterator[Json]:
        """Yield traces as the servers from MLflow 2.13 to 3.1 list them."""
        for at in range(0, len(experiments), _EXPERIMENTS_A_SEARCH):
            ids = experiments[at : at + _EXPERIMENTS_A_SEARCH]
            query = {"experiment_ids": ids, "max_results": 500}
            yield from self._rest.pages("traces", "traces", query)


# -- answers to records -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Named:
    given: str
    name: str | None
    tag: str | None


def _named(info: Json, pairs: Sequence[tuple[str, str]]) -> _Named | None:
    """Return what a copy was called at its origin, while nobody renamed it here."""
    tags = dict(pairs)
    try:
        said = _Named(**json.loads(tags.get(NAMED) or "null"))
    except (ValueError, TypeError):
        return None
    if not _shown_name(info, tags) == tags.get(RUN_NAME) == said.given:
        return None
    return said


def there_name(info: Json, pairs: Sequence[tuple[str, str]]) -> str | None:
    """Return a run's name, None where the server invented it for a copy."""
    said = _named(info, pairs)
    return said.name if said else _shown_name(info, dict(pairs))


def _shown_name(info: Json, tags: dict[str, str]) -> str | None:
    """Return a run's name, which before MLflow 1.30 is a tag and nothing else."""
    return _text(info.get("run_name")) or _text(tags.get(RUN_NAME))


def named_there(info: Json, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return a run's tags, with the name's tag as the origin had it."""
    said = _named(info, pairs)
    if said is None:
        return pairs
    others = [(key, value) for key, value in pairs if key != RUN_NAME]
    return others if said.tag is None else [*others, (RUN_NAME, said.tag)]


def run_id(run: Json) -> str:
    """Return the id of a run that was searched or got."""
    info = run["info"]
    return str(info.get("run_id") or info["run_uuid"])


def tags_of(run: Json) -> dict[str, str]:
    """Return all tags of a run that was searched or got."""
    return dict(_pairs((run.get("data") or {}).get("tags")))


def pairs_of(entry: Json) -> dict[str, str]:
    """Return all tags of an experiment, a model or a version."""
    return dict(_pairs(entry.get("tags")))


def origins_of(text: str | None, otherwise: str) -> list[str]:
    """Return the origins that the tag of an experiment lists."""
    try:
        origins = json.loads(text or "[]")
    except ValueError:
        origins = [text]
    if not isinstance(origins, list):
        origins = [text]
    return [str(origin) for origin in origins] or [otherwise]


def lifecycle(entry: Json) -> Lifecycle:
    """Return the lifecycle of an experiment or of a run's info."""
    return "deleted" if entry.get("lifecycle_stage") == "deleted" else "active"


def proxied_root(uri: str) -> str | None:
    """Return the path below the server's own artifact root, None elsewhere."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # a host that is none: whoever opens it says so
        return None
    if parts.scheme != PROXIED or parts.netloc:
        return None
    return parts.path.strip("/")


def _version(entry: Json) -> ModelVersion:
    name, number = entry["name"], int(entry["version"])
    lifted = marks.lift(_pairs(entry.get("tags")))
    created = _millis(entry.get("creation_timestamp"))
    source = _text(entry.get("source"))
    run, below = lift_source(source)
    own_run = _text(entry.get("run_id"))
    origin = lifted.origin if marks.load(lifted.mark) else None
    version = ModelVersion(
        version=number,
        origin=origin or f"{name}/{number}@{created}",
        creation_time=created,
        last_updated_time=_millis(entry.get("last_updated_timestamp")),
        description=_text(entry.get("description")),
        user=_text(entry.get("user_id")),
        stage=str(entry.get("current_stage") or "None"),
        source=source,
        source_run=Ref("run", run) if run else None,
        source_path=below,
        run=Ref("run", own_run) if own_run else None,
        run_link=_text(entry.get("run_link")),
        tags=lifted.tags,
        mark=lifted.mark or None,
    )
    return replace(
        version,
        status=str(entry.get("status") or "READY"),
        status_message=_text(entry.get("status_message")),
    )


def _dataset(entry: Json) -> DatasetInput:
    dataset = entry.get("dataset") or {}
    return DatasetInput(
        name=str(dataset.get("name") or ""),
        digest=str(dataset.get("digest") or ""),
        source_type=str(dataset.get("source_type") or ""),
        source=str(dataset.get("source") or ""),
        schema=_text(dataset.get("schema")),
        profile=_text(dataset.get("profile")),
        tags=tuple(Tag(key, value) for key, value in _pairs(entry.get("tags"))),
    )


def _pairs(entries: Any) -> list[tuple[str, str]]:
    return [
        (str(entry.get("key") or ""), str(entry.get("value") or ""))
        for entry in entries or ()
    ]


def _text(value: Any) -> str | None:
    return str(value) if value else None


def _millis(value: Any) -> int | None:
    # The wire cannot tell 0 from nothing.
    return int(value) if value and int(value) else None


def _first(entries: Iterator[Json], count: int) -> Iterator[Json]:
    for at, entry in enumerate(entries, 1):
        yield entry
        if at >= count:
            return
