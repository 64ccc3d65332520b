"""Tables of runs and models: search, sorting, pages and columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .attributes import Atom, Attribute, Series, told
from .messages import RefusalError, Request
from .nql import SyntaxFault, parse
from .state import Project, State


def search(state: State, project: Project, request: Request) -> dict[str, Any]:
    """Return one page of a project's table."""
    asked = request.json
    try:
        condition = parse((asked.get("query") or {}).get("query") or "")
        found = [
            (id, attributes)
            for id, attributes in _rows(state, project, request)
            if condition(attributes)
        ]
    except (SyntaxFault, re.error) as fault:
        raise RefusalError(400, "BAD_REQUEST", "Syntax error") from fault
    sorting = asked.get("sorting") or {}
    if sorting:
        column = sorting["sortBy"]["name"]
        # Those without a value come last in either order.
        having = [row for row in found if _key(row[1].get(column)) is not None]
        lacking = [row for row in found if _key(row[1].get(column)) is None]
        having.sort(
            key=lambda row: _key(row[1].get(column)) or (),
            reverse=sorting["dir"] == "descending",
        )
        found = having + lacking
    page = asked.get("pagination") or {}
    first = page.get("offset", 0)
    shown = found[first : first + page["limit"]] if "limit" in page else found[first:]
    filters = asked.get("attributeFilters")
    wanted = None if filters is None else {one["path"] for one in filters}
    return {
        "matchingItemCount": len(found),
        "entries": [_entry(project, id, one, wanted) for id, one in shown],
    }


def attribute_names(state: State, project: Project, request: Request) -> dict[str, Any]:
    """Return the attributes of a project's table, with each type that they have."""
    pattern = re.compile(request.get("search"))
    # What the system says of all is known of a table without rows, too.
    known: list[Mapping[str, Attribute]] = [state.seen(project.own)]
    known += [attributes for _, attributes in _rows(state, project, request)]
    found = {
        (path, attribute.type)
        for attributes in known
        for path, attribute in attributes.items()
        if pattern.search(path)
    }
    return {"entries": [{"name": name, "type": type} for name, type in sorted(found)]}


def _rows(
    state: State, project: Project, request: Request
) -> Iterable[tuple[str, Mapping[str, Attribute]]]:
    kinds = request.query.get("type")
    for container in project.containers.values():
        if (kinds is None or container.kind in kinds) and container.listed():
            yield container.id, state.seen(container)


def _entry(
    project: Project,
    id: str,
    attributes: Mapping[str, Attribute],
    wanted: set[str] | None,
) -> dict[str, Any]:
    return {
        "experimentId": id,
        "organizationName": project.workspace,
        "projectName": project.name,
        "attributes": [
            told(path, attribute)
            for path, attribute in attributes.items()
            if wanted is None or path in wanted
        ],
    }


def _key(attribute: Attribute | None) -> tuple[str, Any] | None:
    if isinstance(attribute, Atom):
        value = attribute.value
    elif isinstance(attribute, Series) and attribute.type != "imageSeries":
        value = attribute.values[-1] if attribute.values else None
    else:
        return None
    if value is None:
        return None
    # Numbers of all types are one kind; what cannot be compared is kept apart.
    return ("text", value) if isinstance(value, str) else ("", value)
