"""The files of a run: those in its folders, those made of its records, and those that
its logged artifacts name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlmigrate.artifacts import list_folder, local_path, mapped, open_file
from mlmigrate.errors import UnsafePath
from mlmigrate.model import Artifact, Finding, Note, Problem
from mlmigrate.stores.wandb_offline.folders import log_of


@dataclass(frozen=True, slots=True)
class Found:
    """A file, by the folder that it may not lead out of."""

    folder: Path
    path: str
    size: int


def list_files(
    folders: Sequence[Path], made: Iterable[str], where: str
) -> tuple[dict[str, Found], list[Finding]]:
    """List a run's files by the paths that they get: what is in ``files/`` as there,
    all else but the log below ``wandb/``; of an earlier folder of a resumed run below
    ``wandb/FOLDER/``. The names in *made* are taken.
    """
    found: dict[str, Found] = {}
    findings: list[Finding] = []
    taken = set(made)
    for folder in reversed(folders):
        log = log_of(folder)
        files, problems = list_folder(folder, f"{where}/{folder.name}")
        findings += problems
        for file in files:
            if log is not None and file.path == log.name:
                continue
            path = file.path.removeprefix("files/")
            if folder is not folders[-1]:
                path = f"wandb/{folder.name}/{file.path}"
            elif path == file.path:
                path = f"wandb/{file.path}"
            while path in taken:
                what = f"{path} is there twice: the second is {path}~2"
                findings.append(Note(f"{where}/{folder.name}", what))
                path += "~2"
            taken.add(path)
            found[path] = Found(folder, file.path, file.size)
    return found, findings


def missing_files(
    named: Iterable[str], files: Mapping[str, Found], where: str, what: str
) -> list[Finding]:
    """Tell which files that a run names are not there; a name may be a pattern."""
    gone = [
        name
        for name in named
        if name not in files and not any(mark in name for mark in "*?[")
    ]
    if not gone:
        return []
    return [Problem(where, f"{len(gone)} {what} are not there, such as {gone[0]!r}")]


def logged_files(
    artifacts: Iterable[Mapping[str, Any]],
    root: Path,
    maps: Sequence[tuple[str, str]],
    where: str,
) -> tuple[dict[str, Found], list[Finding]]:
    """Find the files of logged artifacts, which get ``artifacts/NAME/PATH``.

    A manifest could name any file of this disk: one is read only below *root*, or
    where a map of the user's leads.
    """
    found: dict[str, Found] = {}
    findings: list[Finding] = []
    for artifact in artifacts:
        name = str(artifact.get("name", ""))
        manifest = artifact.get("manifest", {})
        gone: list[str] = []
        for entry in manifest.get("contents", ()):
            if entry.get("ref") and not entry.get("local_path"):
                continue  # it was never a file of the run's
            file = _locate(entry, root, maps)
            path = f"artifacts/{name}/{entry.get('path', '')}"
            if file is None or ".." in path.split("/"):
                gone.append(entry.get("local_path") or entry.get("path", ""))
            else:
                found[path] = file
        if gone:
            what = (
                f"artifact {name!r}: {len(gone)} files are not there, or lie outside of"
                f" the folder, such as {gone[0]!r}: not copied;"
                " --map-artifacts OLD=NEW says where they are"
            )
            findings.append(Problem(where, what))
        if manifest.get("manifest_file_path"):
            what = f"artifact {name!r}: its manifest is a file, which is not read"
            findings.append(Problem(where, what))
    return found, findings


def _locate(
    entry: Mapping[str, Any], root: Path, maps: Sequence[tuple[str, str]]
) -> Found | None:
    said = str(entry.get("local_path", ""))
    for old, new in maps:
        if mapped(said, [(old, new)]) is not None:
            folder = Path(local_path(new))
            rest = said[len(old.rstrip("/\\")) :].replace("\\", "/").lstrip("/")
            break
    else:
        folder = root
        prefix = f"{root.absolute()}/"
        if not said.startswith(prefix):
            return None
        rest = said[len(prefix) :]
    try:
        with open_file(folder, rest) as file:
            size = file.seek(0, 2)
    except (OSError, UnsafePath, ValueError):
        return None
    if size != entry.get("size", 0):
        return None  # it was written over since
    return Found(folder, rest, size)


def as_artifacts(files: Mapping[str, Found]) -> list[Artifact]:
    """Return the records of files."""
    return [Artifact(path, file.size) for path, file in files.items()]
