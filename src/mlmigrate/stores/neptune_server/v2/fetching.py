"""A run as the server has it: its attributes, in one request, and its series."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, BinaryIO

from mlmigrate.neptune_runs.attributes import (
    MILLIONTHS,
    ContainerKind,
    Scalar,
    ScalarType,
)
from mlmigrate.neptune_runs.steps import shown
from mlmigrate.neptune_runs.values import millis
from mlmigrate.stores.neptune_server.gathering import Gathered
from mlmigrate.stores.neptune_server.server import Fetched, Opener, made
from mlmigrate.stores.neptune_server.v2.client import Client
from mlmigrate.stores.neptune_server.v2.filesets import members

_SCALARS: Mapping[str, ScalarType] = {
    "float": "float",
    "int": "int",
    "bool": "bool",
    "string": "string",
    "datetime": "datetime",
    "stringSet": "string_set",
    "experimentState": "string",
}
#: Of these Neptune tells nothing that another attribute does not.
_NOTHING = ("notebookRef",)


def fetch(
    client: Client,
    uuid: str,
    kind: ContainerKind,
    *,
    temporary: str | None = None,
    series_too: bool = True,
) -> Fetched:
    """Read a run, a model or a version: see `Server.fetch`."""
    run = Gathered()
    attributes = client.attributes(uuid)
    for found in attributes:
        path, type = str(found.name), str(found.type)
        if type in _SCALARS:
            value = _value(found, type)
            if value is not None:
                run.scalars[path] = Scalar(_SCALARS[type], value)
        elif type == "file":
            opener = _file(client, uuid, path, temporary)
            run.files[path] = (_size(found, opener), opener)
        elif type == "gitRef":
            if commit := _commit(found):
                run.scalars[path] = Scalar("string", commit)
        elif not series_too:
            continue
        elif type == "floatSeries":
            run.add_points(path, *client.points(uuid, path))
        elif type == "stringSeries":
            run.add_lines(path, *client.texts(uuid, path))
        elif type == "imageSeries":
            run.files.update(_images(client, uuid, path, temporary))
        elif type == "fileSet":
            archive = client.file_set(uuid, path, temporary=temporary)
            run.files.update(members(path, archive))
        elif type == "artifact":
            hash = found.artifactProperties.hash
            listed = json.dumps(client.tracked(hash) if hash else [])
            run.files[f"{path}/files_list.json"] = made(listed)
        elif type not in _NOTHING:
            run.unknown[path] = type
    name = str(run.scalars["sys/id"].value) if "sys/id" in run.scalars else uuid
    paths = [str(found.name) for found in attributes]
    return run.whole(client.place, kind, uuid, name, paths)


def _value(found: Any, type: str) -> Any:
    said = getattr(found, f"{type}Properties", None)
    if said is None:
        return None
    if type == "stringSet":
        return tuple(sorted(said.values or ()))
    value = said.value
    if type == "datetime":
        if isinstance(value, str):
            with suppress(ValueError):
                value = datetime.fromisoformat(value)
        return millis(value) if isinstance(value, datetime) else None
    return float(value) if type == "float" and value is not None else value


def _size(found: Any, opener: Opener) -> int:
    """Return the bytes of a file: not every server tells them with its attribute."""
    said = getattr(getattr(found, "fileProperties", None), "size", None)
    if said is not None:
        return int(said)
    with opener() as data:
        return data.seek(0, 2)


def _commit(found: Any) -> str:
    said = getattr(getattr(found, "gitRefProperties", None), "commit", None)
    return str(getattr(said, "commitId", None) or "")


def _file(client: Client, uuid: str, path: str, temporary: str | None) -> Opener:
    return lambda: client.file(uuid, path, temporary=temporary)


def _images(
    client: Client, uuid: str, path: str, temporary: str | None
) -> Iterator[tuple[str, tuple[int, Opener]]]:
    """Yield the files of a series by their numbers, which is what can be asked for."""
    for index in range(client.images(uuid, path)):
        ending, data = client.image(uuid, path, index, temporary=temporary)
        with data:
            size = data.seek(0, 2)

        def opener(index: int = index) -> BinaryIO:
            return client.image(uuid, path, index, temporary=temporary)[1]

        yield f"{path}/{shown(index * MILLIONTHS)}{ending}", (size, opener)
