"""What a copy finds and no item of the sink tells: kept by sinks that can."""

from __future__ import annotations

from mlmigrate.model import (
    Conflict,
    Copied,
    Failed,
    Finding,
    Loss,
    Note,
    Problem,
    Skipped,
    Updated,
)
from mlmigrate.pipeline.job import Event, Job, label

#: Items that bear their own findings at a sink.
_WITH_FINDINGS = ("run", "logged_model", "trace")


def label_of_all(job: Job) -> str:
    """Name the sources of a copy, which share what is found."""
    return ", ".join(sorted({label(job, at) for at in range(len(job.sources))}))


def beside_items(event: Event) -> tuple[Finding, ...]:
    """Return what an event tells that no item of the sink holds."""
    match event:
        case Problem() | Note() | Loss():
            return (event,)
        case Failed(ref, why):
            return (Problem(str(ref), f"not copied: {why}"),)
        case Conflict(ref, what):
            return (Problem(str(ref), f"not copied: {what}"),)
        case Copied() | Updated() | Skipped() if event.ref.kind in _WITH_FINDINGS:
            # Its own stand with it; what it lost on the way does not.
            return tuple(each for each in event.findings if isinstance(each, Loss))
        case Copied() | Updated() | Skipped():
            return event.findings
    return ()
