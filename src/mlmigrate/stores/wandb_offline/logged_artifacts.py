"""The copied files of a run as W&B artifacts that its log names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlmigrate.artifacts import open_file
from mlmigrate.model import Artifact
from mlmigrate.stores.wandb_offline.folders import COPIED
from mlmigrate.wandb_runs import bundles

#: Below the folder of a run that mlmigrate wrote: its record.
RECORD = "record"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a logged artifact."""

    path: str
    digest: str
    size: int  # bytes
    local_path: str  # where `wandb sync` finds it


@dataclass(frozen=True, slots=True)
class LoggedArtifact:
    """A W&B artifact that a run logs."""

    name: str
    type: str
    digest: str
    metadata: Mapping[str, Any]
    entries: tuple[Entry, ...]


def logged_artifacts(
    run_id: str, files: Sequence[Artifact], folder: Path, synced_at: str
) -> Iterator[LoggedArtifact]:
    """Yield the W&B artifacts of a run.

    Args:
        run_id: the run's at W&B.
        files: those that were copied into its folder.
        folder: the run's, which holds its record, too.
        synced_at: the path of *folder* where `wandb sync` will run.

    Raises:
        OSError: a file cannot be read.
    """
    for bundle in bundles.bundles(run_id, files):
        inner = {bundle.inside(file.path): file.path for file in bundle.files}
        yield _logged(
            bundle.name,
            bundle.type,
            bundle.metadata,
            _entries(inner, folder / COPIED, f"{synced_at}/{COPIED}"),
        )
    names = [path.name for path in sorted((folder / RECORD).glob("*.parquet"))]
    own = dict(zip(names, names, strict=True))
    yield _logged(
        bundles.record_name(run_id),
        bundles.RECORD,
        {},
        _entries(own, folder / RECORD, f"{synced_at}/{RECORD}"),
    )


def _entries(files: Mapping[str, str], folder: Path, at: str) -> Iterator[Entry]:
    """Describe files, by their paths within the artifact and below *folder*."""
    for path, below in files.items():
        with open_file(folder, below) as data:
            digest, size = bundles.content_digest(data), data.tell()
        yield Entry(path, digest, size, f"{at}/{below}")


def _logged(
    name: str, type: str, metadata: Mapping[str, Any], entries: Iterator[Entry]
) -> LoggedArtifact:
    found = tuple(entries)
    digest = bundles.manifest_digest({each.path: each.digest for each in found})
    return LoggedArtifact(name, type, digest, metadata, found)
