"""``mlmigrate.json``: what belongs to an archive, each file with its SHA-256.

It is untrusted: everything in it is checked here, and no path is taken from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from mlmigrate.codec import TABLES
from mlmigrate.errors import StoreError, StoreNotFound
from mlmigrate.stores.archive.place import Place

FORMAT = 1
NAME = "mlmigrate.json"
#: The same bytes but for the moments in which a segment is completed.
SPARE = "mlmigrate.spare.json"
CURRENT = "current.parquet"
_LARGEST = 256 << 20  # bytes of a manifest that is read at all
_HASH = re.compile(r"[0-9a-f]{64}$")
_NO_CHECKSUM = "0" * 64


@dataclass(frozen=True, slots=True)
class File:
    """What a file must be."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Segment:
    """One completed part of an export."""

    number: int
    time: int  # milliseconds, ascending from segment to segment
    export: str  # equal for the segments of one export
    sources: tuple[str, ...]  # redacted locations
    items: Mapping[str, int]  # kind -> number
    files: Mapping[str, File]  # table -> file
    replaces_findings: tuple[str, ...] = ()  # sources whose store findings are here

    def path(self, table: str) -> str:
        """Return where a table is."""
        return f"{folder_of(self.number)}/{table}.parquet"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A complete state of an archive."""

    current: File
    segments: tuple[Segment, ...] = ()
    generation: int = 0
    created: int = 0
    updated: int = 0
    tool: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)  # of later minor versions

    @property
    def next_number(self) -> int:
        """The number of the next segment."""
        return self.segments[-1].number + 1 if self.segments else 1


class Damaged(StoreError):
    """A manifest that is not what was written."""


def folder_of(number: int) -> str:
    """Return the folder of a segment."""
    return f"segments/{number:06d}"


def blob_path(checksum: str) -> str:
    """Return where the bytes of an artifact are."""
    if not _HASH.match(checksum):
        raise ValueError(f"{checksum!r} is no SHA-256")
    return f"blobs/{checksum[:2]}/{checksum}"


# -- bytes ----------------------------------------------------------------------------


def dump(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest, which bear their own checksum."""
    data = {
        "format": FORMAT,
        "checksum": _NO_CHECKSUM,
        "tool": manifest.tool,
        "generation": manifest.generation,
        "created": iso(manifest.created),
        "updated": iso(manifest.updated),
        "current": {"file": CURRENT, **_file(manifest.current)},
        "segments": [
            {
                "number": segment.number,
                "folder": folder_of(segment.number),
                "time": iso(segment.time),
                "export": segment.export,
                "sources": list(segment.sources),
                "items": dict(segment.items),
                "replaces_findings": list(segment.replaces_findings),
                "files": {
                    f"{table}.parquet": _file(file)
                    for table, file in segment.files.items()
                },
            }
            for segment in manifest.segments
        ],
    }
    text = json.dumps({**data, **manifest.extra}, indent=1).encode() + b"\n"
    return text.replace(_NO_CHECKSUM.encode(), checksum_of(text).encode(), 1)


def checksum_of(data: bytes) -> str:
    """Return the checksum of a manifest: of its bytes, with zeros in the place of the
    checksum.
    """
    blank = rb'\g<1>"' + _NO_CHECKSUM.encode() + b'"'
    plain = re.sub(rb'("checksum": )"[0-9a-f]{64}"', blank, data, count=1)
    return sha256(plain).hexdigest()


def load(data: bytes) -> Manifest:
    """Make a manifest of its bytes.

    Raises:
        Damaged: they are not what was written.
        StoreError: a later version of mlmigrate wrote them.
    """
    try:
        fields = json.loads(data)
        if _whole(fields["format"]) > FORMAT:
            raise StoreError(
                f"the archive has format {fields['format']}, and this mlmigrate"
                f" reads up to {FORMAT}: upgrade mlmigrate"
            )
        if fields["checksum"] != checksum_of(data):
            raise Damaged("its checksum is wrong")
        return _manifest(fields)
    except StoreError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(f"it is no manifest ({type(error).__name__}: {error})") from error


def _file(file: File) -> dict[str, Any]:
    return {"size": file.size, "sha256": file.sha256}


_KNOWN = (
    "format",
    "checksum",
    "tool",
    "generation",
    "created",
    "updated",
    "current",
    "segments",
)


