"""Where neptune-exporter puts what: folders, files, and which of them are whole."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlmigrate.artifacts import short
from mlmigrate.errors import StoreError, translated
from mlmigrate.model import Finding, Note, Problem
from mlmigrate.neptune_runs.attributes import ContainerKind
from mlmigrate.stores.neptune_export.columns import codes, typed

#: ``RUN_part_3.parquet``; ``.tmp`` while it grows, and for ever where the exporter was
#: stopped. Early releases wrote all runs of a project into ``part_3.parquet``.
_PART = re.compile(r"(?:(?P<run>.+)_)?part_(?P<number>\d+)\.parquet(?P<tmp>\.tmp)?$")
#: The exporter puts a checksum behind the names of projects.
_SANITIZED = re.compile(r"-[0-9a-f]{8,16}$")
_ERRORS = "neptune_exporter_errors.jsonl"


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of one archive."""

    root: Path
    data: Path
    files: Path
    model_data: Path
    model_files: Path

    @property
    def errors(self) -> Iterator[Path]:
        """The places where the exporter's list of its errors may be, best first."""
        for folder in (self.root, self.data, self.root.parent):
            yield folder / _ERRORS


def archive_in(folder: Path, names: Iterable[str]) -> set[str]:
    """Return what in a folder is of an archive; nothing where none is.

    Args:
        folder: where to look.
        names: those of the folders in it.

    Raises:
        OSError: a folder cannot be listed.
    """
    inside = set(names)
    for name in inside & {"data", "model_data"}:
        projects = _subfolders(folder / name)
        if any(_holds_parts(folder / name / each) for each in projects):
            return inside & {"data", "files", "model_data", "model_files"}
    return {name for name in inside if _holds_parts(folder / name)}


def _holds_parts(project: Path) -> bool:
    if not _SANITIZED.search(project.name):
        return False
    scopes = (project, project / "models", project / "model_versions")
    return any(
        _PART.match(name) is not None
        for scope in scopes
        if scope.is_dir()
        for name in os.listdir(scope)
    )


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [e.name for e in entries if e.is_dir(follow_symlinks=False)]


def folders_of(root: Path, options: Mapping[str, Any]) -> Folders:
    """Return the folders of the archive at *root*: where the options say, else as the
    exporter names them, also where *root* is itself its ``data``.
    """
    inside = any((root / name).is_dir() for name in ("data", "model_data"))
    above = root if inside else root.parent

    def place(option: str, name: str) -> Path:
        given = options.get(option)
        return Path(given) if given else above / name

    data = root / "data" if inside else root
    return Folders(
        root,
        Path(options["data"]) if options.get("data") else data,
        place("files", "files"),
        place("model-data", "model_data"),
        place("model-files", "model_files"),
    )


@dataclass(slots=True)
class Entry:
    """One run, model or model version, and its part files by their numbers."""

    kind: ContainerKind
    project: str
    id: str
    folder: str  # the name of its project's folders
    parts: dict[int, Path] = field(default_factory=dict)
    shared: bool = False  # its files hold others, too
    unfinished: tuple[str, ...] = ()  # names of files that the exporter did not finish
    zone: str | None = None  # in which the times of its series are
    #: What the copy that it is was at first, and its experiment: mlmigrate wrote it.
    origin: str = ""
    experiment: str = ""

    @property
    def where(self) -> str:
        """What to call it in findings."""
        return f"{self.project}/{self.id}"

    def flaw(self) -> str:
        """Say what shows that it was not exported whole; '' where nothing does."""
        if 0 not in self.parts:
            return "its export was not finished: its part 0, written last, is missing"
        gaps = sorted(set(range(max(self.parts))) - set(self.parts))
        if gaps:
            return f"parts of it are missing: {', '.join(map(str, gaps))}"
        return ""


