"""Registered models as Neptune's own: a model, and a version of it for each.

Neptune numbers versions itself, and has neither aliases nor times of ours: all of a
model is told in its attribute ``mlmigrate/record`` besides.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from hashlib import md5
from pathlib import Path
from typing import Any

from mlmigrate.contract import Delivery
from mlmigrate.errors import ItemError
from mlmigrate.model import Item, ModelVersion, Note, Ref
from mlmigrate.neptune_runs.attributes import Scalar
from mlmigrate.neptune_runs.mapping import FORMAT, FORMAT_PATH, ORIGIN, RECORD
from mlmigrate.neptune_runs.own import record_of
from mlmigrate.stores.neptune_server import operations
from mlmigrate.stores.neptune_server.client import Client, Entry
from mlmigrate.stores.neptune_server.fetching import fetch
from mlmigrate.stores.neptune_server.texts import put, text_of
from mlmigrate.told.models import model_of, next_record

#: The number that a version has in MLflow.
_NUMBER = "mlflow/version"
_STAGES = ("None", "Staging", "Production", "Archived")


def read_model(client: Client, ref: Ref, uuid: str) -> Item:
    """Return a registered model that mlmigrate wrote.

    Raises:
        ItemError: what it tells cannot be read.
    """
    found = fetch(client, uuid, "model", series_too=False)
    return model_of(record_of(found.container, found.read), ref)


def write_model(
    client: Client, delivery: Delivery, models: dict[str, str]
) -> tuple[str, list[Note]]:
    """Write a registered model, or what its copy lacks; return its name.

    Args:
        client: the server's.
        delivery: the model.
        models: the UUIDs of those that are there, by name; gets a new one.

    Raises:
        ItemError: the server refuses it, or gives it back otherwise.
    """
    name = delivery.item.ref.id if delivery.into is None else delivery.into.id
    uuid = models.get(name) or _made(client, name)
    held = fetch(client, uuid, "model", series_too=False)
    record = next_record(record_of(held.container, held.read) or None, delivery)
    text = json.dumps(record)
    description = record.get("description")
    said = {
        "sys/name": Scalar("string", name),
        FORMAT_PATH: Scalar("int", FORMAT),
        ORIGIN: Scalar("string", name),
    }
    if description:
        said["sys/description"] = Scalar("string", str(description))
    with tempfile.TemporaryDirectory(prefix="mlmigrate-") as folder:
        todo = [*operations.changes(said, held.container.scalars)]
        todo += put(held, RECORD, text, Path(folder))
        refused = client.send(uuid, todo)
    back = fetch(client, uuid, "model", series_too=False)
    if text_of(back, RECORD) != text or back.container.text(ORIGIN) != name:
        why = f": {refused[0]}" if refused else ""
        raise ItemError(f"what model {name} is to tell reads back otherwise{why}")
    models[name] = uuid
    return name, list(
        _show_versions(client, uuid, model_of(record, Ref("registered_model", name)))
    )


def _made(client: Client, name: str) -> str:
    """Make a model, or find the one that was made and tells nothing yet."""
    data = name.encode("utf-8", "surrogatepass")
    key = "M" + md5(data, usedforsecurity=False).hexdigest()[:10].upper()
    for entry in client.entries("model", (ORIGIN,)):
        if entry.text("sys/id").endswith(f"-{key}"):
            return entry.uuid
    return client.create_model(key)


def _show_versions(client: Client, model: str, item: Item) -> Iterator[Note]:
    """Make a version of Neptune's for each that has none yet: for people to see; that
    one cannot be made loses nothing.
    """
    try:
        there = _versions(client, item.ref.id)
        for version in item.versions:
            uuid = there.get(str(version.version)) or there.get("")
            if uuid is None:
                uuid = client.create_version(model)
            there.pop("", None)
            held = fetch(client, uuid, "model_version", series_too=False)
            said = _shown(item.ref.id, version)
            client.send(uuid, [*operations.changes(said, held.container.scalars)])
    except ItemError as error:
        what = f"Neptune shows not all of its versions: {error}"
        yield Note(str(item.ref), what)


def _versions(client: Client, name: str) -> dict[str, str]:
    """Return the UUIDs of a model's versions by their numbers in MLflow; by '' one that
    was made and tells nothing, as its maker was killed.
    """
    found: dict[str, str] = {}
    for entry in client.entries("model_version", (ORIGIN, _NUMBER)):
        if entry.text(ORIGIN) == name:
            found[str(_number(entry))] = entry.uuid
    return found


def _number(entry: Entry) -> Any:
    value = entry.values.get(_NUMBER)
    return int(value) if isinstance(value, float) else value


def _shown(name: str, version: ModelVersion) -> Mapping[str, Scalar]:
    said = {
        ORIGIN: Scalar("string", name),
        _NUMBER: Scalar("int", version.version),
        "sys/name": Scalar("string", f"version {version.version}"),
    }
    if version.stage in _STAGES:
        said["sys/stage"] = Scalar("string", version.stage.lower())
    texts = {
        "sys/description": version.description,
        "mlflow/run_id": version.run.id if version.run else None,
        "mlflow/source": version.source,
        **{f"mlflow/tags/{tag.key}": tag.value for tag in version.tags},
    }
    said |= {path: Scalar("string", text) for path, text in texts.items() if text}
    return said
