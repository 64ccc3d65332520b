"""What lies in a store but is no part of one: named, lest it be taken for copied."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from mlmigrate.model import Finding, Note, Problem

LITTER = {".DS_Store", "Thumbs.db", "desktop.ini", ".gitkeep", ".gitignore", ".keep"}
#: What Finder and iCloud make of a name when they copy it: "meta 2.yaml", "run 2".
SYNC_COPY = re.compile(r"^(.+) ([2-9])(\.[a-z]+)?$")
_META_COPY = re.compile(r"^meta [2-9]\.yaml$")


def is_litter(name: str) -> bool:
    """Tell whether a file belongs to the system it lay on rather than to MLflow."""
    return name in LITTER or name.startswith("._")


#: How the files begin that macOS puts beside others on foreign disks.
_APPLE_DOUBLE = b"\0\5\x16\7"


def is_litter_file(name: str, path: str) -> bool:
    """Tell the same of a file among those of params, tags and metrics, where such a
    name may be a key.
    """
    if not is_litter(name):
        return False
    if name.startswith("._"):
        try:
            with open(path, "rb") as file:
                return file.read(4) == _APPLE_DOUBLE
        except OSError:
            return False  # whoever reads it says why it cannot be read
    return name not in (".keep", ".gitkeep") or not os.path.getsize(path)


def entries(path: Path) -> tuple[list[str], list[str]]:
    """Return the names of folders and of all else, sorted.

    Raises:
        OSError: *path* itself cannot be listed.
    """
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(path) as found:
        for entry in found:
            (folders if _is_folder(entry) else files).append(entry.name)
    return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads to itself leads nowhere


def files_below(path: Path) -> Iterator[str]:
    """Yield the path of each file below a folder, but for litter."""
    for folder, _, names in os.walk(path):
        yield from (os.path.join(folder, name) for name in names if not is_litter(name))


def unknown(
    path: Path, known: Collection[str], where: str, *, header: str = "meta.yaml"
) -> list[Finding]:
    """Name what lies in a folder beside its *header* file and the folders *known*.

    Raises:
        OSError: the folder cannot be listed.
    """
    folders, files = entries(path)
    return strangers(path, folders, files, known, where, header=header)


def strangers(
    path: Path,
    folders: Collection[str],
    files: Collection[str],
    known: Collection[str],
    where: str,
    *,
    header: str = "meta.yaml",
) -> list[Finding]:
    """Name those of the *folders* and *files* in *path* that MLflow does not put there;
    *known* are the folders that it does, beside the file *header*.
    """
    found: list[Finding] = []
    for name in files:
        place = f"{where}/{name}"
        if name in known:
            what = "is a file, where MLflow has a folder: not copied"
            found.append(Problem(place, what))
        elif _META_COPY.match(name):
            what = "a sync tool's copy of meta.yaml: read only where that is damaged"
            found.append(Note(place, what))
        elif name != header and not is_litter(name):
            found.append(Problem(place, "is no file of MLflow's: not copied"))
    for name in folders:
        if name not in known:
            found += stray(path / name, f"{where}/{name}")
    return found


def loose_files(files: Collection[str], where: str) -> list[Finding]:
    """Name the files that lie beside experiments, where people put all sorts."""
    names = [name for name in files if not is_litter(name)]
    if not names:
        return []
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" * (len(names) > 20))
    return [Note(where, f"files beside the experiments, not copied: {shown}")]


def stray(folder: Path, where: str) -> list[Finding]:
    """Name a folder that is neither a run nor an experiment, unless it is empty."""
    count = size = 0
    store = False
    for path in files_below(folder):
        count += 1
        store = store or os.path.basename(path) == "meta.yaml"
        try:
            size += os.lstat(path).st_size
        except OSError:
            continue  # a file that vanishes while it is counted
    if not count:
        return []
    what = f"holds {count} files ({size} bytes) but no run or experiment: not copied"
    if store:
        what += "; it may be a store of its own: see `mlmigrate scan`, and give it, too"
    elif folder.name.startswith("."):
        return [Note(where, what)]  # an editor's or a notebook's
    return [Problem(where, what)]
