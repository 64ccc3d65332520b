"""Runs and artifacts put into a server past its doors, in no time."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from .state import Artifact, Collection, Lines, Run, State, StoredFile, opaque


def add_run(
    state: State,
    entity: str,
    project: str,
    id: str,
    *,
    config: Mapping[str, Any] | None = None,
    history: Iterable[Mapping[str, Any]] = (),
    events: Iterable[Mapping[str, Any]] = (),
    log: Iterable[str] = (),
    files: Mapping[str, bytes] | None = None,
    **facts: Any,
) -> Run:
    """
    Put in a finished run; *facts* are fields of `Run`.

    Rows without a `_step` get their number. Unless given, the summary is made of the
    last values.
    """
    rows = [{"_step": number, **row} for number, row in enumerate(history)]
    last: dict[str, Any] = {}
    for row in rows:
        last.update(row)
    run = Run(
        entity,
        project,
        id,
        **{
            "display_name": id,
            "number": len(state.runs) + 1,
            "state": "finished",
            "exit_code": 0,
            "complete": True,
            "summary": last,
            **facts,
        },
    )
    run.raw_config = {key: {"value": value} for key, value in (config or {}).items()}
    run.history_lines = Lines(map(json.dumps, rows))
    run.event_lines = Lines(map(json.dumps, events))
    run.log_lines = Lines(log)
    run.files = {name: StoredFile(data) for name, data in (files or {}).items()}
    with state.lock:
        state.project(entity, project)
        state.runs[entity, project, id] = run
    return run


def add_artifact(
    state: State,
    entity: str,
    project: str,
    name: str,
    *,
    type: str,
    files: Mapping[str, bytes],
    references: Mapping[str, str] | None = None,
    aliases: Iterable[str] = (),
    run: Run | None = None,
    **facts: Any,
) -> Artifact:
    """Put in a committed version, logged by *run*; *facts* are fields of `Artifact`."""
    id = opaque("Artifact", uuid.uuid4().hex)
    contents: dict[str, Any] = {}
    with state.lock:
        for path, data in files.items():
            checksum = hashlib.md5(data)
            state.blobs[checksum.hexdigest()] = data
            contents[path] = {
                "digest": base64.b64encode(checksum.digest()).decode(),
                "birthArtifactID": id,
                "size": len(data),
            }
        for path, address in (references or {}).items():
            contents[path] = {"digest": address, "ref": address, "size": 0}
        manifest = {
            "version": 1,
            "storagePolicy": "wandb-storage-policy-v1",
            "storagePolicyConfig": {"storageLayout": "V2"},
            "contents": contents,
        }
        artifact = Artifact(
            id=id,
            entity=entity,
            project=project,
            collection=name,
            type=type,
            digest=_digest(contents),
            state="COMMITTED",
            run=(run.entity, run.project, run.id) if run else None,
            manifest_id=opaque("ArtifactManifest", uuid.uuid4().hex),
            manifest=json.dumps(manifest).encode(),
            **facts,
        )
        state.artifacts[id] = artifact
        state.project(entity, project)
        sequence = state.collection(
            entity, project, name, kind="ArtifactSequence", type=type
        )
        artifact.version = sequence.add(id, aliases).version
        if run:
            run.logged.append(id)
    return artifact


def add_link(
    state: State,
    artifact: Artifact,
    entity: str,
    project: str,
    name: str,
    *,
    aliases: Iterable[str] = (),
) -> Collection:
    """Link *artifact* to a portfolio, such as a registered model."""
    with state.lock:
        state.project(entity, project)
        portfolio = state.collection(
            entity, project, name, kind="ArtifactPortfolio", type=artifact.type
        )
        portfolio.add(artifact.id, aliases)
    return portfolio


def _digest(contents: Mapping[str, Any]) -> str:
    digest = hashlib.md5(b"wandb-artifact-manifest-v1\n")
    for path, entry in sorted(contents.items()):
        digest.update(f"{path}:{entry['digest']}\n".encode())
    return digest.hexdigest()
