"""An archive in a folder; no link that leads out of it is followed."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from mlmigrate.artifacts import redact, safe_join
from mlmigrate.errors import UnsafePath


class Local:
    """A folder of this machine; see `Place`."""

    parallel: Literal["process", "thread"] = "process"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = redact(str(root))
        self._real = os.path.realpath(root)
        #: Folders that are no links: thousands of blobs lie in each.
        self._sound: set[str] = set()

    def path(self, path: str) -> Path:
        """Return where a file is.

        Raises:
            UnsafePath: a link leads out of the archive.
        """
        place = safe_join(self.root, path)
        folder = path.rpartition("/")[0]
        if folder in self._sound and not os.path.islink(place):
            return place
        real = os.path.realpath(place)
        if not real.startswith(self._real + os.sep):
            raise UnsafePath(f"{self.location}/{path} is a link out of the archive")
        if os.path.dirname(real) == os.path.join(self._real, folder).rstrip(os.sep):
            self._sound.add(folder)
        return place

    def open(self, path: str) -> BinaryIO:
        """See `Place.open`."""
        try:
            place = self.path(path)
        except UnsafePath as error:
            raise OSError(str(error)) from error
        # A pipe in the place of a file must not make us wait for ever.
        handle = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(f"{place} is no regular file")
        return os.fdopen(handle, "rb")

    def size(self, path: str) -> int | None:
        """See `Place.size`."""
        try:
            found = os.stat(self.path(path))
        except (OSError, UnsafePath):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def fetched(self, path: str) -> Path:
        """See `Place.fetched`."""
        self.open(path).close()
        return self.path(path)

    def replace(self, path: str, data: bytes) -> None:
        """See `Place.replace`."""
        place = self.path(path)
        handle, partial = tempfile.mkstemp(dir=self.workshop())
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, place)
        self._sync_folder(place.parent)

    def bring(self, local: Path, path: str) -> None:
        """See `Place.bring`."""
        place = self.path(path)
        os.chmod(local, 0o644)
        try:
            os.replace(local, place)
        except FileNotFoundError:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(local, place)

    def create(self, path: str, data: bytes) -> bool:
        """See `Place.create`."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            handle = os.open(self.path(path), flags, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        return True

    def files(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """See `Place.files`."""
        waiting = [folder.strip("/")]
        while waiting:
            below = waiting.pop()
            try:
                with os.scandir(self.root / below) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name)
            except OSError:
                continue
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                else:
                    yield path, entry.stat(follow_symlinks=False).st_size

    def folders(self, folder: str) -> list[str]:
        """See `Place.folders`."""
        try:
            with os.scandir(self.path(folder)) as scan:
                return sorted(e.name for e in scan if e.is_dir(follow_symlinks=False))
        except (OSError, UnsafePath):
            return []

    def below(self, folder: str) -> Local:
        """See `Place.below`."""
        return Local(self.path(folder))

    def delete(self, path: str) -> None:
        """See `Place.delete`."""
        place = safe_join(self.root, path)
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)

    def workshop(self) -> Path:
        """See `Place.workshop`: beside the archive's files, so that they only move."""
        folder = self.path("partial")
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def sync(self) -> None:
        """See `Place.sync`."""
        handle = os.open(self.root, os.O_RDONLY)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if not hasattr(libc, "syncfs") or libc.syncfs(handle):
                os.sync()
        finally:
            os.close(handle)

    def close(self) -> None:
        """See `Place.close`."""

    def _sync_folder(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
