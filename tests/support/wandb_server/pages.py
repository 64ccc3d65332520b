"""Lists in pages: GraphQL's connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .graphql import Node

PAGE = 50


def connection(
    items: Sequence[Any], args: dict[str, Any], node: Callable[[Any], Node]
) -> Node:
    """Return the page of *items* that `first`, `after` or `last` ask for."""
    start = int(args.get("after") or 0)
    if args.get("last") is not None:
        start = max(0, len(items) - int(args["last"]))
    size = int(args.get("first") or args.get("last") or PAGE)
    page = items[start : start + size]
    end = start + len(page)
    # Cursors are opaque to clients; here they are the number of what came before.
    edges = [
        {
            "cursor": str(start + i + 1),
            "node": _once(node, item),
            "version": _version(item),
        }
        for i, item in enumerate(page)
    ]
    return {
        "totalCount": len(items),
        "edges": edges,
        "pageInfo": {
            "__typename": "PageInfo",
            "endCursor": str(end) if page else None,
            "hasNextPage": end < len(items),
        },
    }


def _once(node: Callable[[Any], Node], item: Any) -> Callable[[Any], Node]:
    return lambda args: node(item)


def _version(item: Any) -> str | None:
    version = getattr(item, "version", None)
    return None if version is None else f"v{version}"
