"""Files of the runs that were read last: they are opened soon after."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import BinaryIO, Generic, TypeVar

from mlmigrate.errors import ItemError
from mlmigrate.model import Ref
from mlmigrate.named_files import Found

Files = TypeVar("Files")


class FilesOfLastRuns(Generic[Files]):
    """What is known of the files of runs, so that no server is asked of them again."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, Files] = OrderedDict()
        self._lock = Lock()

    def get(self, id: str) -> Files | None:
        """Return those of a run, None where they are not known any more."""
        with self._lock:
            return self._kept.get(id)

    def keep(self, id: str, files: Files) -> None:
        """Keep those of a run, in the place of those that were kept first."""
        with self._lock:
            self._kept[id] = files
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def forget(self, id: str) -> None:
        """Drop those of a run that changes."""
        with self._lock:
            self._kept.pop(id, None)


@dataclass(frozen=True, slots=True)
class MadeFiles:
    """The files of one run, and the folder of those that were made of its records."""

    found: Mapping[str, Found]
    made: tempfile.TemporaryDirectory[str] | None = None


class FilesOfOneRun:
    """The files of the run that was asked for last.

    Those of one run are wanted one after the other, and to make some is to read it all.
    """

    def __init__(self) -> None:
        self._held: tuple[str, MadeFiles] | None = None
        self._lock = Lock()

    def open(self, ref: Ref, path: str, make: Callable[[], MadeFiles]) -> BinaryIO:
        """Open a file of a run; *make* is called where another's are held.

        Raises:
            ItemError: the run has no such file.
            OSError: it cannot be read.
        """
        with self._lock:
            if self._held is None or self._held[0] != ref.id:
                self.close()
                self._held = (ref.id, make())
            found = self._held[1].found.get(path)
            if found is None:
                raise ItemError(f"{ref} has no artifact {path!r}")
            return found.open()

    def close(self) -> None:
        """Remove what was made."""
        if self._held is not None and self._held[1].made is not None:
            self._held[1].made.cleanup()
        self._held = None
