"""Two readings of one item compared, value by value. Pure functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlmigrate import marks
from mlmigrate.metrics import by_series, missing
from mlmigrate.model import (
    Experiment,
    Item,
    LoggedModel,
    MetricHistory,
    ModelVersion,
    Ref,
    RegisteredModel,
    Run,
    Span,
    Trace,
    named_version,
)
from mlmigrate.span_content import says_all
from mlmigrate.trace_sums import adds_to


@dataclass(frozen=True, slots=True)
class Different:
    """A field of which the sink holds another value; None where it holds none."""

    ref: Ref
    field: str
    source: Any
    sink: Any


@dataclass(frozen=True, slots=True)
class Extra:
    """Something that only the sink holds."""

    kind: str
    count: int = 1


_HEADER_FIELDS = {
    Experiment: ("name", "lifecycle", "creation_time"),
    Run: (
        "name",
        "status",
        "start_time",
        "end_time",
        "user",
        "lifecycle",
        "deleted_time",
        "source_type",
        "source_name",
        "source_version",
        "entry_point",
    ),
    LoggedModel: (
        "name",
        "status",
        "status_message",
        "model_type",
        "source_run",
        "creation_time",
        "last_updated_time",
        "lifecycle",
    ),
    RegisteredModel: ("name", "description", "creation_time"),
    Trace: (
        "state",
        "request_time",
        "execution_duration",
        "client_request_id",
        "request_preview",
        "response_preview",
        "source_run",
    ),
}
#: What a sink may give where the source has nothing.
_GIVEN = (
    *("name", "user", "deleted_time"),
    *("creation_time", "last_updated_time"),
    *("request_preview", "response_preview"),
)
_VERSION_FIELDS = (
    "creation_time",
    "last_updated_time",
    "description",
    "user",
    "stage",
    "status",
    "status_message",
    "run_link",
)


def model_values(items: Sequence[Item]) -> dict[str, list[str]]:
    """Return the description, tags and aliases of one model in several places: field
    -> values. An alias' value is the origin of the version that it names.
    """
    values: dict[str, list[str]] = defaultdict(list)
    for item in items:
        assert isinstance(item.header, RegisteredModel)
        if item.header.description:
            values["description"].append(item.header.description)
        for tag in item.tags:
            if not tag.key.startswith(marks.PREFIX):
                values[f"tag {tag.key}"].append(tag.value)
        origins = {version.version: version.origin for version in item.versions}
        for alias in item.aliases:
            if alias.version in origins:
                values[f"alias {alias.name}"].append(origins[alias.version])
    return values


def one_of(
    ref: Ref, wanted: Mapping[str, list[str]], held: Mapping[str, list[str]]
) -> Iterator[Different]:
    """Where several places differ, the sink holds what one of them has."""
    for field, values in wanted.items():
        own = next(iter(held.get(field, ())), None)
        if own not in values:
            yield Different(ref, field, values[0], own)


def count_different(found: list[Different | Extra]) -> int:
    """Return how many of these are differences."""
    return sum(isinstance(each, Different) for each in found)


def differences(wanted: Item, held: Item) -> Iterator[Different | Extra]:
    """Yield what differs in two items' own values: all but bytes and where they are."""
    ref = wanted.ref
    for name in _HEADER_FIELDS[type(wanted.header)]:
        one, other = getattr(wanted.header, name), getattr(held.header, name)
        if one is None and name in _GIVEN:
            continue  # a sink may name what had no name, and set its own times
        if one != other:
            yield Different(ref, name, _said(one), _said(other))
    yield from _pairs(
        ref,
        "param",
        {param.key: param.value for param in wanted.params},
        {param.key: param.value for param in held.params},
    )
    yield from _pairs(
        ref,
        "tag",
        {
            tag.key: tag.value
            for tag in wanted.tags
            if not tag.key.startswith(marks.PREFIX)
        },
        {tag.key: tag.value for tag in held.tags},
    )
    yield from _metric_differences(ref, wanted, held)
    yield from _model_metric_differences(ref, wanted, held)
    yield from _link_differences(ref, wanted, held)
    inputs = {(entry.name, entry.digest): entry for entry in held.inputs}
    for entry in wanted.inputs:
        own = inputs.pop((entry.name, entry.digest), None)
        if own is None or _input(own) != _input(entry):
            yield Different(
                ref, f"dataset {entry.name}", _input(entry), own and _input(own)
            )
    if inputs:
        yield Extra("dataset", len(inputs))
    if isinstance(wanted.header, Trace):
        yield from _trace_differences(ref, wanted, held)


def _trace_differences(
    ref: Ref, wanted: Item, held: Item
) -> Iterator[Different | Extra]:
    metadata = {pair.key: pair.value for pair in wanted.metadata}
    own_metadata = {pair.key: pair.value for pair in held.metadata}
    for key, value in metadata.items():
        if adds_to(key, own_metadata.get(key), value):
            own_metadata[key] = value
            yield Extra("metadata")
    yield from _pairs(ref, "metadata", metadata, own_metadata)
    for word, ones, others in (
        ("span", wanted.spans, held.spans),
        ("assessment", wanted.assessments, held.assessments),
        ("link", wanted.trace_links, held.trace_links),
    ):
        own = {_key(each): each for each in others}
        for record in ones:
            other = own.pop(_key(record), None)
            if other is None:
                yield Different(ref, f"{word} {record.id}", "there", None)
                continue
            if _span_says_all(other, record):
                continue
            for name in record.__slots__:
                one, two = getattr(record, name), getattr(other, name)
                if one != two and (one is not None or word == "span"):
                    field = f"{word} {record.id} {name}"
                    yield Different(ref, field, _said(one), _said(two))
        if own:
            yield Extra(word, len(own))


