"""Archives as neptune-exporter lays them out, with whatever rows a test wants.

archive = NeptuneArchive(tmp_path)
archive.run("team/proj", "RUN-1", [
    value("sys/name", "first"),
    *points("loss", [(0, 0.5), (1, 0.25)]),
])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

T = 1_700_000_000_000  # milliseconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STAMP = pa.timestamp("ms", tz="UTC")

#: The columns as neptune-exporter has them.
SCHEMA = pa.schema(
    {
        "project_id": pa.string(),
        "run_id": pa.string(),
        "attribute_path": pa.string(),
        "attribute_type": pa.string(),
        "step": pa.decimal128(18, 6),
        "timestamp": _STAMP,
        "int_value": pa.int64(),
        "float_value": pa.float64(),
        "string_value": pa.string(),
        "bool_value": pa.bool_(),
        "datetime_value": _STAMP,
        "string_set_value": pa.list_(pa.string()),
        "file_value": pa.struct({"path": pa.string()}),
        "histogram_value": pa.struct(
            {
                "type": pa.string(),
                "edges": pa.list_(pa.float64()),
                "values": pa.list_(pa.float64()),
            }
        ),
    }
)

Row = dict[str, Any]


def moment(time: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=time)


def row(path: str, type: str, **columns: Any) -> Row:
    return {"attribute_path": path, "attribute_type": type, **columns}


def value(path: str, said: Any, type: str | None = None) -> Row:
    """An attribute with one value; with None, as another run of its batch has it."""
    kinds = (
        (bool, "bool"),
        (int, "int"),
        (float, "float"),
        (str, "string"),
        (datetime, "datetime"),
        ((set, list), "string_set"),
    )
    kind = type or next(name for kind, name in kinds if isinstance(said, kind))
    found = sorted(said) if isinstance(said, set) else said
    return row(path, kind, **{f"{kind}_value": found})


def _decimal(step: Any) -> Decimal | None:
    return None if step is None else Decimal(str(step)).quantize(Decimal("1.000000"))


def points(
    path: str,
    said: Iterable[tuple[Any, float | None]],
    start: int = T,
    each: int = 1000,
) -> list[Row]:
    """A float series: (step, value), a second apart."""
    return [
        row(
            path,
            "float_series",
            step=_decimal(step),
            timestamp=moment(start + each * at),
            float_value=number,
        )
        for at, (step, number) in enumerate(said)
    ]


def texts(path: str, said: Iterable[tuple[Any, str]], start: int = T) -> list[Row]:
    return [
        row(
            path,
            "string_series",
            step=_decimal(step),
            timestamp=moment(start + 1000 * at),
            string_value=line,
        )
        for at, (step, line) in enumerate(said)
    ]


def histogram(path: str, step: Any, edges: Sequence[float], values: Any) -> Row:
    said = {"type": "COUNTING", "edges": edges, "values": values}
    return row(
        path,
        "histogram_series",
        step=_decimal(step),
        timestamp=moment(T),
        histogram_value=said,
    )


def file(path: str, place: str | None, type: str = "file", step: Any = None) -> Row:
    said = None if place is None else {"path": place}
    return row(path, type, step=_decimal(step), file_value=said)


def sanitized(name: str) -> str:
    plain = "".join(c if c.isalnum() or c in "_-" else "_" for c in name)
    return f"{plain}-{blake2b(name.encode(), digest_size=8).hexdigest()}"


def table(project: str, id: str, rows: Iterable[Row]) -> pa.Table:
    said = [{"project_id": project, "run_id": id, **each} for each in rows]
    return pa.Table.from_pylist(said, schema=SCHEMA)


class NeptuneArchive:
    """An archive that grows."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = f"neptune-export:{root}"
        (root / "data").mkdir(parents=True)

    def folder(self, project: str, scope: str = "") -> Path:
        top = "model_data" if scope else "data"
        place = self.root / top / sanitized(project) / scope
        place.mkdir(parents=True, exist_ok=True)
        return place

    def run(
        self,
        project: str,
        id: str,
        *parts: Iterable[Row],
        scope: str = "",
        numbers: Sequence[int] | None = None,
        row_group: int | None = None,
    ) -> list[Path]:
        """Write the part files of a run, numbered from 0 or as *numbers* say."""
        folder, made = self.folder(project, scope), []
        for number, rows in zip(numbers or range(len(parts)), parts, strict=True):
            path = folder / f"{sanitized(id)}_part_{number}.parquet"
            found = table(project, id, rows)
            pq.write_table(found, path, compression="snappy", row_group_size=row_group)
            made.append(path)
        return made

    def file(
        self, project: str, path: str, data: bytes = b"data", top: str = "files"
    ) -> Path:
        """Put a file where ``file_value`` says *path*."""
        place = self.root / top / sanitized(project) / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        return place


def of_3x(facts: Mapping[str, Any]) -> list[Row]:
    """What 3.x says of each run by itself, and *facts* below ``sys/``."""
    said = {"sys/creation_time": moment(T), **facts}
    return [value(path, each) for path, each in said.items()]
