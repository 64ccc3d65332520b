"""Files that operations name: single ones, by where they lay when they were logged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mlmigrate.named_files import Found, file_below, mapped_file, place_of

#: Where a 1.x client puts what it is given as bytes, in the folder of a run.
UPLOADS = "upload_path"


class Upload(NamedTuple):
    """A file that was logged."""

    wanted: str  # the path that it is to have among the artifacts
    said: str  # where it was
    own: Path | None  # the client's own folder, where it may have put it
    size: int | None = None  # as it was logged


@dataclass(frozen=True, slots=True)
class Reach:
    """Which files may be read: those below the store, and where maps lead."""

    root: Path
    maps: Sequence[tuple[str, str]]

    def find(self, upload: Upload) -> Found | None:
        """Return a file that was logged, if it is there and may be read."""
        said = upload.said.replace("\\", "/")
        if upload.own is not None and not upload.own.is_symlink():
            inner = said.rpartition(f"/{UPLOADS}/")[2] or said
            inner = inner.rpartition("/")[2] if inner == said else inner
            found = file_below(upload.own, inner)
            if found is not None:
                return found
        return mapped_file(upload.said, self._all())

    def place(self, said: str) -> tuple[Path, str] | None:
        """Return where a path, or a pattern, leads: a folder, and the rest of it."""
        return place_of(said, self._all())

    def _all(self) -> list[tuple[str, str]]:
        here = os.path.abspath(self.root)
        return [*self.maps, (here, here)]


def artifact_name(path: str, ending: str) -> str:
    """Return the path of a file among the artifacts: that of its attribute, with the
    ending that it had.
    """
    dotted = f".{ending.lstrip('.')}" if ending.strip(".") else ""
    return path if path.endswith(dotted) else path + dotted
