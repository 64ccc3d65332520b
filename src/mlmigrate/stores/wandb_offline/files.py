"""The files of a run: those in its folders, those made of its records, and those that
its logged artifacts name.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlmigrate.artifacts import list_folder
from mlmigrate.model import Artifact, Finding, Note, Problem
from mlmigrate.named_files import Found, file_below, mapped_file
from mlmigrate.stores.wandb_offline.folders import log_of
from mlmigrate.wandb_runs import bundles

#: The most characters of a manifest's line: two paths, and little beside.
_LONGEST_ENTRY = 1 << 20


def list_files(
    folders: Sequence[Path],
    made: Iterable[str],
    maps: Sequence[tuple[str, str]],
    where: str,
) -> tuple[dict[str, Found], list[Finding]]:
    """List a run's files by the paths that they get: what is in ``files/`` as there,
    all else but the log below ``wandb/``; of an earlier folder of a resumed run below
    ``wandb/FOLDER/``. The names in *made* are taken.

    A file that the user saved is a link to where it was: it is followed where a map of
    the user's leads.
    """
    found: dict[str, Found] = {}
    findings: list[Finding] = []
    taken = set(made)
    for folder in reversed(folders):
        log = log_of(folder)
        files, problems = list_folder(folder, f"{where}/{folder.name}")
        links = _links(folder, maps)
        findings += _about(links, problems)
        for file in (*files, *(link.file for link in links.values() if link.file)):
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
            target = links[file.path].target if file.path in links else None
            found[path] = target or Found(folder, file.path, file.size)
    return found, findings


@dataclass(frozen=True, slots=True)
class _Link:
    """A link that leads out of a run folder, and the file that it may lead to."""

    to: str
    file: Artifact | None
    target: Found | None


def _links(folder: Path, maps: Sequence[tuple[str, str]]) -> dict[str, _Link]:
    """Return the links in a run folder that lead out of it, by path."""
    links: dict[str, _Link] = {}
    root = os.path.realpath(folder) + os.sep
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place, name)
            if not path.is_symlink() or os.path.realpath(path).startswith(root):
                continue
            to = os.readlink(path)
            target = mapped_file(to, maps)
            inner = path.relative_to(folder).as_posix()
            file = Artifact(inner, target.size) if target else None
            links[inner] = _Link(to, file, target)
    return links


def _about(links: Mapping[str, _Link], problems: Iterable[Problem]) -> list[Finding]:
    """Say where the links lead that are *problems*, unless they are followed."""
    texts = {f"artifact {path}: a link, not followed": path for path in links}
    findings: list[Finding] = []
    for problem in problems:
        path = texts.get(problem.what)
        if path is None:
            findings.append(problem)
        elif links[path].file is None:
            what = f"{path}: a link to {links[path].to}, not followed"
            if path.startswith("logs/"):
                # It is the log of the client's service, which serves other runs, too.
                findings.append(Note(problem.where, what))
            else:
                what += "; --map-artifacts OLD=NEW says where to read it"
                findings.append(Problem(problem.where, what))
    return findings


def missing_files(
    named: Iterable[str], run: Path, files: Mapping[str, Found], what: str, where: str
) -> list[Finding]:
    """Tell which files that a run names are not there; a name may be a pattern. Of
    links it is told elsewhere.
    """
    gone = [
        name
        for name in named
        if name not in files
        and not any(mark in name for mark in "*?[\0")
        and not (run / "files" / name).is_symlink()
    ]
    if not gone:
        return []
    return [Problem(where, f"{len(gone)} {what} are not there, such as {gone[0]!r}")]


def logged_files(
    artifacts: Iterable[Mapping[str, Any]],
    root: Path,
    copied: Path,
    maps: Sequence[tuple[str, str]],
    where: str,
) -> tuple[dict[str, Found], list[Finding]]:
    """Find the files of logged artifacts, which get ``artifacts/NAME/PATH``.

    A manifest could name any file of this disk: one is read only below *root*, or
    where a map of the user's leads. What mlmigrate made of a run's files is in the
    folder *copied*, by the paths that they had.
    """
    found: dict[str, Found] = {}
    findings: list[Finding] = []
    for artifact in artifacts:
        name, type = str(artifact.get("name", "")), str(artifact.get("type", ""))
        if bundles.is_record(type):
            continue
        manifest = artifact.get("manifest", {})
        gone: list[str] = []
        entries = manifest.get("contents", ())
        if place := manifest.get("manifest_file_path"):
            entries, wrong = _entries_of_file(place, root, maps)
            what = f"artifact {name!r}: its manifest {place} {wrong}"
            findings += [Problem(where, what)] if wrong else []
        for entry in entries:
            if entry.get("ref") and not entry.get("local_path"):
                continue  # it was never a file of the run's
            file = _locate(entry, root, maps)
            inner = str(entry.get("path", ""))
            was = bundles.original_path(type, artifact.get("metadata"), inner)
            path = f"artifacts/{name}/{inner}" if was is None else was
            here = was and _there(copied, was, entry.get("size", 0))
            file = here or _locate(entry, root, maps)
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
    return found, findings


def _entries_of_file(
    place: str, root: Path, maps: Sequence[tuple[str, str]]
) -> tuple[list[dict[str, Any]], str]:
    """Return the entries of a manifest of many files, which W&B's client puts beside
    its log as compressed lines of JSON; and what is wrong with it, '' for nothing.
    """
    here = str(root.absolute())
    found = mapped_file(place, [*maps, (here, here)])
    if found is None:
        return [], (
            "is not there, or lies outside of the folder: its files are not copied;"
            " --map-artifacts OLD=NEW says where it is"
        )
    entries: list[dict[str, Any]] = []
    try:
        with found.open() as raw, gzip.open(raw) as lines:
            while line := lines.readline(_LONGEST_ENTRY):
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError("a line is no entry")
                entries.append(entry)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        return entries, f"cannot be read whole: {error}"
    return entries, ""


def _locate(
    entry: Mapping[str, Any], root: Path, maps: Sequence[tuple[str, str]]
) -> Found | None:
    said = str(entry.get("local_path", ""))
    here = str(root.absolute())
    found = mapped_file(said, [*maps, (here, here)])
    if found is None or found.size != entry.get("size", 0):
        return None  # it is gone, or was written over since
    return found


def _there(folder: Path, path: str, size: int) -> Found | None:
    found = file_below(folder, path)
    return found if found is not None and found.size == size else None
