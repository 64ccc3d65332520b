"""The header of a copy that got a further version of its item."""

from __future__ import annotations

from dataclasses import replace

from mlmigrate.contract import Mark
from mlmigrate.model import LoggedModel, Run, Trace


def merged_header(
    held: object, incoming: object, mark: Mark | None, *, later: bool
) -> Run | LoggedModel | Trace:
    """Return the header that a copy gets.

    Args:
        held: that of the copy.
        incoming: that of the same item at the source.
        mark: the copy's; what differs from it was edited at the sink and stays.
        later: the incoming version is the one with the later activity.
    """
    if isinstance(held, Trace):
        assert isinstance(incoming, Trace)
        return _trace_header(held, incoming, mark, later=later)
    if isinstance(held, LoggedModel):
        assert isinstance(incoming, LoggedModel)
        return _model_header(held, incoming, mark, later=later)
    assert isinstance(held, Run)
    assert isinstance(incoming, Run)
    untouched = mark is None or mark.lifecycle == held.lifecycle
    lifecycle = incoming.lifecycle if later and untouched else held.lifecycle
    if not later:
        return replace(
            held,
            name=held.name or incoming.name,
            start_time=held.start_time or incoming.start_time,
            end_time=held.end_time or incoming.end_time,
            user=held.user or incoming.user,
            parent=held.parent or incoming.parent,
        )
    # What differs from what the mark says was written was edited at the sink.
    status_edited = mark is not None and mark.status != held.status
    end_edited = mark is not None and mark.end_time != held.end_time
    return replace(
        incoming,
        experiment=held.experiment,
        artifact_uri=held.artifact_uri,
        lifecycle=lifecycle,
        deleted_time=incoming.deleted_time if lifecycle == "deleted" else None,
        status=held.status if status_edited else incoming.status,
        end_time=held.end_time if end_edited else incoming.end_time,
        parent=incoming.parent or held.parent,
    )


def _model_header(
    held: LoggedModel, incoming: LoggedModel, mark: Mark | None, *, later: bool
) -> LoggedModel:
    if not later:
        # A server gives times of its own: they do not tell which of two is further.
        return replace(
            held,
            status=incoming.status if held.status == "PENDING" else held.status,
            status_message=held.status_message or incoming.status_message,
            model_type=held.model_type or incoming.model_type,
            source_run=held.source_run or incoming.source_run,
        )
    untouched = mark is None or mark.lifecycle == held.lifecycle
    edited = mark is not None and mark.status != held.status
    return replace(
        incoming,
        experiment=held.experiment,
        artifact_location=held.artifact_location,
        lifecycle=incoming.lifecycle if untouched else held.lifecycle,
        status=held.status if edited else incoming.status,
        source_run=incoming.source_run or held.source_run,
        # What the sink itself gives stays.
        creation_time=incoming.creation_time or held.creation_time,
        last_updated_time=incoming.last_updated_time or held.last_updated_time,
    )


def _trace_header(
    held: Trace, incoming: Trace, mark: Mark | None, *, later: bool
) -> Trace:
    if not later:
        return replace(held, source_run=held.source_run or incoming.source_run)
    edited = mark is not None and mark.status != held.state
    return replace(
        incoming,
        experiment=held.experiment,
        artifact_location=held.artifact_location,
        state=held.state if edited else incoming.state,
        source_run=incoming.source_run or held.source_run,
        # Previews that the sink itself makes of spans stay.
        request_preview=incoming.request_preview or held.request_preview,
        response_preview=incoming.response_preview or held.response_preview,
    )
