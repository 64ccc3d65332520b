"""The root of what can be asked."""

from __future__ import annotations

import json
import re
from typing import Any

from .artifact_nodes import (
    artifact_node,
    collection_node,
    collections_of,
    find_member,
    membership_node,
    type_node,
)
from .filters import in_order, matches
from .graphql import Node
from .pages import connection
from .run_nodes import project_reference, run_node, sweep_node
from .state import Collection, Membership, Project, State, opaque

Args = dict[str, Any]

#: What clients may ask whether this server can do it.
FEATURES = (
    "LARGE_FILENAMES",
    "ARTIFACT_TAGS",
    "CLIENT_IDS",
    "ARTIFACT_REGISTRY_SEARCH",
    "STRUCTURED_CONSOLE_LOGS",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILE_DOWNLOAD_HANDLER",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
    "INCLUDE_ARTIFACT_TYPES_IN_REGISTRY_CREATION",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "ARTIFACT_COLLECTIONS_FILTERING_SORTING",
    "ARTIFACT_V2_DOWNLOAD_HANDLER_SUPPORTS_ARTIFACT_ID",
    "MARK_RUN_FILES_UPLOADED",
    "SWEEPS_QUERY_FILTERING",
    "FILESTREAM_GZIP",
    "ARTIFACT_DIGEST_ALGORITHM",
)


def query_root(state: State, url: str) -> Node:
    """Return the fields of a query."""

    def project(args: Args) -> Node | None:
        found = state.projects.get((_entity(state, args), args.get("name") or ""))
        return project_node(state, found, url) if found else None

    def projects(args: Args) -> Node:
        of_entity = _entity(state, args)
        found = [p for p in state.projects.values() if p.entity == of_entity]
        return connection(found, args, lambda p: project_node(state, p, url))

    def artifact(args: Args) -> Node | None:
        found = state.artifacts.get(args["id"])
        return artifact_node(state, found, url) if found else None

    def collection(args: Args) -> Node | None:
        return next(
            (
                collection_node(state, found, url)
                for found in state.collections.values()
                if found.id == args["id"]
            ),
            None,
        )

    def by_client_id(args: Args) -> Node | None:
        wanted = args["clientID"]
        found = [a for a in state.artifacts.values() if a.client_id == wanted]
        return {"serverID": found[0].id} if found else None

    return {
        "__typename": "Query",
        "viewer": lambda args: user_node(state),
        "users": lambda args: connection(
            [state.user], args, lambda name: user_node(state)
        ),
        "serverInfo": {
            "__typename": "ServerInfo",
            "features": [{"name": name, "isEnabled": True} for name in FEATURES],
        },
        "entity": lambda args: entity_node(state, args["name"], url),
        "organization": lambda args: organization_node(state, url),
        "project": project,
        "model": project,
        "models": projects,
        "projects": projects,
        "artifact": artifact,
        "artifactCollection": collection,
        "clientIDMapping": by_client_id,
    }


def project_node(state: State, project: Project, url: str) -> Node:
    """Return a project as clients ask for it."""
    place = (project.entity, project.name)

    def runs(args: Args) -> Node:
        found = in_order(selected(args), args.get("order"))
        return connection(found, args, lambda run: run_node(state, run, url))

    def selected(args: Args) -> Any:
        filters = json.loads(args.get("filters") or "{}")
        return [run for run in state.runs_of(*place) if matches(run, filters)]

    def run(args: Args) -> Node | None:
        found = state.runs.get((*place, args["name"]))
        return run_node(state, found, url) if found else None

    def sweep(args: Args) -> Node | None:
        found = state.sweeps.get((*place, args["sweepName"]))
        return sweep_node(state, found, url) if found else None

    def sweeps() -> list[Any]:
        return [s for s in state.sweeps.values() if (s.entity, s.project) == place]

    def collection(args: Args) -> Node | None:
        found = state.collections.get((*place, args["name"]))
        return collection_node(state, found, url) if found else None

    def membership(args: Args) -> Node | None:
        found = find_member(state, *place, args["name"])
        return membership_node(state, *found, url) if found else None

    def artifact(args: Args) -> Node | None:
        found = find_member(state, *place, args["name"])
        return (
            artifact_node(state, state.artifacts[found[1].artifact], url)
            if found
            else None
        )

    def types() -> list[str]:
        used = [found.type for found in collections_of(state, project)]
        return list(dict.fromkeys([*project.types, *used]))

    return {
        **project_reference(state, *place),
        "entity": lambda args: entity_node(state, project.entity, url),
        "description": project.description,
        "createdAt": project.created,
        "updatedAt": project.updated,
        "isBenchmark": False,
        "readOnly": False,
        "access": "PRIVATE",
        "views": "{}",
        "user": lambda args: user_node(state),
        "runCount": lambda args: len(selected(args)),
        "runs": runs,
        "run": run,
        "bucket": run,
        "totalSweeps": lambda args: len(sweeps()),
        "sweeps": lambda args: connection(
            sweeps(), args, lambda s: sweep_node(state, s, url)
        ),
        "sweep": sweep,
        "allowAllArtifactTypesInRegistry": not project.types,
        "artifact": artifact,
        "artifactCollection": collection,
        "artifactCollectionMembership": membership,
        "artifactCollections": lambda args: connection(
            collections_of(state, project),
            args,
            lambda found: collection_node(state, found, url),
        ),
        "artifactTypes": lambda args: connection(
            types(), args, lambda name: type_node(state, project, name, url)
        ),
        "artifactType": lambda args: (
            type_node(state, project, args["name"], url)
            if args["name"] in types()
            else None
        ),
    }


