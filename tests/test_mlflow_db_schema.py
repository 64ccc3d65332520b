"""The schema of a database that is written: made once, whole, and by one process."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.postgres import postgres_database

from mlmigrate.errors import SchemaError
from mlmigrate.stores.mlflow_db import database_url, schema


def make(url: sa.URL) -> bool:
    making = schema.begin(url)
    return making is not None and making.wait()


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return sorted(connection.iterdump())  # MLflow makes indexes in any order


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_new_file_is_what_mlflow_makes_and_the_next_one_is_its_copy(
    tmp_path: Path, cache: Path
) -> None:
    first, second = tmp_path / "first.db", tmp_path / "below" / "second.db"
    assert make(database_url(str(first)))
    (kept,) = (path for path in cache.rglob("*") if path.is_file())
    before = kept.stat().st_mtime_ns
    making = schema.begin(database_url(str(second)))
    assert making is not None
    assert making.child is None
    assert making.wait()
    assert dump(first) == dump(second)
    assert kept.stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "below",
        "cache",
        "first.db",
    ]


@pytest.mark.parametrize("left", ["", "no database at all", "rows"])
def test_a_damaged_copy_is_not_used(
    left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "first.db"
    make(database_url(str(path)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = schema.kept_copy()
    kept.parent.mkdir(parents=True)
    shutil.copy(path, kept)
    sound = schema.begin(database_url(str(tmp_path / "second.db")))
    assert sound is not None
    assert sound.child is None
    if left == "rows":
        with closing(sqlite3.connect(kept)) as connection, connection:
            connection.execute(
                "insert into experiments (experiment_id, name) values (7, 'odd')"
            )
    else:
        kept.write_text(left)
    making = schema.begin(database_url(str(tmp_path / "third.db")))
    assert making is not None
    assert making.child is not None
    making.abandon()


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert make(database_url(str(tmp_path / "first.db")))


def test_abandoned_it_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    temp = tmp_path / "temp"
    temp.mkdir()
    making = schema.begin(database_url(str(tmp_path / "new.db")))
    assert making is not None
    making.abandon()
    assert not (tmp_path / "new.db").exists()
    assert not cache.exists()


def test_a_file_that_appeared_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    one, other = (schema.begin(database_url(str(path))) for _ in range(2))
    assert one is not None
    assert other is not None
    assert one.wait()
    assert not other.wait()
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


def test_of_two_processes_one_makes_a_servers_schema() -> None:
    with postgres_database() as uri:
        made: list[bool] = []
        threads = [
            threading.Thread(target=lambda: made.append(make(database_url(uri))))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(made) == [False, True]
        assert schema.exists(database_url(uri))


def test_a_schema_left_half_made_is_completed() -> None:
    with postgres_database() as uri:
        engine = sa.create_engine(database_url(uri))
        making = schema.begin(database_url(uri))
        assert making is not None
        while not sa.inspect(engine).has_table("runs"):
            assert making.child is not None
            assert making.child.poll() is None, "the schema stood at once"
        making.abandon()
        engine.dispose()
        assert make(database_url(uri))
        assert schema.exists(database_url(uri))


def test_rows_without_a_revision_are_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table runs (run_uuid text)")
        connection.execute("create table experiments (experiment_id integer)")
        connection.execute("insert into runs values ('a')")
    with pytest.raises(SchemaError, match="mlflow db upgrade"):
        schema.begin(database_url(str(path)))
