"""What MLflow keeps beside runs, models and traces: as its own API shows it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support import kept, postgres, servers
from support.reading import held_at

import mlmigrate
from mlmigrate.entities import ENTITIES, HOUSED
from mlmigrate.model import Kind
from mlmigrate.pipeline import Options
from mlmigrate.testing.entity_items import dataset, webhook
from mlmigrate.testing.items import experiment
from mlmigrate.testing.suite import MemorySources


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with an entity of each kind, written by MLflow."""
    path = tmp_path_factory.mktemp("kept") / "mlflow.db"
    kept.make(f"sqlite:///{path}")
    return path


def test_mlflow_shows_the_same(database: Path, tmp_path: Path) -> None:
    """Each field of each entity, in a database whose experiments have other ids."""
    taken, sink = tmp_path / "taken.db", tmp_path / "sink.db"
    client = MlflowClient(servers.fresh_database(taken))
    for name in ("one", "two", "three"):
        client.create_experiment(name)
    mlmigrate.copy([str(taken)], str(sink))
    report = mlmigrate.copy([str(database)], str(sink))

    assert report.failed == []
    assert [each.what for each in report.problems] == [
        "its secret is not carried over: give it anew"
    ]
    # The Default of either had its own time of creation.
    found = mlmigrate.verify([str(database)], str(sink))
    assert [each.ref.id for each in (*found.different, *found.missing)] == ["0"]
    one, other = kept.shown(f"sqlite:///{database}"), kept.shown(f"sqlite:///{sink}")
    assert [each["status"] for each in other["webhooks"]] == ["DISABLED"]
    other["webhooks"][0]["status"] = "ACTIVE"
    one["webhooks"][0]["secret"] = None
    assert set(one) == {f"{kind}s" for kind in HOUSED}
    for kind, told in one.items():
        assert told, kind
        assert told == other[kind], kind


def test_through_an_archive(database: Path, tmp_path: Path) -> None:
    """A backup holds all of it, an enabled webhook too, and gives it back."""
    backup, sink = tmp_path / "backup", tmp_path / "sink.db"
    mlmigrate.copy([str(database)], f"archive:{backup}")
    told = mlmigrate.inspect(str(backup))
    assert [told[f"{kind}s"] for kind in ENTITIES] == [0, 2, 2, 4, 1, 1, 1, 2]
    mlmigrate.copy([str(backup)], str(sink))
    compared = mlmigrate.verify([str(database)], str(sink))
    assert (compared.different, compared.missing) == ([], [])


def test_from_sqlite_to_postgresql(database: Path, tmp_path: Path) -> None:
    """Booleans and JSON are of other types there, and say the same."""
    if not postgres.available():
        pytest.skip("no PostgreSQL here")
    with postgres.postgres_database() as sink:
        root = [f"artifact-root={tmp_path}"]
        report = mlmigrate.copy([str(database)], sink, sink_options=root)
        assert report.failed == []
        compared = mlmigrate.verify([str(database)], sink, sink_options=root)
        assert (compared.different, compared.missing) == ([], [])
        mlmigrate.copy([sink], str(tmp_path / "back.db"))
    compared = mlmigrate.verify([str(database)], str(tmp_path / "back.db"))
    assert (compared.different, compared.missing) == ([], [])
    one, other = (
        kept.shown(f"sqlite:///{path}") for path in (database, tmp_path / "back.db")
    )
    assert one["evaluation_datasets"] == other["evaluation_datasets"]


def test_what_is_not_described_is_counted(database: Path, tmp_path: Path) -> None:
    """Rows of a table that a later MLflow adds, and those without their owner."""
    source = tmp_path / "source.db"
    shutil.copy(database, source)
    with closing(sqlite3.connect(source)) as held:
        held.execute("create table novelties (id integer)")
        held.execute("insert into novelties values (1), (2)")
        held.execute(
            "update evaluation_datasets set workspace = 'xyz' where name='empty'"
        )
        held.execute("update mcp_server_tags set workspace = 'xyz'")
        held.execute("delete from scorers where scorer_name = 'safety'")
        held.commit()
    report = mlmigrate.copy([str(source)], str(tmp_path / "sink.db"))

    assert report.copied["evaluation_dataset"] == 2
    assert sorted(each.what for each in report.problems) == [
        "its secret is not carried over: give it anew",
        "table mcp_server_tags: 1 rows belong to no mcp server: not copied",
        "table novelties: 2 rows are not carried over",
        "table scorer_versions: 3 rows belong to no scorer: not copied",
    ]


def test_a_webhook_that_is_enabled_at_the_sink(
    sources: MemorySources, tmp_path: Path
) -> None:
    """Nobody's is turned off by a copy of one that changed since."""
    origin, sink = sources(webhook(status="ACTIVE")), tmp_path / "sink.db"
    first = mlmigrate.copy([origin], str(sink))
    assert "it is disabled at the sink, where it would be called" in str(first.data())
    with closing(sqlite3.connect(sink)) as held:
        held.execute("update webhooks set status = 'ACTIVE'")
        held.commit()
    sources.put(origin, webhook(status="ACTIVE", url="https://a.example/", updated=9))
    mlmigrate.copy([origin], str(sink))
    with closing(sqlite3.connect(sink)) as held:
        assert held.execute("select status, url from webhooks").fetchall() == [
            ("ACTIVE", "https://a.example/")
        ]
    assert mlmigrate.verify([origin], str(sink)).different == []


def test_credentials_in_entities(sources: MemorySources, tmp_path: Path) -> None:
    """They are masked wherever they stand, and the copy is found again."""
    secret = "SECRETSECRET123"
    origin = sources(
        experiment(),
        webhook(url=f"https://ci.example/hook?token={secret}"),
        dataset(tags=[("api_key", secret)]),
    )
    options = Options(redact_credentials=True)
    for location in (str(tmp_path / "sink.db"), f"archive:{tmp_path / 'backup'}"):
        for outcome in ("copied", "skipped"):
            report = mlmigrate.copy([origin], location, options)
            assert getattr(report, outcome)["webhook"] == 1
        found = mlmigrate.verify([origin], location, options)
        assert (found.different, found.missing) == ([], [])
    kinds: tuple[Kind, ...] = ("webhook", "evaluation_dataset")
    held = [
        held_at(str(tmp_path / name), kind)
        for name in ("sink.db", "backup")
        for kind in kinds
    ]
    assert secret not in str(held)
