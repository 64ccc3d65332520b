"""Times, in milliseconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def millis(moment: datetime) -> int:
    """Return a time, in UTC where it names no zone, in whole milliseconds."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MILLISECOND


def iso(time: int) -> str:
    """Return a time by ISO 8601; as a number where that has none."""
    try:
        moment = _EPOCH + timedelta(milliseconds=time)
    except OverflowError:
        return str(time)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
