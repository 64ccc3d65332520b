"""Surroundings in which Neptune's clients talk to one server only."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..isolation import only_settings
from .serving import Neptune3Server


def client_environment(server: Neptune3Server) -> dict[str, str]:
    """Return the variables for a client; it writes `.neptune` where it is started."""
    return {
        "NEPTUNE_API_TOKEN": server.api_token,
        "NEPTUNE_DISABLE_COLORS": "1",
        # There is no TLS here; and to load what it would be verified by takes time.
        "NEPTUNE_VERIFY_SSL": "false",
        # A reader would try for half an hour.
        "NEPTUNE_QUERY_RETRY_SOFT_TIMEOUT": "30",
    }


@contextmanager
def neptune3_client(server: Neptune3Server) -> Iterator[None]:
    """
    Let `neptune_scale` and `neptune_query` in this process use *server*.

    Afterwards all runs are stopped, with the processes that they have started.
    """
    try:
        with only_settings("NEPTUNE_", client_environment(server)):
            _forget_servers()
            try:
                yield
            finally:
                # No fault may hold up the end of what a test has left open.
                server.clear()
                _stop_runs()
    finally:
        _forget_servers()


def sync_here(*databases: Path | str, patience: float = 30) -> list[BaseException]:
    """
    Send what runs have written offline, without a process of their own.

    It is what `sync_all` does, by the client's own parts, in a fraction of its time.
    The errors that it would log are returned; what could not be sent stays.
    """
    from neptune_scale.net.api_client import ApiClient

    api = ApiClient(api_token=os.environ["NEPTUNE_API_TOKEN"])
    try:
        return [
            error
            for database in databases
            for error in _sync(Path(database).resolve(), api, patience)
        ]
    finally:
        api.close()


def _sync(database: Path, api: Any, patience: float) -> list[BaseException]:
    from neptune_scale.exceptions import NeptuneSynchronizationStopped
    from neptune_scale.sync.operations_repository import OperationsRepository
    from neptune_scale.sync.sync_process import (
        FileUploaderThread,
        SenderThread,
        StatusTrackingThread,
    )

    repository = OperationsRepository(db_path=database)
    # An earlier attempt may have sent them, and not heard what became of them.
    repository.delete_operation_submissions(up_to_seq_id=None)
    metadata = repository.get_metadata()
    assert metadata is not None, f"{database} says of no run"
    about: dict[str, Any] = {"api_token": "", "operations_repository": repository}
    sender = SenderThread(family=metadata.run_id, **about)
    tracker = StatusTrackingThread(project=metadata.project, **about)
    uploader = FileUploaderThread(project=metadata.project, **about)
    sender._backend = tracker._backend = uploader._api_client = api
    asyncio.set_event_loop(uploader._aio_loop)
    deadline = time.monotonic() + patience
    try:
        with suppress(NeptuneSynchronizationStopped):
            sender.work()
            while repository.get_operation_submission_count(limit=1):
                tracker.work()
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
            uploader.work()
        errors = repository.get_errors(limit=1000)
        repository.delete_all_errors()
        return [one.deserialize_error() for one in errors]
    finally:
        asyncio.set_event_loop(None)
        uploader._aio_loop.close()
        repository.close(cleanup_files=True)


def _stop_runs() -> None:
    module = sys.modules.get("neptune_scale.api.run")
    if module is None:
        return
    for one in gc.get_objects():
        if type(one) is module.Run and not one._is_closing:
            one.terminate()
            if one._sync_process is not None:
                one._sync_process.join(5)
                one._sync_process.kill()
                one._sync_process.join()


def _forget_servers() -> None:
    module = sys.modules.get("neptune_query.internal.client")
    if module is not None:
        module.clear_cache()
    context = sys.modules.get("neptune_query.internal.context")
    if context is not None:
        # It takes the project and the token from the environment when it is imported.
        context.set_context()
