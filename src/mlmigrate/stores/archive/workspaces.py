"""Workspaces of an archive: each is an archive of its own, in ``workspaces/NAME``."""

from __future__ import annotations

from mlmigrate import workspaces
from mlmigrate.errors import StoreError, StoreNotFound
from mlmigrate.stores.archive import manifest
from mlmigrate.stores.archive.place import Place

FOLDER = "workspaces"


def folder_of(workspace: str) -> str:
    """Return the folder of a workspace."""
    return f"{FOLDER}/{workspace}"


def names(place: Place, as_of: int | None = None) -> list[str]:
    """Return the workspaces that an archive has beside the default one: those of which
    something was there at a time.

    One that is damaged beyond reading is there: whoever opens it says so.
    """
    found = (name for name in place.folders(FOLDER) if workspaces.is_name(name))
    return [name for name in found if _was_there(place.below(folder_of(name)), as_of)]


def _was_there(place: Place, as_of: int | None) -> bool:
    try:
        segments = manifest.read(place).manifest.segments
    except StoreNotFound:
        # An export may have been stopped before it completed anything.
        return place.size(manifest.CURRENT) is not None or bool(
            place.folders("segments")
        )
    except StoreError:
        return True
    finally:
        place.close()
    return bool(segments) and (as_of is None or segments[0].time <= as_of)
