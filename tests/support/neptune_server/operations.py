"""What operations do to a container, by the rules of the real server."""

from __future__ import annotations

import base64
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..planted import Lie
from .attributes import Artifact, Atom, Attribute, FileSet, Image, Series, StringSet
from .state import MODEL_VERSION, Container

#: No string may be longer; the client cuts what is.
STRING_LIMIT = 16_384

#: No string in a series may be longer; the client cuts what is.
STRING_POINT_LIMIT = 1_000

_BELOW_SYS = {
    "sys/name": "string",
    "sys/description": "string",
    "sys/hostname": "string",
    "sys/failed": "bool",
    "sys/tags": "stringSet",
    "sys/group_tags": "stringSet",
}


@dataclass(frozen=True, slots=True)
class Forget(Lie):
    """
    A lie: answer as if all was stored, without storing what is below some paths.

    Of each operation on a series, the first points may be kept.
    """

    paths: str = "*"
    keep: int = 0

    def covers(self, path: str) -> bool:
        """Whether what is sent to *path* is forgotten."""
        return fnmatch.fnmatchcase(path, self.paths)


class RefusedError(Exception):
    """An operation that cannot be done, as the client is told."""


def execute(
    container: Container,
    operations: Iterable[Mapping[str, Any]],
    lie: Forget | None = None,
) -> list[dict[str, str]]:
    """Do operations one after the other; return the errors of those not done."""
    errors: list[dict[str, str]] = []
    for operation in operations:
        path = operation["path"]
        (name,) = operation.keys() - {"path"}
        facts = operation[name] or {}
        if lie is not None and lie.covers(path):
            if "entries" not in facts or not lie.keep:
                continue
            facts = {**facts, "entries": facts["entries"][: lie.keep]}
        try:
            complaints = _DEEDS[name](container, path, facts)
        except RefusedError as refusal:
            complaints = [str(refusal)]
        errors += [
            {"attribute": path, "errorDescription": text} for text in complaints or ()
        ]
    return errors


Kind = TypeVar("Kind", bound=Attribute)


def provide(container: Container, path: str, fresh: Kind) -> Kind:
    """
    Return the attribute at a path, which is *fresh* if there was none.

    Raises:
        RefusedError: it is of another type, or something is in its way.
    """
    _permit(container, path, fresh.type)
    found = container.attributes.get(path)
    if found is None:
        obstacle = container.obstacle(path)
        if obstacle is not None:
            raise RefusedError(f"Cannot create '{path}': '{obstacle}' exists.")
        container.put(path, fresh)
        return fresh
    if found.type != fresh.type:
        raise RefusedError(
            f"Attribute '{path}' is of type {found.type}, not {fresh.type}."
        )
    assert isinstance(found, type(fresh))
    return found


def _permit(container: Container, path: str, type: str | None = None) -> None:
    if not path.startswith("sys/"):
        return
    if path == "sys/stage" and container.kind == MODEL_VERSION:
        return
    if path not in _BELOW_SYS:
        raise RefusedError(f"Attribute '{path}' is read-only.")
    if type is not None and _BELOW_SYS[path] != type:
        raise RefusedError(f"Attribute '{path}' is of type {_BELOW_SYS[path]}.")


def _assign_float(container: Container, path: str, facts: Mapping[str, Any]) -> None:
    value = float(facts["value"])
    if not math.isfinite(value):
        raise RefusedError(f"Attribute '{path}' cannot be {value}.")
    provide(container, path, Atom("float", value)).value = value


def _assign_int(container: Container, path: str, facts: Mapping[str, Any]) -> None:
    value = facts["value"]
    if not -(2**31) <= value < 2**31:
        raise RefusedError(f"Attribute '{path}' cannot hold {value}.")
    provide(container, path, Atom("int", value)).value = value


def _assign_bool(container: Container, path: str, facts: Mapping[str, Any]) -> None:
    provide(container, path, Atom("bool", None)).value = facts["value"]


def _assign_string(container: Container, path: str, facts: Mapping[str, Any]) -> None:
    value = facts["value"]
    if len(value) > STRING_LIMIT:
        raise RefusedError(f"Attribute '{path}' would be too long.")
    provide(container, path, Atom("string", None)).value = value


def _assign_datetime(container: Container, path: str, facts: Mapping[str, Any]) -> None:
    time = facts["valueMilliseconds"]
    provide(container, path, Atom("datetime", None)).value = time


def _assign_artifact(container: Container, path: str, facts: Mapping[str, Any]) -> None:
    provide(container, path, Artifact("")).hash = facts["hash"]


