"""A run's artifacts, below the artifact root of an MLflow database."""

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
from mlmigrate.model import Failed, Run
from mlmigrate.stores.mlflow_db.copies import run_id


@dataclass(frozen=True, slots=True)
class Stored:
    """A run's artifacts as written: where, and what."""

    uri: str | None
    checksums: str | None
    files: int
    bytes: int


def store(delivery: Delivery, root: str | None, limit: int | None) -> Stored | Failed:
    """Copy the artifacts of *delivery* below *root*, unless they are linked or skipped.

    Args:
        delivery: one item; only runs have artifacts.
        root: a folder or URL.
        limit: the characters that a URI may have; None for any number.
    """
    item, header = delivery.item, delivery.item.header
    if not isinstance(header, Run):
        return Stored(None, None, 0, 0)
    if delivery.open is None or root is None:
        return Stored(header.artifact_uri, None, 0, 0)
    id = delivery.into.id if delivery.into else run_id(item.origin)
    uri = f"{root}/{header.experiment.id}/{id}/artifacts"
    if delivery.into is not None and header.artifact_uri:
        uri = header.artifact_uri
    if limit is not None and len(uri) > limit:
        why = f"its artifact URI would have {len(uri)} characters; the column holds"
        return Failed(item.ref, f"{why} {limit}: give a shorter -o artifact-root")
    try:
        checksums, total = copy_files(delivery, item.artifacts, _writer(uri))
    except (OSError, ItemError) as error:
        return Failed(item.ref, f"its artifacts could not be copied: {short(error)}")
    combined = combined_checksum(checksums) if not delivery.into else None
    return Stored(uri, combined, len(checksums), total)


def _writer(uri: str) -> Callable[[str, BinaryIO], tuple[str, int]]:
    if is_local(uri):
        root = Path(local_path(uri))
        return lambda path, data: write_file(root, path, data)
    remote = Remote(uri)
    return remote.write
