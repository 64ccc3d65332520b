"""The root of what can be changed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from .artifact_nodes import (
    artifact_node,
    collection_node,
    hex_digest,
    manifest_node,
    membership_node,
    tag_nodes,
)
from .graphql import Node
from .queries import project_node
from .run_nodes import run_node, sweep_node
from .state import Artifact, Collection, Run, State, Sweep, now, opaque

Input = dict[str, Any]


class RefusalError(Exception):
    """The server will not do it; *status* tells in which way."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def mutation_root(state: State, url: str) -> Node:
    """Return the fields of a mutation."""

    def field(act: Callable[[State, Input, str], Node]) -> Callable[[Any], Node]:
        # What is given as null is not meant to change anything.
        def do(args: dict[str, Any]) -> Node:
            given = {k: v for k, v in args["input"].items() if v is not None}
            return {"clientMutationId": None, **act(state, given, url)}

        return do

    return {"__typename": "Mutation", **{n: field(act) for n, act in _ACTS.items()}}


def _upsert_bucket(state: State, given: Input, url: str) -> Node:
    run = state.run_by_storage_id(given.get("id"))
    inserted = False
    if run is None and "name" not in given:
        raise RefusalError(404, "run not found")
    if run is None:
        entity = given.get("entityName") or state.entity
        project = given.get("modelName") or "uncategorized"
        key = (entity, project, given["name"])
        if key in state.deleted_runs:
            raise RefusalError(
                409,
                f"run {key[2]} was previously created and deleted; try a new run name",
            )
        inserted = key not in state.runs
        if inserted:
            state.project(entity, project)
            state.runs[key] = Run(*key, display_name=key[2], number=len(state.runs) + 1)
        run = state.runs[key]
        run.state = "running"
        run.complete = False
    for name, attribute in _RUN_FIELDS.items():
        if name in given:
            setattr(run, attribute, given[name])
    if "config" in given:
        run.raw_config = json.loads(given["config"])
    if "summaryMetrics" in given:
        run.summary = json.loads(given["summaryMetrics"])
    run.heartbeat = now()
    return {"bucket": run_node(state, run, url), "inserted": inserted}


_RUN_FIELDS = {
    "displayName": "display_name",
    "notes": "notes",
    "description": "description",
    "tags": "tags",
    "groupName": "group",
    "jobType": "job_type",
    "sweep": "sweep",
    "host": "host",
    "commit": "commit",
    "jobProgram": "program",
    "state": "state",
}


def _delete_run(state: State, given: Input, url: str) -> Node:
    run = _run(state, given["id"])
    key = (run.entity, run.project, run.id)
    del state.runs[key]
    # The service keeps the id blocked.
    state.deleted_runs.add(key)
    if given.get("deleteArtifacts"):
        for id in run.logged:
            _forget(state, id)
    return {"success": True}


def _update_run_state(state: State, given: Input, url: str) -> Node:
    _run(state, given["id"]).state = given["state"]
    return {"success": True}


def _stop_run(state: State, given: Input, url: str) -> Node:
    _run(state, given["id"])
    return {"success": True}


def _delete_files(state: State, given: Input, url: str) -> Node:
    for run in state.runs.values():
        for name in list(run.files):
            if opaque("File", run.storage_id, name) in given["files"]:
                del run.files[name]
    return {"success": True}


def _create_run_files(state: State, given: Input, url: str) -> Node:
    run = _named_run(state, given)
    key = (run.entity, run.project, run.id)
    folder = "/".join(quote(word, safe="") for word in key)
    return {
        "runID": run.storage_id,
        "uploadHeaders": [],
        "files": [
            {"name": name, "uploadUrl": f"{url}/storage/run/{folder}/{quote(name)}"}
            for name in given["files"]
        ],
    }


def _done(state: State, given: Input, url: str) -> Node:
    return {"success": True}


def _upsert_project(state: State, given: Input, url: str) -> Node:
    found = next((p for p in state.projects.values() if p.id == given.get("id")), None)
    place = (given.get("entityName") or state.entity, given.get("name") or "")
    inserted = found is None and place not in state.projects
    project = found or state.project(*place)
    if "description" in given:
        project.description = given["description"]
    project.types.extend(one["name"] for one in given.get("artifactTypes", ()))
    project.updated = now()
    node = project_node(state, project, url)
    return {"project": node, "model": node, "inserted": inserted}


