"""What can be asked about artifacts, their collections and registries."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

from .graphql import Node
from .pages import connection
from .run_nodes import project_reference, run_node
from .state import Artifact, Collection, Membership, Project, State, opaque

Args = dict[str, Any]


def artifact_node(state: State, artifact: Artifact, url: str) -> Node:
    """Return a version of an artifact as clients ask for it."""

    def collection(args: Args) -> Node:
        key = (artifact.entity, artifact.project, artifact.collection)
        return collection_node(state, state.collections[key], url)

    def creator(args: Args) -> Node | None:
        run = state.runs.get(artifact.run) if artifact.run else None
        return run_node(state, run, url) if run else None

    def memberships(args: Args) -> list[tuple[Collection, Membership]]:
        return [
            (found, member)
            for found in state.collections.values()
            for member in found.members
            if member.artifact == artifact.id
        ]

    users = [run for run in state.runs.values() if artifact.id in run.used]
    return {
        "__typename": "Artifact",
        "id": artifact.id,
        "artifactSequence": collection,
        "versionIndex": artifact.version,
        "artifactType": {"__typename": "ArtifactType", "name": artifact.type},
        "description": artifact.description,
        "metadata": artifact.metadata,
        # No limit of its own is told as a negative number of seconds.
        "ttlDurationSeconds": artifact.ttl_seconds or -1,
        "ttlIsInherited": artifact.ttl_seconds is None,
        "tags": tag_nodes(artifact.tags),
        "historyStep": artifact.history_step,
        "state": artifact.state,
        "size": lambda args: artifact.size,
        "digest": artifact.digest,
        "digestAlgorithm": artifact.digest_algorithm,
        "commitHash": artifact.digest,
        "fileCount": lambda args: len(artifact.entries),
        "createdAt": artifact.created,
        "updatedAt": artifact.updated,
        "aliases": lambda args: [
            {**alias, "artifactCollection": collection_node(state, found, url)}
            for found, member in memberships(args)
            for alias in alias_nodes(member)
        ],
        "currentManifest": manifest_node(artifact, url) if artifact.manifest else None,
        "createdBy": creator,
        "usedBy": lambda args: connection(
            users, args, lambda r: run_node(state, r, url)
        ),
        "artifactMemberships": lambda args: connection(
            memberships(args),
            args,
            lambda pair: membership_node(state, pair[0], pair[1], url),
        ),
        "files": lambda args: _files(artifact, args, url),
        "filesByManifestEntries": lambda args: _files(artifact, args, url),
    }


def manifest_node(artifact: Artifact, url: str, id: str | None = None) -> Node:
    """Return an artifact's manifest, and where to put or get it."""
    address = f"{url}/storage/manifest/{quote(id or artifact.manifest_id)}"
    file = {
        "__typename": "File",
        "id": opaque("File", "manifest", artifact.id),
        "directUrl": address,
        "uploadUrl": address,
        "uploadHeaders": [],
    }
    return {
        "__typename": "ArtifactManifest",
        "id": id or artifact.manifest_id,
        "file": file,
    }


def membership_node(
    state: State, found: Collection, member: Membership, url: str
) -> Node:
    """Return a version's place in a collection."""
    artifact = state.artifacts[member.artifact]
    return {
        "__typename": "ArtifactCollectionMembership",
        "id": member.id,
        "versionIndex": member.version,
        "createdAt": member.created,
        "aliases": alias_nodes(member),
        "artifactCollection": lambda args: collection_node(state, found, url),
        "artifact": lambda args: artifact_node(state, artifact, url),
        "files": lambda args: _files(artifact, args, url),
    }


