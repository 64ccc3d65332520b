"""Stores of several workspaces, made by MLflow itself, to and fro."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import faults, housed, postgres, servers

import mlmigrate
from mlmigrate import entities
from mlmigrate.contract import Selection
from mlmigrate.discover import overlaps
from mlmigrate.errors import StoreError, StoreNotFound, UsageError
from mlmigrate.filters import Filters
from mlmigrate.locations import chosen_workspace, resolve
from mlmigrate.model import Experiment, Item, Ref
from mlmigrate.pipeline.workspaces import each_workspace
from mlmigrate.stores.archive import open_source, place_of
from mlmigrate.stores.archive.checking import check
from mlmigrate.stores.archive.manifest import iso
from mlmigrate.testing.entity_items import label_schema, with_entities, workspace
from mlmigrate.testing.items import OTHER, experiment, run
from mlmigrate.testing.suite import MemorySources
from mlmigrate.testing.workspaces import housed as two_workspaces

ENABLED = {"MLFLOW_ENABLE_WORKSPACES": "true"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite of MLflow's with three workspaces."""
    folder = tmp_path_factory.mktemp("housed")
    housed.make(servers.fresh_database(folder / "mlflow.db"), folder)
    return folder / "mlflow.db"


@pytest.fixture(scope="module")
def expected(database: Path) -> dict[str, Any]:
    """What MLflow tells of it."""
    told = housed.shown(f"sqlite:///{database}", database.parent)
    assert list(told) == list(housed.WORKSPACES)
    for name, inside in told.items():
        assert inside["prompt"] == f"Hello {{{{ who }}}} of {name}"
        assert inside["note"] == f"of {name}"
    return told


@pytest.fixture
def enabled(tmp_path: Path) -> Iterator[str]:
    """A server with workspaces, of which there is the default one."""
    with servers.mlflow_server(tmp_path / "server", env=ENABLED) as url:
        yield url


def is_equal(source: str, sink: str, *options: str) -> bool:
    """Verify, and tell whether nothing differs."""
    found = mlmigrate.verify([source], sink, sink_options=options)
    assert (found.different, found.missing, list(found.problems)) == ([], [], [])
    assert not found.extra
    return found.same["workspace"] == 2


def rows(path: Path, query: str) -> list[Any]:
    """Ask a SQLite."""
    with closing(sqlite3.connect(path)) as held:
        return held.execute(query).fetchall()


