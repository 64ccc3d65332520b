"""Fingerprints of items: equal digests mean that nothing differs.

A digest does not depend on the order of params or tags, on where the store lies
(artifact URIs and the experiment's id are left out), nor on ``mlmigrate.*`` tags. It
covers artifacts by path and size; their contents are compared by checksum.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

import numpy as np

from mlmigrate.metrics import series_of, value_bits
from mlmigrate.model import (
    Item,
    LoggedModel,
    MetricHistory,
    Run,
    Tag,
    Trace,
)

#: What a version says only since MLflow 3: the digests of others stay what they were.
_LATER = ("source_model", "logged_model")
_PLACE = ("artifact_uri", "artifact_location", "experiment")


def digest(item: Item) -> str:
    """Return 32 hex characters that stand for everything *item* holds."""
    sink = blake2b(digest_size=16)
    header = {
        name: value for name, value in asdict(item.header).items() if name not in _PLACE
    }
    _feed(sink, [type(item.header).__name__, header])
    _feed(sink, sorted([param.key, param.value] for param in item.params))
    _feed(sink, sorted([tag.key, tag.value] for tag in item.tags))
    for metric in sorted(item.metrics, key=lambda metric: metric.key):
        _feed(sink, [metric.key, len(metric.steps)])
        _feed_columns(sink, metric)
    _feed(sink, sorted((_plain(entry) for entry in item.inputs), key=_canonical))
    _feed(sink, sorted([artifact.path, artifact.size] for artifact in item.artifacts))
    _feed(sink, [_plain(version) for version in item.versions])
    _feed(sink, sorted([alias.name, alias.version] for alias in item.aliases))
    # Marks of copies that were made before there were these hold on: where there are
    # none, nothing is fed.
    if item.links:
        links = sorted([link.role, link.model.id, link.step] for link in item.links)
        _feed(sink, ["links", links])
    for linked in sorted(
        item.model_metrics, key=lambda each: _canonical(series_of(each))
    ):
        _feed(sink, ["model metric", series_of(linked), len(linked.history.steps)])
        _feed_columns(sink, linked.history)
    if isinstance(item.header, Trace):
        _feed(sink, sorted([pair.key, pair.value] for pair in item.metadata))
        for records in (item.spans, item.assessments, item.trace_links):
            plain = sorted(map(asdict, records), key=_by_id)
            _feed(sink, plain)
    if item.rows:
        _feed(sink, sorted([row.table, row.values] for row in item.rows))
    return sink.hexdigest()


def tag_hashes(tags: Iterable[Tag]) -> str:
    """Return 8 hex characters a tag, sorted: enough to tell later whether a tag of a
    copy is still as it was written.
    """
    return "".join(sorted(tag_hash(tag.key, tag.value) for tag in tags))


def tag_hash(key: str, value: str) -> str:
    """Return the 8 hex characters that stand for one tag."""
    text = f"{key}\0{value}".encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=4).hexdigest()


def activity(item: Item) -> int:
    """Return the last time at which something happened in a run, or to a logged model
    or a trace, 0 if unknown.
    """
    match item.header:
        case Run(start_time=start, end_time=end):
            times, histories = [start or 0, end or 0], list(item.metrics)
        case LoggedModel(creation_time=start, last_updated_time=end):
            times = [start or 0, end or 0]
            histories = [metric.history for metric in item.model_metrics]
        case Trace(request_time=start, execution_duration=length):
            times = [(start or 0) + (length or 0)]
            times += [(span.end_time or 0) // 1_000_000 for span in item.spans]
            times += [each.updated or 0 for each in item.assessments]
            histories = []
        case _:
            return 0
    times += [int(each.timestamps.max()) for each in histories if len(each.steps)]
    return max(times)


def _by_id(record: dict[str, Any]) -> tuple[str, str]:
    return record["id"], record.get("kind", "")


def _plain(record: Any) -> dict[str, Any]:
    plain = asdict(record)
    plain.pop("mark", None)
    for name in _LATER:
        if plain.get(name, "") is None:
            del plain[name]
    plain["tags"] = sorted([tag["key"], tag["value"]] for tag in plain.get("tags", ()))
    return plain


def _feed_columns(sink: blake2b, metric: MetricHistory) -> None:
    for column in (metric.steps, metric.timestamps, value_bits(metric.values)):
        sink.update(np.ascontiguousarray(column, dtype="<i8").data)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _feed(sink: blake2b, value: Any) -> None:
    text = _canonical(value).encode("utf-8", "surrogatepass")
    sink.update(len(text).to_bytes(8, "little"))
    sink.update(text)
