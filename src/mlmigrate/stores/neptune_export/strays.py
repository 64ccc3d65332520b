"""What an archive holds beside its runs, and what the exporter says that it lacks."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mlmigrate.artifacts import list_folder
from mlmigrate.errors import ItemError
from mlmigrate.model import Finding, Note, Problem
from mlmigrate.stores.neptune_export.index import Index
from mlmigrate.stores.neptune_export.tables import paths_of

_LONGEST_LINE = 1 << 20


def findings(index: Index) -> Iterator[Finding]:
    """Yield the files that no run names, and the errors of the exporter's."""
    named: dict[Path, set[str]] = defaultdict(set)
    attributes: dict[tuple[str, str], set[str]] = {}
    errors = _errors(index)
    for entry in index.entries.values():
        try:
            held, files = paths_of(entry, attributes=bool(errors))
        except (ItemError, OSError):
            continue  # told where the run itself is read
        named[index.files_of(entry)].update(files)
        attributes[entry.project, entry.id] = held
    for folder in _file_folders(index):
        yield from _unnamed(folder, named[folder])
    for (project, id, attribute), (error, count) in errors.items():
        known = attributes.get((project, id))
        if known is None or attribute in known:
            continue
        what = f"the exporter could not fetch {attribute or 'some of it'}: {error}"
        yield Problem(f"{project}/{id}", what + f" ({count} times)" * (count > 1))


def _file_folders(index: Index) -> list[Path]:
    """Return the folders of the files of each project."""
    return [
        place
        for root in (index.folders.files, index.folders.model_files)
        if root.is_dir()
        for place in sorted(root.iterdir())
        if place.is_dir()
    ]


def _unnamed(folder: Path, named: set[str]) -> Iterator[Finding]:
    """Yield what is in a project's files that no attribute names."""
    files, problems = list_folder(folder, str(folder))
    yield from problems
    left = [
        file.path
        for file in files
        if file.path not in named
        and not any(str(above) in named for above in PurePosixPath(file.path).parents)
    ]
    if left:
        what = f"{len(left)} files that no run names, not copied, such as {left[0]}"
        yield Note(str(folder), what)


def _errors(index: Index) -> dict[tuple[str, str, str], tuple[str, int]]:
    """Return the errors that the exporter noted, by project, run and attribute."""
    place = next((each for each in index.folders.errors if each.is_file()), None)
    said: dict[tuple[str, str, str], str] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    if place is None:
        return {}
    with place.open("rb") as lines:
        while line := lines.readline(_LONGEST_LINE):
            try:
                record: Any = json.loads(line)
            except (ValueError, RecursionError):
                continue  # a line that was cut tells nothing
            if not isinstance(record, dict):
                continue
            key = (
                str(record.get("project_id")),
                str(record.get("run_id")),
                str(record.get("attribute_path") or ""),
            )
            said[key] = str(record.get("exception"))
            counts[key] += 1
    return {key: (error, counts[key]) for key, error in said.items()}