def _delete_project(state: State, given: Input, url: str) -> Node:
    for place, project in list(state.projects.items()):
        if project.id == given["id"]:
            del state.projects[place]
            for key in [k for k in state.runs if k[:2] == place]:
                del state.runs[key]
            for key in [k for k in state.collections if k[:2] == place]:
                del state.collections[key]
            return {"success": True}
    return {"success": False}


def _upsert_sweep(state: State, given: Input, url: str) -> Node:
    sweep = next((s for s in state.sweeps.values() if s.id == given.get("id")), None)
    if sweep is None:
        entity = given.get("entityName") or state.entity
        project = given.get("projectName") or "uncategorized"
        state.project(entity, project)
        sweep = Sweep(entity, project, uuid.uuid4().hex[:8])
        state.sweeps[entity, project, sweep.name] = sweep
    sweep.config = given.get("config", sweep.config)
    sweep.state = given.get("state", sweep.state)
    sweep.description = given.get("description", sweep.description)
    sweep.display_name = given.get("displayName", sweep.display_name)
    sweep.updated = now()
    return {"sweep": sweep_node(state, sweep, url), "configValidationWarnings": []}


def _create_artifact(state: State, given: Input, url: str) -> Node:
    place = (given.get("entityName") or state.entity, given["projectName"])
    names = given.get("artifactCollectionNames") or [given["artifactCollectionName"]]
    state.project(*place)
    sequence = state.collection(
        *place, names[0], kind="ArtifactSequence", type=given["artifactTypeName"]
    )
    if sequence.type != given["artifactTypeName"]:
        raise RefusalError(
            400,
            f"artifact collection {sequence.name} is of type {sequence.type}, "
            f"not {given['artifactTypeName']}",
        )
    artifact = _same_content(state, sequence, given["digest"])
    aliases = [one["alias"] for one in given.get("aliases", ())]
    run = (*place, given["runName"]) if given.get("runName") else None
    if artifact is None:
        artifact = Artifact(
            # Clients keep artifacts by id for as long as their process lives.
            id=opaque("Artifact", uuid.uuid4().hex),
            entity=place[0],
            project=place[1],
            collection=sequence.name,
            type=sequence.type,
            digest=given["digest"],
            digest_algorithm=given.get("digestAlgorithm", "MANIFEST_MD5"),
            description=given.get("description"),
            metadata=given.get("metadata"),
            aliases=aliases,
            tags=[one["tagName"] for one in given.get("tags", ())],
            run=run,
            client_id=given.get("clientID"),
            history_step=given.get("historyStep"),
        )
        state.artifacts[artifact.id] = artifact
    else:
        artifact.client_id = given.get("clientID", artifact.client_id)
        sequence.add(artifact.id, aliases)
    if run in state.runs and artifact.id not in state.runs[run].logged:
        state.runs[run].logged.append(artifact.id)
    return {"artifact": artifact_node(state, artifact, url)}


def _same_content(state: State, sequence: Collection, digest: str) -> Artifact | None:
    versions = (state.artifacts[member.artifact] for member in sequence.members)
    return next((one for one in versions if one.digest == digest), None)


def _create_manifest(state: State, given: Input, url: str) -> Node:
    artifact = _artifact(state, given["artifactID"])
    id = opaque("ArtifactManifest", uuid.uuid4().hex)
    if given.get("type") != "PATCH":
        artifact.manifest_id = id
    return {"artifactManifest": manifest_node(artifact, url, id)}


def _update_manifest(state: State, given: Input, url: str) -> Node:
    wanted = given["artifactManifestID"]
    for artifact in state.artifacts.values():
        if artifact.manifest_id == wanted:
            return {"artifactManifest": manifest_node(artifact, url)}
    raise RefusalError(404, f"artifact manifest {wanted} not found")


