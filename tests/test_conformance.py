"""Every sink is held to the shipped suite, and looked into past its adapter."""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support import servers
from support.reading import params, tags

from mlmigrate.model import Item, Ref, Run, Tag
from mlmigrate.stores import memory
from mlmigrate.testing.items import rows_of
from mlmigrate.testing.suite import FullSinkSuite, Peeked


class TestMemory(FullSinkSuite):
    @pytest.fixture
    def sink_location(self) -> Iterator[str]:
        location = "memory:conformance"
        memory.forget(location)
        yield location
        memory.forget(location)

    def _item(self, location: str, run: str) -> Item | None:
        return memory.contents(location).items.get(Ref("run", run))

    def peek(self, location: str, run: str) -> Peeked | None:
        item = self._item(location, run)
        if item is None:
            return None
        header = item.header
        assert isinstance(header, Run)
        return Peeked(
            header.status,
            header.start_time,
            header.end_time,
            header.lifecycle,
            params(item),
            tags(item),
            rows_of(item),
            item.mark is not None,
        )

    def edit_tag(self, location: str, run: str, key: str, value: str) -> None:
        item = self._item(location, run)
        assert item is not None
        tags = [tag for tag in item.tags if tag.key != key]
        memory.contents(location).items[item.ref] = replace(
            item, tags=(*tags, Tag(key, value))
        )

    def delete_run(self, location: str, run: str) -> None:
        item = self._item(location, run)
        assert item is not None
        memory.contents(location).items[item.ref] = replace(
            item, header=replace(item.header, lifecycle="deleted")
        )


class DatabaseSuite(FullSinkSuite):
    """Looks into MLflow's tables by SQL."""

    folder: Path

    def execute(self, location: str, statement: str, **values: Any) -> list[Any]:
        engine = sa.create_engine(location)
        try:
            with engine.begin() as connection:
                result = connection.execute(sa.text(statement), values)
                return list(result) if result.returns_rows else []
        finally:
            engine.dispose()

    def peek(self, location: str, run: str) -> Peeked | None:
        def pairs(table: str) -> dict[str, str]:
            return dict(
                tuple(row)
                for row in self.execute(location, self.quoted(location, table), run=run)
            )

        found = self.execute(
            location,
            "select status, start_time, end_time, lifecycle_stage from runs"
            " where run_uuid = :run",
            run=run,
        )
        if not found:
            return None
        tags = pairs("tags")
        key = "`key`" if location.startswith("mysql") else '"key"'
        metrics = self.execute(
            location,
            f"select {key}, step, timestamp, value, is_nan from metrics"
            " where run_uuid = :run",
            run=run,
        )
        return Peeked(
            *found[0],
            pairs("params"),
            {k: v for k, v in tags.items() if not k.startswith("mlmigrate.")},
            sorted(
                (name, step, timestamp, math.nan if nan else value)
                for name, step, timestamp, value, nan in metrics
            ),
            "mlmigrate.mark" in tags,
        )

    def quoted(self, location: str, table: str) -> str:
        quote = "`" if location.startswith("mysql") else '"'
        columns = f"{quote}key{quote}, value"
        return f"select {columns} from {table} where run_uuid = :run"

    def edit_tag(self, location: str, run: str, key: str, value: str) -> None:
        quote = "`" if location.startswith("mysql") else '"'
        self.execute(
            location,
            "update tags set value = :value"
            f" where run_uuid = :run and {quote}key{quote} = :key",
            run=run,
            key=key,
            value=value,
        )

    def delete_run(self, location: str, run: str) -> None:
        self.execute(
            location,
            "update runs set lifecycle_stage = 'deleted' where run_uuid = :run",
            run=run,
        )

    def partial_files(self, location: str) -> list[str]:
        return [
            str(path)
            for path in self.folder.rglob("*")
            if path.is_file()
            and (path.name.startswith(".mlmigrate") or path.name == "big.bin")
        ]


class TestSQLite(DatabaseSuite):
    @pytest.fixture
    def sink_location(self, tmp_path: Path) -> str:
        self.folder = tmp_path
        return servers.fresh_database(tmp_path / "sink.db")

    def test_no_latest_point_is_lost(self, source: Any, sink_location: str) -> None:
        """What MLflow shows as a metric's value is its last point."""
        from mlmigrate.testing.suite import everything

        items, files = everything()
        self.copy(source(*items, files=files), sink_location)
        with closing(sqlite3.connect(sink_location.removeprefix("sqlite:///"))) as base:
            rows = base.execute(
                "select key, step, value from latest_metrics order by key"
            ).fetchall()

        assert [("loss", 299, 1 / 300), ("val/acc", 2**40, 0.25)] == rows


class TestPostgreSQL(DatabaseSuite):
    @pytest.fixture
    def sink_location(self, postgres_mlflow_uri: str, tmp_path: Path) -> str:
        self.folder = tmp_path
        self.options = (f"artifact-root={tmp_path / 'artifacts'}",)
        return postgres_mlflow_uri


@pytest.mark.torture
@pytest.mark.skipif(
    "MLMIGRATE_MARIADB" not in os.environ, reason="MLMIGRATE_MARIADB is not set"
)
@pytest.mark.xdist_group("mariadb")
class TestMariaDB(DatabaseSuite):
    @pytest.fixture
    def sink_location(self, mariadb_mlflow_uri: str, tmp_path: Path) -> str:
        self.folder = tmp_path
        self.options = (f"artifact-root={tmp_path / 'artifacts'}",)
        return mariadb_mlflow_uri
