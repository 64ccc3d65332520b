"""Headers of runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlmigrate.model import Ref
from mlmigrate.told.values import as_lifecycle, as_text, as_time

_TEXTS = (
    "name",
    "user",
    "artifact_uri",
    "source_type",
    "source_name",
    "source_version",
    "entry_point",
)
_TIMES = ("start_time", "end_time", "deleted_time")


def header_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a header, but its experiment, that a record says."""
    parent = as_text(record.get("parent"))
    return {
        **{name: as_text(record.get(name)) for name in _TEXTS},
        **{name: as_time(record.get(name)) for name in _TIMES},
        "status": as_text(record.get("status")) or "RUNNING",
        "lifecycle": as_lifecycle(record.get("lifecycle")),
        "parent": Ref("run", parent) if parent else None,
    }
