"""Registered models with their versions and aliases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from mlmigrate import marks, merge
from mlmigrate.contract import Delivery
from mlmigrate.model import Alias, Item, ModelVersion, Ref, RegisteredModel
from mlmigrate.told.values import (
    as_tags,
    as_text,
    as_time,
    carried,
    plain,
    pruned,
)

_TEXTS = (
    "description",
    "user",
    "source",
    "source_path",
    "storage_location",
    "run_link",
    "status_message",
    "mark",
)


def next_record(held: Mapping[str, Any] | None, delivery: Delivery) -> dict[str, Any]:
    """Return what is to be told of a registered model.

    Args:
        held: what is said of it so far; None for a new one.
        delivery: the model, or what its copy lacks.
    """
    item, revision = delivery.item, 0
    if held is not None and delivery.into is not None:
        item = merge.added(model_of(held, delivery.into), item)
        revision = (as_time(held.get("revision")) or 0) + 1
    header = item.header
    assert isinstance(header, RegisteredModel)
    mark = marks.dump(delivery.mark)
    record = {
        **asdict(header),
        "revision": revision,
        "tags": plain(item.tags),
        "carried": carried(item.tags),
        "aliases": {alias.name: alias.version for alias in item.aliases},
        "versions": [_version_record(version, mark) for version in item.versions],
    }
    return pruned(record)


def _version_record(version: ModelVersion, mark: str) -> dict[str, Any]:
    record = {
        **asdict(version),
        "run": version.run.id if version.run else None,
        "source_run": version.source_run.id if version.source_run else None,
        "tags": plain(version.tags),
        "carried": carried(version.tags),
        "mark": mark,
    }
    return pruned(record)


def model_of(record: Mapping[str, Any], ref: Ref) -> Item:
    """Return the registered model that a record says."""
    versions = record.get("versions")
    aliases = record.get("aliases")
    return Item(
        ref,
        RegisteredModel(
            ref.id,
            as_text(record.get("description")),
            as_time(record.get("creation_time")),
            as_time(record.get("last_updated_time")),
        ),
        origin=ref.id,
        tags=as_tags(record.get("tags")),
        versions=tuple(_versions(versions if isinstance(versions, list) else ())),
        aliases=tuple(_aliases(aliases if isinstance(aliases, dict) else {})),
    )


def _versions(records: Iterable[Any]) -> Iterator[ModelVersion]:
    for record in records:
        if not isinstance(record, dict):
            continue
        number, origin = as_time(record.get("version")), as_text(record.get("origin"))
        if number is None or origin is None:
            continue
        texts: dict[str, Any] = {name: as_text(record.get(name)) for name in _TEXTS}
        yield ModelVersion(
            number,
            origin,
            creation_time=as_time(record.get("creation_time")),
            last_updated_time=as_time(record.get("last_updated_time")),
            stage=as_text(record.get("stage")) or "None",
            status=as_text(record.get("status")) or "READY",
            run=_run(record.get("run")),
            source_run=_run(record.get("source_run")),
            tags=as_tags(record.get("tags")),
            **texts,
        )


def _aliases(numbers: Mapping[str, Any]) -> Iterator[Alias]:
    for name, said in numbers.items():
        if (number := as_time(said)) is not None:
            yield Alias(name, number)


def _run(id: Any) -> Ref | None:
    return Ref("run", id) if isinstance(id, str) and id else None
