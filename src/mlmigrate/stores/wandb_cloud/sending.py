"""One run, sent by W&B's SDK. It says that all went well even where the server refused
what it was sent: see `proof`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlmigrate.artifacts import short
from mlmigrate.errors import ItemError, translated
from mlmigrate.model import DatasetInput
from mlmigrate.stores.wandb_cloud import surroundings
from mlmigrate.stores.wandb_cloud.bundling import Bundled
from mlmigrate.stores.wandb_cloud.client import Client, asking
from mlmigrate.wandb_runs.bundles import plain_name
from mlmigrate.wandb_runs.mapping import MLFLOW, MLMIGRATE, Logged
from mlmigrate.wandb_runs.rows import STEP, TIMESTAMP, Row

#: Nothing of this machine or process is a run's that was somewhere else.
_SETTINGS: Mapping[str, Any] = {
    "mode": "online",
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "disable_job_creation": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "allow_val_change": True,
    # Config and summary as files would be those of before `facts` were set.
    "ignore_globs": ("*",),
}
_DATASET = "dataset"
_DATASET_FILE = "dataset.json"


@contextmanager
def workspace() -> Iterator[Path]:
    """Give a folder for one run, which is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=surroundings.folder()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def send(
    client: Client,
    written: Logged,
    rows: Iterable[Row],
    bundles: Sequence[Bundled],
    *,
    inputs: Sequence[DatasetInput],
    folder: Path,
    fresh: bool,
) -> int:
    """Send *rows* and *bundles* of a run, which must not be there yet if *fresh*.

    Returns:
        How many rows were sent.

    Raises:
        ItemError: W&B refuses the run, or an artifact.
    """
    run = _begin(client, written, folder, fresh=fresh)
    try:
        with asking(f"run {written.id}"):
            # These are uploaded while rows are logged.
            logged = [run.log_artifact(_artifact(client, each)) for each in bundles]
            if written.steps == "rows" and written.metrics:
                run.define_metric("*", step_metric=STEP)
            count = 0
            for row in rows:
                run.log(_values(row), step=row.step)
                count += 1
            for entry in inputs:
                run.use_artifact(_dataset(client, entry, folder))
            for artifact in logged:
                artifact.wait()
    finally:
        with asking(f"run {written.id}"):
            run.finish(exit_code=written.exit_code or 0)
    return count


def _begin(client: Client, written: Logged, folder: Path, *, fresh: bool) -> Any:
    config = {name: written.config[name] for name in (MLFLOW, MLMIGRATE)}
    settings = client.sdk.Settings(root_dir=str(folder), **_SETTINGS)

    def told(error: Exception) -> ItemError:
        client.stuck = True
        return ItemError(_refusal(written, str(error) or short(error)))

    with translated(told, passing=()):
        return client.sdk.init(
            entity=written.entity,
            project=written.project,
            id=written.id,
            name=written.name,
            notes=written.notes or None,
            group=written.group or None,
            job_type=written.job_type or None,
            tags=list(written.tags) or None,
            # Other keys than its own the client changes: the whole config follows.
            config=config,
            resume="never" if fresh else "allow",
            reinit="create_new",
            settings=settings,
        )


def _refusal(written: Logged, why: str) -> str:
    if "409" in why or "previously created and deleted" in why:
        return (
            f"W&B blocks the id {written.id}, a deleted run's, for days:"
            " -o id-salt=TEXT gives all runs other ids"
        )
    if "already exists" in why:
        return (
            f"run {written.id} has appeared at W&B meanwhile: if it is a copy of this"
            " run, copy again; otherwise -o id-salt=TEXT gives all runs other ids"
        )
    if "in use" in why:
        return (
            f"W&B's client has not let go of run {written.id}, which it could not begin"
            " before: start mlmigrate again"
        )
    return f"W&B does not take run {written.id}: {why.strip().splitlines()[0][:300]}"


def _values(row: Row) -> dict[str, Any]:
    values: dict[str, Any] = dict(row.values)
    if row.mlflow_step is not None:
        values[STEP] = row.mlflow_step
    if row.mlflow_timestamp is not None:
        values[TIMESTAMP] = row.mlflow_timestamp
    values["_timestamp"] = row.timestamp
    return values


def _artifact(client: Client, bundle: Bundled) -> Any:
    if bundle.earlier is not None:
        artifact = bundle.earlier.new_draft()
    else:
        artifact = client.sdk.Artifact(
            bundle.name, type=bundle.type, metadata=dict(bundle.metadata)
        )
    for path, file in bundle.files.items():
        # They are copies already, and nobody changes them.
        artifact.add_file(
            str(file), name=path, policy="immutable", skip_cache=True, overwrite=True
        )
    return artifact


def _dataset(client: Client, entry: DatasetInput, folder: Path) -> Any:
    """Return a dataset input as an artifact, the same for all runs that consumed it."""
    said = {
        "name": entry.name,
        "digest": entry.digest,
        "source_type": entry.source_type,
        "source": entry.source,
        "schema": entry.schema,
        "profile": entry.profile,
    }
    place = Path(tempfile.mkdtemp(dir=folder)) / _DATASET_FILE
    place.write_text(json.dumps(said, indent=1, sort_keys=True), encoding="utf-8")
    artifact = client.sdk.Artifact(plain_name(entry.name), type=_DATASET)
    artifact.add_file(
        str(place), name=_DATASET_FILE, policy="immutable", skip_cache=True
    )
    return artifact