def _clear_artifact(container: Container, path: str, facts: Mapping[str, Any]) -> None:
    provide(container, path, Artifact("")).hash = ""


def _log_floats(container: Container, path: str, facts: Mapping[str, Any]) -> list[str]:
    series = provide(container, path, Series("floatSeries"))
    return _log(path, series, facts["entries"], _float_point)


def _log_strings(
    container: Container, path: str, facts: Mapping[str, Any]
) -> list[str]:
    series = provide(container, path, Series("stringSeries"))
    return _log(path, series, facts["entries"], _string_point)


def _log_images(container: Container, path: str, facts: Mapping[str, Any]) -> list[str]:
    series = provide(container, path, Series("imageSeries"))
    return _log(path, series, facts["entries"], _image_point)


def _log(
    path: str,
    series: Series,
    entries: Iterable[Mapping[str, Any]],
    point: Callable[[Any], Any],
) -> list[str]:
    """Append points; those that are refused do not keep the others out."""
    refused = []
    for entry in entries:
        step, timestamp = entry.get("step"), entry["timestampMilliseconds"]
        if step is None:
            step = series.steps[-1] + 1 if series.steps else 0.0
        try:
            if series.steps and step <= series.steps[-1]:
                raise RefusedError(
                    "X-coordinates (step) must be strictly increasing for series"
                    f" attribute: {path}. Invalid point: {step}"
                )
            if series.timestamps and timestamp < series.timestamps[-1]:
                raise RefusedError(
                    "Timestamp must be non-decreasing for series attribute:"
                    f" {path}. Invalid point: {timestamp}"
                )
            series.append(float(step), point(entry["value"]), timestamp)
        except RefusedError as refusal:
            refused.append(str(refusal))
    return refused


def _float_point(value: Any) -> float:
    if not math.isfinite(value):
        raise RefusedError(f"A point cannot be {value}.")
    return float(value)


def _string_point(value: Any) -> str:
    if len(value) > STRING_POINT_LIMIT:
        raise RefusedError("A point would be too long.")
    return str(value)


def _image_point(value: Mapping[str, Any]) -> Image:
    data = base64.b64decode(value["data"] or "")
    return Image(data, value.get("name"), value.get("description"))


def _clear_series(type: str) -> Callable[[Container, str, Mapping[str, Any]], None]:
    def clear(container: Container, path: str, facts: Mapping[str, Any]) -> None:
        series = provide(container, path, Series(type))
        series.steps, series.values, series.timestamps = [], [], []

    return clear


def _config_floats(container: Container, path: str, facts: Mapping[str, Any]) -> None:
    provide(container, path, Series("floatSeries")).config = dict(facts)


def _insert_strings(container: Container, path: str, facts: Mapping[str, Any]) -> None:
    provide(container, path, StringSet()).values |= dict.fromkeys(facts["values"])


def _remove_strings(container: Container, path: str, facts: Mapping[str, Any]) -> None:
    values = provide(container, path, StringSet()).values
    for one in facts["values"]:
        values.pop(one, None)


def _clear_strings(container: Container, path: str, facts: Mapping[str, Any]) -> None:
    provide(container, path, StringSet()).values.clear()


def _delete_files(container: Container, path: str, facts: Mapping[str, Any]) -> None:
    files = provide(container, path, FileSet()).files
    for one in facts["filePaths"]:
        for name in [name for name in files if _within(name, one.rstrip("/"))]:
            del files[name]


def _within(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}/")


def _delete(container: Container, path: str, facts: Mapping[str, Any]) -> None:
    # The client deletes before it uploads a set anew: that there is none is no error.
    _permit(container, path)
    container.remove(path)


_Deed = Callable[[Container, str, Mapping[str, Any]], "list[str] | None"]

_DEEDS: dict[str, _Deed] = {
    "assignFloat": _assign_float,
    "assignInt": _assign_int,
    "assignBool": _assign_bool,
    "assignString": _assign_string,
    "assignDatetime": _assign_datetime,
    "assignArtifact": _assign_artifact,
    "clearArtifact": _clear_artifact,
    "logFloats": _log_floats,
    "logStrings": _log_strings,
    "logImages": _log_images,
    "clearFloatSeries": _clear_series("floatSeries"),
    "clearStringSeries": _clear_series("stringSeries"),
    "clearImageSeries": _clear_series("imageSeries"),
    "configFloatSeries": _config_floats,
    "insertStrings": _insert_strings,
    "removeStrings": _remove_strings,
    "clearStringSet": _clear_strings,
    "deleteFiles": _delete_files,
    "deleteAttribute": _delete,
}
