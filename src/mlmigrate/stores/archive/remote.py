"""An archive in an object store, through fsspec."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mlmigrate.artifacts import redact, short
from mlmigrate.errors import LocationError, StoreError, translated

_CHUNK = 1 << 20
_ARROWS = ("s3", "gs", "gcs", "abfs", "abfss")


class Remote:
    """A tree in an object store, through fsspec; see `Place`."""

    # Threads wait for the store, and share what was fetched.
    parallel: Literal["process", "thread"] = "thread"

    def __init__(self, url: str) -> None:
        self.location = redact(url)
        self._url = url.rstrip("/")
        with translated(self._refusal):
            self._files, self._root = _file_system(url)
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def _refusal(self, error: Exception) -> Exception:
        if isinstance(error, ImportError | ValueError):
            return LocationError(f"{self.location}: {short(error)}")
        return StoreError(f"{self.location} cannot be reached: {short(error)}")

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def open(self, path: str) -> BinaryIO:
        """See `Place.open`."""
        with _translated(self.location, path):
            opened: BinaryIO = self._files.open(self._full(path), "rb")
            return opened

    def size(self, path: str) -> int | None:
        """See `Place.size`."""
        try:
            with _translated(self.location, path):
                info = self._files.info(self._full(path))
        except FileNotFoundError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def fetched(self, path: str) -> Path:
        """See `Place.fetched`."""
        local = self._local_folder() / path.replace("/", "-")
        if not local.exists():
            with self.open(path) as source:
                handle, partial = tempfile.mkstemp(dir=local.parent)
                with os.fdopen(handle, "wb") as target:
                    shutil.copyfileobj(source, target, _CHUNK)
            os.replace(partial, local)
        return local

    def replace(self, path: str, data: bytes) -> None:
        """See `Place.replace`: a put is seen whole or not at all."""
        with _translated(self.location, path):
            self._files.pipe_file(self._full(path), data)

    def bring(self, local: Path, path: str) -> None:
        """See `Place.bring`."""
        with _translated(self.location, path):
            self._files.put_file(str(local), self._full(path))
        local.unlink()

    def create(self, path: str, data: bytes) -> bool:
        """See `Place.create`: as far as the store can."""
        if self.size(path) is not None:
            return False
        self.replace(path, data)
        return True

    def files(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """See `Place.files`."""
        try:
            with _translated(self.location, folder):
                found = self._files.find(self._full(folder.strip("/")), detail=True)
        except FileNotFoundError:
            return
        for path, info in sorted(found.items()):
            yield path.removeprefix(self._root).lstrip("/"), int(info["size"] or 0)

    def folders(self, folder: str) -> list[str]:
        """See `Place.folders`."""
        try:
            with _translated(self.location, folder):
                found = self._files.ls(self._full(folder), detail=True)
        except FileNotFoundError:
            return []
        paths = (each["name"] for each in found if each["type"] == "directory")
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def below(self, folder: str) -> Remote:
        """See `Place.below`."""
        return Remote(f"{self._url}/{folder}")

    def delete(self, path: str) -> None:
        """See `Place.delete`."""
        with _translated(self.location, path):
            for below, _ in list(self.files(path)):
                self._files.rm_file(self._full(below))

    def workshop(self) -> Path:
        """See `Place.workshop`."""
        return self._local_folder()

    def sync(self) -> None:
        """See `Place.sync`: a store that has answered has kept it."""

    def close(self) -> None:
        """See `Place.close`."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _local_folder(self) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="mlmigrate-archive-")
        return Path(self._folder.name)


def _file_system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        # Another process writes there, too: what was listed once may be old.
        files, root = url_to_fs(url, use_listings_cache=False)
    except ImportError:
        # Arrow comes with clients of its own for the large stores.
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow.fs import FileSystem

        scheme, _, root = url.partition("://")
        if scheme not in _ARROWS:
            raise
        # A URL is parsed more strictly than keys of these stores are.
        arrow, _ = FileSystem.from_uri(f"{scheme}://{root.partition('/')[0]}")
        files = ArrowFSWrapper(arrow)
    return files, str(root).rstrip("/")


def _translated(location: str, path: str) -> AbstractContextManager[None]:
    """Turn what a store's client raises into an `OSError` that names the place."""
    where = f"{location}/{path}"

    def told(error: Exception) -> OSError:
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(f"{where} is not there")
        return OSError(f"{where}: {short(error)}")

    return translated(told, passing=())
