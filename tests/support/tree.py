"""What a folder holds, to prove that nothing in it was touched."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """One file, link or folder, with all that a writer could change of it."""

    sha256: str
    size: int
    mtime_ns: int
    mode: int


def snapshot(folder: Path) -> dict[str, Entry]:
    """
    Return every entry at and below *folder*, by relative path.

    Folders are included, as their times tell of files that came and went; links are
    recorded, not followed.
    """
    found = {".": _entry(folder)}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            found[path.relative_to(folder).as_posix()] = _entry(path)
    return found


def _entry(path: Path) -> Entry:
    status = path.lstat()
    mode = status.st_mode
    digest, size = "", 0
    if stat.S_ISLNK(mode):
        digest = hashlib.sha256(os.fsencode(path.readlink())).hexdigest()
    elif stat.S_ISREG(mode):
        size = status.st_size
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Entry(digest, size, status.st_mtime_ns, mode)
