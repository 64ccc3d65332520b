"""The operations of the 3.x client, done again on what is gathered of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mlmigrate.neptune_runs.attributes import MILLIONTHS, Scalar, ScalarType
from mlmigrate.neptune_runs.steps import shown
from mlmigrate.protobuf import decode
from mlmigrate.stores.neptune_offline.database import Request
from mlmigrate.stores.neptune_offline.gathered import OPERATIONS, PREVIEWS, Gathered
from mlmigrate.stores.neptune_offline.schema import MESSAGES
from mlmigrate.stores.neptune_offline.uploads import Upload, artifact_name

_ADD, _REMOVE = 1, 2
_SCALARS: dict[str, ScalarType] = {
    "float64": "float",
    "int64": "int",
    "bool": "bool",
    "string": "string",
}


@dataclass(frozen=True, slots=True)
class Scope:
    """What counts of a database, and where its files are."""

    requests: Mapping[str, Request]  # the files to upload, by where they go
    folder: Path  # where the client puts what it is given as bytes
    #: In a run that this one was forked from, the last step that counts, in millionths.
    limit: int | None = None
    configs: bool = True  # whether attributes without steps count

    def has(self, path: str) -> bool:
        """Tell whether an attribute without steps counts."""
        return self.limit is None or (self.configs and not path.startswith("sys/"))


@dataclass(frozen=True, slots=True)
class _At:
    """Where a point stands."""

    step: int | None  # in millionths
    time: int  # milliseconds


class Snapshots:
    """Does updates again, also those of the runs that a run was forked from."""

    def __init__(self, gathered: Gathered) -> None:
        self._gathered = gathered

    def apply(self, data: bytes, scope: Scope) -> None:
        """Do an update.

        Raises:
            ValueError: it cannot be read.
        """
        update = decode(data, "UpdateRunSnapshot", MESSAGES)
        if any(key.startswith("#") for key in update):
            self._keep("operations with fields that are not known", update)
        for entry in update.get("assign", ()):
            if scope.has(path := entry.get("key", "")):
                self._assign(path, entry.get("value", {}), scope)
        for entry in update.get("modify_sets", ()):
            if scope.has(path := entry.get("key", "")):
                self._change_set(path, entry.get("value", {}))
        step = step_of(update["step"]) if "step" in update else None
        if scope.limit is not None and (step is None or step > scope.limit):
            return
        at = _At(step, milliseconds(update.get("timestamp")) or 0)
        for entry in update.get("append", ()):
            path, value = entry.get("key", ""), entry.get("value", {})
            if "preview" in update:
                said = {"attribute": path, "step": step, "timestamp": at.time}
                self._gathered.keep(PREVIEWS, {**said, **value, **update["preview"]})
                self._gathered.notes[f"previews of values: kept in {PREVIEWS}"] += 1
            else:
                self._append(path, value, at, scope)

    def _assign(self, path: str, value: Mapping[str, Any], scope: Scope) -> None:
        run = self._gathered
        for kind, said in value.items():
            if kind in _SCALARS:
                run.assign(path, Scalar(_SCALARS[kind], said))
            elif kind == "timestamp":
                run.assign(path, Scalar("datetime", milliseconds(said) or 0))
            elif kind == "string_set":
                words = tuple(sorted(set(said.get("values", ()))))
                run.assign(path, Scalar("string_set", words))
            elif kind == "file_ref":
                run.uploads[path] = _upload(path, said, scope)
            else:
                self._keep(f"values of a kind without a place, {kind}", {path: value})

    def _append(
        self, path: str, value: Mapping[str, Any], at: _At, scope: Scope
    ) -> None:
        run = self._gathered
        for kind, said in value.items():
            if kind in ("float64", "int64"):
                points = run.points(path)
                points.values.append(said)
                step = float("nan") if at.step is None else at.step / MILLIONTHS
                points.steps.append(step)
                points.times.append(at.time / 1000)
            elif kind == "string":
                run.add_line(path, at.step, at.time, said)
            elif kind == "histogram":
                run.add_line(path, at.step, at.time, _histogram(said))
            elif kind == "file_ref":
                inner = f"{path}/{'none' if at.step is None else shown(at.step)}"
                run.uploads[inner] = _upload(inner, said, scope)
            else:
                point = {"step": at.step, "timestamp": at.time, path: value}
                self._keep(f"points of a kind without a place, {kind}", point)

    def _change_set(self, path: str, value: Mapping[str, Any]) -> None:
        changes = value.get("string", {}).get("values", ())
        self._gathered.change_set(
            path,
            {each.get("key", "") for each in changes if each.get("value") == _ADD},
            {each.get("key", "") for each in changes if each.get("value") == _REMOVE},
        )

    def _keep(self, what: str, said: Mapping[str, Any]) -> None:
        self._gathered.wrong[f"{what}: kept in {OPERATIONS}"] += 1
        self._gathered.keep(OPERATIONS, said)


def milliseconds(timestamp: Mapping[str, int] | None) -> int | None:
    """Return a time in milliseconds, cut off as Neptune does: half a microsecond makes
    up for what the client lost when it had seconds as a float.
    """
    if timestamp is None:
        return None
    nanos = timestamp.get("nanos", 0) + 500
    return timestamp.get("seconds", 0) * 1000 + nanos // 1_000_000


def step_of(step: Mapping[str, int]) -> int:
    """Return a step in millionths."""
    return step.get("whole", 0) * MILLIONTHS + step.get("micro", 0)


def _histogram(said: Mapping[str, Any]) -> dict[str, Any]:
    densities = "densities" in said
    held = said.get("densities" if densities else "counts", {})
    return {
        "type": "DENSITY" if densities else "COUNTING",
        "edges": said.get("bin_edges", []),
        "values": held.get("values", []),
    }


def _upload(wanted: str, said: Mapping[str, Any], scope: Scope) -> Upload:
    place = said.get("path", "")
    request = scope.requests.get(place)
    name = artifact_name(wanted, PurePosixPath(place).suffix)
    if request is None:  # it was sent: where it lay is not known any more
        return Upload(name, "", None)
    own = scope.folder if request.temporary else None
    return Upload(name, request.source, own, request.size)
