"""Reading databases: every revision, any damage, and never a byte changed."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.entities import Dataset, InputTag, Metric
from mlflow.entities import DatasetInput as MlflowInput
from support.corpus import CorpusStore
from support.fixture_stores import FIXTURES
from support.reading import held

from mlmigrate import sqlite_snapshot
from mlmigrate.contract import Selection
from mlmigrate.digest import digest
from mlmigrate.errors import (
    LocationError,
    SourceChanged,
    StoreError,
    StoreNotFound,
)
from mlmigrate.model import (
    KINDS,
    Alias,
    Experiment,
    Failed,
    Item,
    Kind,
    Note,
    Problem,
    Ref,
    RegisteredModel,
    Row,
)
from mlmigrate.stores.mlflow_db import snapshot
from mlmigrate.stores.mlflow_db.reading import DbReader

POINT = "(key, value, timestamp, step, is_nan, run_uuid)"
DATASET = (
    "(dataset_uuid, experiment_id, name, digest, dataset_source_type,"
    " dataset_source, dataset_schema, dataset_profile)"
)
LINK = "(input_uuid, source_type, source_id, destination_type, destination_id, step)"

_CARRIED: tuple[Kind, ...] = ("experiment", "run", "registered_model")


# -- helpers ------------------------------------------------------------------------


@pytest.fixture
def read() -> Iterator[Callable[..., DbReader]]:
    """Open readers, and close them at the end."""
    readers: list[DbReader] = []

    def open_(location: str | Path, **options: Any) -> DbReader:
        readers.append(DbReader(str(location), options))
        return readers[-1]

    yield open_
    for reader in readers:
        reader.close()
        reader.close()


def items(reader: DbReader, kind: Kind) -> dict[str, Item]:
    """Read all items of a kind, none of which may fail."""
    return {item.ref.id: item for item in held(reader, kind)}


def header(item: Item) -> Any:
    return item.header


def texts(findings: Any) -> str:
    return "\n".join(finding.what for finding in findings)


def age(path: Path) -> None:
    """Make a file look as if nobody had written it for an hour."""
    then = time.time() - 3600
    os.utime(path, (then, then))


def state(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def change(path: Path, script: str) -> None:
    """Run a script on a database, with foreign keys off as everywhere in SQLite."""
    db = sqlite3.connect(path)
    db.executescript(script)
    db.close()
    age(path)


@pytest.fixture
def store(sqlite_uri: str, tmp_path: Path) -> Path:
    """A database with one of everything, written by MLflow."""
    return fill(sqlite_uri, tmp_path / "fresh.db")


RUN = "0123456789abcdef0123456789abcdef"


def fill(uri: str, path: Path | None = None) -> Path:
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("images", tags={"team": "vision"})
    run = client.create_run(experiment, start_time=1_000, run_name="first")
    id = run.info.run_id
    client.log_batch(
        id,
        metrics=[
            *(Metric("loss", 1 / (step + 1), 5_000 + step, step) for step in range(50)),
            Metric("odd", math.nan, 7_000, -3),
            Metric("odd", 0.0, 7_000, -3),
        ],
    )
    client.log_param(id, "lr", "0.1")
    client.set_tag(id, "note", "größer")
    client.log_inputs(
        id,
        [
            MlflowInput(
                Dataset("cats", "d1", "local", "/cats", "schema", "profile"),
                [InputTag("mlflow.data.context", "training")],
            )
        ],
    )
    client.set_terminated(id, "FINISHED", end_time=2_000)
    child = client.create_run(experiment, tags={"mlflow.parentRunId": id})
    client.delete_run(child.info.run_id)
    client.create_registered_model("cat", tags={"a": "b"}, description="a cat")
    client.create_model_version("cat", f"runs:/{id}/model", id, tags={"x": "y"})
    client.create_model_version("cat", f"/data/1/{RUN}/artifacts/deep/model")
    client.create_model_version("cat", "/elsewhere")
    client.delete_model_version("cat", "3")
    client.set_registered_model_alias("cat", "best", "2")
    if path is not None:
        age(path)
    return path or Path()


# -- what is read -------------------------------------------------------------------


def check_everything(reader: DbReader) -> None:
    experiments = items(reader, "experiment")
    assert {header(item).name for item in experiments.values()} == {"Default", "images"}
    images = next(i for i in experiments.values() if header(i).name == "images")
    assert [(tag.key, tag.value) for tag in images.tags] == [("team", "vision")]
    assert images.origin == f"{images.ref.id}/images"
    assert isinstance(images.header, Experiment)
    assert images.header.creation_time

    runs = items(reader, "run")
    first = next(i for i in runs.values() if header(i).name == "first")
    child = next(i for i in runs.values() if i is not first)
    kept, lost = header(first), header(child)
    assert (kept.status, kept.start_time, kept.end_time) == (
        "FINISHED",
        1_000,
        2_000,
    )
    assert kept.experiment == images.ref
    assert kept.source_name is None
    assert kept.deleted_time is None
    assert lost.lifecycle == "deleted"
    assert lost.deleted_time
    assert lost.parent == first.ref
    assert all(tag.key != "mlflow.parentRunId" for tag in child.tags)
    assert [(param.key, param.value) for param in first.params] == [("lr", "0.1")]
    assert ("note", "größer") in [(tag.key, tag.value) for tag in first.tags]
    metrics = {metric.key: metric for metric in first.metrics}
    assert metrics["loss"].steps.tolist() == list(range(50))
    assert metrics["loss"].timestamps.tolist() == list(range(5_000, 5_050))
    assert metrics["loss"].values.tolist() == [1 / (step + 1) for step in range(50)]
    assert metrics["odd"].steps.tolist() == [-3, -3]
    assert np_nans(metrics["odd"].values) == 1
    (used,) = first.inputs
    assert (used.name, used.source, used.profile) == ("cats", "/cats", "profile")
    assert [(t.key, t.value) for t in used.tags] == [
        ("mlflow.data.context", "training")
    ]

    (model,) = items(reader, "registered_model").values()
    assert isinstance(model.header, RegisteredModel)
    assert (model.origin, model.header.description) == ("cat", "a cat")
    assert model.aliases == (Alias("best", 2),)
    one, two = model.versions
    assert (one.version, one.source_path, one.run) == (1, "model", first.ref)
    assert one.source_run == first.ref
    assert one.origin == f"cat/1@{one.creation_time}"
    assert [(tag.key, tag.value) for tag in one.tags] == [("x", "y")]
    assert (two.source_run, two.source_path) == (Ref("run", RUN), "deep/model")
    assert [type(found) for found in model.findings] == [Note]
    assert not [f for f in reader.findings() if isinstance(f, Problem)]
    again = items(reader, "run")
    assert {id: digest(i) for id, i in runs.items()} == {
        id: digest(i) for id, i in again.items()
    }


def np_nans(values: Any) -> int:
    return sum(map(math.isnan, values.tolist()))


def test_reads_what_mlflow_wrote(store: Path, read: Callable[..., DbReader]) -> None:
    before = state(store.parent)
    for location in (f"sqlite:///{store}", store):
        reader = read(location)
        check_everything(reader)
    reader.close()
    assert state(store.parent) == before
    assert sorted(p.name for p in store.parent.iterdir()) == ["fresh.db"]


def test_postgres(postgres_mlflow_uri: str, read: Callable[..., DbReader]) -> None:
    fill(postgres_mlflow_uri)
    reader = read(postgres_mlflow_uri)
    before = {id: digest(item) for id, item in items(reader, "run").items()}
    check_everything(reader)
    other = read(postgres_mlflow_uri, snapshot=reader.shared)
    client = MlflowClient(postgres_mlflow_uri)
    client.create_run("0")
    for run in client.search_runs(
        [run.ref.id for run in reader.read(list(reader.refs(Selection("experiment"))))]
    ):
        client.log_metric(run.info.run_id, "late", 1.0)
    for one in (reader, other):
        assert {id: digest(item) for id, item in items(one, "run").items()} == before
    assert len(items(read(postgres_mlflow_uri), "run")) == 3
    with pytest.raises(sa.exc.DBAPIError, match="read-only"):
        reader._engine.connect().exec_driver_sql("DELETE FROM params")
    (absent,) = reader.read([Ref("experiment", "9" * 18)])
    assert "recovered" in texts(getattr(absent, "findings", ()))


def test_mariadb(mariadb_mlflow_uri: str, read: Callable[..., DbReader]) -> None:
    fill(mariadb_mlflow_uri)
    reader = read(mariadb_mlflow_uri)
    check_everything(reader)
    MlflowClient(mariadb_mlflow_uri).create_run("0")
    assert len(items(reader, "run")) == 2


def test_server_errors_bear_no_password() -> None:
    location = "postgresql://me:hidden@127.0.0.1:1/x?sslpassword=hidden2"
    with pytest.raises(StoreError) as caught:
        DbReader(location, {})
    assert "hidden" not in str(caught.value)
    assert snapshot.redacted(location).count("***") == 2
    with pytest.raises(LocationError):
        DbReader("oracle://x/y", {})


def test_over_an_engine_sees_what_is_new(store: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{store}")
    reader = DbReader.over(engine, "here")
    assert len(items(reader, "run")) == 2
    change(store, f"INSERT INTO runs (run_uuid, experiment_id) VALUES ('{RUN}', 0)")
    assert len(items(reader, "run")) == 3
    reader.close()
    engine.dispose()


def test_over_an_engine_in_autocommit(postgres_mlflow_uri: str) -> None:
    fill(postgres_mlflow_uri)
    engine = sa.create_engine(postgres_mlflow_uri)
    for one in (engine, engine.execution_options(isolation_level="AUTOCOMMIT")):
        found = items(DbReader.over(one, "here"), "run")
        assert sum(len(m.steps) for i in found.values() for m in i.metrics) == 52
    engine.dispose()


# -- points -------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres_mlflow", "mariadb_mlflow"])
def any_uri(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind; all but the first are servers."""
    return str(request.getfixturevalue(f"{request.param}_uri"))


