"""What is in a project: one listing for as long as a store is open, kept current."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import md5
from typing import Any

from mlmigrate import marks
from mlmigrate.contract import Copy, Selection
from mlmigrate.errors import ItemError, StoreError
from mlmigrate.model import Finding, Lifecycle, Note, Problem, Ref
from mlmigrate.neptune_runs.attributes import Container, ContainerKind
from mlmigrate.neptune_runs.items import experiment_name, experiment_ref, origin_of
from mlmigrate.neptune_runs.mapping import (
    END,
    EXPERIMENT,
    LIFECYCLE,
    MARK,
    ORIGIN,
    PARENT,
    STATUS,
)
from mlmigrate.neptune_runs.models import model_of_version
from mlmigrate.neptune_runs.own import record_of
from mlmigrate.neptune_runs.values import millis
from mlmigrate.stores.neptune_server.client import Client, Entry
from mlmigrate.stores.neptune_server.fetching import fetch
from mlmigrate.stores.neptune_server.registry import is_begun
from mlmigrate.stores.neptune_server.texts import text_of, texts_below
from mlmigrate.told.experiments import copies, experiment_id, name_of
from mlmigrate.told.values import as_lifecycle

#: Below this path of the project is what runs belong to: Neptune has no experiments.
EXPERIMENTS = "mlmigrate/experiments/"
_COLUMNS = (ORIGIN, MARK, EXPERIMENT, PARENT, STATUS, END, LIFECYCLE, "sys/trashed")
_KINDS: tuple[ContainerKind, ...] = ("run", "model", "model_version")


@dataclass(frozen=True, slots=True)
class Listed:
    """A run, or a model or version that no copy of ours is."""

    kind: ContainerKind
    uuid: str
    id: str
    origin: str
    experiment: str  # the id of its experiment
    own: bool = False  # mlmigrate wrote it
    mark: str | None = None
    status: str = ""
    end_time: int | None = None
    lifecycle: Lifecycle = "active"


@dataclass(slots=True)
class Index:
    """What is known of a project."""

    runs: dict[str, Listed] = field(default_factory=dict)  # by origin
    experiments: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    #: The UUID of each registered model that mlmigrate wrote, by its name.
    models: dict[str, str] = field(default_factory=dict)
    #: Experiments of which the project does not tell, but could, and why not.
    untold: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    _origins: dict[str, str] = field(default_factory=dict)  # by UUID

    def drop(self, uuid: str) -> None:
        """Forget what was listed, as that is something else now."""
        origin = self._origins.pop(uuid, None)
        if origin is not None:
            del self.runs[origin]

    def put(self, listed: Listed) -> None:
        """Add a run, or note how it stands now."""
        if self._origins.get(listed.uuid, listed.origin) != listed.origin:
            self.drop(listed.uuid)
        held = self.runs.get(listed.origin)
        if held is not None and held.uuid != listed.uuid:
            what = f"it is a second copy of {listed.origin}: left out"
            self.findings.append(Problem(listed.id, what))
            return
        self.runs[listed.origin] = listed
        self._origins[listed.uuid] = listed.origin

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        wanted = selection.experiments
        if selection.kind == "experiment":
            yield from (Ref("experiment", id) for id in list(self.experiments))
        elif selection.kind == "registered_model":
            names = dict.fromkeys((*self.models, *self.registered()))
            yield from (Ref("registered_model", name) for name in names)
        elif selection.kind == "run":
            for origin, run in list(self.runs.items()):
                if wanted is None or run.experiment in wanted:
                    yield Ref("run", origin)

    def registered(self) -> list[str]:
        """Return the models of Neptune's own, which others registered."""
        found: dict[str, None] = {}
        for each in self.runs.values():
            if each.kind == "model":
                found[each.id] = None
            elif each.kind == "model_version" and (of := model_of_version(each.id)):
                found[of[0]] = None
        return [name for name in found if name not in self.models]

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
                mark = marks.load(run.mark) if run.own else None
                found[ref] = Copy(Ref("run", ref.id), mark, run.lifecycle)
        return found


def experiment_path(name: str) -> str:
    """Return the path in a project of what is told of an experiment."""
    data = name.encode("utf-8", "surrogatepass")
    return EXPERIMENTS + md5(data, usedforsecurity=False).hexdigest()


