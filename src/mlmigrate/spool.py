"""Items on their way from one process to another: big ones through a file.

A pipe would hold a huge history three times: as columns, as the message, and as columns
again. From a file the receiver maps it, and the system may drop the pages it has read.
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkstemp
from typing import Generic, TypeVar

T = TypeVar("T")

#: Bytes of columns from which a file costs less than a pipe.
BIG = 8 << 20


@dataclass(frozen=True, slots=True)
class Spooled(Generic[T]):
    """Values whose columns lie in a file until they are `taken`."""

    path: Path
    head: bytes  # the pickle without its columns
    sizes: tuple[int, ...]  # bytes of each column, in the order of the file

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return sum(self.sizes)


def spooled(values: T, folder: Path | None) -> Spooled[T] | T:
    """Return *values*, of which only the process that made them holds the columns, for
    the way to another process; as they are where they are small, or *folder* takes no
    file.
    """
    if folder is None:
        return values
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(values, protocol=5, buffer_callback=buffers.append)
    columns = [buffer.raw() for buffer in buffers]
    if sum(column.nbytes for column in columns) < BIG:
        return values
    try:
        return Spooled(
            _written(columns, folder), head, tuple(each.nbytes for each in columns)
        )
    except OSError:
        return values  # no space: the pipe takes everything, only less lightly


def _written(columns: Sequence[memoryview], folder: Path) -> Path:
    handle, name = mkstemp(dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            for column in columns:
                file.write(column)
    except OSError:
        os.unlink(name)
        raise
    return Path(name)


def taken(values: Spooled[T] | T) -> T:
    """Return what `spooled` was given; its columns can be read only. Once a file."""
    if not isinstance(values, Spooled):
        return values
    with values.path.open("rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    values.path.unlink()  # what is mapped stays readable
    columns, at = [], 0
    for size in values.sizes:
        columns.append(whole[at : at + size])
        at += size
    found: T = pickle.loads(values.head, buffers=columns)
    return found
