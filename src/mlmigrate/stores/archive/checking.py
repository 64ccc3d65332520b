"""Is everything in an archive what was written? Needs nothing but the archive."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

from mlmigrate.codec import COUNTED
from mlmigrate.errors import ItemError, StoreNotFound
from mlmigrate.model import KINDS, Failed, Ref
from mlmigrate.stores.archive import lock, manifest, workspaces
from mlmigrate.stores.archive.blobs import Blobs
from mlmigrate.stores.archive.index import Index, Row
from mlmigrate.stores.archive.manifest import CURRENT, File, Segment, sum_of
from mlmigrate.stores.archive.place import Place
from mlmigrate.stores.archive.reading import Reading
from mlmigrate.stores.archive.tables import TableFile, plain

_T = TypeVar("_T")
_HEADERS = {
    "experiments": "experiment",
    "runs": "run",
    "metrics": "run",
    "logged_models": "logged_model",
    "model_metrics": "logged_model",
    "traces": "trace",
    "registered_models": "registered_model",
}


@dataclass(frozen=True, slots=True)
class Damage:
    """One file that is not what was written, and the items that it costs."""

    where: str
    what: str
    hurts: tuple[Ref, ...] = ()


@dataclass(slots=True)
class Checked:
    """What a check found."""

    files: int = 0  # that are whole
    bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    blobs: int = 0  # that there should be
    read: int = 0  # of those, how many were read: all but for a sample

    def whole(self, size: int) -> None:
        """Count a file that is what was written."""
        self.files += 1
        self.bytes += size

    def add(self, other: Checked, folder: str) -> None:
        """Add what was found in a folder."""
        self.files += other.files
        self.bytes += other.bytes
        self.blobs += other.blobs
        self.read += other.read
        self.damaged += (
            replace(each, where=f"{folder}/{each.where}") for each in other.damaged
        )
        self.notes += (f"{folder}: {note}" for note in other.notes)


def check(
    place: Place, *, share: float = 1.0, observe: Callable[[int], None] | None = None
) -> Checked:
    """Compare every file of an archive with its checksum.

    Args:
        place: where the archive is.
        share: of the blobs, how many to read; all are looked for, at their size.
        observe: called with the size of each file that was read.

    Raises:
        StoreNotFound: there is no archive.
        StoreError: a later version of mlmigrate wrote it.
    """
    names = workspaces.names(place)
    try:
        found = _checked(place, names, share, observe)
    except StoreNotFound:
        if not names:
            raise
        found = Checked(notes=["nothing of the default workspace is here"])
    for name in names:
        folder = workspaces.folder_of(name)
        inner = place.below(folder)
        try:
            found.add(_checked(inner, [], share, observe), folder)
        except StoreNotFound:
            where = f"{folder}/{manifest.NAME}"
            found.damaged.append(Damage(where, "is missing, and so is its spare"))
        finally:
            inner.close()
    return found


def _checked(
    place: Place,
    inner: Sequence[str],
    share: float,
    observe: Callable[[int], None] | None,
) -> Checked:
    """Check one workspace, in whose folder are those of *inner* ones."""
    found = Checked()
    try:
        reading = Reading(place)
    except manifest.Damaged as error:
        for name in (manifest.NAME, manifest.SPARE):
            found.damaged.append(Damage(name, str(error), tuple(_listed(place))))
        return found
    try:
        _check_manifests(reading, found)
        _check_tables(reading, found, observe)
        _check_blobs(reading, found, share, observe)
        _look_for_others(reading, inner, found)
    finally:
        reading.close()
    return found


def _listed(place: Place) -> Iterator[Ref]:
    """Yield what ``current.parquet`` lists, where nothing else tells."""
    try:
        table = TableFile(place.fetched(CURRENT), "items")
        index = Index(plain(table.whole(), "items"))
    except (ItemError, OSError):
        return
    for kind in KINDS:
        yield from index.refs(kind, None)


def _check_manifests(reading: Reading, found: Checked) -> None:
    place, damage = reading.place, dict(reading.damage)
    for name, what in damage.items():
        found.damaged.append(Damage(name, what))
    for name in (manifest.NAME, manifest.SPARE):
        if name not in damage:
            found.whole(place.size(name) or 0)
    if CURRENT not in damage:
        found.whole(reading.manifest.current.size)
    if manifest.read(place).unfinished:
        found.notes.append(
            "an export was stopped while it completed a segment: nothing is lost, and"
            " the next export finishes it"
        )


# -- tables ---------------------------------------------------------------------------


def _check_tables(
    reading: Reading, found: Checked, observe: Callable[[int], None] | None
) -> None:
    files = [
        (segment, table, file)
        for segment in reading.manifest.segments
        for table, file in segment.files.items()
    ]

    def fault(entry: tuple[Segment, str, File]) -> str | None:
        segment, table, file = entry
        said = _fault(reading.place, segment.path(table), file)
        if observe is not None:
            observe(file.size)
        return said

    for (segment, table, file), what in zip(files, _at_once(fault, files), strict=True):
        if what is None:
            found.whole(file.size)
        else:
            hurts = tuple(_hurt(reading, segment.number, table))
            found.damaged.append(Damage(segment.path(table), what, hurts))


def _fault(place: Place, path: str, expected: File) -> str | None:
    try:
        with place.open(path) as file:
            got = sum_of(file)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error}"
    if got.size != expected.size:
        return f"has {got.size} bytes instead of {expected.size}"
    return None if got == expected else "has other bytes than were written"


def _hurt(reading: Reading, number: int, table: str) -> Iterator[Ref]:
    """Yield the items that a damaged table costs: those that can no longer be read,
    or are no longer what they were.
    """
    if table in ("items", "store_findings"):
        return  # what is live stands in current.parquet, too
    rows = [
        row
        for row in _rows(reading, number)
        if _HEADERS.get(table, row.ref.kind) == row.ref.kind
        and (table not in COUNTED or row.counts[COUNTED[table]])
    ]
    segment = reading.segment(number)
    for at in range(0, len(rows), 50):
        for answer in segment.read(rows[at : at + 50]):
            if isinstance(answer, Failed):
                yield answer.ref


def _rows(reading: Reading, number: int) -> list[Row]:
    """Return the items of a segment, if need be only the live ones."""
    segment = reading.segment(number)
    with suppress(ItemError):
        table = segment.table("items")
        if "items" not in segment.wrong:
            index = Index(plain(table.whole(), "items"))
            return [index.row(at) for at in range(len(index.table))]
    index = reading.index
    rows = (index.row(at) for at in range(len(index.table)))
    return [row for row in rows if row.segment == number]


# -- blobs ----------------------------------------------------------------------------


def _check_blobs(
    reading: Reading,
    found: Checked,
    share: float,
    observe: Callable[[int], None] | None,
) -> None:
    wanted, told = _wanted(reading)
    if not told:
        # A blob's name says what is in it: those of lost rows can be checked, too.
        for path, size in reading.place.files("blobs"):
            name = path.rpartition("/")[2]
            if path == f"blobs/{name[:2]}/{name}":
                wanted.setdefault(name, size)
    blobs = Blobs(reading.place)
    found.blobs = len(wanted)
    sampled = set(wanted)
    if share < 1:
        count = min(len(wanted), max(1, round(len(wanted) * share)))
        sampled = set(random.sample(sorted(wanted), count))
    found.read = len(sampled)

    def fault(checksum: str) -> str | None:
        size = wanted[checksum]
        said = blobs.fault(checksum, size, content=checksum in sampled)
        if observe is not None and checksum in sampled:
            observe(size)
        return said

    damaged: dict[str, str] = {}
    for checksum, what in zip(wanted, _at_once(fault, wanted), strict=True):
        if what is not None:
            damaged[checksum] = what
        elif checksum in sampled:
            found.whole(wanted[checksum])
    hurts = _users(reading, set(damaged))
    for checksum, what in damaged.items():
        where = f"blobs/{checksum[:2]}/{checksum}"
        said = what.partition(f"{where} ")[2] or what
        refs = tuple(dict.fromkeys(hurts[checksum]))
        found.damaged.append(Damage(where, said, refs))


def _wanted(reading: Reading) -> tuple[dict[str, int], bool]:
    """Return SHA-256 -> size of the blobs that the segments name, and whether those
    are all.
    """
    wanted: dict[str, int] = {}
    told = True
    for number, rows in _artifact_rows(reading, ("sha256", "size")):
        told = told and rows is not None
        told = told and "artifacts" not in reading.segment(number).wrong
        wanted.update((sha, size) for sha, size in rows or () if sha is not None)
    return wanted, told


def _users(reading: Reading, checksums: set[str]) -> dict[str, list[Ref]]:
    """Return SHA-256 -> the items whose artifacts have it."""
    users: dict[str, list[Ref]] = defaultdict(list)
    if not checksums:
        return users
    for number, rows in _artifact_rows(reading, ("sha256", "item")):
        mine = [(sha, item) for sha, item in rows or () if sha in checksums]
        if not mine:
            continue
        refs = {row.number: row.ref for row in _rows(reading, number)}
        for sha, item in mine:
            if item in refs:
                users[sha].append(refs[item])
    return users


def _artifact_rows(
    reading: Reading, columns: Sequence[str]
) -> Iterator[tuple[int, Iterable[tuple[str | None, int]] | None]]:
    for segment in reading.manifest.segments:
        try:
            table = reading.segment(segment.number).table("artifacts")
        except ItemError:
            yield segment.number, None
            continue
        for group in range(table.groups()):
            try:
                data = plain_columns(table, group, columns)
            except ItemError:
                yield segment.number, None
            else:
                yield segment.number, data


def plain_columns(
    table: TableFile, group: int, columns: Sequence[str]
) -> list[tuple[str | None, int]]:
    """Return two columns of a row group as pairs.

    Raises:
        ItemError: they are damaged.
    """
    data = table.group(group, columns)
    try:
        one, other = (data.column(name).to_pylist() for name in columns)
    except ValueError as error:  # text that is not UTF-8
        raise ItemError(str(error)) from error
    return list(zip(one, other, strict=True))


# -- the rest -------------------------------------------------------------------------


def _look_for_others(reading: Reading, inner: Sequence[str], found: Checked) -> None:
    known = {manifest.NAME, manifest.SPARE, CURRENT}
    known |= {
        segment.path(table)
        for segment in reading.manifest.segments
        for table in segment.files
    }
    wanted, told = _wanted(reading)
    checked = tuple(f"{workspaces.folder_of(name)}/" for name in inner)
    unfinished = unused = 0
    others = []
    for path, _ in reading.place.files():
        if path in known:
            continue
        if path == lock.NAME:
            found.notes.append(f"{lock.NAME}: an export is running, or was killed")
        elif path.startswith("blobs/"):
            unused += told and path.rpartition("/")[2] not in wanted
        elif path.startswith(("partial/", "segments/")):
            unfinished += 1
        elif path.startswith(checked):
            pass  # by itself
        else:
            others.append(path)
    if unused:
        found.notes.append(f"{unused} blobs belong to no item")
    if unfinished:
        found.notes.append(f"{unfinished} files of an export that was not finished")
    found.notes += [f"{path!a} does not belong to the archive" for path in others[:20]]
    if len(others) > 20:
        found.notes.append(f"{len(others) - 20} more files do not belong to it")


def _at_once(
    fault: Callable[[_T], str | None], entries: Iterable[_T]
) -> Iterator[str | None]:
    """Read several files at once: hashing leaves Python's lock alone."""
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        yield from pool.map(fault, entries)
