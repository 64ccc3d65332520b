"""The bytes of artifacts, named by their SHA-256: equal ones are stored once."""

from __future__ import annotations

import io
import os
import tempfile
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, cast

from mlmigrate.stores.archive.local import Local
from mlmigrate.stores.archive.manifest import blob_path
from mlmigrate.stores.archive.place import Place

_CHUNK = 1 << 20


class Verified(io.RawIOBase):
    """The bytes of a blob, compared with its name before the last of them is given."""

    def __init__(self, file: BinaryIO, checksum: str, size: int, where: str) -> None:
        super().__init__()
        self._file = file
        self._left = size
        self._checksum = checksum
        self._where = where
        self._digest = sha256()

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """See `io.RawIOBase`.

        Raises:
            OSError: the bytes are not those that were written.
        """
        data = self._file.read(len(buffer))
        self._left -= len(data)
        self._digest.update(data)
        ended = not data or self._left == 0
        wrong = self._left or self._digest.hexdigest() != self._checksum
        if self._left < 0 or (ended and wrong):
            raise OSError(f"{self._where} is damaged")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """See `io.IOBase`."""
        self._file.close()
        super().close()


class Blobs:
    """The blobs of one archive."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def open(self, checksum: str, size: int) -> BinaryIO:
        """Open the bytes of an artifact.

        Raises:
            OSError: they are missing or damaged, now or while they are read.
        """
        path = _path(checksum)
        where = f"{self._place.location}/{path}"
        file = self._place.open(path)
        if isinstance(self._place, Local):
            found = os.fstat(file.fileno()).st_size
            if found != size:
                file.close()
                raise OSError(f"{where} is damaged: {found} bytes instead of {size}")
        raw = Verified(file, checksum, size, where)
        return cast("BinaryIO", io.BufferedReader(raw, _CHUNK if size else 1))

    def fault(self, checksum: str, size: int, *, content: bool) -> str | None:
        """Return what is wrong with a blob; None if it is sound.

        Args:
            checksum: its name.
            size: its bytes.
            content: read it; otherwise only look whether it is there, at its size.
        """
        try:
            path = _path(checksum)
        except OSError as error:
            return str(error)
        if not content:
            found = self._size(path)
            if found is None:
                return f"{path} is missing"
            return None if found == size else f"{path} has {found} bytes, not {size}"
        try:
            with self.open(checksum, size) as file:
                while file.read(_CHUNK):
                    pass
        except FileNotFoundError:
            return f"{path} is missing"
        except OSError as error:
            return str(error)
        return None

    def _size(self, path: str) -> int | None:
        if isinstance(self._place, Local):
            return self._place.size(path)
        return self._sizes.get(path)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return dict(self._place.files("blobs"))

    def add(self, source: BinaryIO) -> tuple[str, int]:
        """Store what is left in *source*, streaming.

        Returns:
            Its SHA-256 in hex, and its size in bytes.
        """
        digest, size = sha256(), 0
        handle, name = tempfile.mkstemp(prefix="blob-", dir=self._place.workshop())
        partial = Path(name)
        try:
            with os.fdopen(handle, "wb", buffering=0) as target:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    target.write(chunk)
            path = blob_path(digest.hexdigest())
            # Moving it over an equal one costs nothing, and mends one that was damaged
            # since; to send it again would cost.
            if isinstance(self._place, Local) or self._place.size(path) != size:
                self._place.bring(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return digest.hexdigest(), size


def _path(checksum: str) -> str:
    try:
        return blob_path(checksum)
    except ValueError as error:
        raise OSError(str(error)) from error
