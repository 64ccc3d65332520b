"""The files of an archive, by the paths that they get among a run's artifacts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mlmigrate.artifacts import list_folder, safe_join
from mlmigrate.errors import UnsafePath
from mlmigrate.model import Finding, Note, Problem
from mlmigrate.named_files import Found
from mlmigrate.neptune_runs.names import Names
from mlmigrate.neptune_runs.steps import shown
from mlmigrate.stores.neptune_export.tables import FileRow


def places(
    rows: Iterable[FileRow], folder: Path, names: Names, where: str
) -> tuple[dict[str, Found], list[Finding]]:
    """Find the files of a run.

    A file gets the path of its attribute, whatever the exporter called it; one of a
    series its step below that, and one of a set its path in the set.

    Args:
        rows: what the archive says of them.
        folder: that of the project's files.
        names: gives the paths.
        where: what to call the run in findings.
    """
    found: dict[str, Found] = {}
    findings: list[Finding] = []
    lists = 0
    for row in sorted(rows, key=lambda row: (row.attribute, row.step or 0, row.path)):
        files = _files(row, folder, where, findings)
        lists += row.type == "artifact" and bool(files)
        for wanted, file in files:
            name = names.give(wanted)
            if name != wanted:
                findings.append(Note(where, f"file {wanted!r} is kept as {name}"))
            found[name] = file
    if lists:
        what = (
            f"of {lists} artifacts only the lists of their files are there: the"
            " exporter did not fetch the files themselves"
        )
        findings.append(Note(where, what))
    return found, findings


def _files(
    row: FileRow, folder: Path, where: str, findings: list[Finding]
) -> list[tuple[str, Found]]:
    """Return what a row names: paths that the files are to get, and the files."""
    what = f"{row.type} {row.attribute}: {row.path}"
    try:
        place = safe_join(folder, row.path)
    except UnsafePath:
        findings.append(Problem(where, f"{what} leads out of the archive: not read"))
        return []
    root = os.path.realpath(folder)
    if not os.path.realpath(place).startswith(root + os.sep):
        findings.append(Problem(where, f"{what} leads out of the archive: not read"))
        return []
    if place.is_dir():
        inside, problems = list_folder(place, where)
        findings += problems
        if not inside:
            findings.append(Note(where, f"{what}: the folder is empty"))
        return [
            (
                f"{row.attribute}/{file.path}",
                Found(folder, f"{row.path}/{file.path}", file.size),
            )
            for file in inside
        ]
    try:
        size = place.stat().st_size
    except (OSError, ValueError):
        findings.append(Problem(where, f"{what} is not there"))
        return []
    path = PurePosixPath(row.path)
    wanted = row.attribute
    if row.type in ("artifact", "file_set"):
        wanted = f"{wanted}/{path.name}"
    elif row.step is not None or row.type == "file_series":
        step = path.stem if row.step is None else shown(row.step)
        wanted = f"{wanted}/{step}{path.suffix}"
    return [(wanted, Found(folder, row.path, size))]
