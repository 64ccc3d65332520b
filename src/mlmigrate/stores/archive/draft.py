"""A segment that is being written: outside the archive's globs until it is whole."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from mlmigrate import codec
from mlmigrate.codec import TABLES, Entry, Rows
from mlmigrate.model import Finding
from mlmigrate.stores.archive import tables
from mlmigrate.stores.archive.manifest import File, folder_of, sum_of
from mlmigrate.stores.archive.place import Place


class Draft:
    """Items on their way into a segment; rows wait in memory for some megabytes."""

    def __init__(self, place: Place, number: int) -> None:
        self.number = number
        self.begun = time.monotonic()
        self.bytes = 0
        self.items: Counter[str] = Counter()
        self.sources: dict[str, None] = {}
        self.findings_of: list[str] = []
        #: Set while rows go in: a draft that was left in between is not whole.
        self.midway = False
        self.index: list[pa.Table] = []
        self._place = place
        self._rows = Rows(number)
        self._found = 0
        self._folder = place.workshop() / f"segment-{uuid.uuid4().hex}"
        self._folder.mkdir()
        self._writers: dict[str, pq.ParquetWriter] = {}

    @property
    def count(self) -> int:
        """How many items it has."""
        return self.items.total()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to complete."""
        return not self.items and not self.findings_of

    def add(self, entry: Entry) -> None:
        """Add an item.

        Raises:
            ItemError: it has a value that no table holds; nothing of it was added.
        """
        before = sum(self._rows.bytes.values())
        self._rows.add(entry)
        self.midway = True
        self.items[entry.item.ref.kind] += 1
        self.sources[entry.source] = None
        self.bytes += sum(self._rows.bytes.values()) - before
        for table, size in self._rows.bytes.items():
            if size > tables.ROW_GROUP_BYTES:
                self._flush(table)
        self.midway = False

    def replace_findings(self, source: str, findings: Iterable[Finding]) -> None:
        """Add all that was found in a source beside its items."""
        self.findings_of.append(source)
        for finding in findings:
            row = (source, *codec.finding_row(finding))
            self._rows.put("store_findings", self._found, row)
            self._found += 1

    def _flush(self, table: str) -> None:
        data = self._rows.take(table)
        if table == "items":
            self.index.append(data)
        if table not in self._writers:
            path = self._folder / f"{table}.parquet"
            self._writers[table] = tables.writer(path, table)
        if len(data):
            self._writers[table].write_table(data, row_group_size=tables.ROW_GROUP_ROWS)

    def finish(self) -> dict[str, File]:
        """Write what waits, and move the tables to where they belong."""
        files = {}
        for table in TABLES:
            self._flush(table)
            self._writers.pop(table).close()
        for table in TABLES:
            path = self._folder / f"{table}.parquet"
            with path.open("rb") as file:
                files[table] = sum_of(file)
                os.fsync(file.fileno())
            self._place.bring(path, f"{folder_of(self.number)}/{table}.parquet")
        self.drop()
        return files

    def drop(self) -> None:
        """Remove what is left of it. May be called twice."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
