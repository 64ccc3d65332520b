"""The source half: what one MLflow server holds, as items."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from itertools import groupby
from typing import cast

import numpy as np

from mlmigrate import marks
from mlmigrate.contract import Glance, Selection
from mlmigrate.errors import ItemError, StoreError
from mlmigrate.metrics import with_nan, with_zeros
from mlmigrate.mlflow_traces import SPANS_LOCATION
from mlmigrate.model import (
    Artifact,
    Experiment,
    Failed,
    Finding,
    Item,
    MetricHistory,
    ModelMetric,
    Note,
    Param,
    Problem,
    Ref,
    Run,
)
from mlmigrate.stores.mlflow_server import (
    answers,
    logged_models,
    trace_infos,
    traces,
)
from mlmigrate.stores.mlflow_server.entities import TOLD
from mlmigrate.stores.mlflow_server.entity_reading import EntityReader
from mlmigrate.stores.mlflow_server.files import Files
from mlmigrate.stores.mlflow_server.histories import (
    MOST_AT_ONCE,
    RUNS_AT_ONCE,
    Histories,
    Latest,
)
from mlmigrate.stores.mlflow_server.registry_reading import RegistryReader
from mlmigrate.stores.mlflow_server.release import Release, release_of
from mlmigrate.stores.mlflow_server.rest import (
    EXPERIMENTS_A_SEARCH,
    Json,
    Refused,
    Rest,
)
from mlmigrate.stores.mlflow_server.trace_files import Contents, contents
from mlmigrate.stores.mlflow_server.trace_links import Links

ALL, ACTIVE = "ALL", "ACTIVE_ONLY"
_RUNS_A_PAGE = 1000
_TRACES_AT_ONCE = 100
_RUNS_KEPT = 4000
#: How often a run is read that changes under the reader.
_READS = 3
#: Of a run that may still be written.
_WRITING = ("RUNNING", "SCHEDULED", None)


class Reader:
    """Reads everything that `mlmigrate.model` has a record for."""

    def __init__(
        self,
        rest: Rest,
        *,
        threads: int,
        maps: Sequence[tuple[str, str]],
        sink: bool = False,
    ) -> None:
        self._rest = rest
        self._sink = sink
        self.files = Files(rest, maps)
        self._kept: OrderedDict[str, Json] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = threads
        self._listing = "experiments/search"
        # Two pools: a run's task waits for its histories, which wait for nothing.
        self._runs = ThreadPoolExecutor(max(2, threads // 2), "mlmigrate-read")
        self._histories = Histories(rest, threads=threads)
        self._asking = ThreadPoolExecutor(threads, "mlmigrate-links")
        self.entities = EntityReader(
            rest,
            self._asking,
            active=lambda: self.experiment_ids(ACTIVE),
            sink=sink,
        )
        self.registry = RegistryReader(rest)
        self.links = Links(
            rest,
            self._asking,
            experiments=self.experiment_ids,
            runs=lambda: map(answers.run_id, self.search_runs(self.experiment_ids())),
            prompts=self.registry.prompt_versions,
        )

    def close(self) -> None:
        """Stop all threads. May be called twice."""
        self._runs.shutdown(cancel_futures=True)
        self._histories.close()
        self._asking.shutdown(cancel_futures=True)

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
            for run in self.search_runs(self._selected(selection)):
                tags = answers.key_values(run.get("data", {}).get("tags"))
                if any(key == answers.DUPLICATE for key, _ in tags):
                    continue
                id = answers.run_id(run)
                self._keep(id, run)
                yield Ref("run", id)
        elif selection.kind == "logged_model":
            for model in logged_models.search(self._rest, self._selected(selection)):
                yield Ref("logged_model", str(model["info"]["model_id"]))
        elif selection.kind == "registered_model":
            for model in self.registry.models():
                yield Ref("registered_model", model["name"])
        elif selection.kind == "trace":
            for trace in trace_infos.search(self._rest, self._selected(selection)):
                yield Ref("trace", trace["trace_id"])
        elif selection.kind in TOLD:
            yield from self.entities.refs(selection.kind, self._selected(selection))

    def _selected(self, selection: Selection) -> list[str]:
        """Return the ids of the experiments that a selection names; all, if none."""
        wanted = selection.experiments
        return [id for id in self.experiment_ids() if wanted is None or id in wanted]

    def experiments(self, view: str = ALL) -> Iterator[Json]:
        """Yield experiments: all of them, active and deleted, or the active."""
        query = {"view_type": view, "max_results": 1000}
        return self._rest.pages(self._listing, "experiments", query)

    def experiment_ids(self, view: str = ALL) -> list[str]:
        """Return the ids of the same, the oldest first."""
        ids = {str(each["experiment_id"]) for each in self.experiments(view)}
        return sorted(ids, key=lambda one: (not one.isdigit(), len(one), one))

    def search_runs(
        self, experiments: Sequence[str], filter: str = "", view: str = ALL
    ) -> Iterator[Json]:
        """Yield the runs of some experiments.

        New runs come last, so that none is missed or seen twice while others are
        added.
        """
        for at in range(0, len(experiments), EXPERIMENTS_A_SEARCH):
            body = {
                "experiment_ids": experiments[at : at + EXPERIMENTS_A_SEARCH],
                "run_view_type": view,
                "max_results": _RUNS_A_PAGE,
                "order_by": ["attributes.start_time ASC"],
                **({"filter": filter} if filter else {}),
            }
            yield from self._rest.posted_pages("runs/search", "runs", body)

    @cached_property
    def has_logged_models(self) -> bool:
        """Whether runs may have links to logged models. A search of runs does not tell
        of those that they used: each must then be got.
        """
        models = logged_models.search(self._rest, self.experiment_ids())
        return next(models, None) is not None

    def logged_models(self, experiments: Sequence[str]) -> Iterator[Json]:
        """Yield the logged models of some experiments, without the deleted."""
        return logged_models.search(self._rest, experiments)

    def note_logged_models(self) -> None:
        """Take notice that there are logged models now."""
        self.__dict__["has_logged_models"] = True

    # -- items ------------------------------------------------------------------

    def read(self, refs: Sequence[Ref]) -> Iterator[Item | Failed]:
        """See `mlmigrate.contract.Source.read`."""
        # A few ahead, and no more: memory holds no more than those.
        ahead: deque[tuple[Ref, Future[Item]]] = deque()
        waiting = self._asked(refs)
        try:
            while True:
                while len(ahead) < 2 * self._threads:
                    ref, read = next(waiting, (None, None))
                    if ref is None or read is None:
                        break
                    ahead.append((ref, self._runs.submit(read)))
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

    def _asked(self, refs: Sequence[Ref]) -> Iterator[tuple[Ref, Callable[[], Item]]]:
        """Yield each ref with what reads it; what several can be asked at once was."""
        for kind, group in groupby(refs, key=lambda ref: ref.kind):
            if kind == "trace":
                yield from self._asked_traces(list(group))
                continue
            for ref, known in self._with_histories(list(group)):
                yield ref, partial(self.read_one, ref, known)

    def _asked_traces(
        self, refs: Sequence[Ref]
    ) -> Iterator[tuple[Ref, Callable[[], Item]]]:
        for at in range(0, len(refs), _TRACES_AT_ONCE):
            some = refs[at : at + _TRACES_AT_ONCE]
            try:
                found = trace_infos.infos(self._rest, [ref.id for ref in some])
            except ItemError:  # at one of them: each tells for itself
                yield from ((ref, partial(self.read_one, ref)) for ref in some)
                continue
            for ref in some:
                yield ref, partial(self._read_trace, ref, found.get(ref.id))

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
            lifted = marks.lift(answers.key_values((run.get("data") or {}).get("tags")))
            id = answers.run_id(run)
            yield Glance(
                Ref("run", id),
                (lifted.origin if marks.load(lifted.mark) else None) or id,
                str(info.get("status") or "RUNNING"),
                answers.millis(info.get("end_time")),
                answers.lifecycle(info),
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
        if ref.kind == "logged_model":
            return self._read_logged_model(ref)
        if ref.kind == "registered_model":
            return self.registry.item(ref)
        if ref.kind in TOLD:
            return self.entities.read(ref)
        found = trace_infos.infos(self._rest, [ref.id])
        return self._read_trace(ref, found.get(ref.id))

    def experiment(self, id: str) -> Json:
        """Get one experiment, of any lifecycle."""
        answer = self._rest.get("experiments/get", experiment_id=id)
        return cast(Json, answer["experiment"])

    def _read_experiment(self, ref: Ref) -> Item:
        found = self.experiment(ref.id)
        lifted = marks.lift(answers.key_values(found.get("tags")))
        header = Experiment(
            name=found["name"],
            artifact_location=answers.text(found.get("artifact_location")),
            lifecycle=answers.lifecycle(found),
            creation_time=answers.millis(found.get("creation_time")),
            last_update_time=answers.millis(found.get("last_update_time")),
        )
        return Item(
            ref,
            header,
            origin=answers.origins_of(lifted.origin, f"{ref.id}/{header.name}")[0],
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
        """Drop what is remembered of all runs, and of what traces are linked to."""
        with self._lock:
            self._kept.clear()
        self.links.forget()

    def _keep(self, id: str, run: Json) -> None:
        with self._lock:
            self._kept[id] = run
            while len(self._kept) > _RUNS_KEPT:
                self._kept.popitem(last=False)

    def _read_run(self, ref: Ref, known: Mapping[str, MetricHistory]) -> Item:
        """Read one run as it was at one moment: what is being written is read again."""
        with self._lock:
            found = self._kept.pop(ref.id, None)
        if found is None or self.has_logged_models:
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
        lifted = marks.lift(
            answers.named_there(info, answers.key_values(data.get("tags")))
        )
        keys = sorted({metric["key"] for metric in data.get("metrics") or ()})
        futures = [
            (key, self._histories.submit(ref.id, key))
            for key in keys
            if key not in known
        ]
        findings: list[Finding] = []
        artifacts = self._list_artifacts(ref, where, findings)
        metrics = [known[key] for key in keys if key in known]
        for key, future in futures:
            try:
                metrics.append(future.result())
            except ItemError as error:
                findings.append(Problem(where, f"metric {key}: {error}"))
        header = Run(
            experiment=Ref("experiment", str(info["experiment_id"])),
            name=answers.there_name(info, answers.key_values(data.get("tags"))),
            status=str(info.get("status") or "RUNNING"),
            start_time=answers.millis(info.get("start_time")),
            end_time=answers.millis(info.get("end_time")),
            user=answers.text(info.get("user_id")),
            lifecycle=answers.lifecycle(info),
            artifact_uri=answers.text(info.get("artifact_uri")),
            parent=Ref("run", lifted.parent) if lifted.parent else None,
        )
        origin = lifted.origin if marks.load(lifted.mark) else None
        return Item(
            ref,
            header,
            origin=origin or ref.id,
            params=tuple(
                Param(key, value)
                for key, value in answers.key_values(data.get("params"))
            ),
            tags=lifted.tags,
            metrics=tuple(metrics),
            inputs=tuple(
                answers.dataset_of(entry)
                for entry in (found.get("inputs") or {}).get("dataset_inputs") or ()
            ),
            links=logged_models.links_of(found),
            artifacts=artifacts,
            mark=lifted.mark or None,
            findings=tuple(findings),
        )

    # -- logged models ----------------------------------------------------------

    def logged_model(self, id: str) -> Json:
        """Get one logged model that is not deleted."""
        return cast(Json, self._rest.get(logged_models.place(id))["model"])

    def _read_logged_model(self, ref: Ref) -> Item:
        found = self.logged_model(ref.id)
        findings: list[Finding] = []
        where = f"{self._rest.base}: logged model {ref.id}"
        artifacts = self._list_artifacts(ref, where, findings)
        item = logged_models.item_of(ref, found, artifacts, ())
        nans = self._nans(item.model_metrics, where, findings)
        metrics = with_nan(item.model_metrics, nans)
        return replace(item, model_metrics=metrics, findings=tuple(findings))

    def _nans(
        self, metrics: Iterable[ModelMetric], where: str, findings: list[Finding]
    ) -> dict[tuple[str, str], set[tuple[int, int]]]:
        """Return the steps and times of a run's NaNs, by run and key, where a logged
        model has a 0: the server's database has one there for NaN.
        """
        asked = {each: self._histories.submit(*each) for each in with_zeros(metrics)}
        found = {}
        for (run, key), future in asked.items():
            try:
                own = future.result()
            except ItemError as error:
                what = f"metric {key} of run {run}, of which a 0 may be a NaN: {error}"
                findings.append(Problem(where, what))
                continue
            nan = np.isnan(own.values)
            steps, timestamps = own.steps[nan].tolist(), own.timestamps[nan].tolist()
            found[run, key] = set(zip(steps, timestamps, strict=True))
        return found

    def _list_artifacts(
        self, ref: Ref, where: str, findings: list[Finding]
    ) -> tuple[Artifact, ...]:
        try:
            return tuple(
                sorted(self.files.listed(ref), key=lambda artifact: artifact.path)
            )
        except ItemError as error:
            findings.append(
                Problem(where, f"its artifacts cannot be listed by the server: {error}")
            )
            return ()

    # -- traces -------------------------------------------------------------------

    def trace_infos(self, ids: Sequence[str]) -> dict[str, Json]:
        """Get what the server says of some traces, without their spans."""
        return trace_infos.infos(self._rest, ids)

    def _read_trace(self, ref: Ref, info: Json | None) -> Item:
        where = f"{self._rest.base}: trace {ref.id}"
        if info is None:
            raise ItemError(f"{where} is not there")
        lifted = traces.lifted_of(info)
        if lifted.location is not None:
            self.files.note(ref, lifted.location)
        stored = info["tags"].get(SPANS_LOCATION) == "TRACKING_STORE"
        beside = info["tags"].get(traces.FILES)
        found = contents(
            self._rest,
            self.files,
            ref,
            where,
            stored=stored,
            more=beside is not None,
            every=beside == traces.ALL_FILES,
        )
        if found == Contents() and (3, 4) <= self.release.number < (3, 6):
            what = (
                "it may have spans that MLflow 3.4 and 3.5 keep in the database and do"
                " not give: copy from the database itself"
            )
            found = Contents(findings=(Problem(where, what),))
        # What others linked to a copy at the sink is no business of ours.
        every = not (self._sink and lifted.mark)
        every = every or info["tags"].get(traces.LINKED) == traces.MANY
        links = self.links.of(ref.id, traces.named_ends(info), every=every)
        return traces.item_of(info, lifted, found, links, where)

    @cached_property
    def release(self) -> Release:
        """Which MLflow the server runs."""
        return release_of(self._rest)
