"""What Neptune's client says on stdout, which is ours: not while a store is open."""

from __future__ import annotations

import logging
from threading import Lock

#: The loggers that it writes by.
_NAMES = ("neptune", "neptune_no_prefix")
_lock = Lock()
_levels: dict[str, int] = {}
_open = 0


def hold() -> None:
    """Keep it silent; it must be imported by now, as that sets its levels."""
    global _open  # noqa: PLW0603  loggers are global
    with _lock:
        if not _open:
            _levels.update((name, logging.getLogger(name).level) for name in _NAMES)
            for name in _NAMES:
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        _open += 1


def release() -> None:
    """Let it speak again, once this was called as often as `hold`."""
    global _open  # noqa: PLW0603  loggers are global
    with _lock:
        _open -= 1
        if not _open:
            for name, level in _levels.items():
                logging.getLogger(name).setLevel(level)