def index_of(client: Client) -> Index:
    """List what is in a project.

    Raises:
        StoreError: it cannot be listed.
    """
    index = Index()
    told = _told(client, index.findings)
    for name, record in (told or {}).items():
        index.experiments[experiment_id(name)] = record
    seen: set[str] = set()
    for kind in _KINDS:
        for entry in _entries(client, kind, index.findings):
            if entry.uuid in seen:
                continue  # not every server tells kinds apart
            seen.add(entry.uuid)
            if kind == "model" and entry.text(ORIGIN):
                index.models[entry.text(ORIGIN)] = entry.uuid
            elif kind == "run" or not (
                entry.text(ORIGIN) or is_begun(client, kind, entry)
            ):
                index.put(listed(client, kind, entry))
    for run in index.runs.values():
        if run.experiment in index.experiments:
            continue
        if run.own:
            # Sent by Neptune's own client, or the project did not take it.
            record = _told_by_run(client, run, index.findings)
            index.experiments[run.experiment] = record
            if told is not None:
                index.untold[run.experiment] = "it was not told"
        else:
            name = experiment_name(Container(run.kind, client.place.name, run.id))
            record = {"name": name, "origin": f"{run.experiment}/{name}"}
            index.experiments[run.experiment] = record
    return index


def _entries(
    client: Client, kind: ContainerKind, findings: list[Finding]
) -> Iterator[Entry]:
    """List what is of one kind; of models nothing where a server has none.

    Raises:
        StoreError: runs cannot be listed.
    """
    try:
        yield from client.entries(kind, _COLUMNS)
    except StoreError as error:
        if kind == "run":
            raise
        findings.append(Note(str(client.place), f"no {kind} can be listed: {error}"))


def _told_by_run(
    client: Client, run: Listed, findings: list[Finding]
) -> Mapping[str, Any]:
    """Return what a run that mlmigrate wrote tells of its experiment."""
    name = name_of(run.experiment)
    try:
        found = fetch(client, run.uuid, "run", series_too=False)
        record = record_of(found.container, found.read).get("experiment")
    except ItemError as error:
        findings.append(Problem(run.id, f"its record cannot be read: {error}"))
        record = None
    return record if isinstance(record, dict) and "name" in record else {"name": name}


def _told(
    client: Client, findings: list[Finding]
) -> dict[str, Mapping[str, Any]] | None:
    """Return what the project tells of experiments, by their names; None where it can
    tell nothing.
    """
    try:
        project = fetch(client, client.project, "run", series_too=False)
    except ItemError as error:
        what = f"it tells nothing of experiments, but its runs may: {error}"
        findings.append(Note(str(client.place), what))
        return None
    told: dict[str, Mapping[str, Any]] = {}
    for path in texts_below(project, EXPERIMENTS):
        try:
            record = json.loads(text_of(project, path))
        except (ItemError, ValueError, RecursionError) as error:
            findings.append(Problem(str(client.place), f"{path}: {error}"))
            continue
        if isinstance(record, dict) and isinstance(record.get("name"), str):
            told[record["name"]] = record
    return told


def listed(client: Client, kind: ContainerKind, entry: Entry) -> Listed:
    """Return how a listing shows a run."""
    id = entry.text("sys/id") or entry.uuid
    origin, name = entry.text(ORIGIN), entry.text(EXPERIMENT)
    container = Container(kind, client.place.name, id)
    trashed = entry.values.get("sys/trashed") in (True, "true")
    if not origin or not name:
        home = experiment_ref(experiment_name(container)).id
        stage: Lifecycle = "deleted" if trashed else "active"
        return Listed(kind, entry.uuid, id, origin_of(container), home, lifecycle=stage)
    return Listed(
        kind,
        entry.uuid,
        id,
        origin,
        experiment_id(name),
        True,
        entry.text(MARK) or None,
        entry.text(STATUS),
        _time(entry.values.get(END)),
        "deleted" if trashed else as_lifecycle(entry.text(LIFECYCLE)),
    )


def _time(value: Any) -> int | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return millis(value) if isinstance(value, datetime) else None
