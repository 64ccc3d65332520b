"""An item of an archive together with what a delivery adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from mlmigrate import marks, merge
from mlmigrate.artifacts import combined_checksum
from mlmigrate.contract import Delivery
from mlmigrate.model import Artifact, Item, Ref, RegisteredModel

#: Path -> (SHA-256, size) of artifacts that were just stored.
Stored: TypeAlias = "Mapping[str, tuple[str, int]]"


def whole(
    delivery: Delivery,
    ref: Ref,
    held: Item | None,
    held_sums: Mapping[str, str],
    stored: Stored,
) -> tuple[Item, dict[str, str], str | None]:
    """Put an item together as the archive will hold it.

    Args:
        delivery: what arrives.
        ref: what the item is called here.
        held: the item so far, None for a new one.
        held_sums: SHA-256 of those of its artifacts whose bytes are here, by path.
        stored: the artifacts that arrived.

    Returns:
        The item, the SHA-256 of its artifacts by path, and one of them all.
    """
    item = delivery.item
    all_of_it = item if held is None else _grown(held, item)
    artifacts, checksums = _files(held, held_sums, item, stored)
    combined = combined_checksum(checksums) if checksums else None
    mark = marks.dump(replace(delivery.mark, checksums=combined))
    found = item.findings
    if held is not None:
        before = marks.load(held.mark)
        if before is not None and before.source != delivery.source:
            found = tuple(dict.fromkeys([*held.findings, *found]))
    versions = tuple(replace(version, mark=mark) for version in all_of_it.versions)
    if not isinstance(item.header, RegisteredModel):
        versions = all_of_it.versions
    return (
        replace(
            all_of_it,
            ref=ref,
            mark=mark,
            artifacts=artifacts,
            findings=found,
            versions=versions,
        ),
        checksums,
        combined,
    )


def _grown(held: Item, added: Item) -> Item:
    """Return *held* with what *added* holds beyond it, and with the header of that."""
    versions = {version.version: version for version in held.versions}
    for version in added.versions:
        old = versions.get(version.version)
        tags = {tag.key: tag for tag in (*(old.tags if old else ()), *version.tags)}
        # An archive keeps also those tags that carry what did not fit elsewhere.
        versions[version.version] = replace(version, tags=tuple(tags.values()))
    grown = merge.added(held, added)
    return replace(grown, versions=tuple(versions[at] for at in sorted(versions)))


def _files(
    held: Item | None,
    held_sums: Mapping[str, str],
    added: Item,
    stored: Stored,
) -> tuple[tuple[Artifact, ...], dict[str, str]]:
    """Return all artifacts, and the SHA-256 of those whose bytes are here, by path."""
    sums = {**held_sums, **{path: found[0] for path, found in stored.items()}}
    found = {file.path: file for file in held.artifacts} if held else {}
    for file in added.artifacts:
        if file.path in stored:
            found[file.path] = Artifact(file.path, stored[file.path][1])
        elif file.path not in held_sums:
            found[file.path] = file
    return tuple(found.values()), sums
