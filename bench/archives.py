"""
What `export`, `check` and restoring are compared with.

An archive is measured by what reading its source alone costs, by what a tar of it takes
on the disk, and by how fast the disk gives its bytes.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
from contenders import (
    Contender,
    Job,
    Task,
    export_import_programs,
    ours,
    ours_read,
    scaled,
    sqlite_points,
)
from generate import Shape, generate
from support import servers

#: Of each run of the store that `check` is measured on: a large file.
ARTIFACT_BYTES = 1 << 20


def archive_points(folder: Path) -> Callable[[], int]:
    def count() -> int:
        tables = folder.glob("segments/*/metrics.parquet")
        return sum(int(pq.read_metadata(table).num_rows) for table in tables)

    return count


def bytes_below(path: Path) -> Callable[[], int]:
    """Return what counts the bytes of a file, or of all files in a folder."""

    def count() -> int:
        files = [path] if path.is_file() else path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())

    return count


def _run(command: list[str], env: dict[str, str] | None = None) -> None:
    subprocess.run(
        command, env={**os.environ, **(env or {})}, capture_output=True, check=True
    )


def _mlmigrate(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "mlmigrate", *map(str, words)]


# Exporting files


@contextmanager
def ours_export(task: Task) -> Iterator[Job]:
    target = task.folder / "archive"
    yield Job(
        [ours(task, str(target), command="export")],
        points=archive_points(target),
        written=bytes_below(target),
    )


@contextmanager
def tar_gzip(task: Task) -> Iterator[Job]:
    target = task.folder / "store.tar.gz"
    where = [str(task.store.parent), task.store.name]
    yield Job([["tar", "czf", str(target), "-C", *where]], written=bytes_below(target))


# Exporting a server, which is made once for all


@contextmanager
def _served(task: Task) -> Iterator[str]:
    folder = task.store.parent / "server"
    if not (folder / "mlflow.db").exists():
        folder.mkdir(exist_ok=True)
        partial = folder / "partial.db"
        partial.unlink(missing_ok=True)
        _run(_mlmigrate("copy", task.store, f"sqlite:///{partial}"))
        partial.rename(folder / "mlflow.db")
    with servers.mlflow_server(folder) as url:
        yield url


@contextmanager
def ours_export_server(task: Task) -> Iterator[Job]:
    target = task.folder / "archive"
    with _served(task) as url:
        command = _mlmigrate("export", url, target)
        yield Job([command], points=archive_points(target), written=bytes_below(target))


@contextmanager
def export_import_export(task: Task) -> Iterator[Job]:
    target = task.folder / "exported"
    program = export_import_programs() / "export-experiments"

    def points() -> int:
        found = 0
        for path in target.rglob("run.json"):
            metrics = json.loads(path.read_text())["mlflow"]["metrics"]
            found += sum(len(history) for history in metrics.values())
        return found

    with _served(task) as url:
        words = ["--experiments", "all", "--output-dir", str(target)]
        yield Job(
            [[str(program), *words]],
            {"MLFLOW_TRACKING_URI": url},
            points=points,
            written=bytes_below(target),
        )


# Restoring


def _into_sqlite(task: Task, source: Path) -> Job:
    """Copy into a new database; MLflow's schema is in the cache, as for the second."""
    target, cache = task.folder / "target.db", task.store.parent / "cache"
    env = {"XDG_CACHE_HOME": str(cache)}
    if not (cache / "mlmigrate").exists():
        first = f"sqlite:///{task.folder / 'first.db'}"
        nothing = ["--experiment", "none of this name"]
        _run(_mlmigrate("copy", task.store, first, *nothing), env)
    command = _mlmigrate("copy", source, f"sqlite:///{target}")
    return Job([command], env, sqlite_points(target))


def _archived(task: Task) -> Path:
    """Return an archive of the store, which is made once."""
    folder = task.store.parent / "archive"
    complete = task.store.parent / "archive-complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run(_mlmigrate("export", task.store, folder))
        complete.touch()
    return folder


@contextmanager
def ours_restore(task: Task) -> Iterator[Job]:
    yield _into_sqlite(task, _archived(task))


@contextmanager
def ours_from_files(task: Task) -> Iterator[Job]:
    yield _into_sqlite(task, task.store)


# Checking, with the archive read from the disk


def _with_artifacts(task: Task) -> Path:
    """Return an archive, made once, of a store whose runs have a large artifact."""
    folder = task.store.parent / "artifacts"
    archive = folder / "archive"
    complete = folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        shape = Shape(runs=task.runs, artifacts=1, artifact_bytes=ARTIFACT_BYTES)
        generate(folder / "mlruns", shape)
        _run(_mlmigrate("export", folder / "mlruns", archive))
        shutil.rmtree(folder / "mlruns")
        complete.touch()
    return archive


def _forget(folder: Path) -> None:
    """Take what lies in *folder* out of the system's cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


@contextmanager
def ours_check(task: Task) -> Iterator[Job]:
    archive = _with_artifacts(task)
    _forget(archive)
    yield Job([_mlmigrate("check", archive)], written=bytes_below(archive))


@contextmanager
def cat(task: Task) -> Iterator[Job]:
    archive = _with_artifacts(task)
    _forget(archive)
    words = f"find {shlex.quote(str(archive))} -type f -print0 | xargs -0 cat"
    yield Job([["sh", "-c", f"{words} | cat >/dev/null"]], written=bytes_below(archive))


MLMIGRATE_EXPORT = Contender("mlmigrate export", ours_export, ours=True)

SCENARIOS: dict[str, list[Contender]] = {
    "export": [
        MLMIGRATE_EXPORT,
        Contender("mlmigrate inspect: reading alone", ours_read, ours=True),
        Contender("tar and gzip", tar_gzip),
    ],
    "export-server": [
        Contender("mlmigrate export", ours_export_server, ours=True),
        Contender("mlflow-export-import", export_import_export),
    ],
    "restore": [
        Contender("mlmigrate, from the archive", ours_restore, ours=True),
        Contender("mlmigrate, from the files", ours_from_files, ours=True),
    ],
    "check": [
        Contender("mlmigrate check", ours_check, ours=True),
        Contender("cat", cat),
    ],
    "archive-memory": [
        MLMIGRATE_EXPORT,
        scaled(MLMIGRATE_EXPORT, 10),
    ],
}
