"""Surroundings in which Neptune's clients talk to one server only."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .serving import Neptune3Server


def client_environment(server: Neptune3Server) -> dict[str, str]:
    """Return the variables for a client; it writes `.neptune` where it is started."""
    return {
        "NEPTUNE_API_TOKEN": server.api_token,
        "NEPTUNE_DISABLE_COLORS": "1",
        # A reader would try for half an hour.
        "NEPTUNE_QUERY_RETRY_SOFT_TIMEOUT": "30",
    }


@contextmanager
def neptune3_client(server: Neptune3Server) -> Iterator[None]:
    """
    Let `neptune_scale` and `neptune_query` in this process use *server*.

    Afterwards all runs are stopped, with the processes that they have started.
    """
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("NEPTUNE_")]:
        del os.environ[name]
    os.environ.update(client_environment(server))
    _forget_servers()
    try:
        yield
    finally:
        # No fault may hold up the end of what a test has left open.
        server.clear()
        _stop_runs()
        os.environ.clear()
        os.environ.update(before)
        _forget_servers()


def sync_here(database: Path | str, api_token: str | None = None) -> list[Exception]:
    """
    Send what a run has written offline, without a process of its own.

    It is what `sync_all` does, by the client's own parts, in a fraction of its time;
    the errors that it would log are returned.
    """
    from neptune_scale.sync.operations_repository import OperationsRepository
    from neptune_scale.sync.sync_process import (
        FileUploaderThread,
        SenderThread,
        StatusTrackingThread,
    )

    token = api_token or os.environ["NEPTUNE_API_TOKEN"]
    repository = OperationsRepository(db_path=Path(database).resolve())
    repository.delete_operation_submissions(up_to_seq_id=None)
    metadata = repository.get_metadata()
    assert metadata is not None
    about: dict[str, Any] = {"api_token": token, "operations_repository": repository}
    sender = SenderThread(family=metadata.run_id, **about)
    tracker = StatusTrackingThread(project=metadata.project, **about)
    uploader = FileUploaderThread(project=metadata.project, **about)
    try:
        sender.work()
        deadline = time.monotonic() + 30
        while repository.get_operation_submission_count(limit=1):
            tracker.work()
            if time.monotonic() > deadline or repository.get_errors_count(limit=1):
                break
            time.sleep(0.01)
        if repository.get_file_upload_requests_count():
            uploader.work()
        errors = repository.get_errors(limit=1000)
        repository.delete_all_errors()
        return [one.deserialize_error() for one in errors]
    finally:
        for one in (sender, tracker, uploader):
            one.close()
        repository.close(cleanup_files=True)


def _stop_runs() -> None:
    module = sys.modules.get("neptune_scale.api.run")
    if module is None:
        return
    for one in gc.get_objects():
        if type(one) is module.Run and not one._is_closing:
            one.terminate()


def _forget_servers() -> None:
    module = sys.modules.get("neptune_query.internal.client")
    if module is not None:
        module.clear_cache()
    context = sys.modules.get("neptune_query.internal.context")
    if context is not None:
        # It takes the project and the token from the environment when it is imported.
        context.set_context()
