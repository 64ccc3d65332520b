"""Finds every store below a path: file stores, archives, SQLite files with MLflow's
tables, the folders of W&B's client and of Neptune's, and neptune-exporter's archives.

Nothing is opened but for reading, and nothing is read whole: a folder is known by the
``meta.yaml`` of one experiment or run in it, an archive by its manifest, a database by
its list of tables, a folder of W&B's or Neptune's by what its client calls runs, an
archive of neptune-exporter by the names of its parts.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlmigrate.artifacts import redact
from mlmigrate.contract import Selection
from mlmigrate.errors import StoreError, StoreNotFound
from mlmigrate.locations import MANIFESTS, Opened
from mlmigrate.model import Problem
from mlmigrate.pipeline.workspaces import each_workspace
from mlmigrate.stores.mlflow_db.snapshot import open_readonly
from mlmigrate.stores.mlflow_files.layout import RECORDS, RUN_ID, read_meta_file
from mlmigrate.stores.neptune_export import PREFIX as EXPORT
from mlmigrate.stores.neptune_export import archive_in
from mlmigrate.stores.neptune_offline import PREFIX as NEPTUNE
from mlmigrate.stores.neptune_offline import runs_in
from mlmigrate.stores.wandb_offline import PREFIX as WANDB
from mlmigrate.stores.wandb_offline import is_run_folder

#: Folders of tools, which hold nobody's experiments, and of the system.
SKIPPED = frozenset(
    {".git", "node_modules", ".venv", "__pycache__", "site-packages", ".tox", ".nox"}
)
_SYSTEM = frozenset({"/proc", "/sys", "/dev"})
_SQLITE = b"SQLite format 3\0"
_SMALLEST_PAGE = 512  # a SQLite file is a whole number of pages
#: An archive's own folders, in which no other store is looked for.
_OF_ARCHIVES = {"blobs", "segments", "partial", "workspaces"}
_RUNS = Selection("run")
_TABLES = {"experiments", "runs"}
_PREFIXES = (WANDB, NEPTUNE, EXPORT)
_VERSION = re.compile(r"version-\d+$")


def scan(
    paths: Iterable[str | Path], depth: int | None = None
) -> Iterator[str | Problem]:
    """Find the stores at and below each path; links are not followed.

    Args:
        paths: folders, or single files.
        depth: how many levels below a path to look; None for all.

    Yields:
        The location of each store, or what kept a part of the tree from being seen.

    Raises:
        StoreNotFound: a path does not exist.
    """
    seen: set[str] = set()
    for path in paths:
        if not os.path.exists(path):
            raise StoreNotFound(f"{path}: there is no such folder or file")
        if not os.path.isdir(path):
            if _is_database(Path(path)):
                yield str(path)
            continue
        for found in _walk(Path(path), depth):
            place = found.where if isinstance(found, Problem) else found
            prefix = next((one for one in _PREFIXES if place.startswith(one)), "")
            real = prefix + os.path.realpath(place.removeprefix(prefix))
            if real not in seen:  # paths may lie in one another
                seen.add(real)
                yield found


def _walk(root: Path, depth: int | None) -> Iterator[str | Problem]:
    waiting = [(root, 0)]
    while waiting:
        folder, level = waiting.pop()
        try:
            folders, files = _entries(folder)
        except OSError as error:
            yield Problem(str(folder), f"cannot be listed: {error.strerror}")
            continue
        if any(name in files for name in MANIFESTS):
            inside = _OF_ARCHIVES
        else:
            inside = {name for name in folders if _is_evidence(folder / name, name)}
        if inside:
            yield str(folder)
        runs = {name for name in folders if is_run_folder(folder / name)}
        if runs:
            yield f"{WANDB}{folder}"
            inside = inside | runs
        if runs := _of_neptune(folder, folders, files):
            yield f"{NEPTUNE}{folder}"
            inside = inside | runs
        if parts := _exported(folder, folders):
            yield f"{EXPORT}{folder}"
            inside = inside | parts
        for name in files:
            try:
                if _is_database(folder / name):
                    yield str(folder / name)
            except OSError as error:
                yield Problem(
                    str(folder / name), f"cannot be read: {error.strerror or error}"
                )
        if depth is None or level < depth:
            # A store keeps its own folders to itself; another may lie beside them.
            below = [name for name in folders if name not in inside]
            waiting += [(folder / name, level + 1) for name in reversed(below)]


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Return the folders to look into and files that may tell of a store, sorted."""
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in SKIPPED and entry.path not in _SYSTEM:
                        folders.append(entry.name)
                elif entry.is_file(follow_symlinks=False):
                    size = entry.stat(follow_symlinks=False).st_size
                    whole_pages = size and size % _SMALLEST_PAGE == 0
                    if whole_pages or entry.name in MANIFESTS:
                        files.append(entry.name)
            except OSError:  # it vanished meanwhile
                continue
    return sorted(folders), sorted(files)


