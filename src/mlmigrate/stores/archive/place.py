"""Where an archive lies: what its parts ask of a folder or of an object store.

All names are made here from fixed words, numbers and checksums, never from a text that
an archive holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, Protocol


class Place(Protocol):
    """A tree of files. Paths are relative, with ``/``."""

    location: str
    """For people, secrets redacted."""
    parallel: Literal["process", "thread"]

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be read, or is no regular file below the place.
        """

    def size(self, path: str) -> int | None:
        """Return the bytes of a file; None where there is none."""

    def fetched(self, path: str) -> Path:
        """Return a local file of the same bytes, valid until `close`.

        Raises:
            OSError: as `open`.
        """

    def replace(self, path: str, data: bytes) -> None:
        """Write a small file: whoever reads it sees the old bytes or the new."""

    def bring(self, local: Path, path: str) -> None:
        """Move a local file here; it is seen whole or not at all."""

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless there is one; False if there is."""

    def files(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """Yield path and size of each file below a folder."""

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder; none if that is not there."""

    def below(self, folder: str) -> Place:
        """Return a folder as a place of its own.

        Raises:
            UnsafePath: a link leads out of this one.
        """

    def delete(self, path: str) -> None:
        """Delete a file or a folder, where there is one."""

    def workshop(self) -> Path:
        """Make a local folder for files that are being written."""

    def sync(self) -> None:
        """Return when everything written survives the loss of power."""

    def close(self) -> None:
        """Remove what was fetched."""
