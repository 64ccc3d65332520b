"""Opening a SQLite file without changing it, so that it stands still while it is read.

A file that nobody writes is opened ``immutable``. One with a write-ahead log or a hot
journal beside it, or in use, is copied into a private folder first: ``immutable`` would
miss the rows of the log and show those of the unfinished transaction, and any other way
of opening it could write.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from mlmigrate.errors import SourceChanged, StoreError, StoreNotFound

Cleanup: TypeAlias = Callable[[], object]
_Stamp: TypeAlias = tuple[int, int, int] | None

_HEADER = b"SQLite format 3\0"
_COMPANIONS = ("-wal", "-journal")
_SHARED = re.compile(r"^sqlite:///(.*)\?immutable=1&seen=([\d.]+)$", re.DOTALL)

#: A file written so lately is taken for one in use: between two transactions a writer
#: leaves no other trace.
_RECENT = 60.0
_TRIES = 5
#: Where SQLite puts its locks; see "File Locking And Concurrency In SQLite".
_LOCKS_START, _LOCKS_LENGTH = 0x40000000, 512


def shared_path(location: str) -> Path | None:
    """Return the path in a shared location, None for any other location."""
    shared = _SHARED.match(location)
    return None if shared is None else Path(shared.group(1))


def open_shared(location: str) -> Engine:
    """Open the state of a file that another process opened.

    Raises:
        SourceChanged: somebody wrote it meanwhile.
        StoreNotFound: it is gone.
    """
    check_unchanged(location)
    path = shared_path(location)
    assert path is not None
    return _immutable(path)


def open_snapshot(named: Path, temp_dir: Path) -> tuple[Engine, str, Cleanup]:
    """Open a SQLite file for reading.

    Args:
        named: its path.
        temp_dir: where a copy is put if one is needed.

    Returns:
        An engine whose connections all see the same state; a shared location, by which
        another process opens that same state; and what removes the copy, if any.

    Raises:
        StoreNotFound: there is no such file.
        StoreError: it is no SQLite database, or the space does not suffice for a copy.
    """
    # SQLite looks for the companions beside the file that a link leads to.
    path = Path(os.path.realpath(named))
    # Before anything is looked at: what changes from here on is noticed.
    stamp = _stamp(path)
    _check_file(path, named)
    assert stamp is not None
    missing = 0 if _companions(path) else missing_bytes(path)
    if not missing and not _companions(path) and not _in_use(path, stamp):
        return _checked(path, named), _share(path, stamp), _nothing
    folder, cleanup = _private_folder(path, temp_dir)
    try:
        copy = folder / path.name
        _copy_whole(path, copy)
        if missing:  # SQLite opens no file that is cut, but any page may be damaged
            os.truncate(copy, copy.stat().st_size + missing)
        _settle(copy, named)
        engine = _checked(copy, named)
    except BaseException:
        cleanup()
        raise
    return engine, _share(copy, _stamp(copy)), cleanup


def check_unchanged(shared_location: str) -> None:
    """Check that a SQLite file is as it was when it was opened in place.

    Raises:
        SourceChanged: somebody wrote it meanwhile.
        StoreNotFound: it is gone.
    """
    shared = _SHARED.match(shared_location)
    if shared is None:
        return
    path = Path(shared.group(1))
    stamp = _stamp(path)
    if stamp is None:
        raise StoreNotFound(f"{path}: there is no such file any more")
    if _seen(stamp) != shared.group(2) or _companions(path):
        raise SourceChanged(
            f"{path} was written while it was read: run the command again, which then"
            " reads a copy of the file"
        )


def _check_file(path: Path, named: Path) -> None:
    if not path.exists():
        raise StoreNotFound(f"{named}: there is no such file")
    if not path.is_file():
        raise StoreError(f"{named} is no file: give the path of a SQLite database")
    try:
        # Closing a file drops the locks that this process's own SQLite connections
        # hold on it; there are none on a source.
        with path.open("rb") as file:
            header = file.read(16)
    except OSError as error:
        raise StoreError(f"{named} cannot be read: {error.strerror}") from error
    if header != _HEADER:
        what = "is empty" if not header else "is no SQLite database"
        raise StoreError(f"{named} {what}: give the file that was written to")


def missing_bytes(path: Path) -> int:
    """Return by how many bytes a SQLite file is shorter than its header says; see
    "Database File Format", 1.3.
    """
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100:
        return 0
    (size,) = struct.unpack_from(">H", header, 16)
    changes, pages = struct.unpack_from(">II", header, 24)
    (valid_for,) = struct.unpack_from(">I", header, 92)
    if changes != valid_for:
        return 0  # the count is one that an old writer left behind
    whole = pages * (65536 if size == 1 else size)
    held = path.stat().st_size
    # A header that is damaged itself must not make a huge file.
    return whole - held if held < whole <= 2 * held else 0


def _stamp(path: Path) -> _Stamp:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _seen(stamp: _Stamp) -> str:
    return ".".join(map(str, stamp or ()))


def _share(path: Path, stamp: _Stamp) -> str:
    return f"sqlite:///{path}?immutable=1&seen={_seen(stamp)}"


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _companions(path: Path) -> list[Path]:
    """Return the log or the journal that holds a part of the database."""
    found = []
    for suffix in _COMPANIONS:
        stamp = _stamp(_beside(path, suffix))
        if stamp is not None and stamp[1]:
            found.append(_beside(path, suffix))
    return found


def _in_use(path: Path, stamp: tuple[int, int, int]) -> bool:
    """Tell whether somebody writes the file, or did until a moment ago."""
    return time.time() - stamp[2] / 1e9 < _RECENT or _is_locked(path)


def _is_locked(path: Path) -> bool:
    """Ask who holds a lock on the file, without taking one."""
    if sys.platform != "linux":
        return False
    import fcntl

    asked = struct.pack(
        "hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _LOCKS_START, _LOCKS_LENGTH, 0
    )
    try:
        with path.open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked)
    except OSError:  # a file system without locks
        return False
    return bool(struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK)


def _private_folder(path: Path, temp_dir: Path) -> tuple[Path, Cleanup]:
    """Make a folder for a copy of the database, if there is space for one."""
    stamps = (_stamp(_beside(path, suffix)) for suffix in _COMPANIONS)
    log = sum(stamp[1] for stamp in stamps if stamp is not None)
    # The log is copied, and then merged into the copy.
    needed = path.stat().st_size + 2 * log + (1 << 20)
    try:
        temp_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(temp_dir).free
        if free < needed:
            raise StoreError(
                f"{path} is in use, and {temp_dir} has no space for a copy of it"
                f" ({needed >> 20} MiB needed, {free >> 20} MiB free): give --temp-dir"
            )
        folder = Path(tempfile.mkdtemp(prefix="mlmigrate-snapshot-", dir=temp_dir))
    except OSError as error:
        raise StoreError(
            f"no copy of {path} can be made in {temp_dir}: {error.strerror}: give"
            " --temp-dir"
        ) from error
    owner = os.getpid()

    def cleanup() -> None:
        # A forked worker inherits this, and must not pull the copy from under the rest.
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    return folder, cleanup


def _copy_whole(path: Path, copy: Path) -> None:
    """Copy a database and its companions as they were at one moment."""
    names = [path, *(_beside(path, suffix) for suffix in _COMPANIONS)]
    try:
        for attempt in range(_TRIES):
            before = [_stamp(name) for name in names]
            for suffix in ("", *_COMPANIONS):
                _beside(copy, suffix).unlink(missing_ok=True)
            for suffix in ("", *_COMPANIONS):
                if _beside(path, suffix).exists():
                    shutil.copyfile(_beside(path, suffix), _beside(copy, suffix))
            if before == [_stamp(name) for name in names]:
                return
            time.sleep(0.05 * 2**attempt)
    except FileNotFoundError:
        pass  # the journal went away under the copy: it is written right now
    except OSError as error:
        raise StoreError(f"{path} cannot be copied: {error.strerror}") from error
    _back_up(path, copy)


def _back_up(path: Path, copy: Path) -> None:
    """Copy a database that is written all the time, taking turns with its writers."""
    for suffix in ("", *_COMPANIONS):
        _beside(copy, suffix).unlink(missing_ok=True)
    try:
        with (
            closing(sqlite3.connect(_uri(path, "mode=ro"), uri=True, timeout=30)) as db,
            closing(sqlite3.connect(copy)) as target,
        ):
            db.backup(target)
    except sqlite3.Error as error:
        raise StoreError(
            f"{path} is being written and cannot be copied: {error}: stop its writers"
        ) from error


def _settle(copy: Path, named: Path) -> None:
    """Merge the log or the journal into the copy: now nobody needs to write it.

    SQLite leaves a journal that does not begin with its magic number: its transaction
    has not changed the file yet, or ended with ``journal_mode=persist``. What stands in
    the file is whole without it.
    """
    try:
        with closing(sqlite3.connect(copy)) as db:
            db.execute("PRAGMA journal_mode=DELETE").fetchall()
            db.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except (sqlite3.Error, UnicodeDecodeError) as error:  # its message may be no text
        raise _corrupt(named, error) from error
    _beside(copy, "-journal").unlink(missing_ok=True)


def _checked(path: Path, named: Path) -> Engine:
    engine = _immutable(path)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").all()
    except sa.exc.DBAPIError as error:
        raise _corrupt(named, error.orig or error) from error
    except UnicodeDecodeError as error:  # SQLite quotes a damaged schema as it is
        raise _corrupt(named, error) from error
    return engine


def _corrupt(named: Path, error: BaseException) -> StoreError:
    return StoreError(
        f"{named} cannot be read as a SQLite database: {error}: recover it with"
        " 'sqlite3 FILE .recover | sqlite3 NEW' and copy the result"
    )


def _uri(path: Path, query: str) -> str:
    return f"file:{quote(os.path.abspath(path))}?{query}"


def _immutable(path: Path) -> Engine:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            _uri(path, "mode=ro&immutable=1"), uri=True, check_same_thread=False
        )

    return sa.create_engine("sqlite://", creator=connect, poolclass=NullPool)


def _nothing() -> None:
    pass
