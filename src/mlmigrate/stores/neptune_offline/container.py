"""One run as Neptune's 1.x client leaves it for ``neptune sync``: a folder.

``data-1.log`` has an operation a line, ``last_put_version`` the number of the last one,
``upload_path`` the files that operations name, ``metadata.json`` what it is; there
mlmigrate keeps what it knows its copies by, so that a listing needs no log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

from mlmigrate.model import Lifecycle
from mlmigrate.neptune_runs.attributes import MILLIONTHS, FloatSeries, Scalar
from mlmigrate.neptune_runs.mapping import MARK, Logged
from mlmigrate.told.values import as_dict, as_lifecycle, as_text, as_time

#: The folder of files, in that of a run.
UPLOADS = "upload_path"
METADATA = "metadata.json"
_KEY = "mlmigrate"
#: Points of one operation, as of one request to the server.
_POINTS = 1000
#: How the client divides the operations of a run: files of so many bytes.
_LARGEST_LOG = 64 << 20
_TYPES = {
    "int": "AssignInt",
    "float": "AssignFloat",
    "bool": "AssignBool",
    "string": "AssignString",
    "datetime": "AssignDatetime",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a listing must know of a run that mlmigrate wrote."""

    origin: str
    custom_id: str
    experiment: str
    mark: str | None
    status: str
    end_time: int | None
    lifecycle: Lifecycle


def uuid_of(custom_id: str) -> str:
    """Return the UUID by which Neptune's client knows a run that has this custom id:
    always the same.
    """
    try:
        return str(UUID(hex=custom_id))
    except ValueError:
        from uuid import NAMESPACE_OID, uuid5

        return str(uuid5(NAMESPACE_OID, f"mlmigrate:{custom_id}"))


def write(
    folder: Path, said: Logged, files: Mapping[str, Path], facts: Facts, *, now: float
) -> None:
    """Write all of a run into an empty folder, but for the files of its artifacts,
    which are there.

    Args:
        folder: the run's.
        said: the run.
        files: where the file of each attribute lies, below `UPLOADS`.
        facts: what a listing is to know.
        now: seconds since the epoch: when it was written.

    Raises:
        OSError: it cannot be written.
    """
    blobs = _write_blobs(folder, said.blobs)
    count = _write_log(folder, _operations(said, {**files, **blobs}, facts), now)
    (folder / "last_put_version").write_text(str(count), encoding="ascii")
    (folder / "last_ack_version").write_text("", encoding="ascii")
    metadata = {
        "mode": "offline",
        "containerId": uuid_of(said.custom_id),
        "containerType": "run",
        "structureVersion": 3,
        _KEY: asdict(facts),
    }
    text = json.dumps(metadata, indent=2)
    (folder / METADATA).write_text(text, encoding="ascii")


def facts_of(metadata: Mapping[str, Any]) -> Facts | None:
    """Return what the metadata of a run tell that mlmigrate wrote, None of others."""
    said = as_dict(metadata.get(_KEY))
    texts = [as_text(said.get(name)) for name in ("origin", "custom_id", "experiment")]
    origin, custom_id, experiment = texts
    if not origin or not custom_id or experiment is None:
        return None
    return Facts(
        origin,
        custom_id,
        experiment,
        as_text(said.get("mark")),
        as_text(said.get("status")) or "RUNNING",
        as_time(said.get("end_time")),
        as_lifecycle(said.get("lifecycle")),
    )


def _write_blobs(folder: Path, blobs: Mapping[str, bytes]) -> dict[str, Path]:
    found = {}
    for number, (path, data) in enumerate(blobs.items()):
        place = folder / UPLOADS / f"own-{number}{PurePosixPath(path).suffix}"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data)
        found[path] = place
    return found


def _write_log(folder: Path, operations: Iterable[str], now: float) -> int:
    """Write operations, given as JSON, and return their number."""
    count = size = 0
    log = (folder / "data-1.log").open("w", encoding="ascii", newline="\n")
    try:
        for operation in operations:
            count += 1
            line = f'{{"obj": {operation}, "version": {count}, "at": {now!r}}}\n'
            if size and size + len(line) > _LARGEST_LOG:
                log.close()
                size = 0
                place = folder / f"data-{count}.log"
                log = place.open("w", encoding="ascii", newline="\n")
            log.write(line)
            size += len(line)
    finally:
        log.close()
    return count


def _operations(said: Logged, files: Mapping[str, Path], facts: Facts) -> Iterator[str]:
    """Yield the operations that make a run, as JSON; its mark last."""
    for path, scalar in said.scalars.items():
        yield _assigned(path, scalar)
    for path, series in said.series.items():
        yield from _logged(path, series)
    for path, place in files.items():
        ending = PurePosixPath(path).suffix.removeprefix(".")
        yield json.dumps(
            {
                "type": "UploadFile",
                "path": path.split("/"),
                "ext": ending,
                "file_path": None,
                "tmp_file_name": place.name,
                "clean_after_upload": False,
            }
        )
    if facts.mark is not None:
        yield _assigned(MARK, Scalar("string", facts.mark))


def _assigned(path: str, scalar: Scalar) -> str:
    parts = path.split("/")
    if isinstance(scalar.value, tuple):
        values = list(scalar.value)
        return json.dumps({"type": "AddStrings", "path": parts, "values": values})
    kind = _TYPES[scalar.type]
    return json.dumps({"type": kind, "path": parts, "value": scalar.value})


def _logged(path: str, series: FloatSeries) -> Iterator[str]:
    head = f'{{"type": "LogFloats", "path": {json.dumps(path.split("/"))}, "values": ['
    steps = series.steps / MILLIONTHS
    # Seconds, which the client cuts off at milliseconds: half of one more keeps them.
    times = (series.timestamps + 0.5) / 1000
    for at in range(0, len(steps), _POINTS):
        part = slice(at, at + _POINTS)
        points = zip(
            series.values[part].tolist(),
            steps[part].tolist(),
            times[part].tolist(),
            strict=True,
        )
        yield (
            head
            + ", ".join(
                f'{{"value": {value!r}, "step": {step!r}, "ts": {time!r}}}'
                for value, step, time in points
            )
            + "]}"
        )
