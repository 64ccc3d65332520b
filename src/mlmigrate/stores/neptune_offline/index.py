"""The runs that a store of Neptune's clients holds: known while it is open."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from mlmigrate.errors import StoreError
from mlmigrate.model import Finding, Note, Problem
from mlmigrate.neptune_runs.items import experiment_ref
from mlmigrate.stores.neptune_offline import database
from mlmigrate.stores.neptune_offline.container import Facts, facts_of
from mlmigrate.stores.neptune_offline.database import Head
from mlmigrate.stores.neptune_offline.folders import Folder, listed, metadata_of
from mlmigrate.stores.neptune_offline.manifest import is_ours
from mlmigrate.told.experiments import experiment_id

#: The project of runs whose client knew none.
NO_PROJECT = "neptune-offline"
_MADE_AT = re.compile(r"_(\d{12,})(?:\.sqlite3)?$")
_WORDS = {"model_version": "model version"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A run: a folder of the 1.x client's, or databases of the 3.x client's."""

    project: str
    id: str
    folder: Folder | None = None
    heads: tuple[Head, ...] = ()
    own: Facts | None = None  # what is known of it if mlmigrate wrote it

    @property
    def experiment(self) -> str:
        """The id of its experiment."""
        if self.own is not None:
            return experiment_id(self.own.experiment)
        return experiment_ref(self.project).id


@dataclass(slots=True)
class Index:
    """What is in a store."""

    runs: dict[str, Entry] = field(default_factory=dict)  # by the ids of their refs
    findings: list[Finding] = field(default_factory=list)
    others: int = 0  # what is there, but no run

    def projects(self) -> dict[str, str]:
        """Return the projects, by the ids of their experiments; of runs that mlmigrate
        wrote, the experiments themselves.
        """
        return {
            run.experiment: run.own.experiment if run.own else run.project
            for run in self.runs.values()
        }

    def family(self, run: Entry) -> dict[str, tuple[Head, ...]]:
        """Return the databases of all runs of a run's project, by their ids."""
        return {
            other.id: other.heads
            for other in self.runs.values()
            if other.project == run.project and other.heads
        }


def index_of(root: Path, project: str | None, temporary: str | None) -> Index:
    """Find the runs below a folder.

    Raises:
        OSError: it cannot be listed.
    """
    index = Index()
    found = listed(root)
    for (kind, _), folder in sorted(found.containers.items()):
        if kind == "run":
            _add_folder(index, folder, project or NO_PROJECT)
            continue
        index.others += 1
        word = _WORDS.get(kind, kind)
        what = f"it is a {word}, and no run: not copied"
        index.findings.append(Problem(str(folder.executions[0]), what))
    for path, why in found.unread:
        index.others += 1
        index.findings.append(Problem(str(path), f"it cannot be listed: {why}"))
    names = sorted(name for name in found.others if not is_ours(name))
    if names:
        shown = ", ".join(names[:20]) + ", …" * (len(names) > 20)
        note = Note(str(root), f"beside the runs, not copied: {shown}")
        index.findings.append(note)
    heads: list[Head] = []
    for path in found.databases:
        try:
            heads.append(database.head_of(path, temporary))
        except (StoreError, OSError) as error:
            index.others += 1
            index.findings.append(Problem(str(path), f"not copied: {error}"))
    for head in sorted(heads, key=_order):
        _add(index, head, project)
    return index


def _add_folder(index: Index, folder: Folder, project: str) -> None:
    key = folder.id.replace("-", "")
    # Of several of our own, which a kill may have left, each has all of the run.
    last = max(folder.executions)
    own = facts_of(metadata_of(last))
    if own is None:
        index.runs[key] = Entry(project, key, folder)
    else:
        folder.executions = [last]
        index.runs[own.origin] = Entry(project, key, folder, own=own)


def _order(head: Head) -> tuple[int, str]:
    folder = head.path.parent.name
    name = folder if head.path.name == "run_operations.sqlite3" else head.path.name
    match = _MADE_AT.search(name)
    return (int(match.group(1)) if match else 0), str(head.path)


def _add(index: Index, head: Head, project: str | None) -> None:
    if not head.id:
        head.id = head.path.parent.name
        what = "it does not say which run it is: its id is the name of the folder"
        index.findings.append(Problem(str(head.path), what))
    where = head.project or project or NO_PROJECT
    key = f"{where}/{head.id}"
    held = index.runs.get(key)
    heads = (*held.heads, head) if held else (head,)
    index.runs[key] = Entry(where, head.id, heads=heads)
