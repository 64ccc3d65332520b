"""Files and folders that appear under their name whole, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_PREFIX = ".mlmigrate-"


@contextmanager
def appearing(place: Path, workshop: Path) -> Iterator[BinaryIO]:
    """Give a file to write, which then replaces *place*; unless something is raised.

    Args:
        place: where it is to stand; its folder exists.
        workshop: an existing folder of the same file system, in which it grows; what
            killed processes left there is removed.

    Raises:
        OSError: it cannot be written.
    """
    with growing(workshop) as (file, partial):
        yield file
        file.flush()
        os.replace(partial, place)


@contextmanager
def growing(workshop: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Give a file to write and its path, which ends with the block. See `appearing`."""
    remove_abandoned(workshop)
    with _begin(workshop) as file:
        partial = Path(file.name)
        try:
            yield file, partial
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def appearing_folder(place: Path, workshop: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which then gets the name *place*, where nothing is;
    unless something is raised. See `appearing`.
    """
    remove_abandoned(workshop)
    partial = _name_in(workshop)
    partial.mkdir()
    handle = None if sys.platform == "win32" else os.open(partial, os.O_RDONLY)
    try:
        if handle is not None:
            _lock(handle, wait=True)
        yield partial
        os.rename(partial, place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        if handle is not None:
            os.close(handle)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left in a folder, and nothing that grows there."""
    for partial in folder.glob(f"{_PREFIX}*"):
        try:
            handle = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # it is whole by now, and has its name
            continue
        try:
            if not _lock(handle, wait=False):
                continue
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                with suppress(OSError):  # another user's, say
                    partial.unlink()
        finally:
            os.close(handle)


def _begin(folder: Path) -> BinaryIO:
    """Create a file that is locked for as long as somebody writes it."""
    while True:
        # Not by tempfile: whom the umask lets read it is to read it.
        file = _name_in(folder).open("xb")
        _lock(file.fileno(), wait=True)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # it passed for abandoned before it was locked


def _name_in(folder: Path) -> Path:
    return folder / f"{_PREFIX}{secrets.token_hex(8)}"


def _lock(handle: int, *, wait: bool) -> bool:
    """Lock a file; tells whether it could. Some file systems know no locks."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
