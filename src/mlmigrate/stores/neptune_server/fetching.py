"""A run as the server has it: its attributes, in one request, and its series."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from io import BytesIO
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from mlmigrate.errors import ItemError
from mlmigrate.model import Artifact, Finding, Problem
from mlmigrate.neptune_runs import series
from mlmigrate.neptune_runs.attributes import (
    MILLIONTHS,
    Container,
    ContainerKind,
    FloatSeries,
    Scalar,
    ScalarType,
)
from mlmigrate.neptune_runs.steps import millionths, shown
from mlmigrate.neptune_runs.values import millis
from mlmigrate.stores.neptune_server.client import Client
from mlmigrate.stores.neptune_server.filesets import members

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
#: Opens the bytes of an artifact.
Opener: TypeAlias = Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A run, and how the files of its attributes are opened, by their names.

    The artifacts of the container are named by their attributes, as they are.
    """

    container: Container
    uuid: str
    files: Mapping[str, Opener] = field(default_factory=dict)
    commit: str = ""

    def read(self, path: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            ItemError: there is none, or it cannot be downloaded.
        """
        if path not in self.files:
            raise ItemError(f"{path} is not there")
        with self.files[path]() as data:
            return data.read()


def fetch(
    client: Client,
    uuid: str,
    kind: ContainerKind,
    *,
    temporary: str | None = None,
    series_too: bool = True,
) -> Fetched:
    """Read a run, a model or a version.

    Args:
        client: the server's.
        uuid: what the server knows it by.
        kind: what it is.
        temporary: a folder for what is downloaded.
        series_too: whether its series are read, too.

    Raises:
        ItemError: it cannot be read.
    """
    scalars: dict[str, Scalar] = {}
    floats: dict[str, FloatSeries] = {}
    files: dict[str, tuple[int, Opener]] = {}
    texts: dict[str, str] = {}  # series as lines
    unknown: dict[str, str] = {}
    odd: dict[str, ItemError] = {}
    commit = ""
    for found in client.attributes(uuid):
        path, type = str(found.name), str(found.type)
        if type in _SCALARS:
            value = _value(found, type)
            if value is not None:
                scalars[path] = Scalar(_SCALARS[type], value)
        elif type == "file":
            opener = _file(client, uuid, path, temporary)
            files[path] = (_size(found, opener), opener)
        elif type == "gitRef":
            commit = _commit(found)
        elif not series_too:
            continue
        elif type == "floatSeries":
            known = _floats(client, uuid, path)
            if isinstance(known, FloatSeries):
                floats[path] = known
            else:
                odd[path], texts[path] = known
        elif type == "stringSeries":
            texts[path] = _lines(client, uuid, path)
        elif type == "imageSeries":
            files.update(_images(client, uuid, path, temporary))
        elif type == "fileSet":
            archive = client.file_set(uuid, path, temporary=temporary)
            files.update(members(path, archive))
        elif type == "artifact":
            hash = found.artifactProperties.hash
            listed = json.dumps(client.tracked(hash) if hash else [])
            files[f"{path}/files_list.json"] = made(listed)
        elif type not in _NOTHING:
            unknown[path] = type
    id = scalars["sys/id"].value if "sys/id" in scalars else uuid
    where = f"{client.place}/{id}"
    findings: list[Finding] = [
        Problem(where, f"{path} is of type {type}, which is not known: left out")
        for path, type in unknown.items()
    ]
    for path, name in _named(texts, {*files, *scalars, *floats}).items():
        files[name] = made(texts[path])
        if path in odd:
            what = f"{path} has {odd[path]}: it is the artifact {name}, and no metric"
            findings.append(Problem(where, what))
    container = Container(
        kind,
        client.place.name,
        str(id),
        scalars,
        floats,
        tuple(Artifact(path, size) for path, (size, _) in files.items()),
        findings=tuple(findings),
    )
    openers = {path: opener for path, (_, opener) in files.items()}
    return Fetched(container, uuid, openers, commit)


def _named(texts: Iterable[str], taken: Set[str]) -> dict[str, str]:
    """Return the name of the file that each series is: none that an attribute has."""
    names = {}
    for path in texts:
        name = path + series.SUFFIX
        while name in taken:
            name = f"{name.removesuffix(series.SUFFIX)}~{series.SUFFIX}"
        names[path] = name
    return names


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


def _floats(
    client: Client, uuid: str, path: str
) -> FloatSeries | tuple[ItemError, str]:
    """Return the points of a series; where its steps are too large for columns, why,
    and its points as lines.
    """
    steps, times, values = client.points(uuid, path)
    try:
        exact = millionths(np.array(steps, dtype=np.float64))
    except ItemError as error:
        return error, _joined(steps, times, values)
    return FloatSeries(
        exact,
        np.array(times, dtype=np.int64),
        np.array(
            [np.nan if value is None else value for value in values], dtype=np.float64
        ),
    )


def _lines(client: Client, uuid: str, path: str) -> str:
    return _joined(*client.texts(uuid, path))


def _joined(steps: list[float], times: list[int], values: list[Any]) -> str:
    points = zip(steps, times, values, strict=True)
    return "".join(
        series.line(round(Fraction(step) * MILLIONTHS), time, value)
        for step, time, value in points
    )


def made(text: str) -> tuple[int, Opener]:
    """Return the size of a text in bytes, and what opens it as a file."""
    data = text.encode()
    return len(data), lambda: BytesIO(data)


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
