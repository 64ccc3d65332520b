"""The operations of the 1.x client, done again on what is gathered of a run."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from mlmigrate.neptune_runs.attributes import Scalar, ScalarType
from mlmigrate.neptune_runs.steps import shown
from mlmigrate.stores.neptune_offline.filesets import FileSet
from mlmigrate.stores.neptune_offline.gathered import OPERATIONS, Gathered, whole_time
from mlmigrate.stores.neptune_offline.uploads import UPLOADS, Upload, artifact_name

_NAN = float("nan")
_ASSIGNED: dict[str, tuple[ScalarType, tuple[Any, ...]]] = {
    "AssignFloat": ("float", (float, int)),
    "AssignInt": ("int", (int,)),
    "AssignBool": ("bool", (bool,)),
    "AssignString": ("string", (str,)),
    "AssignDatetime": ("datetime", (int, float)),
}
#: What has no place in MLflow, and is kept as it is.
_KEPT = {"ConfigFloatSeries", "TrackFilesToArtifact", "AssignArtifact", "ClearArtifact"}
_CLEARED = {"ClearStringLog": "texts", "ClearImageLog": "images"}
#: Bytes that images begin with.
_IMAGES = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"RIFF", "webp"),
    (b"<svg", "svg"),
    (b"<?xml", "svg"),
)


class Replay:
    """Does operations again."""

    def __init__(self, gathered: Gathered, container: str) -> None:
        """Do them.

        Args:
            gathered: what they change.
            container: the id of the run, as its client has it.
        """
        self._gathered = gathered
        self._container = container

    def apply(self, record: Mapping[str, Any], folder: Path) -> None:
        """Do an operation that stands in the queue of a folder."""
        said = record["obj"]
        try:
            path = "/".join(said["path"])
            if said["type"] == "LogFloats":
                points = self._gathered.points(path)
                values, steps, times = points.values, points.steps, points.times
                try:
                    for point in said["values"]:
                        values.append(point["value"])
                        step = point.get("step")
                        steps.append(_NAN if step is None else step)
                        times.append(point["ts"])
                except (KeyError, TypeError, AttributeError, OverflowError):
                    points.trim()
                    raise
            else:
                self._do(said["type"], path, said, record, folder)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as bad:
            kind = said.get("type")
            what = f"{kind} operations are not as Neptune writes them ({_cause(bad)})"
            self._gathered.wrong[f"{what}: kept in {OPERATIONS}"] += 1
            self._gathered.keep(OPERATIONS, record)

    def _do(
        self,
        kind: str,
        path: str,
        said: Mapping[str, Any],
        record: Mapping[str, Any],
        folder: Path,
    ) -> None:
        run = self._gathered
        match kind:
            case "LogStrings":
                for value, step, time in _points(said):
                    run.add_line(path, run.step_of("texts", path, step), time, value)
            case "LogImages":
                self._add_images(path, said, record)
            case "UploadFile":
                self._upload(path, said, folder)
            case "UploadFileContent":
                data = _decoded(said["file_content"])
                run.clear("file", path)
                run.uploads.pop(path, None)
                wanted = artifact_name(path, str(said.get("ext") or ""))
                run.add_file("file", path, wanted, data)
            case "UploadFileSet":
                # The client writes whether as a text.
                reset = str(said.get("reset")) != "False"
                patterns = [str(each) for each in said["file_globs"]]
                run.filesets.setdefault(path, FileSet()).upload(patterns, reset=reset)
            case "DeleteFiles":
                names = [str(each) for each in said["file_paths"]]
                run.filesets.setdefault(path, FileSet()).delete(names)
            case "DeleteAttribute":
                run.delete(path)
            case "AddStrings":
                run.change_set(path, _words(said), set())
            case "RemoveStrings":
                run.change_set(path, set(), _words(said))
            case "ClearStringSet":
                run.assign(path, Scalar("string_set", ()))
            case "ClearFloatLog":
                run.floats.pop(path, None)
            case "ClearStringLog" | "ClearImageLog":
                run.clear(_CLEARED[kind], path)
            case "CopyAttribute":
                self._copy(path, said, record)
            case _ if kind in _ASSIGNED:
                self._assign(kind, path, said["value"])
            case _:
                if kind in _KEPT:
                    what = f"{kind} operations have no place in MLflow"
                    run.notes[f"{what}: kept in {OPERATIONS}"] += 1
                else:
                    what = f"operations of a kind that is not known, {kind!r}"
                    run.wrong[f"{what}: kept in {OPERATIONS}"] += 1
                run.keep(OPERATIONS, record)

    def _assign(self, kind: str, path: str, value: Any) -> None:
        type, allowed = _ASSIGNED[kind]
        boolean = isinstance(value, bool)
        if boolean != (type == "bool") or not isinstance(value, allowed):
            raise TypeError(f"a {type} is a {value.__class__.__name__}")
        if type == "float":
            made = Scalar(type, float(value))
        elif type == "datetime":
            made = Scalar(type, int(value))
        else:
            made = Scalar(type, value)
        self._gathered.assign(path, made)

    def _copy(
        self, path: str, said: Mapping[str, Any], record: Mapping[str, Any]
    ) -> None:
        """Copy a value of this run; those of others are at the server only."""
        source = self._gathered.scalars.get("/".join(said["source_path"]))
        if said["container_id"] == self._container and source is not None:
            self._gathered.assign(path, source)
            return
        what = "attributes are copies of others, whose values only the server has"
        self._gathered.wrong[f"{what}: kept in {OPERATIONS}"] += 1
        self._gathered.keep(OPERATIONS, record)

    def _upload(self, path: str, said: Mapping[str, Any], folder: Path) -> None:
        place = said.get("file_path") or said.get("tmp_file_name")
        if not isinstance(place, str):
            raise TypeError("it names no file")
        self._gathered.clear("file", path)
        wanted = artifact_name(path, str(said.get("ext") or ""))
        # What older clients put there themselves they name by its whole path.
        own = f"/{UPLOADS}/" in place.replace("\\", "/") or not said.get("file_path")
        upload = Upload(wanted, place, folder / UPLOADS if own else None)
        self._gathered.uploads[path] = upload

    def _add_images(
        self, path: str, said: Mapping[str, Any], record: Mapping[str, Any]
    ) -> None:
        told = False
        for value, step, _ in _points(said):
            image = {"data": value} if isinstance(value, str) else value or {}
            at = self._gathered.step_of("images", path, step)
            if image.get("data") is not None:
                data = _decoded(image["data"])
                wanted = f"{path}/{shown(at)}.{_ending(data)}"
                self._gathered.add_file("images", path, wanted, data)
            told |= bool(image.get("name") or image.get("description"))
        if told:
            self._gathered.keep(OPERATIONS, _without_data(record))


def _points(said: Mapping[str, Any]) -> Iterator[tuple[Any, float | None, int]]:
    for point in said["values"]:
        yield point["value"], point.get("step"), whole_time(point["ts"])


def _words(said: Mapping[str, Any]) -> set[str]:
    if any(not isinstance(each, str) for each in said["values"]):
        raise TypeError("a string is none")
    return set(said["values"])


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"its content is damaged: {error}") from error


def _ending(data: bytes) -> str:
    for begin, ending in _IMAGES:
        if data.startswith(begin):
            return ending
    return "bin"


def _without_data(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return an operation with images as what is told of them."""
    values = [
        {**point, "value": {**point["value"], "data": None}}
        if isinstance(point["value"], dict)
        else {**point, "value": None}
        for point in record["obj"]["values"]
    ]
    return {**record, "obj": {**cast(dict[str, Any], record["obj"]), "values": values}}


def _cause(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
