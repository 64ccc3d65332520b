"""Registered models as Neptune's own: a model, and a version of it for each.

Neptune numbers versions itself, and has neither aliases nor times of ours: all of a
model is told in its attribute ``mlmigrate/record`` besides.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from hashlib import md5
from pathlib import Path
from typing import Any

from mlmigrate.contract import Delivery
from mlmigrate.errors import ItemError, StoreError
from mlmigrate.model import Item, ModelVersion, Note, Ref
from mlmigrate.neptune_runs.attributes import ContainerKind, Scalar
from mlmigrate.neptune_runs.mapping import (
    FORMAT,
    FORMAT_PATH,
    LONGEST_STRING,
    ORIGIN,
    RECORD,
    TAGS,
)
from mlmigrate.neptune_runs.models import model_of_version
from mlmigrate.neptune_runs.names import Names
from mlmigrate.neptune_runs.own import record_of
from mlmigrate.stores.neptune_server import operations
from mlmigrate.stores.neptune_server.proof import prove
from mlmigrate.stores.neptune_server.server import Entry, Fetched, Server
from mlmigrate.stores.neptune_server.texts import put, text_of
from mlmigrate.told.models import model_of, next_record

#: The number that a version has in MLflow.
_NUMBER = "mlflow/version"
#: What the ids of models end with that mlmigrate made: see `_made`.
_OWN_ID = re.compile(r"-M[0-9A-F]{10}$")
_STAGES = ("None", "Staging", "Production", "Archived")


def read_model(server: Server, ref: Ref, uuid: str) -> Item:
    """Return a registered model that mlmigrate wrote.

    Raises:
        ItemError: what it tells cannot be read.
    """
    found = server.fetch(uuid, "model", series_too=False)
    return model_of(record_of(found.container, found.read), ref)


def write_model(
    server: Server, delivery: Delivery, models: dict[str, str], *, settle: float
) -> tuple[str, list[Note]]:
    """Write a registered model, or what its copy lacks; return its name.

    Args:
        server: the project.
        delivery: the model.
        models: the UUIDs of those that are there, by name; gets a new one.
        settle: the seconds in which what was sent may still appear.

    Raises:
        ItemError: the server refuses it, or gives it back otherwise.
    """
    name = delivery.item.ref.id if delivery.into is None else delivery.into.id
    uuid = models.get(name) or _made(server, name)
    held = server.fetch(uuid, "model", series_too=False)
    record = next_record(record_of(held.container, held.read) or None, delivery)
    text = json.dumps(record)
    description = record.get("description")
    shown = {"sys/name": _text(name)}
    if description:
        shown["sys/description"] = _text(str(description))
    refused = server.send(uuid, [*operations.changes(shown, held.container.scalars)])
    item = model_of(record, Ref("registered_model", name))
    notes = list(_show_versions(server, uuid, held.container.id, item))
    # What tells that it is there comes last: it is whole then, also for people.
    said = {FORMAT_PATH: Scalar("int", FORMAT), ORIGIN: Scalar("string", name)}
    with tempfile.TemporaryDirectory(prefix="mlmigrate-") as folder:
        last = put(held, RECORD, text, Path(folder))
        last += operations.changes(said, held.container.scalars)
        refused += server.send(uuid, last)

    def wrong(back: Fetched) -> str:
        there = text_of(back, RECORD) == text and back.container.text(ORIGIN) == name
        return "" if there else f"what model {name} is to tell reads back otherwise"

    prove(
        lambda: server.fetch(uuid, "model", series_too=False),
        wrong,
        settle=settle,
        refused=refused,
    )
    models[name] = uuid
    return name, notes


def _made(server: Server, name: str) -> str:
    """Make a model, or find the one that was made and tells nothing yet."""
    data = name.encode("utf-8", "surrogatepass")
    key = "M" + md5(data, usedforsecurity=False).hexdigest()[:10].upper()
    if found := _with_key(server, key):
        return found
    try:
        return server.create_model(key)
    except ItemError:
        # Where the answer was lost the client asks again, and is told that it is there.
        if found := _with_key(server, key):
            return found
        raise


def _with_key(server: Server, key: str) -> str | None:
    for entry in _listed(server, "model"):
        if entry.name.endswith(f"-{key}"):
            return entry.id
    return None


def _listed(server: Server, kind: ContainerKind) -> list[Entry]:
    try:
        return list(server.entries(kind, (ORIGIN, _NUMBER)))
    except StoreError as error:  # one model fails, and not all that comes
        raise ItemError(str(error)) from error


def _show_versions(server: Server, model: str, id: str, item: Item) -> Iterator[Note]:
    """Make a version of Neptune's for each that has none yet: for people to see; that
    one cannot be made loses nothing.

    Args:
        server: the project.
        model: the UUID of the model.
        id: what it is called at Neptune.
        item: the model.
    """
    try:
        there, spare = _versions(server, item.ref.id, id)
        for version in item.versions:
            uuid = there.get(version.version)
            if uuid is None:
                uuid = spare.pop(0) if spare else server.create_version(model)
            held = server.fetch(uuid, "model_version", series_too=False)
            said = _shown(item.ref.id, version)
            server.send(uuid, [*operations.changes(said, held.container.scalars)])
    except ItemError as error:
        what = f"Neptune shows not all of its versions: {error}"
        yield Note(str(item.ref), what)


def _versions(server: Server, name: str, id: str) -> tuple[dict[int, str], list[str]]:
    """Return the UUIDs of a model's versions by their numbers in MLflow; and of those
    that were made and tell nothing, as the answer was lost, or their maker killed.
    """
    found: dict[int, str] = {}
    spare: list[tuple[int, str]] = []
    for entry in _listed(server, "model_version"):
        of = model_of_version(entry.name)
        number = _number(entry)
        if entry.text(ORIGIN) == name and isinstance(number, int):
            found[number] = entry.id
        elif (
            of is not None and of[0] == id and _is_blank(server, "model_version", entry)
        ):
            spare.append((of[1], entry.id))
    return found, [uuid for _, uuid in sorted(spare)]


def is_begun(server: Server, kind: ContainerKind, entry: Entry) -> bool:
    """Tell whether a model or a version is one that mlmigrate made and told nothing."""
    name = entry.name
    of = model_of_version(name) if kind == "model_version" else (name, 0)
    return (
        of is not None
        and bool(_OWN_ID.search(of[0]))
        and _is_blank(server, kind, entry)
    )


def _is_blank(server: Server, kind: ContainerKind, entry: Entry) -> bool:
    """Tell whether there is nothing but what Neptune itself says."""
    if entry.text(ORIGIN):
        return False
    try:
        found = server.fetch(entry.id, kind, series_too=False)
    except ItemError:
        return False
    return all(path.startswith("sys/") for path in found.paths)


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
    names = Names()
    texts = {
        "sys/description": version.description,
        "mlflow/run_id": version.run.id if version.run else None,
        "mlflow/source": version.source,
        **{f"{TAGS}{names.give(tag.key)}": tag.value for tag in version.tags},
    }
    said |= {path: _text(text) for path, text in texts.items() if text}
    return said


def _text(text: str) -> Scalar:
    return Scalar("string", text[:LONGEST_STRING])
