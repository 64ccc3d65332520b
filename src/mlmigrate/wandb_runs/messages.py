"""A run as the messages of a transaction log, by W&B's own protobuf."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

from wandb import __version__ as version
from wandb.proto import wandb_internal_pb2

from mlmigrate.wandb_runs.bundles import LoggedArtifact
from mlmigrate.wandb_runs.mapping import Logged
from mlmigrate.wandb_runs.rows import STEP, TIMESTAMP, Row, rows

pb: Any = wandb_internal_pb2  # what protobuf makes has no types
#: The oldest client that reads what we write: what 0.31's own logs say.
_OLDEST_READER = "0.70.0"
#: Python's texts of floats that are not JSON's, which are otherwise the same.
_WORDS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


def messages(run: Logged, artifacts: Iterable[LoggedArtifact]) -> Iterator[bytes]:
    """Yield the records of a whole run, numbered, in the order of a client's."""
    for number, record in enumerate(_records(run, artifacts), 1):
        record.num = number
        yield record.SerializeToString()


def _records(run: Logged, artifacts: Iterable[LoggedArtifact]) -> Iterator[Any]:
    header = pb.Record()
    header.header.version_info.producer = version
    header.header.version_info.min_consumer = _OLDEST_READER
    yield header
    yield _run(run)
    if environment := _environment(run):
        yield environment
    if run.steps == "rows" and run.metrics:
        yield _step_metric()
    start = (run.start or 0) / 1000
    for row in rows(run.metrics, run.steps):
        yield _row(row, start)
    yield _summary(run)
    for artifact in artifacts:
        yield _artifact(run, artifact)
    if run.exit_code is not None:
        exit = pb.Record()
        exit.exit.exit_code = run.exit_code
        exit.exit.runtime = run.runtime
        yield exit


def _run(run: Logged) -> Any:
    record = pb.Record()
    said = record.run
    said.run_id, said.project, said.entity = run.id, run.project, run.entity
    said.display_name, said.notes = run.name, run.notes
    said.run_group, said.job_type = run.group, run.job_type
    said.tags.extend(run.tags)
    said.host = run.host
    if run.git_commit or run.git_remote:
        said.git.commit, said.git.remote_url = run.git_commit, run.git_remote
    for key, value in run.config.items():
        said.config.update.add(key=key, value_json=json.dumps(value))
    _set(said.start_time, run.start or 0)
    said.telemetry.cli_version = version
    return record


def _environment(run: Logged) -> Any:
    """Return what W&B shows as the author's machine, which the author is not."""
    if not (run.user or run.host or run.program):
        return None
    record = pb.Record()
    said = record.environment
    said.username, said.host, said.program = run.user, run.host, run.program
    if run.start is not None:
        _set(said.started_at, run.start)
    return record


def _set(timestamp: Any, millis: int) -> None:
    timestamp.seconds, rest = divmod(millis, 1000)
    timestamp.nanos = rest * 1_000_000


def _step_metric() -> Any:
    record = pb.Record()
    record.metric.glob_name = "*"
    record.metric.step_metric = STEP
    record.metric.options.step_sync = True
    record.metric.options.defined = True
    return record


def _row(row: Row, start: float) -> Any:
    record = pb.Record()
    add = record.history.item.add  # a key costs half of what a list of keys does
    for key, value in row.values:
        text = repr(value)
        add(key=key, value_json=_WORDS.get(text, text))
    if row.mlflow_step is not None:
        add(key=STEP, value_json=str(row.mlflow_step))
    if row.mlflow_timestamp is not None:
        add(key=TIMESTAMP, value_json=str(row.mlflow_timestamp))
    add(key="_timestamp", value_json=repr(row.timestamp))
    add(key="_runtime", value_json=repr(row.timestamp - start))
    add(key="_step", value_json=str(row.step))
    record.history.step.num = row.step
    return record


def _summary(run: Logged) -> Any:
    record = pb.Record()
    for key, value in run.summary.items():
        record.summary.update.add(key=key, value_json=json.dumps(value))
    record.summary.update.add(
        nested_key=("_wandb", "runtime"), value_json=str(run.runtime)
    )
    return record


def _artifact(run: Logged, artifact: LoggedArtifact) -> Any:
    record = pb.Record()
    said = record.artifact
    said.run_id, said.project, said.entity = run.id, run.project, run.entity
    said.type, said.name, said.digest = artifact.type, artifact.name, artifact.digest
    said.metadata = json.dumps(artifact.metadata)
    said.aliases.append("latest")
    said.finalize, said.digest_algorithm = True, "MANIFEST_MD5"
    said.client_id, said.sequence_client_id = _client_id(), _client_id()
    manifest = said.manifest
    manifest.version, manifest.storage_policy = 1, "wandb-storage-policy-v1"
    manifest.storage_policy_config.add(key="storageLayout", value_json='"V2"')
    for entry in artifact.entries:
        manifest.contents.add(
            path=entry.path,
            digest=entry.digest,
            size=entry.size,
            local_path=entry.local_path,
        )
    return record


def _client_id() -> str:
    """Return what tells an artifact that has no id yet from all others."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(128))
