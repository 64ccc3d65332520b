"""How an archive goes from one complete state to the next, wherever it is stopped.

A segment's tables are in their place first. Then the spare manifest names the new
state, then ``current.parquet`` is replaced, and last the manifest. Of two manifests
that one counts which names the checksum of ``current.parquet``: so the new state counts
from the one moment in which that file is replaced.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mlmigrate.codec import TABLES
from mlmigrate.errors import StoreError, StoreNotFound
from mlmigrate.stores.archive import lock, manifest, tables, workspaces
from mlmigrate.stores.archive.draft import Draft
from mlmigrate.stores.archive.index import Index, newest
from mlmigrate.stores.archive.local import Local
from mlmigrate.stores.archive.manifest import CURRENT, File, Manifest, Segment
from mlmigrate.stores.archive.place import Place

_OURS = (
    "partial",
    "blobs",
    "segments",
    workspaces.FOLDER,
    lock.NAME,
    manifest.NAME,
    manifest.SPARE,
    CURRENT,
)


def check_free(place: Place) -> None:
    """Make sure that an archive may be made here.

    Raises:
        StoreError: there are files of something else.
    """
    if isinstance(place, Local):
        if place.root.exists() and not place.root.is_dir():
            raise StoreError(f"{place.location} is no folder")
        found = sorted(os.listdir(place.root)) if place.root.is_dir() else []
    else:
        found = [path.split("/")[0] for path, _ in place.files()]
    strange = [name for name in found if name not in _OURS]
    if strange:
        raise StoreError(
            f"{place.location} holds other files ({strange[0]!a}): give a new or an"
            " empty folder for an archive"
        )
    _check_no_segments(place)


def _check_no_segments(place: Place) -> None:
    if next(place.files("segments"), None) is not None:
        raise StoreError(
            f"{place.location} holds segments, but no {manifest.NAME} nor its"
            f" spare, {manifest.SPARE}: bring one of them back from a copy"
        )


def locked(place: Place) -> tuple[lock.Lock, str | None]:
    """Lock an archive, whose folder is made; see `lock.acquire`."""
    if isinstance(place, Local):
        try:
            place.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{place.location} cannot be made: {error}") from error
    try:
        return lock.acquire(place)
    except OSError as error:
        raise StoreError(f"{place.location} cannot be locked: {error}") from error


def begin(place: Place) -> Manifest:
    """Clear away what a stopped export left, and make an archive where there is none.

    The lock is held.
    """
    try:
        found = manifest.read(place)
    except StoreNotFound:
        _check_no_segments(place)
        now = _now()
        empty = Manifest(File(0, ""), created=now, updated=now, tool=_tool())
        return publish(place, empty, Index(newest([])))
    state = found.manifest
    place.delete("partial")
    known = {manifest.folder_of(segment.number) for segment in state.segments}
    leftovers = {"/".join(path.split("/")[:2]) for path, _ in place.files("segments")}
    for folder in leftovers - known:
        # Only the next one can be of ours; anything else is not ours to delete.
        if folder == manifest.folder_of(state.next_number):
            place.delete(folder)
    if found.unfinished or any(name != CURRENT for name, _ in found.damage):
        place.replace(manifest.NAME, manifest.dump(state))
        place.replace(manifest.SPARE, manifest.dump(state))
    return state


def complete(
    place: Place, draft: Draft, before: Manifest, index: Index, export: str
) -> Manifest:
    """Make a draft the last segment of an archive."""
    files = draft.finish()
    now = max(_now(), before.segments[-1].time + 1 if before.segments else 0)
    segment = Segment(
        draft.number,
        now,
        export,
        tuple(dict.fromkeys([*draft.sources, *draft.findings_of])),
        dict(draft.items),
        files,
        tuple(draft.findings_of),
    )
    place.sync()
    state = replace(
        before, segments=(*before.segments, segment), updated=now, tool=_tool()
    )
    return publish(place, state, Index(newest([index.table, *draft.index])))


def publish(place: Place, state: Manifest, index: Index) -> Manifest:
    """Make *state* the live one, with the items that *index* has."""
    handle, name = tempfile.mkstemp(prefix="current-", dir=place.workshop())
    os.close(handle)
    path = Path(name)
    tables.write(path, "items", index.table.select(TABLES["items"].names))
    with path.open("rb") as file:
        current = manifest.sum_of(file)
        os.fsync(file.fileno())
    state = replace(state, current=current, generation=state.generation + 1)
    data = manifest.dump(state)
    place.replace(manifest.SPARE, data)
    place.bring(path, CURRENT)
    place.replace(manifest.NAME, data)
    return state


def clean(place: Place) -> None:
    """Remove the folder of unfinished work. The lock is held."""
    place.delete("partial")


def _now() -> int:
    return time.time_ns() // 1_000_000


def _tool() -> str:
    try:
        return f"mlmigrate {version('mlmigrate')}"
    except PackageNotFoundError:  # run from its sources
        return "mlmigrate"
