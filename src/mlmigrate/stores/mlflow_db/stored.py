"""Artifacts of runs, logged models and traces, below the root of a database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mlmigrate.artifacts import (
    Remote,
    combined_checksum,
    copy_files,
    is_local,
    local_path,
    short,
    write_file,
)
from mlmigrate.contract import Delivery
from mlmigrate.errors import ItemError
from mlmigrate.mlflow_traces import trace_id
from mlmigrate.model import Failed, Item, LoggedModel, Run, Trace
from mlmigrate.stores.mlflow_db.copies import model_id, run_id


@dataclass(frozen=True, slots=True)
class Stored:
    """An item's artifacts as written: where, and what; and the id that it gets."""

    id: str
    uri: str | None
    checksums: str | None
    files: int
    bytes: int


def new_id(item: Item, origin: str) -> str:
    """Return the id that a new copy gets: one made of its origin."""
    match item.header:
        case Run():
            return run_id(origin)
        case LoggedModel():
            return model_id(origin)
        case Trace():
            return trace_id(origin)
        case _:
            return item.ref.id


def store(
    delivery: Delivery, id: str, root: str | None, limit: int | None
) -> Stored | Failed:
    """Copy the artifacts of *delivery* below *root*, unless they are linked or skipped.

    Args:
        delivery: one item; only runs, logged models and traces have artifacts.
        id: its id at the sink.
        root: a folder or URL.
        limit: the characters that a URI may have; None for any number.
    """
    item, header = delivery.item, delivery.item.header
    match header:
        case Run(artifact_uri=held):
            below = id
        case LoggedModel(artifact_location=held):
            below = f"models/{id}"
        case Trace(artifact_location=held):
            below = f"traces/{id}"
        case _:
            return Stored(id, None, None, 0, 0)
    if delivery.open is None or root is None:
        return Stored(id, held, None, 0, 0)
    uri = f"{root}/{header.experiment.id}/{below}/artifacts"
    if delivery.into is not None and held:
        uri = held
    if limit is not None and len(uri) > limit:
        why = f"its artifact URI would have {len(uri)} characters; the column holds"
        return Failed(item.ref, f"{why} {limit}: give a shorter -o artifact-root")
    try:
        checksums, total = copy_files(delivery, item.artifacts, _writer(uri))
    except (OSError, ItemError) as error:
        return Failed(item.ref, f"its artifacts could not be copied: {short(error)}")
    combined = combined_checksum(checksums) if not delivery.into else None
    return Stored(id, uri, combined, len(checksums), total)


def _writer(uri: str) -> Callable[[str, BinaryIO], tuple[str, int]]:
    if is_local(uri):
        root = Path(local_path(uri))
        return lambda path, data: write_file(root, path, data)
    remote = Remote(uri)
    return remote.write
