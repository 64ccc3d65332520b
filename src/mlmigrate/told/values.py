"""Values of JSON, as what they must be or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlmigrate import marks
from mlmigrate.model import Lifecycle, Tag


def as_text(value: Any) -> str | None:
    """Return a text, None for what is none."""
    return value if isinstance(value, str) else None


def as_time(value: Any) -> int | None:
    """Return a whole number, which a server may have made a float."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and abs(value) < 1 << 63 else None


def as_texts(value: Any) -> dict[str, str]:
    """Return the texts of a dict, none for what is no dict."""
    if not isinstance(value, dict):
        return {}
    return {key: text for key, text in value.items() if isinstance(text, str)}


def as_dict(value: Any) -> dict[str, Any]:
    """Return a dict, an empty one for what is none."""
    return value if isinstance(value, dict) else {}


def as_dicts(value: Any) -> dict[str, Mapping[str, Any]]:
    """Return the dicts of a dict, none for what is no dict."""
    return {k: each for k, each in as_dict(value).items() if isinstance(each, dict)}


def as_list(value: Any) -> list[Any]:
    """Return a list, an empty one for what is none."""
    return value if isinstance(value, list) else []


def as_lifecycle(value: Any) -> Lifecycle:
    """Return a lifecycle stage: active, unless it says otherwise."""
    return "deleted" if value == "deleted" else "active"


def as_tags(value: Any) -> tuple[Tag, ...]:
    """Return the tags that a dict of texts is."""
    return tuple(Tag(key, text) for key, text in as_texts(value).items())


def plain(tags: Iterable[Tag]) -> dict[str, str]:
    """Return tags but mlmigrate's own."""
    return {tag.key: tag.value for tag in tags if not tag.key.startswith(marks.PREFIX)}


def carried(tags: Iterable[Tag]) -> dict[str, str]:
    """Return the tags that carry what did not fit."""
    return {tag.key: tag.value for tag in tags if tag.key.startswith(marks.WHOLE)}


def pruned(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return *record* without the empty dicts in it: W&B's client drops them."""
    found = {}
    for key, value in record.items():
        kept = pruned(value) if isinstance(value, dict) else value
        if kept != {}:
            found[key] = kept
    return found
