"""Dataset inputs of runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from mlmigrate.model import DatasetInput
from mlmigrate.told.values import as_list, as_tags, as_text, plain


def inputs_record(inputs: Iterable[DatasetInput]) -> list[dict[str, Any]]:
    """Return what is told of a run's dataset inputs."""
    return [{**asdict(entry), "tags": plain(entry.tags)} for entry in inputs]


def inputs_of(record: Any) -> tuple[DatasetInput, ...]:
    """Return the dataset inputs that a record says."""
    return tuple(
        DatasetInput(
            name=as_text(entry.get("name")) or "",
            digest=as_text(entry.get("digest")) or "",
            source_type=as_text(entry.get("source_type")) or "",
            source=as_text(entry.get("source")) or "",
            schema=as_text(entry.get("schema")),
            profile=as_text(entry.get("profile")),
            tags=as_tags(entry.get("tags")),
        )
        for entry in as_list(record)
        if isinstance(entry, dict)
    )
