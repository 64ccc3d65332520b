"""Many sources into one store: names, versions, and what a copy lacks. Pure functions.

**Identity.** The origin of an item is what it was at its first home: a run's MLflow run
id, an experiment's ``id/name``, a model version's ``model/version@creation time``. The
same origin in two places is one thing.

**Updates only add.** Where one version of a run holds everything of the other, the
fuller wins, whichever was copied first. Single values (status, end time, tags) come
from the version with the later activity; what was edited at the sink stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal, TypeAlias

from mlmigrate.contract import Mark
from mlmigrate.digest import activity, tag_hash
from mlmigrate.marks import PREFIX, WHOLE, beside, carried, carrying, stand_in, state_of
from mlmigrate.metrics import by_series, missing, model_additions, union
from mlmigrate.model import (
    Alias,
    Artifact,
    Assessment,
    Experiment,
    Finding,
    Item,
    LoggedModel,
    MetricHistory,
    ModelVersion,
    Note,
    RegisteredModel,
    Run,
    Span,
    Tag,
    Trace,
)

OnConflict: TypeAlias = Literal["fail", "newest", "keep-both"]


@dataclass(frozen=True, slots=True)
class Additions:
    """What a copy lacks of an incoming version.

    ``item`` is None where it lacks nothing. A ``conflict`` says why neither version
    contains the other; ``item`` then holds what *newest* would add.
    """

    item: Item | None
    conflict: str | None = None
    findings: tuple[Finding, ...] = ()


def additions(
    held: Item, incoming: Item, *, mark: Mark | None, same_source: bool
) -> Additions:
    """Return what the copy *held* lacks of a run, a logged model or a trace.

    Args:
        held: the copy, as the sink reads it back.
        incoming: the same, fitted to the sink.
        mark: the copy's mark, None where it is incomplete or was never ours.
        same_source: the copy was made from where *incoming* was read.
    """
    conflicts: list[str] = []
    later = activity(incoming) > activity(held) or (same_source and mark is not None)
    if mark is None:
        later = activity(incoming) >= activity(held)

    params = {param.key: param.value for param in held.params}
    new_params = [param for param in incoming.params if param.key not in params]
    for param in incoming.params:
        if params.get(param.key, param.value) != param.value:
            conflicts.append(f"param {param.key}")
            if later:
                new_params.append(param)

    histories = {metric.key: metric for metric in held.metrics}
    new_metrics: list[MetricHistory] = []
    for metric in incoming.metrics:
        lacking = missing(histories.get(metric.key), metric)
        if not len(lacking.steps):
            continue
        new_metrics.append(lacking)
        own = histories.get(metric.key)
        if own is not None and len(missing(metric, own).steps):
            conflicts.append(f"metric {metric.key}")

    new_points, differing = model_additions(held.model_metrics, incoming.model_metrics)
    conflicts += [f"metric {key}" for key in differing]

    held_inputs = {_input_key(entry) for entry in held.inputs}
    new_inputs = [
        entry for entry in incoming.inputs if _input_key(entry) not in held_inputs
    ]
    links = {(link.model, link.role): link for link in held.links}
    new_links = [
        link
        for link in incoming.links
        if (own_link := links.get((link.model, link.role))) is None
        or (own_link != link and later)
    ]
    sizes = {artifact.path: artifact.size for artifact in held.artifacts}
    new_artifacts = [
        artifact
        for artifact in incoming.artifacts
        if artifact.path not in sizes
        or (sizes[artifact.path] != artifact.size and later)
    ]
    new_tags = _new_tags(held, incoming, mark, later=later)
    metadata = {pair.key: pair.value for pair in held.metadata}
    new_metadata = [
        pair
        for pair in incoming.metadata
        if pair.key not in metadata or (metadata[pair.key] != pair.value and later)
    ]
    new_spans = _new_spans(held, incoming, later=later)
    new_assessments = _new_assessments(held, incoming, mark, later=later)
    linked = {(each.kind, each.id) for each in held.trace_links}
    new_trace_links = [
        each for each in incoming.trace_links if (each.kind, each.id) not in linked
    ]
    header = _header(held.header, incoming.header, mark, later=later)
    changed = header != held.header
    new = (new_params, new_metrics, new_points, new_inputs, new_links, new_artifacts)
    of_trace = (new_metadata, new_spans, new_assessments, new_trace_links)
    grown = any(new) or any(of_trace) or bool(new_tags)
    if not grown and not changed and mark is not None:
        return Additions(None)
    if mark is not None:
        # A store reads back no tags that carry: the fuller version brings them all.
        kept = [tag for tag in incoming.tags if tag.key.startswith(WHOLE)]
        new_tags += kept if later else beside(kept)
    item = replace(
        incoming,
        header=header,
        params=tuple(new_params),
        tags=tuple(new_tags),
        metrics=tuple(new_metrics),
        inputs=tuple(new_inputs),
        links=tuple(new_links),
        model_metrics=tuple(new_points),
        artifacts=tuple(new_artifacts),
        metadata=tuple(new_metadata),
        spans=tuple(new_spans),
        assessments=tuple(new_assessments),
        trace_links=tuple(new_trace_links),
    )
    conflict = None
    if conflicts:
        shown = ", ".join(conflicts[:5]) + (", …" if len(conflicts) > 5 else "")
        conflict = f"this version and the copy differ both ways: {shown}"
    return Additions(item, conflict)


def _input_key(entry: object) -> tuple[str, str]:
    return (getattr(entry, "name"), getattr(entry, "digest"))  # noqa: B009


def _new_spans(held: Item, incoming: Item, *, later: bool) -> list[Span]:
    """Return the spans that are new, or have gone on since."""
    own = {span.id: span for span in held.spans}
    return [
        span
        for span in incoming.spans
        if (standing := own.get(span.id)) is None
        or (standing != span and later and span.content)
    ]


def _new_assessments(
    held: Item, incoming: Item, mark: Mark | None, *, later: bool
) -> list[Assessment]:
    """Return the assessments that are new, or were changed where they came from; what
    was changed or removed at the sink stays so.
    """
    own = {each.id: each for each in held.assessments}
    written = _written(mark)
    new = []
    for each in incoming.assessments:
        standing = own.get(each.id)
        if standing == each:
            continue
        if standing is None:
            if _hash(each) not in written:
                new.append(each)
        elif later and (
            mark is None or mark.tags is None or _hash(standing) in written
        ):
            new.append(each)
    return new


def _hash(assessment: Assessment) -> str:
    tag = stand_in(assessment)
    return tag_hash(tag.key, tag.value)


def _written(mark: Mark | None) -> set[str]:
    """Return the hashes of what was written with a mark."""
    if mark is None or mark.tags is None:
        return set()
    return {mark.tags[at : at + 8] for at in range(0, len(mark.tags), 8)}


def _new_tags(
    held: Item, incoming: Item, mark: Mark | None, *, later: bool
) -> list[Tag]:
    own = {tag.key: tag.value for tag in held.tags}
    written = _written(mark)
    new = []
    for tag in incoming.tags:
        if own.get(tag.key) == tag.value or _is_written(tag, mark):
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


def _is_written(tag: Tag, mark: Mark | None) -> bool:
    """Tell whether a tag is mlmigrate's own, which a complete copy has already: what
    was carried there is not among the tags that a store reads back.
    """
    return mark is not None and tag.key.startswith(PREFIX)


def _header(
    held: object, incoming: object, mark: Mark | None, *, later: bool
) -> Run | LoggedModel | Trace:
    if isinstance(held, Trace):
        assert isinstance(incoming, Trace)
        return _trace_header(held, incoming, mark, later=later)
    if isinstance(held, LoggedModel):
        assert isinstance(incoming, LoggedModel)
        return _model_header(held, incoming, mark, later=later)
    assert isinstance(held, Run)
    assert isinstance(incoming, Run)
    untouched = mark is None or mark.lifecycle == held.lifecycle
    lifecycle = incoming.lifecycle if later and untouched else held.lifecycle
    if not later:
        return replace(
            held,
            name=held.name or incoming.name,
            start_time=held.start_time or incoming.start_time,
            end_time=held.end_time or incoming.end_time,
            user=held.user or incoming.user,
            parent=held.parent or incoming.parent,
        )
    # What differs from what the mark says was written was edited at the sink.
    status_edited = mark is not None and mark.status != held.status
    end_edited = mark is not None and mark.end_time != held.end_time
    return replace(
        incoming,
        experiment=held.experiment,
        artifact_uri=held.artifact_uri,
        lifecycle=lifecycle,
        deleted_time=incoming.deleted_time if lifecycle == "deleted" else None,
        status=held.status if status_edited else incoming.status,
        end_time=held.end_time if end_edited else incoming.end_time,
        parent=incoming.parent or held.parent,
    )


def _model_header(
    held: LoggedModel, incoming: LoggedModel, mark: Mark | None, *, later: bool
) -> LoggedModel:
    if not later:
        return replace(
            held,
            status_message=held.status_message or incoming.status_message,
            model_type=held.model_type or incoming.model_type,
            source_run=held.source_run or incoming.source_run,
        )
    untouched = mark is None or mark.lifecycle == held.lifecycle
    edited = mark is not None and mark.status != held.status
    return replace(
        incoming,
        experiment=held.experiment,
        artifact_location=held.artifact_location,
        lifecycle=incoming.lifecycle if untouched else held.lifecycle,
        status=held.status if edited else incoming.status,
        source_run=incoming.source_run or held.source_run,
        # What the sink itself gives stays.
        creation_time=incoming.creation_time or held.creation_time,
        last_updated_time=incoming.last_updated_time or held.last_updated_time,
    )


def _trace_header(
    held: Trace, incoming: Trace, mark: Mark | None, *, later: bool
) -> Trace:
    if not later:
        return replace(held, source_run=held.source_run or incoming.source_run)
    edited = mark is not None and mark.status != held.state
    return replace(
        incoming,
        experiment=held.experiment,
        artifact_location=held.artifact_location,
        state=held.state if edited else incoming.state,
        source_run=incoming.source_run or held.source_run,
        # Previews that the sink itself makes of spans stay.
        request_preview=incoming.request_preview or held.request_preview,
        response_preview=incoming.response_preview or held.response_preview,
    )


def combined(versions: Sequence[Item]) -> Item:
    """Return what a sink holds after all *versions* of one item were copied in order,
    as if the sink had held the first alone.
    """
    result = versions[0]
    for version in versions[1:]:
        result = _grown(result, version)
    return result


def _grown(held: Item, incoming: Item) -> Item:
    header = held.header
    status, lifecycle = state_of(header)
    tags = [*held.tags, *map(stand_in, held.assessments)]
    mark = Mark(
        digest="",
        options="",
        status=status,
        end_time=header.end_time if isinstance(header, Run) else None,
        lifecycle=lifecycle,
        tags="".join(tag_hash(tag.key, tag.value) for tag in tags),
    )
    found = additions(held, incoming, mark=mark, same_source=False)
    if found.item is None or found.conflict is not None:
        return held
    return added(held, found.item)


def added(held: Item, new: Item) -> Item:
    """Return what a copy holds once it got what it lacked."""
    histories = {metric.key: metric for metric in held.metrics}
    for metric in new.metrics:
        own = histories.get(metric.key)
        histories[metric.key] = metric if own is None else union(own, metric)
    files: dict[str, Artifact] = {
        file.path: file for file in (*held.artifacts, *new.artifacts)
    }
    versions = {version.version: version for version in held.versions}
    for version in new.versions:
        old = versions.get(version.version)
        tags = (*old.tags, *version.tags) if old else version.tags
        plain = tuple(tag for tag in tags if not tag.key.startswith(PREFIX))
        versions[version.version] = replace(version, tags=plain)
    return replace(
        held,
        header=new.header,
        origin=new.origin,
        params=tuple({p.key: p for p in (*held.params, *new.params)}.values()),
        tags=tuple({t.key: t for t in (*held.tags, *new.tags)}.values()),
        metrics=tuple(histories.values()),
        inputs=(*held.inputs, *new.inputs),
        links=tuple(
            {
                (each.model, each.role): each for each in (*held.links, *new.links)
            }.values()
        ),
        model_metrics=tuple(
            by_series((*held.model_metrics, *new.model_metrics)).values()
        ),
        artifacts=tuple(files.values()),
        versions=tuple(versions.values()),
        aliases=tuple({a.name: a for a in (*new.aliases, *held.aliases)}.values()),
        metadata=tuple({p.key: p for p in (*held.metadata, *new.metadata)}.values()),
        spans=tuple({each.id: each for each in (*held.spans, *new.spans)}.values()),
        assessments=tuple(
            {each.id: each for each in (*held.assessments, *new.assessments)}.values()
        ),
        trace_links=(*held.trace_links, *new.trace_links),
    )


# -- experiments ----------------------------------------------------------------------


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
        tag
        for tag in incoming.tags
        if tag.key not in own and not _is_written(tag, mark)
    ]
    findings = _kept_tags(f"experiment {held.header.name}", own, incoming.tags)
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


def _kept_tags(
    where: str, kept: Mapping[str, str], others: Iterable[Tag]
) -> list[Finding]:
    """Tell which tags of *others* have another value where they are kept."""
    return [
        Note(where, f"tag {tag.key} differs: {kept[tag.key][:80]!r} stays")
        for tag in others
        if kept.get(tag.key, tag.value) != tag.value and not tag.key.startswith(PREFIX)
    ]


# -- the registry ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Renumbered:
    """A version that has another number at the sink than it had at its source."""

    model: str
    old: int
    new: int


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
        Renumbered(name, version.version, numbers[version.origin])
        for version in _distinct(items)
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
        findings += _kept_tags(f"model {name}", kept, item.tags)
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
