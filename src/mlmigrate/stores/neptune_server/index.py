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
from mlmigrate.neptune_runs.items import (
    GONE,
    experiment_name,
    experiment_ref,
    origin_of,
)
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
from mlmigrate.stores.neptune_server.registry import is_begun
from mlmigrate.stores.neptune_server.server import Entry, Fetched, Server
from mlmigrate.stores.neptune_server.texts import text_of, texts_below
from mlmigrate.told.experiments import copies, experiment_id, name_of
from mlmigrate.told.values import as_lifecycle

#: Below this path of the project is what runs belong to: Neptune has no experiments.
EXPERIMENTS = "mlmigrate/experiments/"
#: And below this one registered models, where Neptune has none.
MODELS = "mlmigrate/models/"
_COLUMNS = (ORIGIN, MARK, EXPERIMENT, PARENT, STATUS, END, LIFECYCLE, *GONE)
_KINDS: tuple[ContainerKind, ...] = ("run", "model", "model_version")


@dataclass(frozen=True, slots=True)
class Listed:
    """A run, or a model or version that no copy of ours is."""

    kind: ContainerKind
    id: str  # what the server is asked for it by
    name: str  # what it is called there
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
    #: The id of each registered model that mlmigrate wrote, by its name.
    models: dict[str, str] = field(default_factory=dict)
    #: What the project tells of registered models, where the server has none.
    told_models: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Experiments of which the project does not tell, but could, and why not.
    untold: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    _origins: dict[str, str] = field(default_factory=dict)  # by UUID

    def drop(self, id: str) -> None:
        """Forget what was listed, as that is something else now."""
        origin = self._origins.pop(id, None)
        if origin is not None:
            del self.runs[origin]

    def put(self, listed: Listed) -> None:
        """Add a run, or note how it stands now."""
        if self._origins.get(listed.id, listed.origin) != listed.origin:
            self.drop(listed.id)
        held = self.runs.get(listed.origin)
        if held is not None and held.id != listed.id:
            what = f"it is a second copy of {listed.origin}: left out"
            self.findings.append(Problem(listed.name, what))
            return
        self.runs[listed.origin] = listed
        self._origins[listed.id] = listed.origin

    def refs(self, selection: Selection) -> Iterator[Ref]:
        """See `mlmigrate.contract.Source.refs`."""
        wanted = selection.experiments
        if selection.kind == "experiment":
            yield from (Ref("experiment", id) for id in list(self.experiments))
        elif selection.kind == "registered_model":
            names = dict.fromkeys((*self.models, *self.told_models, *self.registered()))
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
                found[each.name] = None
            elif each.kind == "model_version" and (of := model_of_version(each.name)):
                found[of[0]] = None
        return [name for name in found if name not in self.models]

    def copies(self, origins: Iterable[Ref]) -> dict[Ref, Copy]:
        """See `mlmigrate.contract.Sink.copies`."""
        wanted = list(origins)
        found: dict[Ref, Copy] = {}
        if any(ref.kind == "experiment" for ref in wanted):
            found.update(copies(self.experiments, wanted))
        for ref in wanted:
            if ref.kind == "registered_model":
                if ref.id in self.models or ref.id in self.told_models:
                    found[ref] = Copy(ref, None)
            elif ref.kind == "run" and (run := self.runs.get(ref.id)) is not None:
                mark = marks.load(run.mark) if run.own else None
                found[ref] = Copy(Ref("run", ref.id), mark, run.lifecycle)
        return found


def experiment_path(name: str) -> str:
    """Return the path in a project of what is told of an experiment."""
    return EXPERIMENTS + _hashed(name)


def model_path(name: str) -> str:
    """Return the path in a project of what is told of a registered model."""
    return MODELS + _hashed(name)


def _hashed(name: str) -> str:
    data = name.encode("utf-8", "surrogatepass")
    return md5(data, usedforsecurity=False).hexdigest()


