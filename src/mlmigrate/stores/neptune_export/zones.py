"""Times of series that neptune-exporter wrote in the zone of its machine.

Its exporter of 2.x asks Neptune's client for the points of a series, which gives local
times; it wrote them as if they were UTC. Other times, such as that of a run's creation,
are right.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from mlmigrate.model import Int64s
from mlmigrate.neptune_runs.attributes import Container, FloatSeries

#: Milliseconds in which no zone changes its offset.
_BLOCK = 900_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLY = 1_800_000  # milliseconds


def utc(times: Int64s, zone: str) -> Int64s:
    """Return the times, in milliseconds, that local times of a zone are; where a clock
    was put back, the earlier.
    """
    local = ZoneInfo(zone)
    blocks, at = np.unique(times // _BLOCK, return_inverse=True)
    offsets = []
    for block in blocks.tolist():
        try:
            shown = _EPOCH + timedelta(milliseconds=block * _BLOCK)
            offset = shown.replace(tzinfo=local).utcoffset() or timedelta()
        except OverflowError:
            offset = timedelta()
        offsets.append(offset // timedelta(milliseconds=1))
    return times - np.array(offsets, dtype=np.int64)[at]


def early_by(container: Container, floats: Mapping[str, FloatSeries]) -> str:
    """Say how long before a run of 2.x its points are, which cannot be; '' where they
    are not.
    """
    made = container.number("sys/creation_time")
    if made is None or container.text("sys/id") != container.id:
        return ""
    last = max((int(s.timestamps.max()) for s in floats.values()), default=made)
    if made - last < _EARLY:
        return ""
    return (
        f"all of its points are {(made - last) / 3_600_000:.1f} hours and more before"
        " it was made: exporters of 2.x wrote the local time of their machine;"
        " -i series-zone=ZONE takes that back"
    )
