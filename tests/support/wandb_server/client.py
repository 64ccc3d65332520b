"""Surroundings in which W&B's client talks to one server and leaves nothing behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..isolation import only_settings
from .serving import WandbServer


def client_environment(server: WandbServer, folder: Path) -> dict[str, str]:
    """Return the variables for a client that writes below *folder* only."""
    return {
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": server.api_key,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_DIR": str(folder / "runs"),
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_CONFIG_DIR": str(folder / "config"),
        "WANDB_ARTIFACT_DIR": str(folder / "artifacts"),
        "NETRC": str(folder / "netrc"),
    }


@contextmanager
def wandb_client(server: WandbServer, folder: Path) -> Iterator[None]:
    """Let `wandb` in this process use *server*; afterwards its service has ended."""
    # The client remembers the surroundings it first saw.
    _tear_down()
    # Without this folder, logs go to where the system has its temporary files.
    (folder / "runs" / "wandb").mkdir(parents=True, exist_ok=True)
    with only_settings("WANDB_", client_environment(server, folder)):
        try:
            yield
        finally:
            # Runs that a test has left open are ended now, which no fault may hold up.
            server.clear()
            _tear_down()


def _tear_down() -> None:
    if "wandb" in sys.modules:
        # A test may have killed the service.
        with suppress(OSError):
            sys.modules["wandb"].teardown()
