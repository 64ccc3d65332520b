"""Source and sink ``archive``: backups in an open format, docs/archive-format.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlmigrate.artifacts import is_local, local_path
from mlmigrate.errors import LocationError, StoreError, StoreNotFound, UnsafePath
from mlmigrate.stores.archive.local import Local
from mlmigrate.stores.archive.place import Place
from mlmigrate.stores.archive.reading import ArchiveSource
from mlmigrate.stores.archive.workspaces import folder_of, names
from mlmigrate.stores.archive.writing import ArchiveSink
from mlmigrate.workspaces import DEFAULT

__all__ = ["ArchiveSink", "ArchiveSource", "open_sink", "open_source", "place_of"]

PREFIX = "archive:"


def place_of(location: str, workspace: str | None = None) -> Place:
    """Return the place that a location names, a path, or ``archive:`` and a URL; or
    that of a workspace in it.

    Raises:
        LocationError: it names none.
        StoreError: it leads out of the archive.
    """
    place = _place_of(location)
    if workspace is None or workspace == DEFAULT:
        return place
    try:
        return place.below(folder_of(workspace))
    except UnsafePath as error:
        raise StoreError(str(error)) from error


def _place_of(location: str) -> Place:
    url = location.removeprefix(PREFIX)
    if not url.strip():
        raise LocationError(f"{location!r} names no folder: give archive:FOLDER")
    if is_local(url):
        return Local(Path(local_path(url)))
    from mlmigrate.stores.archive.remote import Remote

    return Remote(url)


def open_source(location: str, options: Mapping[str, Any]) -> ArchiveSource:
    """Open the archive at *location*, a folder or ``archive:`` and a URL.

    Raises:
        StoreNotFound: there is none.
        StoreError: it is damaged beyond reading, or of a later format.
    """
    place = place_of(location, options.get("workspace"))
    try:
        return ArchiveSource(place, options)
    except StoreNotFound as error:
        if held := names(place):
            raise StoreNotFound(
                f"{error} of the default workspace: give -i workspace=NAME, of"
                f" {', '.join(held)}"
            ) from error
        raise


def open_sink(location: str, options: Mapping[str, Any]) -> ArchiveSink:
    """Open the archive at *location* for writing; it is made when there is something
    to write.
    """
    return ArchiveSink(place_of(location, options.get("workspace")), options)
