"""What is in one place of W&B's, a folder or a server: known while a store is open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mlmigrate import marks
from mlmigrate.contract import Copy, Delivery, Selection
from mlmigrate.model import Finding, Item, Lifecycle, Problem, Ref, Run
from mlmigrate.told.experiments import (
    EXPERIMENT,
    copies,
    experiment_id,
    experiment_of,
)
from mlmigrate.told.models import model_of
from mlmigrate.told.values import as_time
from mlmigrate.wandb_runs.experiments import project_id, project_record
from mlmigrate.wandb_runs.mapping import Naming, run_id
from mlmigrate.wandb_runs.nesting import Nesting
from mlmigrate.wandb_runs.own import Own


@dataclass(frozen=True, slots=True)
class Known:
    """What is kept of a run that mlmigrate wrote."""

    origin: str
    mark: str | None
    lifecycle: Lifecycle
    experiment: str
    status: str
    end_time: int | None


def known_of(found: Own | None) -> Known | None:
    """Return what is kept of what mlmigrate wrote into a config."""
    if found is None:
        return None
    return Known(
        found.origin,
        found.mark,
        found.header["lifecycle"],
        found.experiment_id,
        found.header["status"],
        found.header["end_time"],
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """A run at W&B."""

    entity: str
    project: str
    id: str
    group: str
    job_type: str
    known: Known | None

    @property
    def place(self) -> tuple[str, str, str]:
        """What tells it from all others at W&B."""
        return self.entity, self.project, self.id

    @property
    def origin(self) -> str:
        """What the run is at its first home."""
        if self.known is not None:
            return self.known.origin
        return f"wandb:{self.entity}/{self.project}/{self.id}"

    @property
    def experiment(self) -> str:
        """The id of its experiment."""
        if self.known is not None:
            return self.known.experiment
        return project_id(self.entity, self.project)


R = TypeVar("R", bound=Entry)
_Records = dict[str, Mapping[str, Any]]


@dataclass(slots=True)
class Index(Generic[R]):
    """The runs of a place, and what they tell."""

    #: By the ids of their refs, which are their origins.
    runs: dict[str, R] = field(default_factory=dict)
    #: The same ids by `Entry.place`.
    places: dict[tuple[str, str, str], str] = field(default_factory=dict)
    #: What is told of each experiment, by its id: `mlmigrate.wandb_runs.own`.
    experiments: _Records = field(default_factory=dict)
    #: What is told of each registered model, by its name, and the run that tells it.
    models: _Records = field(default_factory=dict)
    tellers: dict[str, str] = field(default_factory=dict)
    #: The experiments that a run tells of which is in another.
    guests: set[str] = field(default_factory=set)
    nesting: Nesting = field(default_factory=Nesting)
    findings: list[Finding] = field(default_factory=list)

    # -- what is there ----------------------------------------------------------

    def put(self, run: R, found: Own | None, where: str) -> str:
        """Add a run, or note how it is now; return the id of its ref.

        Args:
            run: the run.
            found: what its config says that mlmigrate wrote, if any.
            where: what to call it in findings.
        """
        id = self.places.get(run.place) or self._new_id(run, where)
        self.runs[id], self.places[run.place] = run, id
        if found is None:
            record = project_record(run.entity, run.project)
            _keep(self.experiments, run.experiment, record)
            return id
        self.nesting.add(id, found.parent)
        _keep(self.experiments, run.experiment, found.experiment)
        for name, told in found.told.models.items():
            if _keep(self.models, name, told):
                self.tellers[name] = id
        for name, told in found.told.experiments.items():
            _keep(self.experiments, experiment_id(name), told)
            self.guests.add(experiment_id(name))
        return id

    def _new_id(self, run: R, where: str) -> str:
        id, number = run.origin, 2
        while id in self.runs:
            id, number = f"{run.origin}~{number}", number + 1
        if id != run.origin:
            what = f"a second copy of run {run.origin}: read as {id}"
            self.findings.append(Problem(where, what))
        return id

    def at(self, place: tuple[str, str, str]) -> R | None:
        """Return the run at a place."""
        id = self.places.get(place)
        return None if id is None else self.runs[id]

    def forget(self, run: R) -> None:
        """Drop a run that is about to be another; what it told stays."""
        id = self.places.pop(run.place, None)
        if id is not None:
            del self.runs[id]

    def own(self, first: Sequence[str] = ()) -> Iterator[R]:
        """Yield the runs that mlmigrate wrote, those of the ids in *first* first."""
        for run in (self.runs.get(id) for id in (*first, *self.runs)):
            if run is not None and run.known is not None:
                yield run

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        wanted = selection.experiments
        if selection.kind == "experiment":
            yield from (Ref("experiment", id) for id in list(self.experiments))
        elif selection.kind == "registered_model":
            yield from (Ref("registered_model", name) for name in list(self.models))
        elif selection.kind == "run":
            for id, run in list(self.runs.items()):
                if wanted is None or run.experiment in wanted:
                    yield Ref("run", id)

    def told(self, ref: Ref) -> Item:
        """Return an experiment or a registered model as runs tell of it.

        Raises:
            KeyError: none does.
        """
        if ref.kind == "experiment":
            return experiment_of(self.experiments[ref.id], ref)
        return model_of(self.models[ref.id], ref)

    # -- for sinks --------------------------------------------------------------

    def copies(self, origins: Iterable[Ref]) -> dict[Ref, Copy]:
        """See `mlmigrate.contract.Sink.copies`."""
        wanted = list(origins)
        found: dict[Ref, Copy] = {}
        if any(ref.kind == "experiment" for ref in wanted):
            found.update(copies(self.experiments, wanted))
        for ref in wanted:
            if ref.kind == "registered_model" and ref.id in self.models:
                found[ref] = Copy(ref, None)
            elif ref.kind == "run" and (run := self.runs.get(ref.id)) is not None:
                known, at = run.known, Ref("run", ref.id)
                found[ref] = (
                    Copy(at, None)
                    if known is None
                    else Copy(at, marks.load(known.mark), known.lifecycle)
                )
        return found

    def expect(self, deliveries: Iterable[Delivery]) -> None:
        """Note in what the runs are nested that are about to come."""
        for delivery in deliveries:
            header = delivery.item.header
            if isinstance(header, Run) and header.parent is not None:
                self.nesting.add(delivery.item.origin, header.parent.id)

    def nested_in(self, origin: str, naming: Naming) -> tuple[str, str]:
        """Return the group and the job type that nesting gives a run: '' for none."""
        if naming.grouping != "nesting":
            return "", ""
        root = self.nesting.root(origin)
        if root is None and not self.nesting.is_parent(origin):
            return "", ""
        top = self.runs.get(root or origin)
        id = top.id if top else run_id(root or origin, naming.salt)
        return id, "parent" if root is None else "child"

    def misplaced(self, naming: Naming) -> Iterator[tuple[str, R, str, str]]:
        """Yield the id, the run, the group and the job type of each run that came
        before its place among nested ones was known.
        """
        for id, run in list(self.runs.items()):
            group, job_type = self.nested_in(id, naming)
            placed = (group, job_type) == (run.group, run.job_type)
            if run.known is not None and group and not placed:
                yield id, run, group, job_type

    def homeless(self) -> dict[str, Mapping[str, Any]]:
        """Return what is known of the experiments, by name, of which no run tells."""
        told = self.guests.union(run.experiment for run in self.runs.values())
        return {
            str(record["name"]): record
            for id, record in self.experiments.items()
            if id.startswith(EXPERIMENT) and id not in told
        }


def _keep(records: _Records, id: str, record: Mapping[str, Any]) -> bool:
    """Keep what a run tells of something, unless another run told of it later; tell
    whether it was kept.
    """
    known = records.get(id)
    if known is not None and _revision(known) >= _revision(record):
        return False
    records[id] = record
    return True


def _revision(record: Mapping[str, Any]) -> int:
    return as_time(record.get("revision")) or 0
