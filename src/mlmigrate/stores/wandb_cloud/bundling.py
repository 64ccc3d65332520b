"""Files of a run on their way into versions of W&B artifacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from mlmigrate.artifacts import write_file
from mlmigrate.contract import Delivery
from mlmigrate.model import Item
from mlmigrate.wandb_runs import bundles
from mlmigrate.wandb_runs.record import record_tables


@dataclass(frozen=True, slots=True)
class Bundled:
    """Files that become a version of a W&B artifact."""

    name: str
    type: str
    metadata: Mapping[str, Any]
    files: Mapping[str, Path]  # path within the artifact -> the file
    digests: Mapping[str, str]  # of all that the version is to hold
    sizes: Mapping[str, int]  # likewise, bytes
    earlier: Any = None  # a version of the public API's that holds the rest


def lacking(
    item: Item,
    fresh: Mapping[str, Path],
    id: str,
    earlier: Mapping[str, Any],
) -> Iterator[Bundled]:
    """Yield the artifacts that lack some of a run's files.

    Args:
        item: the run, whole.
        fresh: the files that are new, by their paths in the run.
        id: the run's at W&B.
        earlier: the latest versions of the artifacts that are there, by name.
    """
    for bundle in bundles.bundles(id, item.artifacts):
        files = {
            bundle.inside(file.path): fresh[file.path]
            for file in bundle.files
            if file.path in fresh
        }
        if files:
            yield bundled(
                bundle.name,
                bundle.type,
                files,
                metadata=bundle.metadata,
                earlier=earlier.get(bundle.name),
            )


def own_record(item: Item, id: str, delivery: Delivery, folder: Path) -> Bundled:
    """Write the run's own record, and return it as an artifact."""
    folder.mkdir(parents=True)
    digest = delivery.mark.digest
    files = {}
    for name, data in record_tables(item, digest=digest, source=delivery.source):
        write_file(folder, name, BytesIO(data))
        files[name] = folder / name
    return bundled(bundles.record_name(id), bundles.RECORD, files, metadata={})


def bundled(
    name: str,
    type: str,
    files: Mapping[str, Path],
    *,
    metadata: Mapping[str, Any],
    earlier: Any = None,
) -> Bundled:
    """Describe *files*, by their paths within an artifact, and what *earlier* holds
    beside them, which is a version that is there.
    """
    digests: dict[str, str] = {}
    sizes: dict[str, int] = {}
    if earlier is not None:
        for path, entry in earlier.manifest.entries.items():
            digests[path], sizes[path] = entry.digest, entry.size
    for path, file in files.items():
        with file.open("rb") as data:
            digests[path], sizes[path] = bundles.content_digest(data), data.tell()
    return Bundled(name, type, metadata, files, digests, sizes, earlier)
