"""Sets of files that a 1.x client uploads by patterns, which it looks up when it sends
them.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlmigrate.artifacts import list_folder
from mlmigrate.named_files import Found, file_below
from mlmigrate.stores.neptune_offline.uploads import Reach


@dataclass(slots=True)
class FileSet:
    """What was done to a set: patterns of files to add, and names to delete."""

    steps: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def upload(self, patterns: Iterable[str], *, reset: bool) -> None:
        """Add the files that patterns match, in the place of all others or not."""
        if reset:
            self.steps.clear()
        self.steps.append(("upload", tuple(patterns)))

    def delete(self, names: Iterable[str]) -> None:
        """Take files or folders away."""
        self.steps.append(("delete", tuple(names)))

    def find(self, reach: Reach, workplace: str) -> tuple[dict[str, Found], list[str]]:
        """Return the files by their names in the set, and the patterns without any.

        Args:
            reach: which files may be read.
            workplace: the folder where the run worked: names count from it where all
                files are below it, as with the client.
        """
        found: dict[str, Found] = {}
        without: list[str] = []
        for act, texts in self.steps:
            if act == "delete":
                for name in texts:
                    gone = [one for one in found if f"{one}/".startswith(f"{name}/")]
                    for one in gone:
                        del found[one]
                continue
            files: dict[str, Found] = {}
            tops: set[str] = set()
            for pattern in texts:
                matched = list(_matched(pattern, reach))
                for top, name, file in matched:
                    files[name] = file
                    tops.add(top)
                if not matched:
                    without.append(pattern)
            common = _common(tops, files, workplace)
            for name in sorted(files):
                inner = os.path.relpath(name, common) if common else name
                found[inner] = files[name]
        return found, without


def _common(tops: set[str], files: Iterable[str], workplace: str) -> str:
    """Return the folder from which names count; '' where they have none in common."""
    try:
        common = os.path.commonpath(tops)
    except ValueError:  # none at all, or of different drives
        return ""
    if common in files:
        common = os.path.dirname(common)
    return workplace if common.startswith(workplace + os.sep) else common


def _matched(pattern: str, reach: Reach) -> Iterator[tuple[str, str, Found]]:
    """Yield what a pattern matches, as it was called when it was logged: the match, and
    each file of it.
    """
    place = reach.place(pattern)
    if place is None:
        return
    folder, rest = place
    stem = pattern[: len(pattern) - len(rest)].rstrip("/\\").replace("\\", "/") or "/"
    if ".." in rest.split("/") or "\0" in rest:
        return
    matches = glob.glob(rest, root_dir=folder, recursive=True) if rest else [""]
    for match in sorted(matches):
        top = os.path.join(stem, match).rstrip("/")
        if os.path.isdir(folder / match):
            for inner in _below(folder, match):
                if file := file_below(folder, inner):
                    yield top, os.path.join(stem, inner), file
        elif match and (file := file_below(folder, match)):
            yield top, top, file
        elif not match and (file := file_below(folder.parent, folder.name)):
            yield stem, stem, file


def _below(folder: Path, match: str) -> Iterator[str]:
    files, _ = list_folder(folder / match, "")
    for file in files:
        yield os.path.join(match, file.path)
