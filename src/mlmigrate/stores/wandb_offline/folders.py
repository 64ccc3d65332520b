"""The run folders of a ``wandb/`` folder, and which run each belongs to."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlmigrate.model import Finding, Lifecycle, Note, Problem
from mlmigrate.stores.wandb_offline.records import first_run
from mlmigrate.wandb_runs.experiments import project_id, project_record
from mlmigrate.wandb_runs.mapping import MLFLOW, MLMIGRATE
from mlmigrate.wandb_runs.own import Own, Told, experiment_id, note, own

#: Below the folder of a run that mlmigrate wrote: the run's files.
COPIED = "artifacts"
#: ``run-20210216_154407-g9dvvkua``, with ``offline-`` where nothing was sent.
RUN_FOLDER = re.compile(r"(?:offline-)?run-(\d{8}_\d{6})-(.+)$")
#: What W&B calls the project of a run that names none.
_NO_PROJECT = "uncategorized"


@dataclass(frozen=True, slots=True)
class Known:
    """What the index of a folder holds of a run that mlmigrate wrote."""

    origin: str
    mark: str | None
    lifecycle: Lifecycle
    parent: str | None
    experiment: str
    group: str
    job_type: str


@dataclass(slots=True)
class RunFolders:
    """One run: its folders, oldest first, as a resumed run has several."""

    entity: str
    project: str
    id: str
    folders: list[Path] = field(default_factory=list)
    known: Known | None = None

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
    """What is in a ``wandb/`` folder."""

    #: By the ids of their refs, which are their origins.
    runs: dict[str, RunFolders] = field(default_factory=dict)
    #: What is known of each experiment: see `mlmigrate.wandb_runs.own.experiment_of`.
    experiments: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    #: What is known of each registered model, by its name, and of which run.
    models: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    bearers: dict[str, str] = field(default_factory=dict)
    #: The experiments that a run tells of which is in another.
    guests: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def add(self, folder: Path, where: str) -> None:
        """Add a run folder.

        Args:
            folder: the run's.
            where: what to call it in findings.
        """
        said = _first_run(folder, where, self.findings)
        match = RUN_FOLDER.match(folder.name)
        run = RunFolders(
            said.get("entity", ""),
            said.get("project") or _NO_PROJECT,
            said.get("run_id") or (match.group(2) if match else folder.name),
        )
        found = own_of(said)
        if found is not None:
            run.known = Known(
                found.origin,
                found.mark,
                found.lifecycle,
                found.parent,
                found.experiment_id,
                said.get("run_group", ""),
                said.get("job_type", ""),
            )
        id, number = run.origin, 2
        while (held := self.runs.get(id)) is not None and not _is_same(held, run):
            id, number = f"{run.origin}~{number}", number + 1
        if id != run.origin:
            what = f"a second copy of run {run.origin}: read as {id}"
            self.findings.append(Problem(where, what))
        held = self.runs.setdefault(id, run)
        held.known = run.known or held.known
        held.folders.append(folder)
        record = found.experiment if found else project_record(run.entity, run.project)
        note(self.experiments, run.experiment, record)
        if found is not None:
            self._note_told(found.told, id)

    def _note_told(self, told: Told, run: str) -> None:
        for name, record in told.models.items():
            if note(self.models, name, record):
                self.bearers[name] = run
        for name, record in told.experiments.items():
            note(self.experiments, experiment_id(name), record)
            self.guests.add(experiment_id(name))


def _is_same(one: RunFolders, other: RunFolders) -> bool:
    """Tell whether two folders are of one run, which was resumed."""
    return (one.entity, one.project, one.id) == (other.entity, other.project, other.id)


def own_of(said: Mapping[str, Any]) -> Own | None:
    """Return what mlmigrate wrote into the config of a run record."""
    config: dict[str, Any] = {}
    for item in said.get("config", {}).get("update", ()):
        if item.get("key") in (MLFLOW, MLMIGRATE):
            try:
                config[item["key"]] = json.loads(item.get("value_json", ""))
            except (ValueError, RecursionError):
                return None
    return own(config)


def is_run_folder(path: Path) -> bool:
    """Tell whether a folder is a run's: by its name, and by what is in it."""
    if not RUN_FOLDER.match(path.name) or not path.is_dir() or path.is_symlink():
        return False
    return log_of(path) is not None or (path / "files").is_dir()


def log_of(folder: Path) -> Path | None:
    """Return a run folder's transaction log, None where it has none."""
    match = RUN_FOLDER.match(folder.name)
    wanted = folder / f"run-{match.group(2) if match else ''}.wandb"
    if wanted.is_file() and not wanted.is_symlink():
        return wanted
    logs = [each for each in sorted(folder.glob("*.wandb")) if not each.is_symlink()]
    return logs[0] if logs else None


def index_of(root: Path, where: str) -> Index:
    """Find the runs below a ``wandb/`` folder, and what else is there.

    Raises:
        OSError: the folder cannot be listed.
    """
    index = Index()
    others: list[str] = []
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries)
    found = []
    for name in names:
        match = RUN_FOLDER.match(name)
        if match and is_run_folder(root / name):
            found.append((match.group(1), name))
        elif not (root / name).is_symlink():
            others.append(name)
    for _, name in sorted(found):
        index.add(root / name, f"{where}/{name}")
    if others:
        shown = ", ".join(others[:20]) + ", …" * (len(others) > 20)
        index.findings.append(Note(where, f"beside the runs, not copied: {shown}"))
    return index


def _first_run(folder: Path, where: str, findings: list[Finding]) -> dict[str, Any]:
    log = log_of(folder)
    try:
        said = {} if log is None else first_run(log)
    except OSError as error:
        what = f"{folder.name}: its log cannot be read: {error.strerror or error}"
        findings.append(Problem(where, what))
        return {}
    if not said:
        what = "no record says which run this is: its id is that of the folder's name"
        findings.append(Problem(where, what))
    return said
