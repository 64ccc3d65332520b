"""Experiments: what is told of them, and how they are found again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import quote, unquote

from mlmigrate import marks
from mlmigrate.contract import Copy
from mlmigrate.merge import origins_of
from mlmigrate.model import Experiment, Item, Ref
from mlmigrate.told.values import (
    as_lifecycle,
    as_tags,
    as_text,
    as_time,
    carried,
    plain,
)

#: What the id of an experiment begins with that runs tell of.
EXPERIMENT = "mlflow:"


def experiment_id(name: str) -> str:
    """Return the id that an experiment of MLflow's has where there are none."""
    return EXPERIMENT + quote(name, safe="")


def name_of(id: str) -> str:
    """Return the name of the experiment that has an `experiment_id`."""
    return unquote(id.removeprefix(EXPERIMENT))


def experiment_record(item: Item, *, mark: str, source: str) -> dict[str, Any]:
    """Return what is told of an experiment."""
    header = item.header
    assert isinstance(header, Experiment)
    return {
        **asdict(header),
        "origin": item.origin,
        "id": origins_of(item.origin)[0].partition("/")[0],
        "tags": plain(item.tags),
        "carried": carried(item.tags),
        "mark": mark,
        "source": source,
    }


def experiment_of(record: Mapping[str, Any], ref: Ref) -> Item:
    """Return the experiment that a record says."""
    header = Experiment(
        name=str(record["name"]),
        artifact_location=as_text(record.get("artifact_location")),
        lifecycle=as_lifecycle(record.get("lifecycle")),
        creation_time=as_time(record.get("creation_time")),
        last_update_time=as_time(record.get("last_update_time")),
    )
    return Item(
        ref,
        header,
        origin=as_text(record.get("origin")) or f"{ref.id}/{header.name}",
        tags=as_tags(record.get("tags")),
        mark=as_text(record.get("mark")),
    )


def copies(
    records: Mapping[str, Mapping[str, Any]], wanted: Iterable[Ref]
) -> Iterator[tuple[Ref, Copy]]:
    """Find experiments by their origins, else by their names.

    Args:
        records: what runs tell of each experiment, by its id.
        wanted: refs whose ids are origins.
    """
    bearing: dict[str, str] = {}
    for known, record in records.items():
        if known.startswith(EXPERIMENT):
            bearing.setdefault(f"\0{record['name']}", known)
            for origin in origins_of(str(record.get("origin", ""))):
                bearing.setdefault(origin, known)
    for ref in wanted:
        if ref.kind != "experiment":
            continue
        name = ref.id.partition("/")[2]
        id = bearing.get(ref.id) or bearing.get(f"\0{name}")
        if id is not None:
            at = Ref("experiment", id)
            held = experiment_of(records[id], at)
            assert isinstance(held.header, Experiment)
            yield ref, Copy(at, marks.load(held.mark), held.header.lifecycle)


def grown(held: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what runs tell of an experiment once *record*, which is new, is added."""
    merged = {**record, "name": held["name"]}
    for name in ("tags", "carried"):
        before, new = held.get(name), record.get(name)
        merged[name] = {
            **(before if isinstance(before, dict) else {}),
            **(new if isinstance(new, dict) else {}),
        }
    merged["revision"] = int(held.get("revision") or 0) + 1
    return merged
