"""A run as the server has it, compared with what it was sent: bit for bit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mlmigrate.errors import ItemError
from mlmigrate.metrics import missing
from mlmigrate.model import MetricHistory
from mlmigrate.stores.wandb_cloud.bundling import Bundled
from mlmigrate.stores.wandb_cloud.client import Client, asking
from mlmigrate.stores.wandb_cloud.files import logged_artifacts, name_of
from mlmigrate.stores.wandb_cloud.histories import stored
from mlmigrate.wandb_runs.bundles import manifest_digest
from mlmigrate.wandb_runs.mapping import Logged
from mlmigrate.wandb_runs.own import own

_FIRST_WAIT = 0.25  # seconds


def prove(
    client: Client,
    written: Logged,
    bundles: Sequence[Bundled],
    *,
    rows: int,
    settle: float,
) -> Any:
    """Check that the server has the rows and the artifacts of a run.

    Args:
        client: the server's.
        written: the run, whole.
        bundles: the artifacts that it was sent.
        rows: how many rows it must have.
        settle: the seconds in which what is lacking may still appear.

    Returns:
        The run, as the public API gives it.

    Raises:
        ItemError: it has not, or cannot be read.
    """
    deadline = time.monotonic() + settle
    wait = _FIRST_WAIT
    while True:
        run = client.run(written.entity, written.project, written.id)
        with asking(f"run {written.id}"):
            wrong = _wrong_rows(run, written, rows) or _wrong_artifacts(run, bundles)
        if wrong is None:
            return run
        if time.monotonic() + wait > deadline:
            raise ItemError(
                f"W&B took run {written.id}, but read back {wrong}: it does not count"
                " as copied; copy again"
            )
        time.sleep(wait)
        wait *= 2


def _wrong_rows(run: Any, written: Logged, rows: int) -> str | None:
    found = own(run.config)
    if found is None:
        return "its config is not there"
    held = stored(run, found)
    if held.rows != rows:
        return f"it has {held.rows} rows of {rows}"
    for metric in written.metrics:
        lacking = len(missing(held.metrics.get(metric.key), metric).steps)
        if lacking:
            return (
                f"metric {metric.key!r} lacks {lacking} of {len(metric.steps)} points"
            )
    sent = {metric.key: metric for metric in written.metrics}
    for key, metric in held.metrics.items():
        if more := _beyond(metric, sent.get(key)):
            return f"metric {key!r} has {more} points that it was not sent"
    return None


def _beyond(held: MetricHistory, sent: MetricHistory | None) -> int:
    return len(missing(sent, held).steps)


def _wrong_artifacts(run: Any, bundles: Sequence[Bundled]) -> str | None:
    if not bundles:
        return None
    found: dict[tuple[str, str], Any] = {
        (name_of(artifact), artifact.digest): artifact
        for artifact in logged_artifacts(run)
    }
    for bundle in bundles:
        artifact = found.get((bundle.name, manifest_digest(bundle.digests)))
        if artifact is None:
            return f"artifact {bundle.name!r} is not there, or of another digest"
        entries = artifact.manifest.entries
        held = {path: (entry.digest, entry.size) for path, entry in entries.items()}
        sent = {
            path: (digest, bundle.sizes[path])
            for path, digest in bundle.digests.items()
        }
        if held != sent:
            return f"the manifest of artifact {bundle.name!r} differs"
    return None