def test_points_come_in_parts_and_blocks(
    any_uri: str,
    tmp_path: Path,
    read: Callable[..., DbReader],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, size in (("tables._PART", 7), ("tables._PART_OF_FILE", 7)):
        monkeypatch.setattr(f"mlmigrate.stores.mlflow_db.{name}", size)
    monkeypatch.setattr("mlmigrate.stores.mlflow_db.points._BLOCK", 20)
    engine = sa.create_engine(any_uri)
    metrics = sa.Table("metrics", sa.MetaData(), autoload_with=engine)
    runs = sa.Table("runs", sa.MetaData(), autoload_with=engine)
    rows = [
        {
            "run_uuid": f"{run:032x}",
            "key": f"m{key}",
            "step": (step * 7) % 50,  # out of order
            "timestamp": 1_700_000_000_000 + step,
            "value": 0.0 if step == 5 else step / 3,
            "is_nan": step == 5,
        }
        for step in range(50)  # as training writes: keys and runs take turns
        for key in range(3)
        for run in range(2)
    ]
    with engine.begin() as connection:
        connection.execute(runs.insert(), [{"run_uuid": f"{n:032x}"} for n in range(3)])
        connection.execute(metrics.insert(), rows)
    engine.dispose()
    if any_uri.startswith("sqlite"):
        age(tmp_path / "fresh.db")
    found = items(read(any_uri), "run")
    assert [len(found[f"{n:032x}"].metrics) for n in range(3)] == [3, 3, 0]
    for run in range(2):
        for metric in found[f"{run:032x}"].metrics:
            assert metric.steps.tolist() == list(range(50))
            order = sorted(range(50), key=lambda step: (step * 7) % 50)
            times = [1_700_000_000_000 + step for step in order]
            assert metric.timestamps.tolist() == times
            values = [None if math.isnan(v) else v for v in metric.values.tolist()]
            assert values == [None if step == 5 else step / 3 for step in order]


def test_a_long_history_takes_little_more_than_its_columns(
    store: Path, read: Callable[..., DbReader]
) -> None:
    points = 200_000
    change(
        store,
        f"""
        INSERT INTO runs (run_uuid, experiment_id) VALUES ('{RUN}', 0);
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n
            WHERE i < {points - 1})
        INSERT INTO metrics {POINT}
            SELECT 'm' || (i % 2), i / 3.0, i + 1000, i, 0, '{RUN}' FROM n;
        """,
    )
    reader = read(store)
    list(reader.refs(Selection("run")))
    tracemalloc.start()
    (item,) = reader.read([Ref("run", RUN)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(item, Item)
    assert [len(metric.steps) for metric in item.metrics] == [points / 2, points / 2]
    # A block of points on their way takes 8 MB at most, each point 24 bytes for good.
    assert peak < 1.2 * 24 * points + (8 << 20)


def test_selects_the_runs_of_an_experiment(
    store: Path, read: Callable[..., DbReader]
) -> None:
    reader = read(store)
    assert not list(reader.refs(Selection("run", frozenset({"0"}))))
    assert len(list(reader.refs(Selection("run", frozenset({"1"}))))) == 2
    assert not list(reader.refs(Selection("trace")))
    refs = [Ref("run", "absent"), Ref("experiment", "x"), Ref("experiment", "9" * 30)]
    assert isinstance(next(reader.read(refs)), Failed)


def test_many_runs_are_read_in_pages(
    store: Path, read: Callable[..., DbReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlmigrate.stores.mlflow_db.tables._PAGE", 7)
    monkeypatch.setattr("mlmigrate.stores.mlflow_db.reading._AT_ONCE", 5)
    script = "".join(
        f"INSERT INTO runs (run_uuid, experiment_id) VALUES ('{n:032x}', 0);"
        f"INSERT INTO metrics {POINT} VALUES ('m', {n}, 1, 1, 0, '{n:032x}');"
        for n in range(30)
    )
    change(store, script)
    reader = read(store)
    assert len(list(reader.refs(Selection("run")))) == 32
    found = items(reader, "run")
    assert [found[f"{n:032x}"].metrics[0].values[0] for n in range(30)] == list(
        range(30)
    )


# -- artifacts ----------------------------------------------------------------------


def test_artifacts_are_found_beside_the_file(
    store: Path, read: Callable[..., DbReader]
) -> None:
    change(
        store,
        f"INSERT INTO runs (run_uuid, experiment_id, artifact_uri) VALUES"
        f" ('{RUN}', 1, 'file:///gone/mlruns/1/{RUN}/artifacts')",
    )
    folder = store.parent / "mlruns" / "1" / RUN / "artifacts" / "a"
    folder.mkdir(parents=True)
    (folder / "b.txt").write_text("hello")
    reader = read(store)
    item = items(reader, "run")[RUN]
    assert [(a.path, a.size) for a in item.artifacts] == [("a/b.txt", 5)]
    with reader.open(item.ref, "a/b.txt") as file:
        assert file.read() == b"hello"


def test_artifacts_of_a_server(store: Path, read: Callable[..., DbReader]) -> None:
    change(
        store,
        f"INSERT INTO runs (run_uuid, experiment_id, artifact_uri) VALUES"
        f" ('{RUN}', 1, 'mlflow-artifacts:/1/{RUN}/artifacts')",
    )
    item = items(read(store), "run")[RUN]
    assert "--map-artifacts" in texts(item.findings)
    folder = store.parent / "held" / "1" / RUN / "artifacts"
    folder.mkdir(parents=True)
    (folder / "x").write_text("x")
    maps = [f"mlflow-artifacts:/={store.parent / 'held'}"]
    item = items(read(store, **{"map-artifacts": maps}), "run")[RUN]
    assert [a.path for a in item.artifacts] == ["x"]


def test_nothing_of_mlflow_is_imported(store: Path) -> None:
    script = (
        "import sys\nfrom mlmigrate.contract import Selection\n"
        "from mlmigrate.stores.mlflow_db.reading import DbReader\n"
        f"r = DbReader({str(store)!r}, {{}})\n"
        "print(len(list(r.read(list(r.refs(Selection('run')))))))\n"
        "assert not any(m.split('.')[0] == 'mlflow' for m in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "2\n", done.stderr


# -- a source that is in use --------------------------------------------------------


def test_rows_in_the_log_are_read(
    store: Path, tmp_path: Path, read: Callable[..., DbReader]
) -> None:
    writer = sqlite3.connect(store)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("PRAGMA wal_autocheckpoint=0")
    writer.execute(f"INSERT INTO runs (run_uuid, experiment_id) VALUES ('{RUN}', 0)")
    writer.commit()
    # As a killed process leaves it: database and log, and nobody who holds them.
    left = tmp_path / "left"
    left.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{store}{suffix}", left / f"fresh.db{suffix}")
        age(left / f"fresh.db{suffix}")
    writer.close()
    temp = tmp_path / "temp"
    temp.mkdir()
    before = state(left)
    reader = read(left / "fresh.db", **{"temp-dir": str(temp)})
    assert RUN in items(reader, "run")
    assert len(list(temp.iterdir())) == 1
    reader.close()
    assert not list(temp.iterdir())
    assert state(left) == before


def test_an_unfinished_transaction_is_not_read(
    store: Path, tmp_path: Path, read: Callable[..., DbReader]
) -> None:
    # A cache of one page makes the writer write into the file before it commits.
    script = (
        "import os, sqlite3\n"
        f"db = sqlite3.connect({str(store)!r})\n"
        "db.execute('PRAGMA cache_size=1')\n"
        "db.execute(\"UPDATE runs SET name = 'half'\")\n"
        "db.executemany(\"INSERT INTO params VALUES (?, 'v', 'nowhere')\","
        " [('k' * 200 + str(n),) for n in range(3000)])\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    journal = Path(f"{store}-journal")
    assert journal.stat().st_size
    age(store)
    age(journal)
    naive = sqlite3.connect(f"file:{store}?mode=ro&immutable=1", uri=True)
    assert naive.execute("SELECT count(*) FROM runs WHERE name = 'half'").fetchone()[0]
    naive.close()
    before = state(store.parent)
    reader = read(store, **{"temp-dir": str(tmp_path / "elsewhere")})
    names = {header(item).name for item in items(reader, "run").values()}
    assert "half" not in names
    reader.close()
    shutil.rmtree(tmp_path / "elsewhere")
    assert state(store.parent) == before


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist"])
@pytest.mark.parametrize("moment", ["in a transaction", "after one"])
def test_a_journal_that_undoes_nothing(
    store: Path,
    tmp_path: Path,
    read: Callable[..., DbReader],
    mode: str,
    moment: str,
) -> None:
    """One that is not synced yet, and one that stays when its transaction has ended."""
    with closing(sqlite3.connect(store)) as writer:
        writer.execute(f"PRAGMA journal_mode={mode}")
        writer.execute("UPDATE runs SET name = 'whole'")
        writer.commit()
        if moment == "in a transaction":
            writer.execute("UPDATE runs SET name = 'half'")
            assert Path(f"{store}-journal").read_bytes()[:12] == bytes(12)
        before = state(store.parent)
        reader = read(store, **{"temp-dir": str(tmp_path / "temp")})
        names = {header(item).name for item in items(reader, "run").values()}
        assert names == {"whole"}
        assert not list(reader.findings())
        reader.close()
        shutil.rmtree(tmp_path / "temp")
        assert state(store.parent) == before


def test_a_journal_that_goes_away_meanwhile(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there when the file was looked at, and its transaction has ended since."""
    gone = [Path(f"{store}-journal")]
    monkeypatch.setattr(sqlite_snapshot, "_companions", lambda _: gone)
    engine, _, cleanup = sqlite_snapshot.open_snapshot(store, tmp_path / "temp")
    with engine.connect() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM runs").scalar() == 2
    cleanup()


def test_a_file_under_a_lock_is_copied(
    store: Path, tmp_path: Path, read: Callable[..., DbReader]
) -> None:
    script = (
        "import sqlite3, sys\n"
        f"db = sqlite3.connect({str(store)!r}, isolation_level=None)\n"
        "db.execute('BEGIN IMMEDIATE')\nprint(1, flush=True)\nsys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"1\n"
        reader = read(store, **{"temp-dir": str(tmp_path / "temp")})
        assert len(items(reader, "run")) == 2
        assert len(list((tmp_path / "temp").iterdir())) == 1
    finally:
        holder.communicate()


def test_a_file_written_all_the_time_is_backed_up(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = iter(range(1000))
    copy = tmp_path / "copy.db"
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_snapshot, "_stamp", lambda _: (next(stamps), 0, 0))
        patch.setattr("time.sleep", lambda _: None)
        sqlite_snapshot._copy_whole(store, copy)
    db = sqlite3.connect(copy)
    assert db.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    db.close()


def test_no_space_for_a_copy(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(store)
    full = SimpleNamespace(total=9, used=9, free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    with pytest.raises(StoreError, match="--temp-dir"):
        DbReader(str(store), {})


def test_a_change_meanwhile_is_noticed(
    store: Path, read: Callable[..., DbReader]
) -> None:
    reader = read(store)
    refs = list(reader.refs(Selection("run")))
    change(store, "UPDATE runs SET name = 'other'")
    with pytest.raises(SourceChanged):
        list(reader.read(refs))
    with pytest.raises(SourceChanged):
        list(reader.findings())


def _count_runs(location: str, shared: str) -> int:
    reader = DbReader(location, {"snapshot": shared})
    try:
        return len(list(reader.read(list(reader.refs(Selection("run"))))))
    finally:
        reader.close()


@pytest.mark.parametrize("recent", [False, True])
def test_another_process_reads_the_same_snapshot(
    store: Path, read: Callable[..., DbReader], recent: bool
) -> None:
    if recent:
        os.utime(store)
    reader = read(store)
    pickle.dumps(reader.shared)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(_count_runs, str(store), reader.shared).result() == 2
    assert len(items(reader, "run")) == 2


# -- damage -------------------------------------------------------------------------


def test_what_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="no such file"):
        DbReader(str(tmp_path / "none.db"), {})
    with pytest.raises(StoreError, match="no file"):
        DbReader(str(tmp_path), {})
    bad = tmp_path / "bad.db"
    for content, match in (
        (b"", "empty"),
        (b"hello", "no SQLite"),
        (b"SQLite format 3\0" + b"\xff" * 4096, "cannot be read"),
    ):
        bad.write_bytes(content)
        age(bad)
        with pytest.raises(StoreError, match=match):
            DbReader(str(bad), {})
    bad.unlink()
    change(bad, "CREATE TABLE other (x)")
    with pytest.raises(StoreError, match="MLflow"):
        DbReader(str(bad), {})
    with pytest.raises(LocationError):
        DbReader("sqlite:///:memory:", {})


def test_orphans_are_counted_and_experiments_recovered(
    store: Path, read: Callable[..., DbReader]
) -> None:
    change(
        store,
        f"""
        INSERT INTO runs (run_uuid, experiment_id) VALUES ('{RUN}', 77);
        INSERT INTO runs (run_uuid, experiment_id) VALUES ('{RUN[::-1]}', NULL);
        INSERT INTO metrics {POINT} VALUES ('m', 1, 1, 1, 0, 'absent');
        INSERT INTO params (key, value, run_uuid) VALUES ('m', 1, 'absent');
        INSERT INTO tags (key, value, run_uuid) VALUES ('m', 1, 'absent');
        INSERT INTO datasets {DATASET} VALUES ('u', 1, 'n', 'd', 't', 's', NULL, NULL);
        INSERT INTO inputs {LINK}
            VALUES ('i', 'DATASET', 'u2', 'RUN', '{RUN}', 0);
        INSERT INTO inputs {LINK}
            VALUES ('j', 'DATASET', 'u2', 'RUN', 'absent', 0);
        INSERT INTO inputs {LINK}
            VALUES ('k', 'RUN_OUTPUT', '{RUN}', 'MODEL_OUTPUT', 'm', 0);
        INSERT INTO latest_metrics {POINT} VALUES ('only', 2.5, 3, 4, 0, '{RUN}');
        INSERT INTO latest_metrics {POINT} VALUES ('only', 2.5, 3, 4, 0, 'absent');
        INSERT INTO input_tags (input_uuid, name, value) VALUES ('absent', 'n', 'v');
        INSERT INTO model_versions (workspace, name, version)
            VALUES ('default', 'x', 1);
        """,
    )
    reader = read(store)
    experiments = items(reader, "experiment")
    assert {"77", "unknown"} <= set(experiments)
    assert header(experiments["77"]).name == "recovered-77"
    assert [type(found) for found in experiments["77"].findings] == [Problem]
    runs = items(reader, "run")
    assert header(runs[RUN]).experiment == Ref("experiment", "77")
    assert header(runs[RUN[::-1]]).experiment.id == "unknown"
    assert runs[RUN].metrics[0].values.tolist() == [2.5]
    assert "but for the latest" in texts(runs[RUN].findings)
    assert "dataset u2" in texts(runs[RUN].findings)
    found = texts(reader.findings())
    for table in (
        *("metrics", "latest_metrics", "params", "tags", "inputs", "input_tags"),
        *("datasets", "model_versions"),
    ):
        assert f"table {table}: 1 " in found, found
    assert [link.model.id for link in runs[RUN].links] == ["m"]


def test_wrong_types_and_bytes_cost_themselves_alone(
    store: Path, read: Callable[..., DbReader]
) -> None:
    change(
        store,
        f"""
        PRAGMA ignore_check_constraints = ON;
        INSERT INTO runs (run_uuid, experiment_id, start_time, status)
            VALUES ('{RUN}', 1, 'yesterday', 'PAUSED');
        INSERT INTO metrics {POINT} VALUES ('m', 1, 1, 1, 0, '{RUN}');
        INSERT INTO metrics {POINT} VALUES ('m', 'big', 2, 1, 0, '{RUN}');
        INSERT INTO metrics {POINT} VALUES ('m', 3, 'later', 1, 0, '{RUN}');
        INSERT INTO metrics {POINT} VALUES ('n', 3, 2.5, 1, 0, '{RUN}');
        INSERT INTO params (key, value, run_uuid)
            VALUES ('bad', CAST(x'ff41' AS TEXT), '{RUN}');
        INSERT INTO params (key, value, run_uuid) VALUES ('blob', x'4142', '{RUN}');
        INSERT INTO params (key, value, run_uuid) VALUES ('number', 5, '{RUN}');
        INSERT INTO tags (key, value, run_uuid) VALUES ('null', NULL, '{RUN}');
        INSERT INTO metrics {POINT}
            VALUES (CAST(x'6bff' AS TEXT), 1, 1, 1, 0, '{RUN}');
        """,
    )
    reader = read(store)
    runs = items(reader, "run")
    item = runs.pop(RUN)
    assert {m.key: m.values.tolist() for m in item.metrics} == {
        "m": [1.0],
        "k\\xff": [1.0],
    }
    assert {(p.key, p.value) for p in item.params} == {
        ("bad", "\\xffA"),
        ("blob", "AB"),
        ("number", "5"),
    }
    assert [(tag.key, tag.value) for tag in item.tags] == [("null", "")]
    assert header(item).start_time is None
    found = texts(item.findings)
    for what in (
        "metric m: 2 rows",
        "metric n: 1 rows",
        "bad is not UTF-8",
        "k\\xff is not UTF-8",
        "start_time 'yesterday'",
        "status 'PAUSED'",
    ):
        assert what in found, found
    assert not any(texts(other.findings) for other in runs.values())


@pytest.mark.parametrize(
    ("value", "expected"),
    [("9.9e20", None), (f"'{'9' * 30}'", None), ("1700000000000.5", 1700000000000)],
)
def test_a_time_that_no_database_holds_is_told(
    store: Path, read: Callable[..., DbReader], value: str, expected: int | None
) -> None:
    change(
        store,
        f"INSERT INTO runs (run_uuid, experiment_id, end_time) VALUES ('{RUN}', 1,"
        f" {value});",
    )
    run = items(read(store), "run")[RUN]

    assert expected == header(run).end_time
    assert "end_time" in texts(run.findings)


def test_oddities_of_models_are_told(
    store: Path, read: Callable[..., DbReader]
) -> None:
    change(
        store,
        """
        INSERT INTO registered_models (workspace, name, description)
            VALUES ('default', 'odd', CAST(x'ff41' AS TEXT));
        INSERT INTO model_versions (workspace, name, version, creation_time)
            VALUES ('default', 'odd', 1, 'yesterday');
        INSERT INTO model_version_tags (workspace, name, version, key, value)
            VALUES ('default', 'odd', 7, 'k', 'v');
        INSERT INTO registered_model_aliases (workspace, name, alias, version)
            VALUES ('default', 'odd', 'champion', 'newest');
        """,
    )
    reader = read(store)
    model = items(reader, "registered_model")["odd"]

    assert () == model.aliases
    found = texts(model.findings)
    for what in (
        "description is not UTF-8",
        "creation_time 'yesterday'",
        "alias 'champion' names no version: 'newest'",
    ):
        assert what in found, found
    assert "table model_version_tags: 1 rows" in texts(reader.findings())


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        ("experiments", "table experiment_tags: "),
        ("runs", "table params: "),
        ("inputs", "table datasets: "),
        ("registered_models", "table model_versions: "),
        ("latest_metrics", ""),
    ],
)
def test_a_table_that_is_gone_costs_its_rows(
    store: Path, read: Callable[..., DbReader], gone: str, left: str
) -> None:
    whole = read(store)
    before = {kind: len(items(whole, kind)) for kind in _CARRIED}
    whole.close()
    change(store, f"DROP TABLE {gone};")
    reader = read(store)
    after = {kind: len(items(reader, kind)) for kind in _CARRIED}

    lost: dict[str, dict[Kind, int]] = {
        "experiments": {"experiment": 1},  # that which the runs name
        "runs": {"run": 0},
        "registered_models": {"registered_model": 0},
    }
    assert {**before, **lost.get(gone, {})} == after
    assert left in texts(reader.findings())


def test_a_schema_that_is_no_text_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "odd.db"
    change(path, "CREATE TABLE runs (run_uuid, 'overwritten');")
    path.write_bytes(
        path.read_bytes().replace(b"'overwritten'", b",\xce\xff(+++++++++")
    )
    age(path)
    with pytest.raises(StoreError, match="cannot be read as a SQLite database"):
        DbReader(str(path), {})


@pytest.mark.parametrize("table", ["runs", "notes"])
def test_damage_to_a_table_leaves_the_others(
    store: Path, read: Callable[..., DbReader], table: str
) -> None:
    columns = "(run_uuid, experiment_id, source_name)"
    rows = (f"('{n:032x}', 0, '{'x' * 400}')" for n in range(40))
    change(
        store,
        f"CREATE TABLE notes {columns};"
        f"INSERT INTO {table} {columns} VALUES {', '.join(rows)};",
    )
    data = bytearray(store.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    page = data.index(b"x" * 300) // size
    data[page * size : page * size + 200] = b"\xfe" * 200
    store.write_bytes(data)
    age(store)
    reader = read(store)
    refs = list(reader.refs(Selection("run")))
    failed = [item for item in reader.read(refs) if isinstance(item, Failed)]

    assert len(items(reader, "experiment")) >= 2
    if table == "runs":
        assert 40 < len(refs)
        assert 0 < len(failed) < 40
    else:
        assert [] == failed
        assert f"table {table}: rows may be left behind" in texts(reader.findings())


def test_a_damaged_page_costs_what_is_on_it(
    store: Path, read: Callable[..., DbReader]
) -> None:
    script = "".join(
        f"INSERT INTO runs (run_uuid, experiment_id) VALUES ('{n:032x}', 0);"
        f"INSERT INTO params VALUES ('p', '{'x' * 3000}', '{n:032x}');"
        for n in range(40)
    )
    change(store, script)
    # A leaf of the table of params, somewhere in the middle of the file.
    data = bytearray(store.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    page = data.index(f"{20:032x}".encode(), data.index(b"x" * 2000)) // size
    data[page * size : page * size + 200] = b"\xfe" * 200
    store.write_bytes(data)
    age(store)
    reader = read(store)
    refs = list(reader.refs(Selection("run")))
    found = list(reader.read(refs))
    assert [item.ref for item in found] == refs
    failed = [item for item in found if isinstance(item, Failed)]
    assert 0 < len(failed) < 10
    assert "malformed" in failed[0].why


def test_several_workspaces(store: Path, read: Callable[..., DbReader]) -> None:
    change(
        store,
        """
        INSERT INTO experiments (experiment_id, name, workspace, lifecycle_stage)
            VALUES (5, 'images', 'other', 'active');
        INSERT INTO registered_models (name, workspace) VALUES ('cat', 'other');
        INSERT INTO model_versions (name, workspace, version)
            VALUES ('cat', 'other', 9);
        UPDATE experiments SET workspace = '' WHERE experiment_id = 1;
        """,
    )
    reader = read(store)
    assert reader.workspaces() == ["default", "other"]
    assert "5" not in items(reader, "experiment")
    assert items(reader, "workspace") == {}
    (cat,) = items(reader, "registered_model").values()
    assert [version.version for version in cat.versions] == [1, 2]
    assert "workspace" not in texts(reader.findings())

    reader = read(store, workspace="other")
    assert list(items(reader, "experiment")) == ["5"]
    assert list(reader.refs(Selection("run"))) == []
    (cat,) = items(reader, "registered_model").values()
    assert [version.version for version in cat.versions] == [9]
    # Nobody said anything of it in the table of workspaces.
    assert items(reader, "workspace")["other"].rows == (Row("workspaces", "{}"),)
    assert list(reader.findings()) == []
    with pytest.raises(StoreNotFound, match="it has: default, other"):
        read(store, workspace="another")


def test_tables_that_are_left_behind_are_named(
    store: Path, read: Callable[..., DbReader]
) -> None:
    change(store, "CREATE TABLE plugin_notes (x); INSERT INTO plugin_notes VALUES (1)")
    assert "table plugin_notes: 1 rows" in texts(read(store).findings())


# -- old revisions ------------------------------------------------------------------

FIRST_SCHEMA = """
CREATE TABLE experiments (experiment_id INTEGER NOT NULL, name VARCHAR(256) NOT NULL,
    artifact_location VARCHAR(256), lifecycle_stage VARCHAR(32),
    PRIMARY KEY (experiment_id), UNIQUE (name));
CREATE TABLE runs (run_uuid VARCHAR(32) NOT NULL, name VARCHAR(250),
    source_type VARCHAR(20), source_name VARCHAR(500), entry_point_name VARCHAR(50),
    user_id VARCHAR(256), status VARCHAR(20), start_time BIGINT, end_time BIGINT,
    source_version VARCHAR(50), lifecycle_stage VARCHAR(20),
    artifact_uri VARCHAR(200), experiment_id INTEGER, PRIMARY KEY (run_uuid));
CREATE TABLE metrics (key VARCHAR(250) NOT NULL, value FLOAT NOT NULL,
    timestamp BIGINT NOT NULL, run_uuid VARCHAR(32) NOT NULL,
    PRIMARY KEY (key, timestamp, run_uuid));
CREATE TABLE params (key VARCHAR(250) NOT NULL, value VARCHAR(250) NOT NULL,
    run_uuid VARCHAR(32) NOT NULL, PRIMARY KEY (key, run_uuid));
CREATE TABLE tags (key VARCHAR(250) NOT NULL, value VARCHAR(250),
    run_uuid VARCHAR(32) NOT NULL, PRIMARY KEY (key, run_uuid));
INSERT INTO experiments VALUES (0, 'Default', './mlruns/0', 'active');
INSERT INTO runs VALUES ('r1', '', 'LOCAL', 'train.py', '', 'me', 'FINISHED', 1, 2,
    '', 'active', NULL, 0);
INSERT INTO metrics VALUES ('m', 0.5, 20, 'r1'), ('m', 0.25, 10, 'r1');
INSERT INTO params VALUES ('p', 'v', 'r1');
INSERT INTO tags VALUES ('mlflow.runName', 'named', 'r1');
"""


@pytest.mark.parametrize("sort", [0, 1_000])
def test_the_first_schema(
    tmp_path: Path,
    read: Callable[..., DbReader],
    monkeypatch: pytest.MonkeyPatch,
    sort: int,
) -> None:
    monkeypatch.setattr("mlmigrate.stores.mlflow_db.tables._SORT", sort)
    path = tmp_path / "old.db"
    change(path, FIRST_SCHEMA)
    before = state(tmp_path)
    reader = read(path)
    (item,) = items(reader, "run").values()
    run = header(item)
    assert (run.name, run.source_type, run.source_name) == (
        "named",
        "LOCAL",
        "train.py",
    )
    assert (run.source_version, run.entry_point) == (None, None)
    (metric,) = item.metrics
    assert metric.steps.tolist() == [0, 0]
    assert metric.timestamps.tolist() == [10, 20]
    assert metric.values.tolist() == [0.25, 0.5]
    assert [(p.key, p.value) for p in item.params] == [("p", "v")]
    assert not items(reader, "registered_model")
    assert not list(reader.findings())
    reader.close()
    assert state(tmp_path) == before


# -- real stores --------------------------------------------------------------------


def test_real_databases_are_read_whole(corpus: list[CorpusStore]) -> None:
    seen = 0
    for store in corpus:
        if store.kind != "sqlite":
            continue
        for path in [store.path] if store.path.is_file() else store.path.rglob("*.db"):
            _compare(path)
            seen += 1
    assert seen


def _compare(path: Path) -> None:
    before = path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()
    db = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)

    def count(query: str) -> int:
        try:
            return int(db.execute(f"SELECT count(*) FROM {query}").fetchone()[0])
        except sqlite3.OperationalError:  # an older revision
            return 0

    reader = DbReader(str(path), {})
    found = {kind: items(reader, kind) for kind in KINDS}
    runs = found["run"].values()
    held = "WHERE run_uuid IN (SELECT run_uuid FROM runs)"
    assert len(runs) == count("runs")
    assert len(found["experiment"]) >= count("experiments")
    assert len(found["registered_model"]) == count("registered_models")
    assert sum(len(item.params) for item in runs) == count(f"params {held}")
    lifted = sum(header(item).parent is not None for item in runs)
    assert sum(len(item.tags) for item in runs) + lifted == count(f"tags {held}")
    points = sum(len(metric.steps) for item in runs for metric in item.metrics)
    assert points == count(f"metrics {held}")
    versions = sum(len(item.versions) for item in found["registered_model"].values())
    shown = "model_versions WHERE coalesce(current_stage, '') != 'Deleted_Internal'"
    assert versions == count(shown)
    list(reader.findings())
    reader.close()
    db.close()
    assert before == (
        path.stat().st_mtime_ns,
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


@pytest.mark.parametrize("lost", [4, 5000])
def test_a_file_that_is_cut_gives_what_is_left(
    tmp_path: Path, read: Callable[..., DbReader], lost: int
) -> None:
    path = tmp_path / "cut.db"
    shutil.copyfile(FIXTURES / "server-3.17" / "mlflow.db", path)
    with closing(sqlite3.connect(path)) as database, database:
        # What was written last lies last: were that the schema, nothing could be read.
        (run,) = database.execute("select min(run_uuid) from runs").fetchone()
        rows = [("m", at, at, at, 0, run) for at in range(5000)]
        database.executemany(f"insert into metrics {POINT} values (?,?,?,?,?,?)", rows)
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    before = path.stat()
    reader = read(path)

    refs = list(reader.refs(Selection("run")))
    found = [each for each in reader.read(refs) if isinstance(each, Item)]
    assert found
    assert any(f"the last {lost} bytes" in each.what for each in reader.findings())
    assert path.stat() == before
    assert path.read_bytes() == whole[:-lost]
