"""``mlmigrate.lock``: one export at a time writes to an archive; reading needs no lock.

The owner renews the time in it. A lock whose process is gone, or whose time is old, is
taken over.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
import time
import uuid
from typing import Any

from mlmigrate.errors import StoreError
from mlmigrate.stores.archive.local import Local
from mlmigrate.stores.archive.manifest import iso, millis, read_small
from mlmigrate.stores.archive.place import Place

NAME = "mlmigrate.lock"
#: How often the owner renews its lock, and after how long it counts as gone; seconds.
RENEWED = 30.0
STALE = 300.0
#: Every lock has this many bytes, so that it can be renewed in place.
_BYTES = 512


class Lock:
    """A lock that is held. Made by `acquire`."""

    def __init__(self, place: Place, owner: dict[str, Any]) -> None:
        self._place = place
        self._owner = owner
        self._ended = threading.Event()
        self.lost: str | None = None
        self._renewer = threading.Thread(target=self._renew, daemon=True)
        self._renewer.start()

    def check(self) -> None:
        """Make sure that the lock is still ours.

        Raises:
            StoreError: another export has taken it over.
        """
        try:
            held = _read(self._place)
        except OSError as error:
            held, self.lost = None, str(error)
        if held is None or held.get("id") != self._owner["id"]:
            raise StoreError(
                f"{self._place.location}: another export has taken over the lock"
                f" ({_shown(held)}); what was not completed yet is not in the archive:"
                " run the same command again when that one has ended"
            )

    def release(self) -> None:
        """Give the lock back. May be called twice."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._renewer.join(timeout=10)
        try:
            held = _read(self._place)
            if held is not None and held.get("id") == self._owner["id"]:
                self._place.delete(NAME)
        except OSError:
            return  # it will be found to be stale

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            try:
                held = _read(self._place)
                if held is None or held.get("id") != self._owner["id"]:
                    return  # `check` tells
                _write(self._place, {**self._owner, "time": _now()})
            except OSError:
                continue


def acquire(place: Place) -> tuple[Lock, str | None]:
    """Lock an archive.

    Returns:
        The lock, and whose stale lock was taken over, if any.

    Raises:
        StoreError: another export writes to it.
    """
    owner = {
        "id": uuid.uuid4().hex,
        "host": _cut(socket.gethostname()),
        "pid": os.getpid(),
        "process": _process(os.getpid()),
        "machine": _machine(),
        "user": _user(),
        "since": _now(),
        "time": _now(),
    }
    stale = None
    if not place.create(NAME, _bytes(owner)):
        stale = _take_over(place, owner)
    held = _read(place)  # of two that an object store let in, the last stays
    if held is None or held.get("id") != owner["id"]:
        raise _refusal(place, held)
    return Lock(place, owner), stale


def _take_over(place: Place, owner: dict[str, Any]) -> str:
    """Write our lock over a stale one, and return whose that was."""
    if not isinstance(place, Local):
        held = _read(place)
        if not _is_stale(held, None):
            raise _refusal(place, held)
        _write(place, owner)
        time.sleep(1)  # whoever takes it over in the same moment has written by now
        return _shown(held)
    import fcntl

    try:
        handle = os.open(place.path(NAME), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:  # released in this moment
        if place.create(NAME, _bytes(owner)):
            return "an export that has just ended"
        raise _refusal(place, _read(place)) from None
    with os.fdopen(handle, "r+b") as file:
        # Two that find the same stale lock come here one after the other.
        fcntl.flock(file, fcntl.LOCK_EX)
        held = _parse(file.read(_BYTES))
        if not _is_stale(held, os.fstat(file.fileno()).st_mtime):
            raise _refusal(place, held)
        os.pwrite(file.fileno(), _bytes(owner), 0)
    return _shown(held)


def _is_stale(held: dict[str, Any] | None, written: float | None) -> bool:
    if held is None:  # killed while it was being created
        return written is None or time.time() - written > 5
    here = held.get("host") == _cut(socket.gethostname())
    # Containers and copied machines may have one name: their processes are not seen.
    here = here and held.get("machine", _machine()) == _machine()
    if here and isinstance(held.get("pid"), int):
        process = _process(held["pid"])
        return process is None or process != held.get("process")
    try:
        age = _now_ms() - millis(str(held.get("time")))
    except ValueError:
        return True
    return age > STALE * 1000


def _machine() -> str:
    """Return what tells whose process numbers these are; empty where nothing does."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot = file.read(64).decode("ascii", "replace").strip()
        return f"{boot[:18]} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process(pid: int) -> str | None:
    """Return what tells a process from a later one of the same number; None where
    there is none.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else f"started {fields[19].decode()}"
    except (OSError, IndexError):
        pass
    if os.path.exists("/proc/self/stat"):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except (OSError, OverflowError):
        return "unknown"
    return "unknown"


def _refusal(place: Place, held: dict[str, Any] | None) -> StoreError:
    return StoreError(
        f"{place.location}: another export writes to this archive ({_shown(held)});"
        " wait for its end, and run the same command again. If it is certain that it"
        f" no longer runs, delete {place.location}/{NAME}"
    )


def _shown(held: dict[str, Any] | None) -> str:
    if held is None:
        return "owner unknown"
    user, host, pid = (str(held.get(key))[:80] for key in ("user", "host", "pid"))
    return f"{user}@{host}, process {pid}, since {str(held.get('since'))[:40]}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _now() -> str:
    return iso(_now_ms())


def _bytes(owner: dict[str, Any]) -> bytes:
    fitting = {
        key: _cut(value) if isinstance(value, str) else value
        for key, value in owner.items()
    }
    text = json.dumps(fitting, ensure_ascii=False).encode()
    return text.ljust(_BYTES - 1)[: _BYTES - 1] + b"\n"


def _cut(text: str) -> str:
    return text.encode("utf-8", "replace")[:60].decode("utf-8", "ignore")


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        held = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return held if isinstance(held, dict) else None


def _read(place: Place) -> dict[str, Any] | None:
    try:
        return _parse(read_small(place, NAME))
    except FileNotFoundError:
        return None


def _write(place: Place, owner: dict[str, Any]) -> None:
    if not isinstance(place, Local):
        place.replace(NAME, _bytes(owner))
        return
    handle = os.open(place.path(NAME), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.pwrite(handle, _bytes(owner), 0)
    finally:
        os.close(handle)