def user_node(state: State) -> Node:
    """Return the owner of the API key."""
    return {
        "__typename": "User",
        "id": opaque("User", state.user),
        "name": state.user,
        "username": state.user,
        "email": f"{state.user}@example.com",
        "entity": state.entity,
        "admin": False,
        "flags": "{}",
        "deletedAt": None,
        "apiKeys": {"edges": []},
        "teams": {"edges": [{"node": {"name": state.entity}}]},
    }


def entity_node(state: State, name: str, url: str) -> Node:
    """Return a user's or a team's entity; any name has one."""

    def project(args: Args) -> Node | None:
        found = state.projects.get((name, args["name"]))
        return project_node(state, found, url) if found else None

    return {
        "__typename": "Entity",
        "id": opaque("Entity", name),
        "name": name,
        "isTeam": name != state.user,
        "available": False,
        "xxhashDigestsEnabled": False,
        "organization": lambda args: organization_node(state, url),
        "user": None,
        "project": project,
    }


def organization_node(state: State, url: str) -> Node:
    """Return the one organization, whose entity holds the registries."""

    def registries(filters: str | None = None) -> list[Project]:
        found = [p for p in state.projects.values() if p.entity == state.org_entity]
        wanted = json.loads(filters or "{}")
        return [p for p in found if _named(p.name, wanted)]

    def linked(args: Args) -> list[Collection]:
        wanted = json.loads(
            args.get("filters") or args.get("collectionFilters") or "{}"
        )
        return [
            found
            for project in registries(args.get("projectFilters"))
            for found in collections_of(state, project)
            if _named(found.name, wanted)
        ]

    def members(args: Args) -> list[tuple[Collection, Membership]]:
        return [
            (found, member)
            for found in linked({**args, "filters": args.get("collectionFilters")})
            for member in found.members
        ]

    org_entity = {
        "__typename": "Entity",
        "id": opaque("Entity", state.org_entity),
        "name": state.org_entity,
        "entityType": "organization",
        "projects": lambda args: connection(
            registries(args.get("filters")), args, lambda p: project_node(state, p, url)
        ),
        "artifactCollections": lambda args: connection(
            linked(args), args, lambda c: collection_node(state, c, url)
        ),
        "artifactMemberships": lambda args: connection(
            members(args),
            args,
            lambda pair: membership_node(state, pair[0], pair[1], url),
        ),
    }
    return {
        "__typename": "Organization",
        "id": opaque("Organization", state.organization),
        "name": state.organization,
        "orgEntity": org_entity,
        "coreWeaveOrganizationId": None,
        "featureFlags": [],
        "advancedRegistryFeatures": {"advancedSearch": False},
    }


def _entity(state: State, args: Args) -> str:
    return args.get("entityName") or state.entity


def _named(name: str, filters: Any) -> bool:
    """Tell whether *name* meets the part of *filters* that is about names."""
    if "$and" in filters:
        return all(_named(name, one) for one in filters["$and"])
    if "$or" in filters:
        return any(_named(name, one) for one in filters["$or"])
    wanted = filters.get("name")
    if wanted is None:
        return True
    if not isinstance(wanted, dict):
        return bool(name == wanted)
    if "$regex" in wanted:
        return re.search(wanted["$regex"], name) is not None
    if "$in" in wanted:
        return name in wanted["$in"]
    return True
