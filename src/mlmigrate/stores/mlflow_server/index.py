"""What a server holds of each origin: read once, and kept up while we write."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mlmigrate import marks
from mlmigrate.contract import Copy
from mlmigrate.mlflow_traces import trace_id
from mlmigrate.model import Lifecycle, ModelLink, Ref
from mlmigrate.stores.mlflow_server import answers
from mlmigrate.stores.mlflow_server.reading import Reader
from mlmigrate.stores.mlflow_server.rest import Json, Refused, filter_text

_ORIGIN_KEY = f"tags.`{marks.ORIGIN}`"
_IDS_A_SEARCH = 100
_RUN_ID = re.compile(r"^[0-9a-f]{32}$")


#: In a promise, the time at which its experiment is made.
MADE = "made"


@dataclass(slots=True)
class KnownExperiment:
    """An experiment at the sink."""

    id: str
    name: str
    lifecycle: Lifecycle
    updated: int
    created: int
    tags: dict[str, str] = field(default_factory=dict)
    announced: str | None = None  # a promise that another experiment bears

    @property
    def origins(self) -> list[str]:
        """The origins that were merged into it."""
        text = self.tags.get(marks.ORIGIN)
        return answers.origins_of(text, "") if text else []

    @property
    def promise(self) -> str | None:
        """What a copy that was killed still meant to do with it.

        ``delete`` what it had made, ``redelete`` what it had restored, or ``keep`` it
        but delete its runs again; None if nothing.

        The promise names the time of the change that it was made for: whoever
        restores the experiment later is not overruled. One that came with the create
        holds while nothing has changed since.
        """
        if self.announced is not None:
            return self.announced
        what, _, when = self.tags.get(answers.RESTORED, "").partition("@")
        made = when == MADE and self.updated == self.created
        return what if what and (made or when == str(self.updated)) else None


@dataclass(slots=True)
class KnownRun:
    """A run or a logged model at the sink."""

    id: str
    mark: str | None
    lifecycle: Lifecycle

    def preferred_to(self, other: KnownRun) -> bool:
        """Tell whether this rather than *other* is the copy of their origin."""
        mine = (self.mark is None, self.lifecycle == "deleted", self.id)
        return mine < (other.mark is None, other.lifecycle == "deleted", other.id)


class Index:
    """Finds copies by origin. Safe to use from many threads."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.RLock()
        self._experiments: dict[str, KnownExperiment] | None = None
        self._runs: dict[str, KnownRun] | None = None
        self._unresolved: dict[str, str] = {}
        self._waiting: dict[str, list[ModelLink]] = {}
        self._models: dict[str, KnownRun] | None = None

    # -- experiments --------------------------------------------------------------

    def experiments(self) -> dict[str, KnownExperiment]:
        """Return all experiments by id."""
        with self._lock:
            if self._experiments is None:
                known = map(known_experiment, self._reader.experiments())
                self._experiments = {one.id: one for one in known}
                for one in self._experiments.values():
                    what, _, id = one.tags.get(answers.RESTORING, "").partition("@")
                    if id in self._experiments:
                        self._experiments[id].announced = what
            return self._experiments

    def refresh(self, id: str) -> KnownExperiment:
        """Read one experiment anew."""
        known = known_experiment(self._reader.experiment(id))
        with self._lock:
            every = self.experiments()
            if id in every:
                known.announced = every[id].announced
            every[id] = known
        return known

    def experiment_of(self, origin: str) -> KnownExperiment | None:
        """Find the experiment that bears *origin*, else the one of its name."""
        with self._lock:
            every = list(self.experiments().values())
        bearing = [one for one in every if origin in one.origins]
        if bearing:
            return min(bearing, key=lambda one: one.lifecycle)  # active comes first
        return self.named(origin.partition("/")[2])

    def named(self, name: str) -> KnownExperiment | None:
        """Find the experiment of a name."""
        with self._lock:
            every = list(self.experiments().values())
        return next((one for one in every if one.name == name), None)

    def named_anew(self, name: str) -> KnownExperiment | None:
        """Find the experiment of a name, also one that was made just now."""
        with self._lock:
            self._experiments = None
        return self.named(name)

    # -- runs ---------------------------------------------------------------------

    def run_of(self, origin: str) -> KnownRun | None:
        """Find mlmigrate's copy of a run."""
        return self._loaded().get(origin)

    def note_run(self, origin: str, known: KnownRun, unresolved: str | None) -> None:
        """Remember what was just written."""
        with self._lock:
            self._loaded()[origin] = known
            if unresolved is not None:
                self._unresolved[known.id] = unresolved

    def unresolved(self) -> dict[str, str]:
        """Return the runs that wait for their parent: run id -> parent's origin."""
        with self._lock:
            self._loaded()
            return dict(self._unresolved)

    def resolved(self, id: str) -> None:
        """Forget that a run waits for its parent."""
        with self._lock:
            self._unresolved.pop(id, None)

    def search_origin(self, origin: str, experiment: str) -> list[Json]:
        """Ask the server for the runs in *experiment* that bear *origin*."""
        literal = filter_text(origin)
        query = f"{_ORIGIN_KEY} = {literal}" if literal else f"{_ORIGIN_KEY} LIKE '%'"
        found = self._reader.search_runs([experiment], query)
        return [
            run for run in found if answers.tags_of(run).get(marks.ORIGIN) == origin
        ]

    def _loaded(self) -> dict[str, KnownRun]:
        with self._lock:
            if self._runs is None:
                self._runs = {}
                ids = list(self.experiments())
                for run in self._reader.search_runs(ids, f"{_ORIGIN_KEY} LIKE '%'"):
                    self._add(self._runs, run)
            return self._runs

    def _add(self, runs: dict[str, KnownRun], run: Json) -> None:
        tags = answers.tags_of(run)
        if answers.DUPLICATE in tags:
            return
        known = known_run(run)
        held = runs.get(tags[marks.ORIGIN])
        if held is None or known.preferred_to(held):
            runs[tags[marks.ORIGIN]] = known
        if marks.UNRESOLVED in tags:
            self._unresolved[known.id] = tags[marks.UNRESOLVED]

        if waiting := answers.waiting_links(tags):
            self._waiting[known.id] = waiting

    # -- logged models --------------------------------------------------------------

    def waiting_links(self) -> dict[str, list[ModelLink]]:
        """Return the runs that wait for logged models: run id -> links to origins."""
        with self._lock:
            self._loaded()
            return {run: list(links) for run, links in self._waiting.items()}

    def note_links(self, run: str, links: Sequence[ModelLink]) -> None:
        """Remember which logged models a run still waits for."""
        with self._lock:
            self._loaded()
            self._waiting.pop(run, None)
            if links:
                self._waiting[run] = list(links)

    def model_of(self, origin: str) -> KnownRun | None:
        """Find the logged model that bears an origin, or whose id it is."""
        with self._lock:
            if self._models is None:
                self._models = {}
                found = self._reader.logged_models(list(self.experiments()))
                for model in found:
                    info = model["info"]
                    tags, id = answers.pairs_of(info), str(info["model_id"])
                    known = KnownRun(id, tags.get(marks.MARK) or None, "active")
                    own = tags.get(marks.ORIGIN) or id
                    held = self._models.get(own)
                    if held is None or known.preferred_to(held):
                        self._models[own] = known
            return self._models.get(origin)

    def note_model(self, origin: str, known: KnownRun) -> None:
        """Remember what was just written."""
        with self._lock:
            self.model_of(origin)
            assert self._models is not None
            self._models[origin] = known

    # -- copies -------------------------------------------------------------------

    def copies(self, origins: Iterable[Ref]) -> Mapping[Ref, Copy]:
        """See `mlmigrate.contract.Sink.copies`."""
        found: dict[Ref, Copy] = {}
        rest: list[str] = []
        models: list[str] = []
        traces: dict[str, Ref] = {}
        for ref in origins:
            if ref.kind == "experiment":
                known = self.experiment_of(ref.id)
                if known is not None:
                    found[ref] = _experiment_copy(known)
            elif ref.kind == "run":
                run = self.run_of(ref.id)
                if run is not None:
                    found[ref] = Copy(
                        Ref("run", run.id), marks.load(run.mark), run.lifecycle
                    )
                elif _RUN_ID.match(ref.id):
                    rest.append(ref.id)
            elif ref.kind == "logged_model":
                model = self.model_of(ref.id)
                if model is not None:
                    own = Ref("logged_model", model.id)
                    found[ref] = Copy(own, marks.load(model.mark))
            elif ref.kind == "registered_model":
                models.append(ref.id)
            elif ref.kind == "trace":
                traces[trace_id(ref.id, in_path=True)] = ref
        found.update(self._trace_copies(traces))
        for run in self._own_runs(rest):
            found[Ref("run", run.id)] = Copy(Ref("run", run.id), None, run.lifecycle)
        found.update(self._model_copies(models))
        return found

    def _trace_copies(self, refs: Mapping[str, Ref]) -> Iterator[tuple[Ref, Copy]]:
        ids = list(refs)
        for at in range(0, len(ids), _IDS_A_SEARCH):
            found = self._reader.trace_infos(ids[at : at + _IDS_A_SEARCH])
            for id, info in found.items():
                if id in refs:
                    mark = marks.load(info["tags"].get(marks.MARK))
                    yield refs[id], Copy(Ref("trace", id), mark)

    def _own_runs(self, ids: Sequence[str]) -> Iterator[KnownRun]:
        """Yield the runs of these ids that are at the sink and are no copies."""
        for at in range(0, len(ids), _IDS_A_SEARCH):
            for run in self._runs_by_id(ids[at : at + _IDS_A_SEARCH]):
                tags = answers.tags_of(run)
                if marks.ORIGIN not in tags and answers.DUPLICATE not in tags:
                    yield known_run(run)

    def _runs_by_id(self, ids: Sequence[str]) -> list[Json]:
        listed = ", ".join(f"'{id}'" for id in ids)
        query = f"attributes.run_id IN ({listed})"
        try:
            return list(self._reader.search_runs(list(self.experiments()), query))
        except Refused as refusal:
            if refusal.status != 400:
                raise
            # A server too old to search by id.
            return [run for id in ids if (run := self._run_or_none(id)) is not None]

    def _run_or_none(self, id: str) -> Json | None:
        try:
            return self._reader.run(id)
        except Refused as refusal:
            if refusal.absent:
                return None
            raise

    def _model_copies(self, names: Sequence[str]) -> Iterator[tuple[Ref, Copy]]:
        for name in names:
            try:
                model = self._reader.registry.model(name)
            except Refused as refusal:
                if refusal.absent:
                    continue
                raise
            mark = marks.load(answers.pairs_of(model).get(marks.MARK))
            ref = Ref("registered_model", name)
            yield ref, Copy(ref, mark)


def known_experiment(entry: Json) -> KnownExperiment:
    """Return what matters of an experiment that was searched or got."""
    return KnownExperiment(
        id=str(entry["experiment_id"]),
        name=entry["name"],
        lifecycle=answers.lifecycle(entry),
        updated=int(entry.get("last_update_time") or 0),
        created=int(entry.get("creation_time") or 0),
        tags=answers.pairs_of(entry),
    )


def known_run(run: Json) -> KnownRun:
    """Return what matters of a run that was searched or got."""
    mark = answers.tags_of(run).get(marks.MARK)
    return KnownRun(answers.run_id(run), mark or None, answers.lifecycle(run["info"]))


def _experiment_copy(known: KnownExperiment) -> Copy:
    mark = marks.load(known.tags.get(marks.MARK))
    deleted = known.lifecycle == "deleted" or known.promise in ("delete", "redelete")
    return Copy(Ref("experiment", known.id), mark, "deleted" if deleted else "active")
