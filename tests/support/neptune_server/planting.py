"""Runs, models and versions put into a server past its doors, in no time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from .attributes import Artifact, Atom, Attribute, Series, StringSet
from .state import (
    MODEL,
    MODEL_VERSION,
    RUN,
    ArtifactFiles,
    Container,
    Project,
    State,
    create,
)


def add_run(
    state: State,
    project: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    custom_id: str | None = None,
    **facts: Any,
) -> Container:
    """
    Put in a run that is over; *facts* are fields of `Container`.

    Plain values become atoms, a `set` of strings becomes one of Neptune's, and what
    is an attribute already (`floats(…)`, `File(b"…", "png")`, `FileSet({…})`) stays.
    Attributes below `sys` replace what the server says itself.
    """
    with state.lock:
        found = _project(state, project)
        sys_id = facts.pop("sys_id", None) or found.next_id(found.key)
        made = {path: _attribute(value) for path, value in (attributes or {}).items()}
        return create(state, found, RUN, sys_id, made, custom_id=custom_id, **facts)


def add_model(
    state: State,
    project: str,
    key: str,
    attributes: Mapping[str, Any] | None = None,
    **facts: Any,
) -> Container:
    """Put in a model, whose `sys/id` ends with *key*."""
    with state.lock:
        found = _project(state, project)
        made = {path: _attribute(value) for path, value in (attributes or {}).items()}
        return create(state, found, MODEL, f"{found.key}-{key}", made, **facts)


def add_model_version(
    state: State,
    model: Container,
    attributes: Mapping[str, Any] | None = None,
    **facts: Any,
) -> Container:
    """Put in a version of a model."""
    with state.lock:
        made = {path: _attribute(value) for path, value in (attributes or {}).items()}
        sys_id = model.project.next_id(model.sys_id)
        facts["model_id"] = model.sys_id
        return create(state, model.project, MODEL_VERSION, sys_id, made, **facts)


def add_artifact(
    state: State, project: str, files: Iterable[Mapping[str, Any]]
) -> Artifact:
    """
    Let a project know a version of an artifact, and return it as an attribute.

    A file has `filePath`, `fileHash`, `type`, `size` and `metadata` (a list of `key`
    and `value`), as in the API.
    """
    listed = [{"type": "Local", "metadata": [], **file} for file in files]
    coded = json.dumps(listed, sort_keys=True).encode()
    hash = hashlib.sha256(coded).hexdigest()
    size = sum(file.get("size") or 0 for file in listed)
    with state.lock:
        _project(state, project).artifacts[hash] = ArtifactFiles(size, listed, True)
    return Artifact(hash)


def floats(
    values: Iterable[float],
    steps: Iterable[float] | None = None,
    timestamps: Iterable[int] | None = None,
) -> Series:
    """Return a series of numbers; its times are in milliseconds."""
    return _series("floatSeries", values, steps, timestamps)


def strings(
    values: Iterable[str],
    steps: Iterable[float] | None = None,
    timestamps: Iterable[int] | None = None,
) -> Series:
    """Return a series of strings; its times are in milliseconds."""
    return _series("stringSeries", values, steps, timestamps)


def images(
    values: Iterable[Any],
    steps: Iterable[float] | None = None,
    timestamps: Iterable[int] | None = None,
) -> Series:
    """Return a series of `Image`s; its times are in milliseconds."""
    return _series("imageSeries", values, steps, timestamps)


def _series(
    type: str,
    values: Iterable[Any],
    steps: Iterable[float] | None,
    timestamps: Iterable[int] | None,
) -> Series:
    given = [*values]
    count = len(given)
    at = [float(s) for s in (range(count) if steps is None else steps)]
    times = [*(range(0, 1000 * count, 1000) if timestamps is None else timestamps)]
    assert count == len(at) == len(times)
    return Series(type, at, given, times)


def _project(state: State, name: str) -> Project:
    found = state.project(name)
    assert found is not None, f"{name} is no name, or shall be missing"
    return found


def _attribute(value: Any) -> Attribute:
    if isinstance(value, bool):
        return Atom("bool", value)
    if isinstance(value, int):
        return Atom("int", value)
    if isinstance(value, float):
        return Atom("float", value)
    if isinstance(value, str):
        return Atom("string", value)
    if isinstance(value, datetime):
        return Atom("datetime", round(value.timestamp() * 1000))
    if isinstance(value, set | frozenset):
        return StringSet(dict.fromkeys(sorted(value)))
    found: Attribute = value
    return found