def test_from_sqlite_to_sqlite(
    database: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    """MLflow shows the same in each, and artifacts lie where it would put them."""
    sink = tmp_path / "sink.db"
    planned = mlmigrate.plan([str(database)], str(sink))
    assert not sink.exists()
    report = mlmigrate.copy([str(database)], str(sink))

    assert report.copied == planned.copied
    assert report.copied["workspace"] == 2
    assert report.copied["registered_model"] == 6
    assert (report.failed, report.losses, list(report.problems)) == ([], [], [])
    assert is_equal(str(database), str(sink))
    assert housed.shown(f"sqlite:///{sink}", tmp_path) == expected
    again = mlmigrate.copy([str(database)], str(sink))
    assert not again.copied | again.updated
    places = rows(
        sink, "select experiment_id, workspace, artifact_location from experiments"
    )
    root = tmp_path / "mlartifacts"
    for id, name, place in places:
        inner = root if name == "default" else root / "workspaces" / name
        assert place == str(inner / str(id))


def test_through_an_archive(
    database: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    """Each workspace is an archive of its own in that; a check looks at all."""
    backup, sink = tmp_path / "backup", tmp_path / "sink.db"
    mlmigrate.copy([str(database)], f"archive:{backup}")
    assert is_equal(str(database), f"archive:{backup}")
    told = mlmigrate.inspect(str(backup))
    assert told["workspaces"] == 2
    assert told["runs"]["active"] == 3
    mlmigrate.copy([str(backup)], str(sink))
    assert is_equal(str(database), str(sink))
    assert housed.shown(f"sqlite:///{sink}", tmp_path) == expected

    whole = check(place_of(str(backup)))
    assert (whole.damaged, whole.notes) == ([], [])
    (blob,) = (backup / "workspaces" / "team-b" / "blobs").rglob("*/*")
    blob.write_bytes(b"of team-c")
    (backup / "workspaces" / "team-a" / "stray").touch()
    (backup / "workspaces" / "Not One").mkdir()
    (backup / "workspaces" / "Not One" / "stray").touch()
    found = check(place_of(str(backup)))
    assert found.files == whole.files - 1
    (damage,) = found.damaged
    assert (
        damage.where
        == f"workspaces/team-b/{blob.relative_to(backup / 'workspaces/team-b')}"
    )
    assert [ref.kind for ref in damage.hurts] == ["run"]
    assert sorted(found.notes) == [
        "'workspaces/Not One/stray' does not belong to the archive",
        "workspaces/team-a: 'stray' does not belong to the archive",
    ]


def test_states_of_an_archive(sources: MemorySources, tmp_path: Path) -> None:
    """Of an early time there are the workspaces that were archived by then."""
    origin, backup = sources(experiment(), run()), f"archive:{tmp_path / 'backup'}"
    mlmigrate.copy([origin], backup)
    with closing(open_source(backup, {})) as source:
        first = iso(source.manifest.segments[-1].time)
    team = (workspace(), experiment("2"), run(OTHER, "2"))
    sources.put(origin, *team, workspace="team-a")
    mlmigrate.copy([origin], backup)
    for when, count in ((), 1), ([f"as-of={first}"], 0):
        told = mlmigrate.inspect(backup, *when)
        assert told["workspaces"] == count
        assert told["runs"]["active"] == 1 + count


def test_an_archive_of_others_alone(sources: MemorySources, tmp_path: Path) -> None:
    """It says what it has."""
    origin, backup = two_workspaces(sources), f"archive:{tmp_path / 'backup'}"
    chosen = ["workspace=team-a"]
    mlmigrate.copy([origin], backup, source_options=chosen)
    with pytest.raises(StoreNotFound, match="give -i workspace=NAME, of team-a"):
        mlmigrate.inspect(backup)
    found = check(place_of(backup))
    assert found.damaged == []
    assert found.notes == ["nothing of the default workspace is here"]
    report = mlmigrate.copy([backup], str(tmp_path / "sink.db"), source_options=chosen)
    assert report.copied["run"] == 1
    mlmigrate.copy([origin], backup)
    assert mlmigrate.inspect(backup)["runs"]["active"] == 2


def test_no_link_leads_out_of_an_archive(
    sources: MemorySources, tmp_path: Path
) -> None:
    """A workspace that is a link is none."""
    one, other = tmp_path / "one", tmp_path / "other"
    mlmigrate.copy([sources(experiment(), run())], f"archive:{one}")
    mlmigrate.copy([sources(experiment(), run(OTHER))], f"archive:{other}")
    (one / "workspaces").mkdir()
    (one / "workspaces" / "team-a").symlink_to(other)
    assert mlmigrate.inspect(str(one))["runs"]["active"] == 1
    with pytest.raises(StoreError, match="link out of the archive"):
        mlmigrate.inspect(str(one), "workspace=team-a")


def test_into_a_server_and_out_again(
    database: Path, expected: dict[str, Any], enabled: str, tmp_path: Path
) -> None:
    """It makes the workspaces; MLflow shows the same there, and in what comes back."""
    planned = mlmigrate.plan([str(database)], enabled)
    report = mlmigrate.copy([str(database)], enabled)

    assert report.failed == []
    assert report.copied == planned.copied
    assert report.copied["workspace"] == 2
    assert planned.losses == report.losses
    assert is_equal(str(database), enabled)
    assert housed.shown(enabled, tmp_path) == expected
    again = mlmigrate.copy([str(database)], enabled)
    assert not again.copied | again.updated
    assert mlmigrate.inspect(enabled)["registered_models"] == 6

    back = tmp_path / "back.db"
    mlmigrate.copy([enabled], str(back))
    assert is_equal(enabled, str(back))
    assert housed.shown(f"sqlite:///{back}", tmp_path) == expected


def test_from_sqlite_to_postgresql(
    database: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    if not postgres.available():
        pytest.skip("no PostgreSQL here")
    with postgres.postgres_database() as sink:
        root = f"artifact-root={tmp_path / 'artifacts'}"
        mlmigrate.copy([str(database)], sink, sink_options=[root])
        assert is_equal(str(database), sink, root)
        mlmigrate.copy([sink], str(tmp_path / "back.db"))
    assert is_equal(str(database), str(tmp_path / "back.db"))
    back = f"sqlite:///{tmp_path / 'back.db'}"
    assert housed.shown(back, tmp_path) == expected


# -- chosen ---------------------------------------------------------------------------


def test_one_alone(database: Path, tmp_path: Path) -> None:
    """It comes into that of its name."""
    sink = tmp_path / "sink.db"
    chosen = ["workspace=team-a"]
    report = mlmigrate.copy([str(database)], str(sink), source_options=chosen)

    assert report.copied["run"] == report.copied["workspace"] == 1
    assert rows(sink, "select name, workspace from experiments") == [
        ("vision", "team-a")
    ]
    assert mlmigrate.inspect(str(database), *chosen)["runs"]["active"] == 1
    found = mlmigrate.verify([str(database)], str(sink), source_options=chosen)
    assert found.exit_code == 0


def test_all_into_one(database: Path, tmp_path: Path) -> None:
    """Of equal names one is made, as of those of several stores."""
    sink, chosen = tmp_path / "sink.db", ["workspace=team-c"]
    report = mlmigrate.copy([str(database)], str(sink), sink_options=chosen)

    assert report.failed == []
    assert report.copied["run"] == 3
    assert report.copied["workspace"] == 0
    assert set(rows(sink, "select workspace from experiments")) == {("team-c",)}
    assert rows(sink, "select name from workspaces where name like 'team-_'") == [
        ("team-c",)
    ]
    assert rows(sink, "select count(*) from model_versions where name = 'cat'") == [
        (3,)
    ]
    found = mlmigrate.verify([str(database)], str(sink), sink_options=chosen)
    assert (found.different, found.missing, found.extra) == ([], [], {})
    again = mlmigrate.copy([str(database)], str(sink), sink_options=chosen)
    assert not again.copied | again.updated


def test_a_store_without_any_into_one(sources: MemorySources, tmp_path: Path) -> None:
    """A team's old folders come to what it has now."""
    sink, chosen = tmp_path / "sink.db", ["workspace=team-c"]
    mlmigrate.copy([sources(experiment(), run())], str(sink), sink_options=chosen)
    assert rows(sink, "select workspace from experiments") == [("team-c",)]
    known = "select description from workspaces where name = 'team-c'"
    assert rows(sink, known) == [(None,)]


def test_names_tell_workspaces_apart(sources: MemorySources, tmp_path: Path) -> None:
    """Where all come into one, a template may keep their names apart."""
    sink = tmp_path / "sink.db"
    mlmigrate.copy(
        [two_workspaces(sources)],
        str(sink),
        mlmigrate.Options(experiment_name="{workspace}/{name}"),
        sink_options=["workspace=team-c"],
    )
    found = rows(sink, "select name from experiments order by name")
    assert found == [("default/churn",), ("team-a/churn",)]


def test_what_the_environment_chooses(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's variable chooses at servers alone, and an option comes before it."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(database, home / "mlflow.db")
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team-b")
    assert mlmigrate.inspect(str(database))["runs"]["active"] == 3
    with servers.mlflow_server(home, env=ENABLED) as url:
        report = mlmigrate.copy([url], str(tmp_path / "sink.db"))
        assert report.copied["run"] == 1
        found = rows(tmp_path / "sink.db", "select distinct workspace from experiments")
        assert found == [("team-b",)]
        told = mlmigrate.inspect(url, "workspace=default")
        assert (told["runs"]["active"], told["experiments"]["active"]) == (1, 2)
        with pytest.raises(StoreNotFound, match="no workspace 'nowhere'"):
            mlmigrate.inspect(url, "workspace=nowhere")
    monkeypatch.setenv("MLFLOW_WORKSPACE", "größe…")
    with pytest.raises(UsageError, match="MLFLOW_WORKSPACE: 'größe…' is wrong"):
        mlmigrate.inspect("http://127.0.0.1:9")


def test_a_server_without_any(server: str, sources: MemorySources) -> None:
    """It says so, whether it is read or written."""
    with pytest.raises(StoreError, match=f"{server} has no workspaces"):
        mlmigrate.inspect(server, "workspace=team-a")
    origin = sources(experiment(), run())
    with pytest.raises(StoreError, match=f"{server} has no workspaces"):
        mlmigrate.copy([origin], server, sink_options=["workspace=team-a"])
    report = mlmigrate.copy([origin], server, sink_options=["workspace=default"])
    assert report.copied["run"] == 1


# -- what is said of a workspace ------------------------------------------------------

ROOT = "s3://bucket/team-a"


def test_what_is_said_of_the_default_one(database: Path, tmp_path: Path) -> None:
    """MLflow's own words count as none."""
    source, sink = tmp_path / "source.db", tmp_path / "sink.db"
    shutil.copy(database, source)
    with closing(sqlite3.connect(source)) as held:
        held.execute(
            "update workspaces set description = 'ours', default_artifact_root = ?"
            " where name = 'default'",
            (ROOT,),
        )
        held.commit()
    report = mlmigrate.copy([str(source)], str(sink))
    assert report.updated["workspace"] == 1
    said = "select description, default_artifact_root from workspaces"
    assert rows(sink, f"{said} where name = 'default'") == [("ours", ROOT)]
    found = mlmigrate.verify([str(source)], str(sink))
    assert found.same["workspace"] == 3


def test_a_root_of_artifacts_stays_at_the_source(
    sources: MemorySources, enabled: str
) -> None:
    """At a server what is copied would come to lie there: a plan foretells the loss."""
    origin = sources(experiment(), run())
    retention = {"trace_archival_retention": "30d"}
    columns = {"description": "a's", "default_artifact_root": ROOT}
    team = workspace("team-a", **columns, **retention)
    sources.put(origin, team, experiment("2"), workspace="team-a")
    planned = mlmigrate.plan([origin], enabled)
    report = mlmigrate.copy([origin], enabled)

    assert report.failed == []
    assert planned.losses == report.losses
    (loss,) = [each for each in report.losses if each.ref == Ref("workspace", "team-a")]
    assert loss.what == "workspaces: default_artifact_root is the sink's own"
    (told,) = mlmigrate.open_store(enabled, "workspace=team-a").read([team.ref])
    assert isinstance(told, Item)
    assert entities.values(told.rows[0]) == {"description": "a's", **retention}
    found = mlmigrate.verify([origin], enabled)
    assert (found.different, found.missing) == ([], [])


# -- what is not wanted, and what cannot be -------------------------------------------


def test_workspaces_of_which_nothing_is_wanted(
    sources: MemorySources, enabled: str
) -> None:
    """They are not made."""
    origin = sources(experiment(), run())
    team = (workspace(), experiment("2", "other"), run(OTHER, "2"))
    sources.put(origin, *team, workspace="team-a")
    only = mlmigrate.Options(filters=Filters(experiments=("churn",)))
    report = mlmigrate.copy([origin], enabled, only)
    assert report.copied["run"] == 1
    assert mlmigrate.inspect(enabled)["workspaces"] == 0
    found = mlmigrate.verify([origin], enabled, only)
    assert (found.different, found.missing) == ([], [])


def test_a_run_that_another_workspace_has(
    sources: MemorySources, tmp_path: Path
) -> None:
    """An id is in a database once: that it cannot come is told, time and again."""
    origin, sink = sources(experiment(), run()), tmp_path / "sink.db"
    mlmigrate.copy([origin], str(sink))
    chosen = ["workspace=team-a"]
    for _ in range(2):
        foretold = mlmigrate.plan([origin], str(sink), sink_options=chosen)
        report = mlmigrate.copy([origin], str(sink), sink_options=chosen)
        (failed,) = report.failed
        assert "it is in another workspace of the sink" in failed.why
        assert foretold.failed == report.failed
        assert foretold.copied == report.copied
    assert rows(sink, "select count(*) from runs") == [(1,)]


def test_stores_that_share_runs(database: Path, tmp_path: Path) -> None:
    """They do in any workspace; an archive's are no archives of their own."""
    folder = tmp_path / "stores"
    folder.mkdir()
    shutil.copy(database, folder / "one.db")
    mlmigrate.copy([str(database)], f"archive:{folder / 'two'}")
    found = mlmigrate.scan(str(folder))
    assert found == [str(folder / "one.db"), str(folder / "two")]
    (overlap,) = overlaps([resolve(place) for place in found])
    assert overlap["runs"] == 3


def test_a_server_that_makes_none(sources: MemorySources, enabled: str) -> None:
    """What is in others comes nevertheless."""
    origin = two_workspaces(sources)

    def denied(method: str, path: str, n: int) -> faults.Fault | None:
        makes = (method, path) == ("POST", "/api/3.0/mlflow/workspaces")
        return faults.refuse(403) if makes else None

    with faults.fault_proxy(enabled, denied) as proxy:
        report = mlmigrate.copy([origin], proxy.url)
    assert report.copied["run"] == 1
    whys = {each.ref.kind: each.why for each in report.failed}
    assert {"workspace", "experiment", "run"} <= whys.keys()
    assert "workspace 'team-a' cannot be made" in whys["workspace"]
    assert mlmigrate.copy([origin], enabled).copied["run"] == 1


# -- damage, and what nobody foresaw --------------------------------------------------


def altered(database: Path, tmp_path: Path, script: str) -> Path:
    """Return a copy of a database on which a script was run."""
    path = tmp_path / "altered.db"
    shutil.copy(database, path)
    with closing(sqlite3.connect(path)) as held:
        held.executescript(script)
    return path


def everything_came(source: str, sink: Path) -> list[str]:
    """Copy, check that three runs came and nothing differs, and return the problems."""
    report = mlmigrate.copy([source], str(sink))
    assert (report.failed, report.copied["run"]) == ([], 3)
    found = mlmigrate.verify([source], str(sink))
    assert (found.different, found.missing) == ([], [])
    again = mlmigrate.copy([source], str(sink))
    assert not again.copied | again.updated
    return [problem.what for problem in report.problems]


@pytest.mark.parametrize(
    ("script", "workspaces"),
    [
        ("drop table workspaces", 2),
        ("drop table workspaces; create table workspaces (id integer)", 2),
        ("insert into workspaces (name) values ('')", 2),
        ("update model_versions set workspace = '' where workspace = 'default'", 2),
        ("update experiments set workspace = null where workspace = 'default'", 2),
        ("update experiments set workspace = cast('team-a' as blob) where name ="
         " 'vision' and workspace = 'team-a'", 2),
        ("update experiments set workspace = cast(x'746561ff' as text) where name ="
         " 'vision' and workspace = 'team-a'", 2),
        ("delete from workspaces where name = 'team-a'", 2),
    ],
)  # fmt: skip
def test_workspaces_that_are_written_differently(
    database: Path, tmp_path: Path, script: str, workspaces: int
) -> None:
    """Whatever stands there, all comes."""
    loose = script.replace("null", "''")  # MLflow's own column takes no NULL
    source = altered(database, tmp_path, f"pragma foreign_keys = off; {loose}")
    assert everything_came(str(source), tmp_path / "sink.db") == []
    assert mlmigrate.inspect(str(source))["workspaces"] == workspaces


def test_what_is_told_of_one_alone(database: Path, tmp_path: Path) -> None:
    """Rows of it without owner; those of others are others'."""
    source = altered(
        database,
        tmp_path,
        "delete from registered_models where name = 'cat' and workspace = 'team-a';"
        "insert into secrets (secret_id, secret_name, encrypted_value, wrapped_dek,"
        " kek_version, masked_value, created_at, last_updated_at, workspace) values"
        " ('s-1', 's', x'00', x'00', 1, '*', 1, 1, 'team-b')",
    )
    lost = "table model_versions: 1 rows belong to no model: not copied"
    secret = "table secrets: 1 rows are not carried over"
    whole = {each["what"] for each in mlmigrate.inspect(str(source))["problems"]}
    assert {lost, secret} <= whole
    for name, own in ("team-a", lost), ("team-b", secret):
        told = mlmigrate.inspect(str(source), f"workspace={name}")["problems"]
        found = {each["what"] for each in told}
        assert own in found
        assert not {lost, secret} - {own} & found


def test_a_damaged_table_of_workspaces(database: Path, tmp_path: Path) -> None:
    """What is in them comes; what is said of them is a problem."""
    source = altered(database, tmp_path, "vacuum")
    query = "select rootpage from sqlite_schema where name = 'workspaces'"
    ((page,),) = rows(source, query)
    ((size,),) = rows(source, "pragma page_size")
    with source.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    sink = tmp_path / "sink.db"
    report = mlmigrate.copy([str(source)], str(sink))
    assert report.copied["run"] == 3
    assert {name for (name,) in rows(sink, "select workspace from experiments")} == {
        *housed.WORKSPACES
    }
    whats = [problem.what for problem in report.problems]
    assert any("table workspaces: what is said there is not copied" in w for w in whats)


def test_entities_that_another_workspace_has(
    sources: MemorySources, tmp_path: Path
) -> None:
    """None is moved, nor changed there."""
    sink = tmp_path / "sink.db"
    mlmigrate.copy([sources(*with_entities())], str(sink))
    before = rows(sink, "select experiment_id, instruction from label_schemas")
    changed = [
        label_schema(instruction="Well?", last_update_time=4_000_000_000_000)
        if item.ref.kind == "label_schema"
        else item
        for item in with_entities()
    ]
    origin, chosen = sources(*changed), ["workspace=team-a"]
    foretold = mlmigrate.plan([origin], str(sink), sink_options=chosen)
    report = mlmigrate.copy([origin], str(sink), sink_options=chosen)
    kinds = {each.ref.kind for each in report.failed}
    assert {"label_schema", "scorer", "review_queue", "issue"} <= kinds
    assert {"evaluation_dataset", "webhook"} <= kinds
    # An MCP server may be in both, but an endpoint of it has an id.
    known = [each for each in report.failed if each.ref.kind != "mcp_server"]
    assert all("in another workspace" in each.why for each in known)
    assert foretold.failed == known
    assert rows(sink, "select experiment_id, instruction from label_schemas") == before
    found = mlmigrate.verify([origin], str(sink), sink_options=chosen)
    assert {ref.kind for ref in found.missing} == kinds


def test_one_store_in_two_workspaces_of_a_server(
    sources: MemorySources, enabled: str, tmp_path: Path
) -> None:
    """Each has its own copies, which a repeat finds, in its database as well."""
    origin = sources(experiment(), run())
    place = ["workspace=team-a"]
    mlmigrate.copy([origin], enabled)
    assert mlmigrate.copy([origin], enabled, sink_options=place).copied["run"] == 1
    for sink_options in [], place:
        again = mlmigrate.copy([origin], enabled, sink_options=sink_options)
        assert not again.copied | again.updated
    sink = tmp_path / "sink.db"
    for outcome in ("copied", "skipped"):
        report = mlmigrate.copy([enabled], str(sink))
        assert report.failed == []
        assert getattr(report, outcome)["run"] == 2
        found = mlmigrate.verify([enabled], str(sink))
        assert (found.different, found.missing) == ([], [])
    # What is there already is found in its own workspace, also by the origin alone.
    for name in ("default", "team-a"):
        options = [f"workspace={name}"]
        report = mlmigrate.copy([origin], str(sink), sink_options=options)
        assert (report.failed, report.skipped["run"]) == ([], 1)


def test_a_workspace_of_an_archive_that_is_damaged(
    sources: MemorySources, tmp_path: Path
) -> None:
    """It costs the others nothing, wherever it is met; and is never passed over."""
    origin, backup = two_workspaces(sources), tmp_path / "backup"
    sources.put(origin, experiment("3"), run("3" * 32, "3"), workspace="team-b")
    mlmigrate.copy([origin], f"archive:{backup}")
    for name in ("mlmigrate.json", "mlmigrate.spare.json"):
        (backup / "workspaces" / "team-a" / name).write_text("junk")
    _check_damaged(origin, backup, tmp_path / "one.db")
    for name in ("mlmigrate.json", "mlmigrate.spare.json"):
        (backup / "workspaces" / "team-a" / name).unlink()
    _check_damaged(origin, backup, tmp_path / "two.db")


def _check_damaged(origin: str, backup: Path, sink: Path) -> None:
    assert any("team-a" in each.where for each in check(place_of(str(backup))).damaged)
    report = mlmigrate.copy([str(backup)], str(sink))
    assert report.copied["run"] == 2
    (problem,) = report.problems
    assert problem.where == f"{backup} workspace team-a"
    told = mlmigrate.inspect(str(backup))
    assert told["runs"]["active"] == 2
    assert [each["where"] for each in told["problems"]] == [problem.where]
    report = mlmigrate.copy([origin], f"archive:{backup}")
    assert report.skipped["run"] == 2
    assert report.exit_code == 3


def test_a_workspace_of_an_archive_is_no_sink_of_it(
    sources: MemorySources, tmp_path: Path
) -> None:
    """Whichever way it is named."""
    backup = f"archive:{tmp_path / 'backup'}"
    mlmigrate.copy([two_workspaces(sources)], backup)
    inner = f"{backup}/workspaces/team-a"
    with pytest.raises(UsageError, match="both a source and the sink"):
        mlmigrate.copy([backup], inner)
    with pytest.raises(UsageError, match="both a source and the sink"):
        mlmigrate.copy([inner], backup, sink_options=["workspace=team-a"])


def test_all_workspaces_are_read_from_one_state(database: Path, tmp_path: Path) -> None:
    """What is logged meanwhile is for the next copy."""
    source = altered(database, tmp_path, "pragma journal_mode = wal")
    opened = resolve(str(source))
    names = {}
    with (
        closing(each_workspace(opened, [])) as each,
        closing(sqlite3.connect(source)) as live,
    ):
        for view, store in each:
            items = list(store.read(list(store.refs(Selection("experiment")))))
            headers = [item.header for item in items if isinstance(item, Item)]
            found = {each.name for each in headers if isinstance(each, Experiment)}
            assert len(found) == len(items)
            names[chosen_workspace(view)] = found
            late = "insert into experiments (name, workspace) values (?, 'team-b')"
            live.execute(late, (f"late {len(names)}",))
            live.commit()
    others = {"team-a": {"vision"}, "team-b": {"vision"}}
    assert names == {None: {"Default", "vision"}, **others}
    assert mlmigrate.inspect(str(source))["experiments"]["active"] == 4 + 3
