"""The bytes of artifacts on their way to a server and from it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import requests
from urllib3.exceptions import HTTPError

from mlmigrate.artifacts import CHUNK, short
from mlmigrate.errors import ItemError


class Body:
    """The bytes of one artifact on their way to the server, hashed in passing."""

    def __init__(self, source: BinaryIO, size: int, hasher: Any) -> None:
        self._source = source
        self._size = size
        self._hasher = hasher
        self.sent = 0

    def __len__(self) -> int:
        # The server wants a Content-Length: it takes a chunked body for empty.
        return self._size

    def read(self, count: int = -1) -> bytes:
        """Read as a file does."""
        try:
            block = self._source.read(CHUNK if count is None or count < 0 else count)
        except OSError as error:
            # Or it would pass for a failure of the connection.
            raise ItemError(f"an artifact cannot be read: {short(error)}") from error
        self.sent += len(block)
        if self.sent > self._size or (not block and self.sent < self._size):
            raise ItemError(self._changed())
        self._hasher.update(block)
        return block

    def __iter__(self) -> Iterator[bytes]:
        # By this requests knows a stream.
        return iter(lambda: self.read(CHUNK), b"")

    def finish(self) -> None:
        """Check that the source ends where it should."""
        if self.sent != self._size or self._source.read(1):
            raise ItemError(self._changed())

    def _changed(self) -> str:
        return f"an artifact is not {self._size} bytes long, as listed: it changed"

    @property
    def checksum(self) -> str:
        """The SHA-256 of what was sent, in hex."""
        return str(self._hasher.hexdigest())

    def close(self) -> None:
        """Close the source."""
        self._source.close()


class _Download(io.RawIOBase):
    """The body of an answer. Where it breaks off it is asked for again."""

    def __init__(self, begin: Callable[[], requests.Response], retries: int) -> None:
        self._begin = begin
        self._left = retries
        self._at = 0
        self._response = begin()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        while True:
            try:
                block = self._response.raw.read(len(view), decode_content=True)
                break
            except (HTTPError, OSError) as error:
                self._resume(error)
        view[: len(block)] = block
        self._at += len(block)
        return len(block)

    def _resume(self, error: Exception) -> None:
        """Begin again and skip what was read already."""
        while True:
            self._response.close()
            if self._left <= 0:
                raise OSError(f"the server broke off: {short(error)}") from error
            self._left -= 1
            self._response = self._begin()
            try:
                skip = self._at
                while skip:
                    block = self._response.raw.read(
                        min(skip, CHUNK), decode_content=True
                    )
                    if not block:
                        raise OSError("an artifact shrank while it was read")
                    skip -= len(block)
                return
            except HTTPError as broken:
                error = broken

    def close(self) -> None:
        if not self.closed:
            self._response.close()
        super().close()


def downloaded(begin: Callable[[], requests.Response], retries: int) -> BinaryIO:
    """Return the bytes of the answers of *begin*, which is asked again, so many times
    at most, where one breaks off.

    Raises:
        OSError: while reading, when it cannot be resumed.
    """
    return io.BufferedReader(_Download(begin, retries), CHUNK)