def _create_artifact_files(state: State, given: Input, url: str) -> Node:
    def node(file: Input) -> Node:
        name = hex_digest(file["md5"])
        known = name in state.blobs
        address = f"{url}/storage/blob/{name}/{quote(file['name'])}"
        return {
            "storagePath": f"wandb_artifacts/{name}",
            # Nothing is to be uploaded that is here already.
            "uploadUrl": None if known else address,
            "uploadHeaders": [f"Content-MD5:{file['md5']}"],
            "uploadMultipartUrls": None,
            "name": file["name"],
            "artifact": {"id": file["artifactID"]},
        }

    edges = [{"node": node(file)} for file in given["artifactFiles"]]
    return {"files": {"edges": edges}}


def _commit_artifact(state: State, given: Input, url: str) -> Node:
    artifact = _artifact(state, given["artifactID"])
    if not artifact.manifest:
        raise RefusalError(400, "the artifact has no manifest")
    missing = [
        path
        for path, entry in artifact.entries.items()
        if not entry.get("ref") and hex_digest(entry["digest"]) not in state.blobs
    ]
    if missing:
        raise RefusalError(400, f"files were not uploaded: {', '.join(missing)}")
    if artifact.state != "COMMITTED":
        key = (artifact.entity, artifact.project, artifact.collection)
        member = state.collections[key].add(artifact.id, artifact.aliases)
        artifact.version = member.version
        artifact.state = "COMMITTED"
        artifact.updated = now()
    return {"artifact": artifact_node(state, artifact, url)}


def _update_artifact(state: State, given: Input, url: str) -> Node:
    artifact = _artifact(state, given["artifactID"])
    artifact.description = given.get("description", artifact.description)
    artifact.metadata = given.get("metadata", artifact.metadata)
    artifact.ttl_seconds = given.get("ttlDurationSeconds", artifact.ttl_seconds)
    gone = {one["tagName"] for one in given.get("tagsToDelete", ())}
    added = [one["tagName"] for one in given.get("tagsToAdd", ())]
    kept = [tag for tag in artifact.tags if tag not in gone]
    artifact.tags = list(dict.fromkeys([*kept, *added]))
    artifact.updated = now()
    return {"artifact": artifact_node(state, artifact, url)}


def _delete_artifact(state: State, given: Input, url: str) -> Node:
    artifact = _artifact(state, given["artifactID"])
    node = artifact_node(state, artifact, url)
    _forget(state, artifact.id)
    return {"artifact": node, "success": True}


def _add_aliases(state: State, given: Input, url: str) -> Node:
    for collection, alias in _aliased(state, given):
        collection.add(given["artifactID"], [alias])
    return {"success": True}


def _delete_aliases(state: State, given: Input, url: str) -> Node:
    for collection, alias in _aliased(state, given):
        for member in collection.members:
            if member.artifact == given["artifactID"] and alias in member.aliases:
                member.aliases.remove(alias)
    return {"success": True}


def _aliased(state: State, given: Input) -> list[tuple[Collection, str]]:
    def key(one: Input) -> tuple[str, str, str]:
        return one["entityName"], one["projectName"], one["artifactCollectionName"]

    return [(state.collections[key(one)], one["alias"]) for one in given["aliases"]]


def _link_artifact(state: State, given: Input, url: str) -> Node:
    if "artifactID" in given:
        artifact = _artifact(state, given["artifactID"])
    else:
        wanted = given["clientID"]
        found = [a for a in state.artifacts.values() if a.client_id == wanted]
        if not found:
            raise RefusalError(404, f"no artifact has the client ID {wanted}")
        artifact = found[0]
    place = (given["entityName"], given["projectName"])
    if place[1].startswith("wandb-registry-") and place not in state.projects:
        raise RefusalError(404, f"registry {'/'.join(place)} not found")
    state.project(*place)
    portfolio = state.collection(
        *place,
        given["artifactPortfolioName"],
        kind="ArtifactPortfolio",
        type=artifact.type,
    )
    member = portfolio.add(
        artifact.id, [one["alias"] for one in given.get("aliases", ())]
    )
    return {
        "versionIndex": member.version,
        "artifactMembership": membership_node(state, portfolio, member, url),
    }


def _unlink_artifact(state: State, given: Input, url: str) -> Node:
    collection = _collection(state, given["artifactPortfolioID"])
    collection.members = [
        m for m in collection.members if m.artifact != given["artifactID"]
    ]
    return {"success": True}


