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

from mlmigrate.metrics import value_bits
from mlmigrate.model import Item, Run, Tag

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
        for column in (metric.steps, metric.timestamps, value_bits(metric.values)):
            sink.update(np.ascontiguousarray(column, dtype="<i8").data)
    _feed(sink, sorted((_plain(entry) for entry in item.inputs), key=_canonical))
    _feed(sink, sorted([artifact.path, artifact.size] for artifact in item.artifacts))
    _feed(sink, [_plain(version) for version in item.versions])
    _feed(sink, sorted([alias.name, alias.version] for alias in item.aliases))
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
    """Return the last time at which something happened in a run, 0 if unknown."""
    header = item.header
    if not isinstance(header, Run):
        return 0
    times = [header.start_time or 0, header.end_time or 0]
    times += [
        int(metric.timestamps.max()) for metric in item.metrics if len(metric.steps)
    ]
    return max(times)


def _plain(record: Any) -> dict[str, Any]:
    plain = asdict(record)
    plain.pop("mark", None)
    plain["tags"] = sorted([tag["key"], tag["value"]] for tag in plain.get("tags", ()))
    return plain


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _feed(sink: blake2b, value: Any) -> None:
    text = _canonical(value).encode("utf-8", "surrogatepass")
    sink.update(len(text).to_bytes(8, "little"))
    sink.update(text)
