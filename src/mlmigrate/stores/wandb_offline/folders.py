"""The run folders of a ``wandb/`` folder, and which run each belongs to."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlmigrate.model import Finding, Note, Problem
from mlmigrate.stores.wandb_offline.records import first_run
from mlmigrate.wandb_runs.index import Entry, Index, known_of
from mlmigrate.wandb_runs.mapping import MLFLOW, MLMIGRATE
from mlmigrate.wandb_runs.own import Own, own

#: Below the folder of a run that mlmigrate wrote: the run's files.
COPIED = "artifacts"
#: ``run-20210216_154407-g9dvvkua``, with ``offline-`` where nothing was sent.
RUN_FOLDER = re.compile(r"(?:offline-)?run-(\d{8}_\d{6})-(.+)$")
#: What W&B calls the project of a run that names none.
_NO_PROJECT = "uncategorized"


@dataclass(frozen=True, slots=True)
class RunFolders(Entry):
    """One run: its folders, oldest first, as a resumed run has several."""

    folders: tuple[Path, ...] = ()


def add_folder(index: Index[RunFolders], folder: Path, where: str) -> None:
    """Add a run folder to what is known of a ``wandb/`` folder.

    Args:
        index: what is known.
        folder: the run's.
        where: what to call it in findings.
    """
    said = _first_run(folder, where, index.findings)
    match = RUN_FOLDER.match(folder.name)
    entity, project = said.get("entity", ""), said.get("project") or _NO_PROJECT
    id = said.get("run_id") or (match.group(2) if match else folder.name)
    found = own_of(said)
    held = index.at((entity, project, id))
    run = RunFolders(
        entity,
        project,
        id,
        said.get("run_group", ""),
        said.get("job_type", ""),
        known_of(found) or (held.known if held else None),
        (*held.folders, folder) if held else (folder,),
    )
    index.put(run, found, where)


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


def index_of(root: Path, where: str) -> Index[RunFolders]:
    """Find the runs below a ``wandb/`` folder, and what else is there.

    Raises:
        OSError: the folder cannot be listed.
    """
    index = Index[RunFolders]()
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
        add_folder(index, root / name, f"{where}/{name}")
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
