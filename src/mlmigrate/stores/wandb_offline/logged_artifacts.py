"""The copied files of a run as W&B artifacts that its log names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mlmigrate.artifacts import open_file
from mlmigrate.model import Artifact
from mlmigrate.stores.wandb_offline.folders import COPIED
from mlmigrate.wandb_runs import bundles

#: Below the folder of a run that mlmigrate wrote: its record.
RECORD = "record"


def logged_artifacts(
    run_id: str, files: Sequence[Artifact], folder: Path, synced_at: str
) -> Iterator[bundles.LoggedArtifact]:
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
        yield bundles.logged(
            bundle.name,
            bundle.type,
            bundle.metadata,
            _entries(inner, folder / COPIED, f"{synced_at}/{COPIED}"),
        )
    names = [path.name for path in sorted((folder / RECORD).glob("*.parquet"))]
    own = dict(zip(names, names, strict=True))
    yield bundles.logged(
        bundles.record_name(run_id),
        bundles.RECORD,
        {},
        _entries(own, folder / RECORD, f"{synced_at}/{RECORD}"),
    )


def _entries(
    files: Mapping[str, str], folder: Path, at: str
) -> Iterator[bundles.Entry]:
    """Describe files, by their paths within the artifact and below *folder*."""
    for path, below in files.items():
        with open_file(folder, below) as data:
            digest, size = bundles.content_digest(data), data.tell()
        yield bundles.Entry(path, digest, size, f"{at}/{below}")