def entries_of(
    folder: Path, kind: ContainerKind, findings: list[Finding], scope: str = ""
) -> list[Entry]:
    """Find what is below a data folder, whole or not.

    Args:
        folder: ``data`` or ``model_data``.
        kind: what it holds.
        findings: gets what cannot be read.
        scope: the folder in each project's that holds this kind.

    Raises:
        StoreError: the folder cannot be listed.
    """
    found: dict[tuple[str, str], Entry] = {}
    for project in _listed(folder):
        place = folder / project / scope
        if project.startswith(".") or not place.is_dir():
            continue
        for group in _groups(place, findings):
            owners = _owners_of(group, findings)
            for number, path in sorted(group.parts.items()):
                for key in owners[number]:
                    if key not in found:
                        new = Entry(kind, *key, project, unfinished=tuple(group.tmp))
                        found[key] = new
                    entry = found[key]
                    # Not each part that several share holds something of each.
                    at = number if group.stem else len(entry.parts)
                    if at in entry.parts:
                        what = f"{key[1]} is in {path.name}, too: that is left out"
                        findings.append(Problem(str(place), what))
                        continue
                    entry.parts[at] = path
                    entry.shared |= not group.stem
            if not group.parts:
                what = (
                    f"was not finished, and is all that is there of a {kind}: it cannot"
                    " be read"
                )
                findings.append(Problem(str(place / group.tmp[0]), what))
    return sorted(found.values(), key=lambda entry: (entry.project, _natural(entry.id)))


@dataclass(slots=True)
class _Group:
    """The part files of one run, or of all that share them, by the name's beginning."""

    stem: str
    parts: dict[int, Path] = field(default_factory=dict)
    tmp: list[str] = field(default_factory=list)


def _groups(place: Path, findings: list[Finding]) -> list[_Group]:
    groups: dict[str, _Group] = {}
    strange: list[str] = []
    for name in _listed(place):
        match = _PART.match(name)
        path = place / name
        if match is None or not path.is_file():
            if not path.is_dir():
                strange.append(name)
            continue
        stem = match["run"] or ""
        group = groups.setdefault(stem, _Group(stem))
        if match["tmp"]:
            group.tmp.append(name)
        else:
            group.parts[int(match["number"])] = path
    if strange:
        what = f"{len(strange)} files are no part of it, such as {strange[0]!r}"
        findings.append(Note(str(place), what))
    return list(groups.values())


def _natural(id: str) -> list[tuple[int, int, str]]:
    """Return a key by which RUN-2 comes before RUN-10."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", id)
    ]


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder)) if folder.is_dir() else []
    except OSError as error:
        raise StoreError(f"{folder} cannot be listed: {error.strerror}") from error


def _owners_of(
    group: _Group, findings: list[Finding]
) -> dict[int, list[tuple[str, str]]]:
    """Return whose rows each part of a group holds: those of one name are one run's,
    so that a damaged one is as well.
    """
    wrong: dict[int, list[Finding]] = {number: [] for number in group.parts}
    owners = {
        number: _owners(path, wrong[number]) for number, path in group.parts.items()
    }
    known = {key for keys in owners.values() for key in keys}
    for number, keys in owners.items():
        if group.stem and len(known) == 1 and not keys:
            owners[number] = list(known)  # told where the run itself is read
        else:
            findings += wrong[number]
    return owners


def _owners(path: Path, findings: list[Finding]) -> list[tuple[str, str]]:
    """Return the projects and ids whose rows a part file holds.

    The rows say so. Its footer would, too, but where that is damaged Arrow may end this
    process rather than raise anything.
    """
    keys: dict[tuple[str, str], None] = {}
    names = ["project_id", "run_id"]
    try:
        with translated(lambda error: StoreError(short(error)), passing=(OSError,)):
            file = pq.ParquetFile(path, memory_map=True, read_dictionary=names)
            for batch in file.iter_batches(columns=names, use_threads=False):
                table = typed(pa.Table.from_batches([batch]))
                table.validate(full=True)
                projects, project_names = codes(table["project_id"])
                runs, run_names = codes(table["run_id"])
                named = (projects >= 0) & (runs >= 0)
                many = len(run_names)
                # One number a pair: sorting rows of two takes ten times as long.
                pairs = np.unique(projects[named].astype(np.int64) * many + runs[named])
                for pair in pairs.tolist():
                    project, run = divmod(pair, many)
                    keys[str(project_names[project]), str(run_names[run])] = None
    except (StoreError, OSError) as error:
        findings.append(Problem(str(path), f"cannot be read: {error}"))
        return list(keys)
    if not keys:
        findings.append(Problem(str(path), "holds no row that names a run"))
    return list(keys)
