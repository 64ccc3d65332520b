"""What runs are there: one listing for as long as a store is open, kept current."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlmigrate.model import Finding, Lifecycle, Problem
from mlmigrate.stores.wandb_cloud.client import Client
from mlmigrate.stores.wandb_cloud.place import Place
from mlmigrate.stores.wandb_cloud.times import moment
from mlmigrate.wandb_runs.experiments import project_id, project_record
from mlmigrate.wandb_runs.own import Own, experiment_id, note, own


@dataclass(frozen=True, slots=True)
class Known:
    """What is kept of a run that mlmigrate wrote."""

    origin: str
    mark: str | None
    lifecycle: Lifecycle
    parent: str | None
    experiment: str
    status: str
    end_time: int | None


@dataclass(frozen=True, slots=True)
class Listed:
    """A run at W&B."""

    entity: str
    project: str
    id: str
    group: str
    job_type: str
    sweep: str
    start: int | None  # when the server saw it first, milliseconds
    end: int | None  # and last
    goes_on: bool
    known: Known | None

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


@dataclass(slots=True)
class Index:
    """The runs of a place."""

    #: By the ids of their refs, which are their origins.
    runs: dict[str, Listed] = field(default_factory=dict)
    #: The same by (project, id).
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    #: What is known of each experiment: see `mlmigrate.wandb_runs.own.experiment_of`.
    experiments: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    #: What is known of each registered model, by its name, and of which run.
    models: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    bearers: dict[str, str] = field(default_factory=dict)
    #: The experiments that a run tells of which is in another.
    guests: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    #: Projects that are there.
    projects: set[str] = field(default_factory=set)

    def add(self, run: Any) -> str:
        """Add a run of the public API's, or note how it is now, with what it tells of
        its experiment and of models; return the id of its ref.
        """
        config: Mapping[str, Any] = run.config
        found = own(config) if isinstance(config, dict) else None
        entry = _listed(run, found)
        at = (entry.project, entry.id)
        id = self.places.get(at) or self._new_id(entry)
        self.runs[id], self.places[at] = entry, id
        if found is None:
            record = project_record(entry.entity, entry.project)
            note(self.experiments, entry.experiment, record)
            return id
        note(self.experiments, entry.experiment, found.experiment)
        for name, told in found.told.models.items():
            if note(self.models, name, told):
                self.bearers[name] = id
        for name, told in found.told.experiments.items():
            note(self.experiments, experiment_id(name), told)
            self.guests.add(experiment_id(name))
        return id

    def _new_id(self, run: Listed) -> str:
        id, number = run.origin, 2
        while id in self.runs:
            id, number = f"{run.origin}~{number}", number + 1
        if id != run.origin:
            what = f"a second copy of run {run.origin}: read as {id}"
            where = f"{run.entity}/{run.project}/{run.id}"
            self.findings.append(Problem(where, what))
        return id


def _listed(run: Any, found: Own | None) -> Listed:
    return Listed(
        run.entity,
        run.project,
        run.id,
        run.group or "",
        run.job_type or "",
        run.sweep_name or "",
        moment(run.created_at),
        moment(run.heartbeat_at),
        run.state in ("running", "pending"),
        None if found is None else known_of(found),
    )


def known_of(found: Own) -> Known:
    """Return what is kept of what mlmigrate wrote."""
    return Known(
        found.origin,
        found.mark,
        found.lifecycle,
        found.parent,
        found.experiment_id,
        found.status,
        found.header["end_time"],
    )


def index_of(client: Client, place: Place) -> Index:
    """List the runs of a place.

    Raises:
        StoreError: they cannot be listed.
    """
    index = Index()
    names = [place.project] if place.project else client.projects(place.entity)
    for name in names:
        runs = client.runs(place.entity, name)
        if runs is None:
            continue
        index.projects.add(name)
        for run in runs:
            index.add(run)
    return index
