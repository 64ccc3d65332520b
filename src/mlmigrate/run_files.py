"""Files of runs, of which some are made of what their store holds as records."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import BinaryIO

from mlmigrate.errors import ItemError
from mlmigrate.model import Ref
from mlmigrate.named_files import Found


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
