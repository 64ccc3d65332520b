"""Runs put into a server past its doors, in no time."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..neptune_server.planting import _attribute, _series, floats, strings
from .attributes import Attribute, FileRef, Histogram, Series, StoredFile
from .state import Project, Run, State

__all__ = ["File", "add_run", "files", "floats", "histograms", "strings"]


@dataclass(frozen=True)
class File:
    """A file to put in, as an attribute or as a value of a file series."""

    data: bytes
    mime_type: str = "application/octet-stream"


def add_run(
    state: State,
    project: str,
    run_id: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    fork: tuple[str, float] | None = None,
    created: datetime | None = None,
    **facts: Any,
) -> Run:
    """
    Put in a run; *fork* is the id of its parent and a step.

    *facts* are fields of `Run`, such as `experiment` or `archived`. Plain values become
    atoms, a `set` of strings one of Neptune's; what is an attribute already
    (`floats(…)`, `histograms(…)`, `files(…)`) stays, and a `File` is stored. Attributes
    below `sys` replace what the server says itself. Nothing is inherited by copying.
    """
    with state.lock:
        found = state.project(project)
        assert found is not None, f"{project} is no name, or shall be missing"
        if fork is not None:
            facts |= {"parent": found.runs[fork[0]], "fork_step": float(fork[1])}
        if created is not None:
            facts["created"] = round(created.timestamp() * 1000)
        run = state.create(found, run_id, **facts)
        for path, value in (attributes or {}).items():
            run.put(path, _stored(found, run_id, path, value))
        return run


def histograms(
    values: Iterable[Histogram],
    steps: Iterable[float] | None = None,
    timestamps: Iterable[int] | None = None,
) -> Series:
    """Return a series of histograms; its times are in milliseconds."""
    return _series("histogramSeries", values, steps, timestamps)


def files(
    values: Iterable[File],
    steps: Iterable[float] | None = None,
    timestamps: Iterable[int] | None = None,
) -> Series:
    """Return a series of files; its times are in milliseconds."""
    return _series("fileRefSeries", values, steps, timestamps)


def _stored(project: Project, run_id: str, path: str, value: Any) -> Attribute:
    if isinstance(value, File):
        return _store(project, f"{run_id}/{path}", value)
    if isinstance(value, Series) and value.type == "fileRefSeries":
        for number, (step, one) in enumerate(
            zip(value.steps, value.values, strict=True)
        ):
            place = f"{run_id}/{path}/{step:019.6f}"
            if isinstance(one, File):
                value.values[number] = _store(project, place, one)
        return value
    return value if isinstance(value, FileRef) else _attribute(value)


def _store(project: Project, place: str, file: File) -> FileRef:
    place += mimetypes.guess_extension(file.mime_type) or ""
    project.files[place] = StoredFile(file.data, file.mime_type)
    return FileRef(place, len(file.data), file.mime_type)