def _manifest(fields: dict[str, Any]) -> Manifest:
    segments = tuple(_segment(each) for each in fields["segments"])
    numbers = [segment.number for segment in segments]
    if numbers != sorted(set(numbers)) or numbers[:1] < [1] * bool(numbers):
        raise ValueError("segments are not in order")
    return Manifest(
        _load_file(fields["current"]),
        segments,
        _whole(fields["generation"]),
        millis(fields["created"]),
        millis(fields["updated"]),
        str(fields["tool"]),
        {key: value for key, value in fields.items() if key not in _KNOWN},
    )


def _segment(fields: dict[str, Any]) -> Segment:
    number = _whole(fields["number"])
    files = {}
    for name, file in fields["files"].items():
        table = name.removesuffix(".parquet")
        if table in TABLES:  # later versions may have more
            files[table] = _load_file(file)
    if "items" not in files or number >= 2**31:
        raise ValueError(f"segment {number} is incomplete")
    return Segment(
        number,
        millis(fields["time"]),
        str(fields["export"]),
        tuple(str(source) for source in fields["sources"]),
        {str(kind): _whole(count) for kind, count in fields["items"].items()},
        files,
        tuple(str(source) for source in fields["replaces_findings"]),
    )


def _load_file(fields: dict[str, Any]) -> File:
    checksum = fields["sha256"]
    if not isinstance(checksum, str) or not _HASH.match(checksum):
        raise ValueError(f"{checksum!r} is no SHA-256")
    return File(_whole(fields["size"]), checksum)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is no count")
    return value


def iso(time: int) -> str:
    """Return milliseconds since the epoch as ISO 8601 in UTC."""
    seconds, rest = divmod(time, 1000)
    then = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    return f"{then.isoformat()}.{rest:03d}Z"


def millis(text: str) -> int:
    """Return ISO 8601 as milliseconds since the epoch."""
    then = datetime.fromisoformat(text)
    if then.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return round(then.timestamp() * 1000)


# -- files ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """The live manifest, and what is wrong with the files around it."""

    manifest: Manifest
    damage: tuple[tuple[str, str], ...] = ()  # (file, what)
    unfinished: bool = False  # whoever completed a segment was stopped


def read(place: Place) -> Found:
    """Find the live manifest.

    The live one is that which names the checksum of ``current.parquet``: a segment is
    completed in the moment in which that is replaced, between the two manifests.

    Raises:
        StoreNotFound: there is no archive.
        StoreError: it is damaged beyond reading, or of a later format.
    """
    found = _read_once(place)
    if found.damage or found.unfinished:
        # An export may have completed a segment between our reads.
        found = _read_once(place)
    return found


def _read_once(place: Place) -> Found:
    damage: list[tuple[str, str]] = []
    sound: dict[str, Manifest] = {}
    for name in (NAME, SPARE):
        try:
            sound[name] = load(read_small(place, name))
        except FileNotFoundError:
            damage.append((name, "is missing"))
        except (Damaged, OSError) as error:
            damage.append((name, str(error)))
    if not sound:
        if all(what == "is missing" for _, what in damage):
            raise StoreNotFound(f"{place.location}: there is no archive")
        raise Damaged(f"{place.location}/{NAME}: {damage[0][1]}, and so is its spare")
    current = _sum_of(place, CURRENT)
    if (NAME, "is missing") in damage and sound[SPARE].generation == 1:
        # Killed while a new archive was made.
        if current is None:
            raise StoreNotFound(f"{place.location}: there is no archive")
        return Found(sound[SPARE], unfinished=True)
    for manifest in sound.values():
        if manifest.current == current:
            stopped = len({each.generation for each in sound.values()}) > 1
            return Found(manifest, tuple(damage), stopped)
    manifest = sound.get(NAME) or sound[SPARE]
    what = "is missing" if current is None else "is not what was written"
    return Found(manifest, (*damage, (CURRENT, what)))


def read_small(place: Place, path: str) -> bytes:
    """Return the bytes of a file of bounded size.

    Raises:
        OSError: it cannot be read, or is absurdly large.
    """
    with place.open(path) as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise OSError(f"{path} has more than {_LARGEST >> 20} MB")
    return data


def _sum_of(place: Place, path: str) -> File | None:
    try:
        with place.open(path) as file:
            return sum_of(file)
    except OSError:
        return None


def sum_of(file: Any) -> File:
    """Return size and SHA-256 of what is left in a file."""
    digest, size = sha256(), 0
    while chunk := file.read(1 << 20):
        digest.update(chunk)
        size += len(chunk)
    return File(size, digest.hexdigest())
