"""The run folders of a ``wandb/`` folder, and which run each belongs to."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlmigrate.model import Finding, Note, Problem
from mlmigrate.stores.wandb_offline.records import first_run

#: ``run-20210216_154407-g9dvvkua``, with ``offline-`` where nothing was sent.
RUN_FOLDER = re.compile(r"(?:offline-)?run-(\d{8}_\d{6})-(.+)$")
#: What W&B calls the project of a run that names none.
_NO_PROJECT = "uncategorized"


@dataclass(slots=True)
class RunFolders:
    """One run: its folders, oldest first, as a resumed run has several."""

    entity: str
    project: str
    id: str
    folders: list[Path] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """What the run is at its first home."""
        return f"wandb:{self.entity}/{self.project}/{self.id}"

    @property
    def experiment(self) -> str:
        """The id of its experiment."""
        return f"{quote(self.entity, safe='')}:{quote(self.project, safe='')}"

    @property
    def experiment_name(self) -> str:
        """The name of its experiment."""
        return f"{self.entity}/{self.project}" if self.entity else self.project


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


def find_runs(root: Path, where: str) -> tuple[dict[str, RunFolders], list[Finding]]:
    """Find the runs below a ``wandb/`` folder, by origin, and what else is there.

    Raises:
        OSError: the folder cannot be listed.
    """
    runs: dict[str, RunFolders] = {}
    findings: list[Finding] = []
    others: list[str] = []
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries)
    found = []
    for name in names:
        match = RUN_FOLDER.match(name)
        if match and is_run_folder(root / name):
            found.append((match.group(1), name, match.group(2)))
        elif not (root / name).is_symlink():
            others.append(name)
    for _, name, id in sorted(found):
        said = _first_run(root / name, f"{where}/{name}", findings)
        run = RunFolders(
            said.get("entity", ""),
            said.get("project") or _NO_PROJECT,
            said.get("run_id") or id,
        )
        runs.setdefault(run.origin, run).folders.append(root / name)
    if others:
        shown = ", ".join(others[:20]) + ", …" * (len(others) > 20)
        findings.append(Note(where, f"beside the runs, not copied: {shown}"))
    return runs, findings


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
