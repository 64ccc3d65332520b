"""The paths of Neptune's attributes as the names of artifacts."""

from __future__ import annotations

import re
from hashlib import blake2b

#: Bytes of a part of a path: most file systems take 255; a suffix may follow.
_LONGEST_PART = 230
#: Bytes of a path: Neptune takes 1,024 with what is put before it.
_LONGEST_PATH = 980
_DRIVE = re.compile(r"^[A-Za-z]:")


class Names:
    """Names that were given: none twice, and none both a file's and a folder's."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def give(self, path: str) -> str:
        """Return *path*, or what comes nearest to it and is free, and safe to write."""
        parts = cleaned(path).split("/")
        # A file stands where a folder must be: the folder gets another name.
        for at in range(1, len(parts)):
            while "/".join(parts[:at]) in self._files:
                parts[at - 1] += "~2"
        *above, last = parts
        number, name = 2, "/".join(parts)
        while name in self._files or name in self._folders:
            stem, dot, ending = last.partition(".")
            name = "/".join([*above, f"{stem}~{number}{dot}{ending}"])
            number += 1
        self._files.add(name)
        self._folders.update("/".join(parts[:at]) for at in range(1, len(parts)))
        return name


def cleaned(path: str) -> str:
    """Return *path* as it is safe to write: itself where nothing is wrong with it."""
    parts = [_safe(part) for part in path.replace("\\", "/").split("/") if part]
    return _shortened("/".join(parts), _LONGEST_PATH) or "_"


def _safe(part: str) -> str:
    if part in (".", ".."):
        return "_" * len(part)
    if "\0" in part or _DRIVE.match(part):
        part = part.replace("\0", "_").replace(":", "_")
    part = part.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return _shortened(part, _LONGEST_PART)


def _shortened(text: str, most: int) -> str:
    data = text.encode()
    if len(data) <= most:
        return text
    tail = f"-{blake2b(data, digest_size=6).hexdigest()}"
    return data[: most - len(tail)].decode("utf-8", "ignore").rstrip("/") + tail