def index_of(server: Server) -> Index:
    """List what is in a project.

    Raises:
        StoreError: it cannot be listed.
    """
    index = Index()
    teller = _teller(server, index.findings)
    told = _told(server, teller, EXPERIMENTS, index.findings)
    index.told_models.update(_told(server, teller, MODELS, index.findings))
    for name, record in told.items():
        index.experiments[experiment_id(name)] = record
    seen: set[str] = set()
    for kind in _KINDS if server.has_models else _KINDS[:1]:
        for entry in _entries(server, kind, index.findings):
            if entry.id in seen:
                continue  # not every server tells kinds apart
            seen.add(entry.id)
            if kind == "model" and entry.text(ORIGIN):
                index.models[entry.text(ORIGIN)] = entry.id
            elif kind == "run" or not (
                entry.text(ORIGIN) or is_begun(server, kind, entry)
            ):
                index.put(listed(server, kind, entry))
    for run in index.runs.values():
        if run.experiment in index.experiments:
            continue
        if run.own:
            # Sent by Neptune's own client, or the project did not take it.
            record = _told_by_run(server, run, index.findings)
            index.experiments[run.experiment] = record
            if teller is not None:
                index.untold[run.experiment] = "it was not told"
        else:
            name = experiment_name(Container(run.kind, server.place.name, run.name))
            record = {"name": name, "origin": f"{run.experiment}/{name}"}
            index.experiments[run.experiment] = record
    return index


def _entries(
    server: Server, kind: ContainerKind, findings: list[Finding]
) -> Iterator[Entry]:
    """List what is of one kind; of models nothing where a server has none.

    Raises:
        StoreError: runs cannot be listed.
    """
    try:
        yield from server.entries(kind, _COLUMNS)
    except StoreError as error:
        if kind == "run":
            raise
        findings.append(Note(str(server.place), f"no {kind} can be listed: {error}"))


def _told_by_run(
    server: Server, run: Listed, findings: list[Finding]
) -> Mapping[str, Any]:
    """Return what a run that mlmigrate wrote tells of its experiment."""
    name = name_of(run.experiment)
    try:
        found = server.fetch(run.id, "run", series_too=False)
        record = record_of(found.container, found.read).get("experiment")
    except ItemError as error:
        findings.append(Problem(run.name, f"its record cannot be read: {error}"))
        record = None
    return record if isinstance(record, dict) and "name" in record else {"name": name}


def _teller(server: Server, findings: list[Finding]) -> Fetched | None:
    """Return what tells of the project's experiments, None where nothing can."""
    try:
        return server.fetch(server.teller, "run", series_too=False)
    except ItemError as error:
        what = f"it tells nothing of experiments, but its runs may: {error}"
        findings.append(Note(str(server.place), what))
        return None


def _told(
    server: Server, teller: Fetched | None, prefix: str, findings: list[Finding]
) -> dict[str, Mapping[str, Any]]:
    """Return what the project tells of experiments or models, by their names."""
    told: dict[str, Mapping[str, Any]] = {}
    if teller is None:
        return told
    for path in texts_below(teller, prefix):
        try:
            record = json.loads(text_of(teller, path))
        except (ItemError, ValueError, RecursionError) as error:
            findings.append(Problem(str(server.place), f"{path}: {error}"))
            continue
        if isinstance(record, dict) and isinstance(record.get("name"), str):
            told[record["name"]] = record
    return told


def listed(server: Server, kind: ContainerKind, entry: Entry) -> Listed:
    """Return how a listing shows a run."""
    origin, name = entry.text(ORIGIN), entry.text(EXPERIMENT)
    container = Container(kind, server.place.name, entry.name)
    trashed = any(entry.values.get(path) in (True, "true") for path in GONE)
    if not origin or not name:
        home = experiment_ref(experiment_name(container)).id
        stage: Lifecycle = "deleted" if trashed else "active"
        return Listed(
            kind, entry.id, entry.name, origin_of(container), home, lifecycle=stage
        )
    return Listed(
        kind,
        entry.id,
        entry.name,
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
    if isinstance(value, datetime):
        return millis(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
