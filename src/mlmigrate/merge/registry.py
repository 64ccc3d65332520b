"""Registered models of one name become one: the numbers of versions, and aliases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from mlmigrate.marks import PREFIX, beside, carried, carrying
from mlmigrate.merge.tags import kept_tags
from mlmigrate.model import (
    Alias,
    Finding,
    Item,
    ModelVersion,
    Note,
    RegisteredModel,
    Tag,
)


@dataclass(frozen=True, slots=True)
class Renumbered:
    """A version that has another number at the sink than it had at its source."""

    model: str
    old: int
    new: int
    of: int  # which of the models that became one


def merge_models(
    items: Sequence[Item], held: Item | None
) -> tuple[Item | None, list[Renumbered], list[Finding]]:
    """Make one registered model of several of one name, and of what the sink holds.

    A version that the sink holds keeps its number for ever. A new one keeps its own
    where that is free, oldest first; otherwise it follows the highest. An alias that
    stands at the sink is never moved.

    Returns:
        What the sink lacks (None where nothing), which numbers changed, and findings.
    """
    headers = [
        item.header for item in items if isinstance(item.header, RegisteredModel)
    ]
    name = headers[0].name
    findings: list[Finding] = []
    standing = {version.origin: version for version in held.versions} if held else {}
    items = told_apart(items, standing)
    taken = {version.version for version in standing.values()}
    numbers: dict[str, int] = {o: version.version for o, version in standing.items()}
    fresh: dict[str, ModelVersion] = {}
    for item in items:
        for version in item.versions:
            if version.origin not in standing:
                fresh.setdefault(version.origin, version)
    highest = max([*taken, *(version.version for version in fresh.values())], default=0)
    new: list[ModelVersion] = []
    for version in sorted(
        fresh.values(), key=lambda entry: (entry.creation_time or 0, entry.version)
    ):
        number = version.version
        if number in taken:
            highest += 1
            number = highest
        taken.add(number)
        numbers[version.origin] = number
        new.append(replace(version, version=number))
    renumbered = [
        Renumbered(name, version.version, numbers[version.origin], of)
        for of, item in enumerate(items)
        for version in item.versions
        if numbers[version.origin] != version.version
    ]
    completed = _incomplete(items, standing, findings, name)
    aliases = _merge_aliases(items, held, numbers, findings, name)
    tags = {tag.key: tag.value for tag in held.tags} if held else {}
    new_tags: dict[str, Tag] = {}
    for item in items:
        for tag in item.tags:
            if tag.key not in tags and not tag.key.startswith(PREFIX):
                new_tags.setdefault(tag.key, tag)
    kept = {**{key: tag.value for key, tag in new_tags.items()}, **tags}
    for item in items:
        findings += kept_tags(f"model {name}", kept, item.tags)
    nothing = not new and not completed and not aliases and not new_tags
    described = [head.description for head in headers if head.description]
    if held is not None and isinstance(held.header, RegisteredModel):
        described = [text for text in [held.header.description] if text] + described
    if len(set(described)) > 1:
        what = f"its descriptions differ: {described[0][:80]!r} stays"
        findings.append(Note(f"model {name}", what))
    if held is not None and nothing:
        return None, renumbered, findings
    created = [head.creation_time for head in headers if head.creation_time is not None]
    updated = [
        head.last_updated_time for head in headers if head.last_updated_time is not None
    ]
    header = RegisteredModel(
        name,
        description=described[0] if described else None,
        creation_time=min(created, default=None),
        last_updated_time=max(updated, default=None),
    )
    if held is not None and isinstance(held.header, RegisteredModel):
        header = replace(held.header, description=header.description)
    merged = replace(
        items[0],
        header=header,
        tags=(*new_tags.values(), *_carried_by(items, held)),
        versions=tuple(sorted([*completed, *new], key=lambda version: version.version)),
        aliases=tuple(aliases),
        findings=(),
    )
    return merged, renumbered, findings


def _carried_by(items: Sequence[Item], held: Item | None) -> tuple[Tag, ...]:
    """Return the tags that carry what all *items* do, each thing once."""
    entries = []
    for item in items:
        entries += [each for each in carried(item.tags) if each not in entries]
    tags = carrying(entries)
    return tags if held is None else beside(tags)


def told_apart(
    items: Sequence[Item], standing: Mapping[str, ModelVersion]
) -> list[Item]:
    """Return models whose versions have one origin only where they are one version.

    Two stores may have made the same version of the same model in the same millisecond;
    then the run that it came from tells them apart.
    """
    known = dict(standing)
    result = []
    for item in items:
        versions = []
        for version in item.versions:
            own = version
            other = known.get(version.origin)
            if other is not None and _other_run(version, other):
                run = version.run.id if version.run else ""
                tail = blake2b(run.encode(), digest_size=4).hexdigest()
                own = replace(version, origin=f"{version.origin}~{tail}")
            known.setdefault(own.origin, own)
            versions.append(own)
        result.append(replace(item, versions=tuple(versions)))
    return result


def _other_run(one: ModelVersion, other: ModelVersion) -> bool:
    return one.run is not None and other.run is not None and one.run != other.run


def _distinct(items: Sequence[Item]) -> Iterable[ModelVersion]:
    seen: set[str] = set()
    for item in items:
        for version in item.versions:
            if version.origin not in seen:
                seen.add(version.origin)
                yield version


def _incomplete(
    items: Sequence[Item],
    standing: dict[str, ModelVersion],
    findings: list[Finding],
    name: str,
) -> list[ModelVersion]:
    """Return the versions that stand at the sink and lack something: a mark, where a
    copy was interrupted, or tags that the source got since.
    """
    lacking: list[ModelVersion] = []
    for version in _distinct(items):
        own = standing.get(version.origin)
        if own is None:
            continue
        have = {tag.key for tag in own.tags}
        ours = own.mark is not None
        tags = tuple(
            tag
            for tag in version.tags
            if tag.key not in have and not (ours and tag.key.startswith(PREFIX))
        )
        if tags or (not ours and own.source is None):
            lacking.append(replace(version, version=own.version, tags=tags))
        if own.description != version.description or own.stage != version.stage:
            what = f"version {own.version} differs in description or stage: the sink's"
            findings.append(Note(f"model {name}", what + " stays"))
    return lacking


def _merge_aliases(
    items: Sequence[Item],
    held: Item | None,
    numbers: dict[str, int],
    findings: list[Finding],
    name: str,
) -> list[Alias]:
    standing = {alias.name: alias.version for alias in held.aliases} if held else {}
    aliases: dict[str, int] = {}
    for item in items:
        by_number = {version.version: version for version in item.versions}
        for alias in item.aliases:
            version = by_number.get(alias.version)
            if version is None:
                what = f"alias {alias.name} points at version {alias.version}, which"
                findings.append(Note(f"model {name}", what + " is not there"))
                continue
            number = numbers[version.origin]
            stands = standing.get(alias.name, aliases.get(alias.name))
            if stands is None:
                aliases[alias.name] = number
            elif stands != number:
                what = f"alias {alias.name} stays at version {stands}; a source has it"
                findings.append(Note(f"model {name}", f"{what} at {number}"))
    return [Alias(alias, number) for alias, number in aliases.items()]
