"""Files that are made of a run's operations: series of texts, images, inline files.

Reading only counts their bytes; opening one makes them all, in a temporary folder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Protocol, TypeAlias

from mlmigrate.named_files import Found

#: What kind of file it is, and the path that it is to have among the artifacts.
Key: TypeAlias = tuple[str, str]

_MOST_HELD = 1 << 22  # bytes that wait to be written


class Made(Protocol):
    """Where files that are made go."""

    def add(self, key: Key, data: bytes) -> None:
        """Append to a file."""

    def drop(self, key: Key) -> None:
        """Take back all that was added to a file."""


class Counted:
    """The sizes of files that are not made yet, in the order of their first bytes."""

    def __init__(self) -> None:
        self.sizes: dict[Key, int] = {}

    def add(self, key: Key, data: bytes) -> None:
        """See `Made`."""
        self.sizes[key] = self.sizes.get(key, 0) + len(data)

    def drop(self, key: Key) -> None:
        """See `Made`."""
        self.sizes.pop(key, None)


class Written:
    """Files in a temporary folder, named by numbers: a path could lead out of it."""

    def __init__(self, temporary: str | None) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="mlmigrate-", dir=temporary)
        self._names: dict[Key, str] = {}
        self._waiting: dict[Key, bytearray] = {}
        self._held = 0

    def add(self, key: Key, data: bytes) -> None:
        """See `Made`."""
        self._waiting.setdefault(key, bytearray()).extend(data)
        self._held += len(data)
        if self._held > _MOST_HELD:
            self._flush()

    def drop(self, key: Key) -> None:
        """See `Made`."""
        self._waiting.pop(key, None)
        name = self._names.pop(key, None)
        if name is not None:
            Path(self.folder.name, name).unlink()

    def found(self, key: Key) -> Found:
        """Return a file that was made."""
        self._flush()
        path = Path(self.folder.name, self._names[key])
        return Found(path.parent, path.name, path.stat().st_size)

    def _flush(self) -> None:
        for key, data in self._waiting.items():
            name = self._names.setdefault(key, str(len(self._names)))
            with Path(self.folder.name, name).open("ab") as file:
                file.write(data)
        self._waiting.clear()
        self._held = 0