def collection_node(state: State, found: Collection, url: str) -> Node:
    """Return a sequence or portfolio as clients ask for it."""

    def membership(args: Args) -> Node | None:
        member = found.member(args["aliasName"])
        return membership_node(state, found, member, url) if member else None

    def latest(args: Args) -> Node | None:
        member = found.member("latest")
        return (
            artifact_node(state, state.artifacts[member.artifact], url)
            if member
            else None
        )

    def artifacts(args: Args) -> Node:
        newest_first = [state.artifacts[m.artifact] for m in reversed(found.members)]
        return connection(newest_first, args, lambda a: artifact_node(state, a, url))

    kind = {"__typename": "ArtifactType", "name": found.type}
    tags = [{"node": node} for node in tag_nodes(found.tags)]
    return {
        "__typename": found.kind,
        "id": found.id,
        "name": found.name,
        "state": "READY",
        "description": found.description,
        "createdAt": found.created,
        "updatedAt": found.updated,
        "project": lambda args: project_reference(state, found.entity, found.project),
        "defaultArtifactType": kind,
        "digestAlgorithm": "MANIFEST_MD5",
        "tags": {"edges": tags},
        "latestArtifact": latest,
        "artifactMembership": membership,
        "artifacts": artifacts,
        "aliases": lambda args: connection(
            [alias for m in found.members for alias in alias_nodes(m)],
            args,
            lambda alias: alias,
        ),
    }


def type_node(state: State, project: Project, name: str, url: str) -> Node:
    """Return a type of artifacts within a project."""

    def of_type() -> list[Collection]:
        return [c for c in collections_of(state, project) if c.type == name]

    return {
        "__typename": "ArtifactType",
        "id": opaque("ArtifactType", project.entity, project.name, name),
        "name": name,
        "description": None,
        "createdAt": project.created,
        "artifactCollections": lambda args: connection(
            of_type(), args, lambda c: collection_node(state, c, url)
        ),
        "artifactCollection": lambda args: next(
            (
                collection_node(state, found, url)
                for found in of_type()
                if found.name == args["name"]
            ),
            None,
        ),
    }


def collections_of(state: State, project: Project) -> list[Collection]:
    """Return a project's collections."""
    place = (project.entity, project.name)
    return [c for c in state.collections.values() if (c.entity, c.project) == place]


def find_member(
    state: State, entity: str, project: str, name: str
) -> tuple[Collection, Membership] | None:
    """Find a version by `name:alias`; without alias it is the latest."""
    name, _, alias = name.partition(":")
    found = state.collections.get((entity, project, name))
    member = found.member(alias or "latest") if found else None
    return (found, member) if found and member else None


def alias_nodes(member: Membership) -> list[dict[str, Any]]:
    """Return a version's aliases."""
    return [
        {
            "__typename": "ArtifactAlias",
            "id": opaque("ArtifactAlias", member.id, alias),
            "alias": alias,
        }
        for alias in member.aliases
    ]


def tag_nodes(tags: list[str]) -> list[Node]:
    """Return tags."""
    return [{"__typename": "Tag", "id": opaque("Tag", t), "name": t} for t in tags]


def hex_digest(digest: str) -> str:
    """Return the name under which a content of *digest* (base64) is kept."""
    return base64.b64decode(digest).hex()


def _files(artifact: Artifact, args: Args, url: str) -> Node:
    names = args.get("names") or ()
    entries = [(n, e) for n, e in artifact.entries.items() if not names or n in names]
    return connection(
        entries, args, lambda item: _file_node(artifact, item[0], item[1], url)
    )


def _file_node(artifact: Artifact, name: str, entry: Args, url: str) -> Node:
    address = entry.get("ref") or (
        f"{url}/storage/blob/{hex_digest(entry['digest'])}/{quote(name)}"
    )
    return {
        "__typename": "File",
        "id": opaque("File", artifact.id, name),
        "name": name,
        "displayName": name,
        "url": address,
        "directUrl": address,
        "sizeBytes": entry.get("size") or 0,
        "storagePath": None,
        "mimetype": None,
        "updatedAt": artifact.updated,
        "digest": entry["digest"],
        "md5": entry["digest"],
    }
