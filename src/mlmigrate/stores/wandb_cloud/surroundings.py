"""What of the environment W&B's client reads while a store is open.

It writes its own files below one temporary folder, says nothing, and takes nothing
from variables that are meant for a run of the user's own.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from threading import Lock

_FOLDERS = ("DIR", "CACHE_DIR", "DATA_DIR", "ARTIFACT_DIR")
_QUIET = {"SILENT": "true", "CONSOLE": "off", "ERROR_REPORTING": "false"}
#: Variables that would make our runs something else than they are.
_FOREIGN = (
    "DISABLED",
    "FORK_FROM",
    "JOB_TYPE",
    "MODE",
    "NAME",
    "NOTES",
    "RESUME",
    "RESUME_FROM",
    "RUN_GROUP",
    "RUN_ID",
    "SWEEP_ID",
    "TAGS",
)
#: How the client retries what failed, unless the user says otherwise.
_WAITS = {"WAIT_MIN_SECONDS": "1", "WAIT_MAX_SECONDS": "30"}
_CHANNELS = ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")

_lock = Lock()
_holders = 0
_before: dict[str, str] = {}
_was_in_use = False


def hold(retries: int) -> None:
    """Begin; each call needs a `release`.

    Args:
        retries: how often the client asks again after a refused or lost request.
    """
    global _holders, _before, _was_in_use  # noqa: PLW0603  the environment is global
    with _lock:
        _holders += 1
        if _holders > 1:
            return
        _was_in_use = "wandb" in sys.modules
        _before = _variables()
        for name in _FOREIGN:
            os.environ.pop(f"WANDB_{name}", None)
        for name in _FOLDERS:
            place = folder() / name.lower()
            place.mkdir(exist_ok=True)
            os.environ[f"WANDB_{name}"] = str(place)
        os.environ.update((f"WANDB_{name}", value) for name, value in _QUIET.items())
        for channel in _CHANNELS:
            os.environ.setdefault(f"WANDB__{channel}_RETRY_MAX", str(retries))
            for name, value in _WAITS.items():
                os.environ.setdefault(f"WANDB__{channel}_RETRY_{name}", value)


def release() -> None:
    """End; with the last, the environment is as it was before the first."""
    global _holders  # noqa: PLW0603
    with _lock:
        _holders -= 1
        if _holders:
            return
        if not _was_in_use and "wandb" in sys.modules:
            # Whoever uses wandb after us finds it as if it had never been used.
            sys.modules["wandb"].teardown()
        for name in _variables():
            del os.environ[name]
        os.environ.update(_before)


def _variables() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name.startswith("WANDB_")
    }


@cache
def folder() -> Path:
    """Return the folder of this process, which is gone when it ends.

    It is one for as long as the process lives: parts of the client remember theirs.
    """
    made = Path(tempfile.mkdtemp(prefix="mlmigrate-wandb-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
