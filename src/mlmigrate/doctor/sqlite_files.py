"""A SQLite file: the disk it lies on, and its lock."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from mlmigrate.doctor.check import Check
from mlmigrate.doctor.databases import diagnose_database
from mlmigrate.doctor.writers import diagnose_writers

_MOUNTS = Path("/proc/mounts")
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|ncpfs|afs|9p|ceph|glusterfs|lustre|gpfs|beegfs\w*|davfs"
    r"|fuse\.(sshfs|ceph|glusterfs|s3fs|gcsfuse|goofys|rclone|blobfuse2?|smbnetfs)"
)


def diagnose_file(path: Path) -> Iterator[Check]:
    """Check a SQLite file: its disk, its lock, its writers, and what is in it."""
    if not path.exists():
        fix = "correct the path; mlmigrate scan finds stores"
        yield Check("file", False, f"{path}: there is no such file", fix)
        return
    if not path.is_file():
        fix = "give the path of the SQLite database"
        yield Check("file", False, f"{path} is no file", fix)
        return
    system = _file_system(path)
    if system and _NETWORK.fullmatch(system):
        what = f"{path} lies on a network file system ({system}): SQLite's locks fail"
        fix = "put it on a local disk, and a server (mlflow server) before it"
        yield Check("file-system", False, what, fix)
    else:
        kind = system or "a file system of unknown kind"
        yield Check("file-system", True, f"{path} lies on {kind}")
    yield from _diagnose_lock(path)
    yield from diagnose_writers(path)
    yield from diagnose_database(str(path), str(path))


def _file_system(path: Path) -> str | None:
    """Return the type of the file system that holds *path*, where one can know it."""
    try:
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return None
    real = os.path.realpath(path)
    best, kind = "", None
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m.group(1), 8)), fields[1])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # Of two mounts at one place, the later hides the earlier.
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def _diagnose_lock(path: Path) -> Iterator[Check]:
    try:
        with path.open("rb") as file:
            header = file.read(20)
    except OSError as error:
        fix = "give yourself permission to read it"
        yield Check("file", False, f"{path} cannot be read: {error.strerror}", fix)
        return
    if header[18:20] == b"\x02\x02":
        # A reader is never kept out then, but would write the index of the log.
        yield Check("lock", True, f"{path} has a write-ahead log: readers never wait")
        return
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=1)) as database:
            database.isolation_level = None
            database.execute("BEGIN")
            database.execute("SELECT count(*) FROM sqlite_master").fetchall()
            database.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            what = f"{path} is locked: a writer has held it for over a second"
            fix = "end the process that writes it; `fuser` and `lsof` name it"
            yield Check("lock", False, what, fix)
        elif "readonly" in str(error) or "unable to open" in str(error):
            what = f"{path}: a transaction was broken off, its journal lies beside it"
            fix = (
                "never delete the journal; back both up, then open it once for writing"
            )
            yield Check("lock", False, what, fix)
        return
    except sqlite3.DatabaseError:
        return  # the check of its integrity tells
    yield Check("lock", True, f"{path} is not locked")
