"""The tags of a copy: which are new, which someone changed there, which stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlmigrate.contract import Mark
from mlmigrate.digest import tag_hash
from mlmigrate.marks import PREFIX
from mlmigrate.model import Finding, Item, Note, Tag


def written_with(mark: Mark | None) -> set[str]:
    """Return the hashes of what was written with a mark."""
    if mark is None or mark.tags is None:
        return set()
    return {mark.tags[at : at + 8] for at in range(0, len(mark.tags), 8)}


def lacking_tags(
    held: Item, incoming: Item, mark: Mark | None, *, later: bool
) -> list[Tag]:
    """Return the tags that a copy lacks; what was edited or removed there stays so."""
    own = {tag.key: tag.value for tag in held.tags}
    written = written_with(mark)
    new = []
    for tag in incoming.tags:
        if own.get(tag.key) == tag.value or is_written(tag, mark):
            continue
        if tag.key not in own:
            if tag_hash(tag.key, tag.value) in written:
                continue  # it was written once, and someone removed it there
            new.append(tag)
        elif later:
            edited = mark is not None and tag_hash(tag.key, own[tag.key]) not in written
            if not edited or (mark is not None and mark.tags is None):
                new.append(tag)
    return new


def is_written(tag: Tag, mark: Mark | None) -> bool:
    """Tell whether a tag is mlmigrate's own, which a complete copy has already: what
    was carried there is not among the tags that a store reads back.
    """
    return mark is not None and tag.key.startswith(PREFIX)


def kept_tags(
    where: str, kept: Mapping[str, str], others: Iterable[Tag]
) -> list[Finding]:
    """Tell which tags of *others* have another value where they are kept."""
    return [
        Note(where, f"tag {tag.key} differs: {kept[tag.key][:80]!r} stays")
        for tag in others
        if kept.get(tag.key, tag.value) != tag.value and not tag.key.startswith(PREFIX)
    ]
