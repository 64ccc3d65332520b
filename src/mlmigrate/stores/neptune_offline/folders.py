"""The runs in a folder that Neptune's clients left, and which files tell of each.

Of the 1.x client ::

    offline/UUID, offline/KIND__UUID, offline/KIND__UUID__PID__KEY
    async/UUID/exec-…, async/KIND__UUID/exec-…[/partition-N], async/KIND__UUID__PID__KEY

of the 3.x client ``NAME/run_operations.sqlite3``, before 0.12 ``NAME.sqlite3``.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlmigrate.stores.neptune_offline.queue import logs_of

DATA = ".neptune"
_PARTS = ("offline", "async")
_CONTAINER = re.compile(
    r"(?:(run|project|model|model_version)__)?"
    r"([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})(?:__.*)?$"
)
_EXECUTION = re.compile(r"exec-(\d+(?:\.\d+)?)")
_AT = re.compile(rb'"at": ?(\d+(?:\.\d+)?)\}')
_ENDINGS = (".sqlite3",)
_SQLITE = b"SQLite format 3\0"


@dataclass(slots=True)
class Folder:
    """A run, or something else with attributes, as a 1.x client left it."""

    kind: str
    id: str  # its UUID
    executions: list[Path] = field(default_factory=list)


@dataclass(slots=True)
class Listed:
    """What is in a folder."""

    containers: dict[tuple[str, str], Folder] = field(default_factory=dict)
    databases: list[Path] = field(default_factory=list)
    #: What may be a run, but cannot be listed, and why.
    unread: list[tuple[Path, str]] = field(default_factory=list)
    #: The names of what lies in folders of Neptune's, but is no run.
    others: list[str] = field(default_factory=list)


def listed(root: Path) -> Listed:
    """Find the containers and databases in a ``.neptune`` folder, the folder above one,
    or a part of one.

    Raises:
        OSError: it cannot be listed.
    """
    found = Listed()
    for path, ours in _candidates(root):
        try:
            if match := _container(path):
                kind, id = match.group(1) or "run", match.group(2).lower()
                folder = found.containers.setdefault((kind, id), Folder(kind, id))
                folder.executions += _executions(path)
            elif database := _database(path):
                found.databases.append(database)
            elif ours:
                found.others.append(path.name)
        except OSError as error:
            found.unread.append((path, error.strerror or str(error)))
    for folder in found.containers.values():
        folder.executions.sort(key=lambda path: (_begin(path), str(path)))
    return found


def runs_in(folder: Path, folders: Iterable[str], files: Iterable[str]) -> set[str]:
    """Return what in a folder is of Neptune's clients; nothing where no run is.

    Args:
        folder: where to look.
        folders: the names of the folders in it.
        files: the names of files in it that may be databases.

    Raises:
        OSError: a folder cannot be listed.
    """
    found = {
        name
        for name in (*folders, *files)
        if _container(folder / name) or _database(folder / name)
    }
    for part in _PARTS:
        if part in folders and any(map(_container, _inside(folder / part))):
            found.add(part)
    return found


def queues_of(execution: Path) -> list[Path]:
    """Return the folders of an execution that hold queues of operations: itself, or its
    partitions.

    Raises:
        OSError: it cannot be listed.
    """
    parts = [path for path in _inside(execution) if path.name.startswith("partition-")]
    return [path for path in parts if path.is_dir()] or [execution]


def metadata_of(queue: Path) -> dict[str, Any]:
    """Return what ``metadata.json`` of a queue, or above it, says; often nothing."""
    for folder in (queue, queue.parent):
        path = folder / "metadata.json"
        try:
            if path.is_symlink() or path.stat().st_size > 1 << 20:
                continue
            said = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(said, dict):
            return said
    return {}


def _candidates(root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield what may be a run, and whether it lies in a folder of Neptune's."""
    if _container(root) or _database(root):
        yield root, True
        return
    bases = [root, root / DATA]
    for place in (*bases, *(base / part for base in bases for part in _PARTS)):
        ours = place.name in (DATA, *_PARTS)
        if place.is_dir() and (place == root or not place.is_symlink()):
            for path in _inside(place):
                if place not in bases or path.name not in _PARTS:
                    yield path, ours


def _inside(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.is_symlink())
    return (folder / name for name in names)


def _container(path: Path) -> re.Match[str] | None:
    """Return the kind and the id of what a 1.x client left at a path, if it did."""
    match = _CONTAINER.match(path.name)
    if match and path.is_dir() and any(map(_is_queue, _executions(path))):
        return match
    return None


def _executions(path: Path) -> list[Path]:
    inner = [
        each
        for each in _inside(path)
        if each.name.startswith("exec-") and each.is_dir()
    ]
    return inner or [path]


def _is_queue(execution: Path) -> bool:
    return any(
        bool(logs_of(folder)) or (folder / "last_put_version").is_file()
        for folder in queues_of(execution)
    )


def _begin(execution: Path) -> float:
    """Return when an execution began, in seconds, to order those of a run."""
    match = _EXECUTION.match(execution.name)
    if match:
        return float(match.group(1))
    try:
        for queue in queues_of(execution):
            for log in logs_of(queue)[:1]:
                with log.open("rb") as file:
                    told = _AT.search(file.readline(1 << 20).rstrip())
                if told:
                    return float(told.group(1))
    except OSError:
        pass  # whoever reads the run tells of it
    return 0.0


def _database(path: Path) -> Path | None:
    """Return the database of a 3.x run that a path is, or holds."""
    for inner in (path, path / "run_operations.sqlite3"):
        if inner.name.endswith(_ENDINGS) and inner.is_file() and not inner.is_symlink():
            return inner if _has_operations(inner) else None
    return None


def _has_operations(path: Path) -> bool:
    """Tell whether a file is a database of Neptune's, as far as it can be read."""
    with path.open("rb") as file:
        if file.read(16) != _SQLITE:
            return False
    if path.name == "run_operations.sqlite3":
        return True  # the log beside it may hold all there is
    uri = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as database:
            names = database.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.Error:
        return False
    log = path.with_name(path.name + "-wal")
    return ("run_operations",) in names or (log.exists() and log.stat().st_size > 0)
