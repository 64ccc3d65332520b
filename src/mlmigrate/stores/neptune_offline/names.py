"""The paths that files of a run get among its artifacts."""

from __future__ import annotations

import hashlib
import re

_DRIVE = re.compile(r"^[A-Za-z]:")
_LONGEST = 200  # bytes of one part of a path: file systems hold 255


class Names:
    """Paths that are taken already, so that no file hides another."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def take(self, wanted: str) -> str:
        """Return a path for a file: *wanted*, unless that leads out of the artifacts,
        is too long for a disk, or is taken.
        """
        parts = [_part(part) for part in wanted.split("/") if part] or ["_"]
        above = ""
        for at, part in enumerate(parts[:-1]):
            parts[at] = self._free(above, part, self._files)
            above += parts[at] + "/"
            self._folders.add(above[:-1])
        name = self._free(above, parts[-1], self._files, self._folders)
        self._files.add(above + name)
        return above + name

    def _free(self, above: str, name: str, *taken: set[str]) -> str:
        found, number = name, 2
        while any(above + found in each for each in taken):
            found, number = f"{name}~{number}", number + 1
        return found


def _part(part: str) -> str:
    """Return one part of a path as every disk takes it."""
    if part in (".", ".."):
        return part.replace(".", "%2E")
    if _DRIVE.match(part):
        part = part.replace(":", "%3A", 1)
    part = part.replace("\0", "%00")
    data = part.encode("utf-8", "backslashreplace")
    if len(data) <= _LONGEST:
        return data.decode()
    stem, dot, ending = part.rpartition(".")
    ending = dot + ending if stem and len(ending) <= 8 else ""
    kept = data[: _LONGEST - 20].decode("utf-8", "ignore")
    return f"{kept}-{hashlib.sha256(data).hexdigest()[:8]}{ending}"