def _span_says_all(held: Any, wanted: Any) -> bool:
    return isinstance(wanted, Span) and says_all(held, wanted)


def _key(record: Any) -> tuple[str, str]:
    return record.id, getattr(record, "kind", "")


def _said(value: Any) -> Any:
    return str(value) if isinstance(value, Ref) else value


def _link_differences(
    ref: Ref, wanted: Item, held: Item
) -> Iterator[Different | Extra]:
    own = {(link.role, link.model): link.step for link in held.links}
    for link in wanted.links:
        step = own.pop((link.role, link.model), None)
        if step != link.step:
            yield Different(ref, f"{link.role} {link.model} at step", link.step, step)
    if own:
        yield Extra("model link", len(own))


def _model_metric_differences(
    ref: Ref, wanted: Item, held: Item
) -> Iterator[Different | Extra]:
    own = by_series(held.model_metrics)
    more = 0
    for series, metric in by_series(wanted.model_metrics).items():
        other = own.pop(series, None)
        there = other.history if other is not None else None
        lacking = missing(there, metric.history)
        extra = missing(metric.history, there) if there is not None else None
        if len(lacking.steps):
            key, run, *dataset = series
            on = f" on dataset {dataset[0]} ({dataset[1]})" if dataset[0] else ""
            yield Different(
                ref,
                f"metric {key} of run/{run}{on}",
                _shown(lacking),
                extra and _shown(extra),
            )
        elif extra is not None:
            more += len(extra.steps)
    if own or more:
        more += sum(len(metric.history.steps) for metric in own.values())
        yield Extra("metric point", more)


def _input(entry: Any) -> tuple[Any, ...]:
    tags = tuple(sorted((tag.key, tag.value) for tag in entry.tags))
    return (entry.source_type, entry.source, entry.schema, entry.profile, tags)


def _pairs(
    ref: Ref, word: str, wanted: Mapping[str, str], held: Mapping[str, str]
) -> Iterator[Different | Extra]:
    for key, value in wanted.items():
        if held.get(key) != value:
            yield Different(ref, f"{word} {key}", value, held.get(key))
    extra = len(held.keys() - wanted.keys())
    if extra:
        yield Extra(word, extra)


def _metric_differences(
    ref: Ref, wanted: Item, held: Item
) -> Iterator[Different | Extra]:
    own = {metric.key: metric for metric in held.metrics}
    for metric in wanted.metrics:
        other = own.pop(metric.key, None)
        lacking = missing(other, metric)
        if len(lacking.steps):
            extra = missing(metric, other) if other is not None else None
            yield Different(
                ref, f"metric {metric.key}", _shown(lacking), extra and _shown(extra)
            )
        elif other is not None:
            more = len(missing(metric, other).steps)
            if more:
                yield Extra("metric point", more)
    if own:
        yield Extra("metric", len(own))


def _shown(metric: MetricHistory) -> str | None:
    """Return up to three points as text: (step, timestamp, value)."""
    if not len(metric.steps):
        return None
    rows = zip(
        metric.steps[:3].tolist(),
        metric.timestamps[:3].tolist(),
        metric.values[:3].tolist(),
        strict=True,
    )
    more = len(metric.steps) - 3
    return ", ".join(map(str, rows)) + (f" and {more} more" if more > 0 else "")


def version_differences(
    ref: Ref, wanted: ModelVersion, held: ModelVersion
) -> Iterator[Different]:
    """Yield what differs in a version of the registered model *ref*."""
    for name in _VERSION_FIELDS:
        one, other = getattr(wanted, name), getattr(held, name)
        if one is not None and one != other:
            yield Different(ref, f"version {wanted.version} {name}", one, other)
    if wanted.source and not held.source:
        yield Different(ref, f"version {wanted.version} source", wanted.source, None)
    named, own = named_version(wanted.source), named_version(held.source)
    if named is not None and held.source and named != own:
        field = f"version {wanted.version} source"
        yield Different(ref, field, wanted.source, held.source)
    if wanted.source_path != held.source_path and held.source_path is not None:
        yield Different(
            ref,
            f"version {wanted.version} source",
            wanted.source_path,
            held.source_path,
        )
    for name in ("source_model", "logged_model"):
        one, other = getattr(wanted, name), getattr(held, name)
        if one is not None and one != other:
            field = f"version {wanted.version} {name}"
            yield Different(ref, field, str(one), other and str(other))
    tags = {tag.key: tag.value for tag in held.tags}
    for tag in wanted.tags:
        if tag.key.startswith(marks.PREFIX):
            continue
        if tags.get(tag.key) != tag.value:
            yield Different(
                ref,
                f"version {wanted.version} tag {tag.key}",
                tag.value,
                tags.get(tag.key),
            )