def _use_artifact(state: State, given: Input, url: str) -> Node:
    artifact = _artifact(state, given["artifactID"])
    run = _named_run(state, given)
    if artifact.id not in run.used:
        run.used.append(artifact.id)
    return {"artifact": artifact_node(state, artifact, url)}


def _update_collection(state: State, given: Input, url: str) -> Node:
    id = given.get("artifactSequenceID") or given["artifactPortfolioID"]
    found = _collection(state, id)
    if "name" in given:
        del state.collections[found.entity, found.project, found.name]
        found.name = given["name"]
        state.collections[found.entity, found.project, found.name] = found
    found.description = given.get("description", found.description)
    return {"artifactCollection": collection_node(state, found, url)}


def _delete_collection(state: State, given: Input, url: str) -> Node:
    id = given.get("artifactSequenceID") or given["artifactPortfolioID"]
    found = _collection(state, id)
    del state.collections[found.entity, found.project, found.name]
    node = {**collection_node(state, found, url), "state": "DELETED"}
    return {"artifactCollection": node}


def _tag_collection(state: State, given: Input, url: str) -> Node:
    key = (given["entityName"], given["projectName"], given["artifactCollectionName"])
    found = state.collections[key]
    added = [one["tagName"] for one in given["tags"]]
    found.tags = list(dict.fromkeys([*found.tags, *added]))
    return {"tags": tag_nodes(found.tags), "success": True}


def _untag_collection(state: State, given: Input, url: str) -> Node:
    key = (given["entityName"], given["projectName"], given["artifactCollectionName"])
    gone = {one["tagName"] for one in given["tags"]}
    found = state.collections[key]
    found.tags = [tag for tag in found.tags if tag not in gone]
    return {"success": True}


def _named_run(state: State, given: Input) -> Run:
    entity = given.get("entityName") or state.entity
    key = (entity, given["projectName"], given["runName"])
    if key not in state.runs:
        raise RefusalError(404, f"run {'/'.join(key)} not found")
    return state.runs[key]


def _run(state: State, id: str) -> Run:
    run = state.run_by_storage_id(id)
    if run is None:
        raise RefusalError(404, f"run {id} not found")
    return run


def _artifact(state: State, id: str) -> Artifact:
    if id not in state.artifacts:
        raise RefusalError(404, f"artifact {id} not found")
    return state.artifacts[id]


def _collection(state: State, id: str) -> Collection:
    for found in state.collections.values():
        if found.id == id:
            return found
    raise RefusalError(404, f"artifact collection {id} not found")


def _forget(state: State, id: str) -> None:
    state.artifacts.pop(id, None)
    for collection in state.collections.values():
        collection.members = [m for m in collection.members if m.artifact != id]


_ACTS: dict[str, Callable[[State, Input, str], Node]] = {
    "upsertBucket": _upsert_bucket,
    "deleteRun": _delete_run,
    "updateRunState": _update_run_state,
    "stopRun": _stop_run,
    "deleteFiles": _delete_files,
    "createRunFiles": _create_run_files,
    "markRunFilesUploaded": _done,
    "upsertModel": _upsert_project,
    "deleteModel": _delete_project,
    "upsertSweep": _upsert_sweep,
    "createArtifact": _create_artifact,
    "createArtifactManifest": _create_manifest,
    "updateArtifactManifest": _update_manifest,
    "createArtifactFiles": _create_artifact_files,
    "commitArtifact": _commit_artifact,
    "updateArtifact": _update_artifact,
    "deleteArtifact": _delete_artifact,
    "addAliases": _add_aliases,
    "deleteAliases": _delete_aliases,
    "linkArtifact": _link_artifact,
    "unlinkArtifact": _unlink_artifact,
    "useArtifact": _use_artifact,
    "updateArtifactSequence": _update_collection,
    "updateArtifactPortfolio": _update_collection,
    "deleteArtifactSequence": _delete_collection,
    "deleteArtifactPortfolio": _delete_collection,
    "createArtifactCollectionTagAssignments": _tag_collection,
    "deleteArtifactCollectionTagAssignments": _untag_collection,
}
