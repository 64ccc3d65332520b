"""A folder that all the processes of one test session share."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SESSION_FOLDER = "MLMIGRATE_TEST_SESSION"


def session_folder() -> Path:
    """
    Return the folder for what is costly to make and shared by a whole session.

    `conftest.py` makes one in the controlling process and hands it to xdist's workers
    through the environment; outside of pytest it lives as long as the process.
    """
    if SESSION_FOLDER not in os.environ:
        folder = make_session_folder()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(os.environ[SESSION_FOLDER])


def make_session_folder() -> Path:
    # The path is kept short, for it holds sockets: these allow about 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="mlm-"))
    # PostgreSQL refuses to run as root and then needs to get through as another user.
    folder.chmod(0o755)
    os.environ[SESSION_FOLDER] = str(folder)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes for as long as the block runs."""
    import fcntl

    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
