"""Experiments of one name become one, and what the sink's lacks of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from mlmigrate.contract import Mark
from mlmigrate.marks import WHOLE, beside
from mlmigrate.merge.tags import is_written, kept_tags
from mlmigrate.model import Experiment, Finding, Item, Note, Tag


def origins_of(text: str) -> list[str]:
    """Return the origins in an experiment's ``mlmigrate.origin``: a JSON list, because
    several experiments may have become one.
    """
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError):
        return [text]
    if isinstance(loaded, list):
        return [str(origin) for origin in loaded]
    return [text]


def merge_experiments(items: Sequence[Item]) -> Item:
    """Make one experiment of several that will bear one name.

    It is deleted only if all are, was created with the first of them, and where two
    tags differ has that of the experiment updated last.
    """
    headers = [item.header for item in items if isinstance(item.header, Experiment)]
    order = sorted(
        range(len(items)), key=lambda at: (headers[at].last_update_time or 0, -at)
    )
    tags: dict[str, Tag] = {}
    findings: list[Finding] = []
    for at in order:
        for tag in items[at].tags:
            before = tags.get(tag.key)
            if before is not None and before.value != tag.value:
                what = f"tag {tag.key} differs between merged experiments: latest kept"
                findings.append(Note(f"experiment {headers[at].name}", what))
            tags[tag.key] = tag
    created = [head.creation_time for head in headers if head.creation_time is not None]
    updated = [
        head.last_update_time for head in headers if head.last_update_time is not None
    ]
    if len({(head.creation_time, head.last_update_time) for head in headers}) > 1:
        shown = ", ".join(
            f"{item.ref.id} ({head.creation_time}, {head.last_update_time})"
            for item, head in zip(items, headers, strict=True)
        )
        what = f"experiments of one name became one, ids (created, updated): {shown}"
        findings.append(Note(f"experiment {headers[0].name}", what))
    active = any(head.lifecycle == "active" for head in headers)
    # One that was itself merged brings several.
    origins = list(
        dict.fromkeys(each for item in items for each in origins_of(item.origin))
    )
    return replace(
        items[0],
        header=replace(
            headers[0],
            lifecycle="active" if active else "deleted",
            creation_time=min(created, default=None),
            last_update_time=max(updated, default=None),
        ),
        origin=json.dumps(origins),
        tags=tuple(tags.values()),
        findings=tuple(findings),
    )


def experiment_additions(
    held: Item, incoming: Item, mark: Mark | None
) -> tuple[Item | None, list[Finding]]:
    """Return what the sink's experiment lacks (None where nothing), and findings."""
    assert isinstance(held.header, Experiment)
    assert isinstance(incoming.header, Experiment)
    own = {tag.key: tag.value for tag in held.tags}
    tags = [
        tag for tag in incoming.tags if tag.key not in own and not is_written(tag, mark)
    ]
    findings = kept_tags(f"experiment {held.header.name}", own, incoming.tags)
    origins = origins_of(held.origin) if held.mark else []
    merged = list(dict.fromkeys([*origins, *origins_of(incoming.origin)]))
    lifecycle = held.header.lifecycle
    if (
        lifecycle == "deleted"
        and incoming.header.lifecycle == "active"
        and (mark is None or mark.lifecycle == "deleted")
    ):
        lifecycle = "active"
    header = replace(held.header, lifecycle=lifecycle)
    if not tags and merged == origins and header == held.header and mark is not None:
        return None, findings
    if mark is not None:
        tags += beside(tag for tag in incoming.tags if tag.key.startswith(WHOLE))
    added = replace(
        incoming, header=header, tags=tuple(tags), origin=json.dumps(merged)
    )
    return added, findings
