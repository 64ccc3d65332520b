"""Archives, changed past the adapter as somebody with their own tools would."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]


def live(archive: Path, kind: str, id: str) -> Row | None:
    """Return the row of an item in ``current.parquet``."""
    for row in pq.read_table(archive / "current.parquet").to_pylist():
        if (row["kind"], row["id"]) == (kind, id):
            return dict(row)
    return None


def rows_of(archive: Path, table: str, kind: str, id: str) -> list[Row]:
    """Return the live rows of an item in one table."""
    row = live(archive, kind, id)
    if row is None:
        return []
    found = pq.read_table(table_path(archive, row["segment"], table)).to_pylist()
    return [dict(each) for each in found if each["item"] == row["item"]]


def table_path(archive: Path, segment: int, table: str) -> Path:
    """Return where a table is."""
    return archive / "segments" / f"{segment:06d}" / f"{table}.parquet"


def change(archive: Path, path: Path, edit: Callable[[Row], Row | None]) -> None:
    """Change rows of one Parquet file (None drops one), and sign the result."""
    table = pq.read_table(path)
    rows = [edit(dict(row)) for row in table.to_pylist()]
    data = pa.Table.from_pylist([row for row in rows if row], schema=table.schema)
    pq.write_table(data, path)
    sign(archive)


def sign(archive: Path) -> None:
    """Make the manifests say of every file what it is now."""
    manifest = json.loads((archive / "mlmigrate.json").read_text())
    manifest["current"].update(sums(archive / "current.parquet"))
    for segment in manifest["segments"]:
        for name, file in segment["files"].items():
            path = archive / segment["folder"] / name
            if path.exists():
                file.update(sums(path))
    write(archive, manifest)


def write(archive: Path, manifest: Any) -> None:
    """Write both manifests, with the checksum that they must bear."""
    manifest["checksum"] = "0" * 64
    text = json.dumps(manifest, indent=1)
    checksum = sha256(text.encode()).hexdigest()
    text = re.sub(r'("checksum": )"0{64}"', rf'\1"{checksum}"', text, count=1)
    for name in ("mlmigrate.json", "mlmigrate.spare.json"):
        (archive / name).write_text(text)


def sums(path: Path) -> Row:
    """Return what a manifest says of a file."""
    data = path.read_bytes()
    return {"size": len(data), "sha256": sha256(data).hexdigest()}
