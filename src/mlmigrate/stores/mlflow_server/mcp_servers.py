"""MCP servers at a server: what it tells of them, and what is made of their rows.

Source of the forms: ``server/mcp_server_api.py``. A name may hold a slash. An endpoint
gets an id of the server's, and is known by what it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mlmigrate import entities
from mlmigrate.model import Row
from mlmigrate.stores.mlflow_server.entity_task import Task
from mlmigrate.stores.mlflow_server.rest import (
    Json,
    Refused,
    Rest,
    creating,
    quoted,
)

PATH = "/api/3.0/mlflow/mcp-servers"
_OWN = ("display_name", "description", "icons")
_ENDPOINT = ("server_version", "server_alias", "url", "transport_type")
#: What a version is made as; what else it can be, it becomes from there.
_FIRST = ("draft", "active")
_CORE = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?(?:\+.*)?")


# -- reading --------------------------------------------------------------------------


def listed(rest: Rest, _: str) -> Iterator[Json]:
    """Yield what a server tells of each."""
    yield from rest.pages(PATH, "mcp_servers", {"max_results": 100})


def rows(rest: Rest, said: Json) -> Iterator[Row]:
    """Yield the rows of one.

    Raises:
        KeyError: the server does not say what every row holds.
        ValueError: a version has a number that MLflow does not take.
    """
    name = said["name"]
    own = {"icons": _own_icons(said), **_texts(said, *_OWN[:2]), **_changes(said)}
    yield entities.row("mcp_servers", own)
    for key, value in (said.get("tags") or {}).items():
        yield entities.row("mcp_server_tags", {"key": key, "value": value})
    path = f"{PATH}/{quoted(name)}/versions"
    for version in rest.pages(path, "mcp_server_versions", {"max_results": 100}):
        number = str(version["version"])
        yield entities.row("mcp_server_versions", _version_row(version, number))
        for key, value in (version.get("tags") or {}).items():
            tag = {"version": number, "key": key, "value": value}
            yield entities.row("mcp_server_version_tags", tag)
    for alias in said.get("aliases") or ():
        yield entities.row("mcp_server_aliases", _texts(alias, "alias", "version"))
    for endpoint in said.get("access_endpoints") or ():
        held = {**_texts(endpoint, "id", *_ENDPOINT), **_changes(endpoint)}
        yield entities.row("mcp_access_endpoints", held)


def _version_row(version: Json, number: str) -> dict[str, Any]:
    tools = [
        {name: held for name, held in tool.items() if held is not None}
        for tool in version.get("tools") or ()
    ]
    return {
        "version": number,
        **order_of(number),
        "server_json": json.dumps(version["server_json"]),
        **_texts(version, "status", "source"),
        "tools": json.dumps(tools),
        "connect_options": json.dumps(version.get("connect_options") or {}),
        **_changes(version),
    }


def _own_icons(said: Json) -> str | None:
    """Return the icons that are not those of a version."""
    icons = said.get("icons")
    if icons is None:
        return None
    own = [
        {name: held for name, held in icon.items() if name != "source"}
        for icon in icons
        if icon.get("source") != "version"
    ]
    return json.dumps(own) if own or not icons else None


def _texts(said: Json, *names: str) -> dict[str, str]:
    return {name: str(said[name]) for name in names if said.get(name) is not None}


def _changes(said: Json) -> dict[str, Any]:
    """Return by whom and when something was made and changed."""
    return {
        **_texts(said, "created_by", "last_updated_by"),
        "created_at": said.get("creation_timestamp"),
        "last_updated_at": said.get("last_updated_timestamp"),
    }


def order_of(version: str) -> dict[str, int | str]:
    """Return the columns by which MLflow sorts versions (``utils/semver_utils.py``).

    Raises:
        ValueError: it is no version.
    """
    match = _CORE.fullmatch(version)
    if match is None:
        raise ValueError(f"{version!r} is no semantic version")
    names = ("version_major", "version_minor", "version_patch")
    parts = match[4].split(".") if match[4] else []
    key = "".join(map(_sortable, parts)) if parts else "2"
    numbers = (int(match[at]) for at in (1, 2, 3))
    return {
        **dict(zip(names, numbers, strict=True)),
        "version_prerelease_sort_key": key,
    }


def _sortable(part: str) -> str:
    """Return an identifier of a prerelease as text that sorts as it does."""
    if part.isdigit():
        return f"0{len(part):03d}{part}"
    return "1" + "".join(f"{ord(letter):03d}" for letter in part) + "000"


# -- writing --------------------------------------------------------------------------


def write(task: Task) -> tuple[Json, list[str]]:
    """Make one, or add to the one that stands; return it, and what is to be noted.

    Raises:
        ItemError: the server refuses.
    """
    own = {
        name: json.loads(value) if name == "icons" else value
        for row in task.rows("mcp_servers")
        for name, value in row.items()
        if name in _OWN
    }
    first = {name: own[name] for name in own if name != "display_name"}
    made = task.made(PATH, "", {"name": task.name, **first})
    place = f"{PATH}/{quoted(task.name)}"
    if own and (task.standing is not None or "display_name" in own):
        task.rest.change("PATCH", place, own)
    notes: list[str] = []
    for row in sorted(task.rows("mcp_server_versions"), key=_age):
        notes += _write_version(task.rest, f"{place}/versions", row)
    for row in task.rows("mcp_server_tags"):
        task.rest.post(f"{place}/tags", _tag(row))
    for row in task.rows("mcp_server_version_tags"):
        task.rest.post(f"{place}/versions/{quoted(row['version'])}/tags", _tag(row))
    for row in task.rows("mcp_server_aliases"):
        body = {"alias": row["alias"], "version": row["version"]}
        task.rest.post(f"{place}/aliases", body)
    for row in task.rows("mcp_access_endpoints"):
        body = {name: row[name] for name in _ENDPOINT if name in row}
        _write_endpoint(task.rest, place, body)
    return made, notes


def _age(row: Mapping[str, Any]) -> int:
    return int(row.get("created_at") or 0)


def _tag(row: Mapping[str, Any]) -> Json:
    return {"key": row["key"], "value": row.get("value") or ""}


def _write_version(rest: Rest, path: str, row: Mapping[str, Any]) -> Iterator[str]:
    """Make a version, or change the one that stands, and tell what cannot be."""
    number, status = str(row["version"]), str(row.get("status") or "draft")
    held = {
        name: json.loads(row[name])
        for name in ("server_json", "tools", "connect_options")
        if name in row
    }

    def find() -> Json | None:
        try:
            return rest.get(f"{path}/{quoted(number)}")
        except Refused as refusal:
            if not refusal.absent:
                raise
            return None

    standing = find()
    if standing is None:
        first = status if status in _FIRST else "active"
        body = {**held, "status": first, "source": row.get("source")}
        standing = creating(lambda: rest.create(path, body), find)
        changes: Json = {}
    else:
        fixed = {"server_json": held["server_json"], "source": row.get("source")}
        for name, value in fixed.items():
            if value != standing.get(name):
                yield f"version {number}: its {name} cannot be changed at a server"
        changes = {name: held[name] for name in held if name != "server_json"}
    for step in _steps(str(standing["status"]), status):
        rest.change("PATCH", f"{path}/{quoted(number)}", {"status": step})
    if changes:
        rest.change("PATCH", f"{path}/{quoted(number)}", changes)


def _steps(now: str, wanted: str) -> list[str]:
    """Return by which states one gets to another (``VALID_STATUS_TRANSITIONS``)."""
    if now == wanted:
        return []
    return [wanted] if "active" in (now, wanted) else ["active", wanted]


def _write_endpoint(rest: Rest, place: str, body: Json) -> None:
    path = f"{place}/endpoints"

    def find() -> Json | None:
        query = {"max_results": 100}
        for each in rest.pages(path, "mcp_access_endpoints", query):
            if {name: each.get(name) for name in body} == body:
                return each
        return None

    creating(lambda: rest.create(path, body), find)
