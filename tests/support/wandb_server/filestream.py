"""What a run's client streams: rows, summary, system metrics, console, the end."""

from __future__ import annotations

import json
from typing import Any

from .state import Run, now

HISTORY = "wandb-history.jsonl"
EVENTS = "wandb-events.jsonl"
SUMMARY = "wandb-summary.json"
LOG = "output.log"


def receive(run: Run, message: dict[str, Any], *, keep: int | None = None) -> None:
    """
    Apply one message to *run*.

    A server that loses rows stores no more than *keep* of those in the message.
    """
    for name, chunk in (message.get("files") or {}).items():
        offset, content = chunk.get("offset") or 0, chunk.get("content") or []
        if name == HISTORY:
            run.history_lines.write(offset, content[:keep])
        elif name == EVENTS:
            run.event_lines.write(offset, content)
        elif name == LOG:
            run.log_lines.write(offset, content)
        elif name == SUMMARY and content:
            # Each summary is whole; only the last counts.
            run.summary = json.loads(content[-1])
    run.uploaded.extend(message.get("uploaded") or ())
    run.heartbeat = now()
    if message.get("complete"):
        run.complete = True
        run.exit_code = message.get("exitcode") or 0
        run.state = "failed" if run.exit_code else "finished"
    elif message.get("preempting"):
        run.state = "preempting"
