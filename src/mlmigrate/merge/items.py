"""What the copy of a run, a logged model or a trace lacks of an incoming version."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from typing import Literal, TypeAlias, TypeVar

from mlmigrate.contract import Mark
from mlmigrate.digest import activity, tag_hash
from mlmigrate.marks import PREFIX, WHOLE, beside, stand_in, state_of
from mlmigrate.merge.entities import with_rows
from mlmigrate.merge.headers import merged_header
from mlmigrate.merge.tags import lacking_tags, written_with
from mlmigrate.metrics import by_series, missing, model_additions, union
from mlmigrate.model import (
    Assessment,
    Finding,
    Item,
    MetricHistory,
    Run,
    Span,
)
from mlmigrate.span_content import says_all

OnConflict: TypeAlias = Literal["fail", "newest", "keep-both"]

#: What makes two records of one kind the same one.
_key, _path, _id, _name = map(attrgetter, ("key", "path", "id", "name"))
_dataset = attrgetter("name", "digest")
_link = attrgetter("model", "role")
_other_end = attrgetter("kind", "id")
_Record = TypeVar("_Record")


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

    new_inputs = _lacking(_dataset, held.inputs, incoming.inputs, later=False)
    new_links = _lacking(_link, held.links, incoming.links, later=later)
    new_artifacts = _lacking(_path, held.artifacts, incoming.artifacts, later=later)
    new_tags = lacking_tags(held, incoming, mark, later=later)
    new_metadata = _lacking(_key, held.metadata, incoming.metadata, later=later)
    new_spans = _new_spans(held, incoming, later=later)
    new_assessments = _new_assessments(held, incoming, mark, later=later)
    new_trace_links = _lacking(
        _other_end, held.trace_links, incoming.trace_links, later=False
    )
    header = merged_header(held.header, incoming.header, mark, later=later)
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


def _lacking(
    key: Callable[[_Record], Hashable],
    held: Iterable[_Record],
    incoming: Iterable[_Record],
    *,
    later: bool,
) -> list[_Record]:
    """Return the records that are new by their *key*, and where the incoming version is
    the later one, those that are others now.
    """
    own = {key(record): record for record in held}
    return [
        record
        for record in incoming
        if (standing := own.get(key(record))) is None or (later and standing != record)
    ]


def _latest(
    key: Callable[[_Record], Hashable], *records: Iterable[_Record]
) -> tuple[_Record, ...]:
    """Return the last record of each *key*, where the first of it stands."""
    return tuple({key(record): record for record in chain(*records)}.values())


def _new_spans(held: Item, incoming: Item, *, later: bool) -> list[Span]:
    """Return the spans that are new, or have gone on since."""
    own = {span.id: span for span in held.spans}
    return [
        span
        for span in incoming.spans
        if (standing := own.get(span.id)) is None
        or (later and span.content and not says_all(standing, span))
    ]


def _new_assessments(
    held: Item, incoming: Item, mark: Mark | None, *, later: bool
) -> list[Assessment]:
    """Return the assessments that are new, or were changed where they came from; what
    was changed or removed at the sink stays so.
    """
    own = {each.id: each for each in held.assessments}
    written = written_with(mark)
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
        params=_latest(_key, held.params, new.params),
        tags=_latest(_key, held.tags, new.tags),
        metrics=tuple(histories.values()),
        inputs=(*held.inputs, *new.inputs),
        links=_latest(_link, held.links, new.links),
        model_metrics=tuple(
            by_series((*held.model_metrics, *new.model_metrics)).values()
        ),
        artifacts=_latest(_path, held.artifacts, new.artifacts),
        versions=tuple(versions.values()),
        aliases=_latest(_name, new.aliases, held.aliases),
        metadata=_latest(_key, held.metadata, new.metadata),
        spans=_latest(_id, held.spans, new.spans),
        assessments=_latest(_id, held.assessments, new.assessments),
        trace_links=(*held.trace_links, *new.trace_links),
        rows=with_rows(held, new.rows),
    )