# -- file stores ------------------------------------------------------------------


def _is_evidence(folder: Path, name: str) -> bool:
    """Tell whether only a file store has such a folder.

    This is stricter than reading a store, where a lone damaged folder is recovered:
    many tools write a ``meta.yaml``, and the folder above a store looks like one.
    """
    try:
        if name == ".trash":
            return any(_is_experiment(folder / inner) for inner in _folders(folder))
        if name == "models" and not (folder / "meta.yaml").exists():
            return any(_is_model(folder / inner) for inner in _folders(folder))
        return _is_experiment(folder)
    except OSError:
        return False  # `_walk` tells of it when it comes there


def _is_experiment(folder: Path) -> bool:
    """Tell whether a folder is an experiment, or a run that lies beside experiments."""
    if (folder / "meta.yaml").is_file():
        meta, _ = read_meta_file(folder, "")
        if _names_run(meta) or ("experiment_id" in meta and "name" in meta):
            return True
    return _is_run(folder) or any(_is_run(folder / name) for name in _folders(folder))


def _is_run(folder: Path) -> bool:
    if not RUN_ID.match(folder.name):
        return False
    if (folder / "meta.yaml").is_file():
        return True
    return any((folder / name).is_dir() for name in RECORDS if name != "outputs")


def _names_run(meta: dict[str, Any]) -> bool:
    return ("run_id" in meta or "run_uuid" in meta) and "artifact_uri" in meta


def _is_model(folder: Path) -> bool:
    """Tell whether a folder is a registered model."""
    for name in _folders(folder):
        if _VERSION.match(name) and (folder / name / "meta.yaml").is_file():
            return True
    if not (folder / "meta.yaml").is_file():
        return False
    meta, _ = read_meta_file(folder, "")
    return "name" in meta and "last_updated_timestamp" in meta


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


# -- Neptune's clients --------------------------------------------------------------


def _exported(folder: Path, folders: list[str]) -> set[str]:
    try:
        return archive_in(folder, folders)
    except OSError:
        return set()  # `_walk` tells of it when it comes there


def _of_neptune(folder: Path, folders: list[str], files: list[str]) -> set[str]:
    try:
        return runs_in(folder, folders, files)
    except OSError:
        return set()  # `_walk` tells of it when it comes there


# -- databases --------------------------------------------------------------------


def _is_database(path: Path) -> bool:
    """Tell whether a file is a SQLite database with MLflow's tables.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(_SQLITE)) != _SQLITE:
            return False
    try:
        uri = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            names = database.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.Error:
        names = []
    if _TABLES.issubset(name for (name,) in names):
        return True
    log = path.with_name(path.name + "-wal")
    logged = log.exists() and log.stat().st_size > 0
    return logged and _TABLES.issubset(_logged_tables(path))


def _logged_tables(path: Path) -> set[str]:
    """Return the tables of a database whose log may hold them.

    They are read from a copy: a log is not read without writing beside it.
    """
    try:
        engine, _, cleanup = open_readonly(str(path))
    except StoreError:
        return set()
    try:
        with engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT name FROM sqlite_master")
            return {str(name) for (name,) in rows}
    finally:
        engine.dispose()
        cleanup()


# -- overlaps ---------------------------------------------------------------------


def overlaps(stores: Sequence[Opened]) -> list[dict[str, Any]]:
    """Find the runs that are in more than one store.

    Returns:
        ``{"stores": [location, ...], "runs": n}`` for each set of stores that share
        runs; a run counts once, for all of its stores. Most runs first.
    """
    sets: dict[frozenset[int], frozenset[int]] = {}  # equal sets are one object
    holders: dict[str, frozenset[int]] = {}
    for at, opened in enumerate(stores):
        with suppress(StoreError), closing(each_workspace(opened, [])) as each:
            # Who inspects the store is told of what cannot be read.
            for ref in (ref for _, store in each for ref in store.refs(_RUNS)):
                id = ref.id.split("~")[0]  # a second one in the same store
                held = holders.get(id, frozenset()) | {at}
                holders[id] = sets.setdefault(held, held)
    shared = Counter(held for held in holders.values() if len(held) > 1)
    return [
        {
            "stores": [redact(stores[at].location) for at in sorted(held)],
            "runs": count,
        }
        for held, count in sorted(
            shared.items(), key=lambda pair: (-pair[1], sorted(pair[0]))
        )
    ]
