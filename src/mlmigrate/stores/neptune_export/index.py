"""What is in an archive: known while it is open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlmigrate.errors import ItemError
from mlmigrate.model import Finding, Problem
from mlmigrate.neptune_runs.attributes import Container, ContainerKind, Scalar
from mlmigrate.neptune_runs.items import experiment_name, experiment_ref, origin_of
from mlmigrate.neptune_runs.models import model_of_version
from mlmigrate.stores.neptune_export.layout import Entry, Folders, entries_of
from mlmigrate.stores.neptune_export.tables import own_facts, read_scalars
from mlmigrate.told.experiments import experiment_id

_SCOPES: tuple[tuple[ContainerKind, str], ...] = (
    ("model", "models"),
    ("model_version", "model_versions"),
)


class Index:
    """The runs, models and versions of an archive."""

    def __init__(self, folders: Folders, options: Mapping[str, Any]) -> None:
        """Find them.

        Raises:
            StoreError: a folder cannot be listed.
        """
        self.folders = folders
        self.findings: list[Finding] = []
        #: All that are read, by their origins.
        self.entries: dict[str, Entry] = {}
        #: Registered models that mlmigrate wrote, by name.
        self.own_models: dict[str, Entry] = {}
        self._aliases: dict[tuple[str, str], Entry] | None = None
        entries = entries_of(folders.data, "run", self.findings)
        for kind, scope in _SCOPES:
            entries += entries_of(folders.model_data, kind, self.findings, scope)
        partly = options.get("incomplete") == "yes"
        for entry in entries:
            entry.zone = options.get("series-zone")
            flaw = entry.flaw()
            if flaw and not partly:
                flaw += ": not copied; -i incomplete=yes copies what is there"
            elif not flaw and entry.unfinished:
                flaw = f"beside it lies {entry.unfinished[0]}, which was not finished"
                self._add(entry)
            else:
                self._add(entry)
            if flaw:
                self.findings.append(Problem(entry.where, flaw))

    def _add(self, entry: Entry) -> None:
        entry.origin, entry.experiment = own_facts(entry)
        if entry.origin and entry.kind != "run":
            # A model that mlmigrate wrote tells all of itself and its versions.
            if entry.kind == "model":
                self.own_models.setdefault(entry.origin, entry)
            return
        id = entry.origin or origin_of(as_container(entry))
        if id in self.entries:
            what = f"it is a second copy of {id}: left out"
            self.findings.append(Problem(entry.where, what))
            return
        self.entries[id] = entry

    def experiments(self) -> dict[str, str]:
        """Return the names of the experiments that there are, by the ids of refs."""
        return {home_of(entry): name_of(entry) for entry in self.entries.values()}

    def models(self) -> dict[str, tuple[str, str]]:
        """Return the project and the id of each model, by the name that it gets."""
        found: set[tuple[str, str]] = set()
        for entry in self.entries.values():
            if entry.kind == "model":
                found.add((entry.project, entry.id))
            elif entry.kind == "model_version" and (of := model_of_version(entry.id)):
                found.add((entry.project, of[0]))
        names: dict[str, tuple[str, str]] = {}
        for project, id in sorted(found):
            name, number = id, 2
            while name in names or name in self.own_models:
                name, number = f"{id}~{number}", number + 1
            names[name] = (project, id)
        return names

    def run(self, project: str, id: str) -> Entry | None:
        """Return a run by its id, or by another that its attributes give it."""
        known = self.entries.get(origin_of(Container("run", project, id)))
        if known is not None:
            return known
        if self._aliases is None:
            self._aliases = {}
            for entry in self.entries.values():
                if entry.kind != "run":
                    continue
                scalars = scalars_of(entry)
                for path in ("sys/custom_run_id", "sys/id"):
                    if (said := scalars.get(path)) and isinstance(said.value, str):
                        self._aliases.setdefault((entry.project, said.value), entry)
        return self._aliases.get((project, id))

    def files_of(self, entry: Entry) -> Path:
        """Return the folder of the files of an entry's project."""
        kind = entry.kind
        root = self.folders.files if kind == "run" else self.folders.model_files
        return root / entry.folder


def name_of(entry: Entry) -> str:
    """Return the name of an entry's experiment."""
    return entry.experiment or experiment_name(as_container(entry))


def home_of(entry: Entry) -> str:
    """Return the id of an entry's experiment."""
    if entry.experiment:
        return experiment_id(entry.experiment)
    return experiment_ref(name_of(entry)).id


def as_container(entry: Entry) -> Container:
    """Return what is known of an entry before its rows are read."""
    return Container(entry.kind, entry.project, entry.id)


def scalars_of(entry: Entry) -> dict[str, Scalar]:
    """Return the attributes with one value; none where they cannot be read."""
    try:
        return read_scalars(entry)
    except (ItemError, OSError):
        return {}  # told where the run itself is read
