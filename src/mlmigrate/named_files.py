"""Files that a store names by a path of the machine where it was written.

A store could name any file of this disk: one is read only below a folder that the user
gave, as the store itself or by a map, and no link is followed out of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mlmigrate.artifacts import local_path, mapped, open_file, safe_join
from mlmigrate.errors import ItemError, UnsafePath
from mlmigrate.model import Artifact


@dataclass(frozen=True, slots=True)
class Found:
    """A file, by the folder that it may not lead out of."""

    folder: Path
    path: str
    size: int

    def open(self) -> BinaryIO:
        """Open it for reading.

        Raises:
            OSError: it cannot be.
            UnsafePath: it leads out of its folder by now.
        """
        return open_file(self.folder, self.path)


def as_artifacts(files: Mapping[str, Found]) -> list[Artifact]:
    """Return the records of files."""
    return [Artifact(path, file.size) for path, file in files.items()]


def bytes_of(files: Mapping[str, Found], path: str) -> bytes:
    """Return the bytes of one of some files.

    Raises:
        ItemError: it is not among them.
        OSError: it cannot be read.
    """
    if path not in files:
        raise ItemError(f"{path} is not there")
    with files[path].open() as data:
        return data.read()


def place_of(said: str, maps: Sequence[tuple[str, str]]) -> tuple[Path, str] | None:
    """Return where the first fitting map leads: a folder, and a path below it; '' for
    the folder itself.
    """
    for old, new in maps:
        if mapped(said, [(old, new)]) is not None:
            rest = said[len(old.rstrip("/\\")) :].replace("\\", "/").lstrip("/")
            return Path(local_path(new)), rest
    return None


def mapped_file(said: str, maps: Sequence[tuple[str, str]]) -> Found | None:
    """Return the file that the first fitting map makes of a path, if it is there."""
    place = place_of(said, maps)
    if place is None:
        return None
    folder, rest = place
    if not rest:  # the map names a file
        folder, rest = folder.parent, folder.name
    return file_below(folder, rest)


def file_below(folder: Path, path: str) -> Found | None:
    """Return a file below a folder, if it is there and may be read."""
    try:
        if not safe_join(folder, path).is_file():
            return None  # to open a pipe would wait for its writer
        with open_file(folder, path) as file:
            return Found(folder, path, file.seek(0, 2))
    except (OSError, UnsafePath, ValueError):
        return None
