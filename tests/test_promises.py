"""What the README promises, each on real stores."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import reading, servers
from support.command_line import Cli
from support.corpus import CorpusStore
from support.fixture_stores import COUNTS, FIXTURES, location
from support.tree import snapshot

import mlmigrate
from mlmigrate import api
from mlmigrate.contract import Selection
from mlmigrate.model import Experiment, Item, Run
from mlmigrate.report import Report, VerifyReport

STORES = sorted(COUNTS)


@pytest.fixture(autouse=True)
def _temp_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def sink(tmp_path: Path) -> str:
    """A SQLite sink with tables and no rows."""
    return servers.fresh_database(tmp_path / "sink.db")


def execute(sink: str, statement: str, *values: Any) -> list[Any]:
    """Run SQL on a SQLite store, past the adapter."""
    with closing(sqlite3.connect(sink.removeprefix("sqlite:///"))) as base, base:
        return base.execute(statement, values).fetchall()


def one(sink: str, statement: str, *values: Any) -> Any:
    return execute(sink, statement, *values)[0][0]


# -- sources ------------------------------------------------------------------------


class TestSourcesAreNeverChanged:
    @pytest.mark.parametrize("name", STORES)
    def test_fixtures(self, name: str, tmp_path: Path, sink: str) -> None:
        """Not a byte, not a time, not a file beside it: plan, copy and verify."""
        store = tmp_path / "store"
        shutil.copytree((FIXTURES / name).parent, store, symlinks=True)
        place = store / Path(name).name
        source = f"sqlite:///{place}" if place.suffix == ".db" else str(place)
        before = snapshot(store)
        mlmigrate.plan([source], sink)
        mlmigrate.copy([source], sink)
        api.verify([source], sink)

        assert before == snapshot(store)

    def test_database_with_a_log(self, tmp_path: Path, sink: str) -> None:
        """A SQLite file whose last rows lie in its WAL gives them, untouched."""
        store = tmp_path / "live"
        store.mkdir()
        shutil.copy(FIXTURES / "server-3.17" / "mlflow.db", store / "open.db")
        with closing(sqlite3.connect(store / "open.db")) as base:
            base.execute("pragma journal_mode=wal")
            base.execute("pragma wal_autocheckpoint=0")
            base.execute("update runs set name = 'from the log'")
            base.commit()
            # Copied while it is open: as a backup of a machine finds it.
            for path in store.glob("open.db*"):
                shutil.copy(path, store / path.name.replace("open", "crashed"))
        for path in store.glob("open.db*"):
            path.unlink()
        before = snapshot(store)
        source = f"sqlite:///{store / 'crashed.db'}"
        mlmigrate.copy([source], sink)

        assert "crashed.db-wal" in before
        assert before == snapshot(store)
        assert [("from the log",)] == execute(sink, "select distinct name from runs")

    def test_database_with_a_writer(self, tmp_path: Path, sink: str) -> None:
        """A source that is being written to is read as of one moment."""
        path = tmp_path / "live.db"
        shutil.copy(FIXTURES / "server-3.17" / "mlflow.db", path)
        with closing(sqlite3.connect(path)) as writer:
            writer.execute("pragma journal_mode=wal")
            writer.execute("update runs set name = 'committed'")
            writer.commit()
            writer.execute("update runs set name = 'not yet'")
            mlmigrate.copy([f"sqlite:///{path}"], sink)
            writer.rollback()

        assert [("committed",)] == execute(sink, "select distinct name from runs")


def test_public_names_stay_functions() -> None:
    """`mlmigrate.verify` is the function however often it is asked for."""
    code = (
        "import mlmigrate\n"
        "for _ in range(2):\n"
        "    for name in mlmigrate.__all__:\n"
        "        assert callable(getattr(mlmigrate, name)), name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert 0 == done.returncode, done.stderr


# -- counts -------------------------------------------------------------------------


def source_runs(name: str) -> dict[str, Item]:
    with closing(mlmigrate.open_store(location(name))) as store:
        return {item.origin: item for item in reading.held(store)}


class TestCounts:
    @pytest.mark.parametrize("name", STORES)
    def test_alone(self, name: str, sink: str) -> None:
        """What `counts.json` counts in a store is in the sink's tables."""
        report = mlmigrate.copy([location(name)], sink)
        checked = api.verify([location(name)], sink)
        wanted = COUNTS[name]

        assert ([], []) == (checked.different, checked.missing)
        assert [] == report.failed
        got = {
            "runs": {
                "active": one(
                    sink, "select count(*) from runs where lifecycle_stage = 'active'"
                ),
                "deleted": one(
                    sink, "select count(*) from runs where lifecycle_stage = 'deleted'"
                ),
            },
            "params": one(sink, "select count(*) from params"),
            "metrics": {
                "keys": one(
                    sink,
                    "select count(*) from (select distinct run_uuid, key from metrics)",
                ),
                "points": one(sink, "select count(*) from metrics"),
            },
            "registered_models": one(sink, "select count(*) from registered_models"),
            "model_versions": one(sink, "select count(*) from model_versions"),
            "dataset_inputs": one(
                sink, "select count(*) from inputs where source_type = 'DATASET'"
            ),
            "logged_models": one(sink, "select count(*) from logged_models"),
            "artifacts": _files(Path(sink.removeprefix("sqlite:///")).parent),
        }
        wanted_versions = wanted["model_versions"] - wanted["model_versions_deleted"]
        expected = {key: wanted[key] for key in got} | {
            "model_versions": wanted_versions
        }
        assert expected == got
        # The parent's tag and what the run's name was lifted from stand there, too.
        own = "select count(*) from tags where key not like 'mlmigrate.%'"
        assert wanted["tags"] == one(sink, own)

    def test_together(self, sink: str) -> None:
        """All stores in one sink: each run once, and verify agrees."""
        report = mlmigrate.copy([location(name) for name in STORES], sink)
        checked = api.verify([location(name) for name in STORES], sink)
        runs: set[str] = set()
        total: Counter[str] = Counter()
        for name in STORES:
            found = source_runs(name)
            runs |= found.keys()
            total["copies"] += len(found)

        assert [] == report.failed == report.conflicts
        assert ([], []) == (checked.different, checked.missing)
        assert {} == checked.extra
        assert runs == {id for (id,) in execute(sink, "select run_uuid from runs")}
        assert len(runs) == report.copied["run"]
        assert total["copies"] == (
            report.copied["run"] + report.updated["run"] + report.skipped["run"]
        )
        assert 1 == one(sink, "select count(*) from experiments where name = 'churn'")

    def test_twice(self, sink: str) -> None:
        """A second copy of all stores changes no row."""
        sources = [location(name) for name in STORES]
        mlmigrate.copy(sources, sink)
        before = _dump(sink)
        again = mlmigrate.copy(sources, sink)

        assert ({}, {}) == (dict(again.copied), dict(again.updated))
        assert before == _dump(sink)

    def test_any_order(self, tmp_path: Path) -> None:
        """The order of the sources changes no run."""
        found = []
        for name, sources in (("one", STORES), ("other", STORES[::-1])):
            (tmp_path / name).mkdir()
            sink = servers.fresh_database(tmp_path / name / "sink.db")
            mlmigrate.copy([location(each) for each in sources], sink)
            found.append(
                [
                    execute(
                        sink,
                        "select run_uuid, name, status, start_time, end_time,"
                        " lifecycle_stage from runs order by run_uuid",
                    ),
                    execute(
                        sink,
                        "select key, value, run_uuid from params order by"
                        " run_uuid, key",
                    ),
                    execute(
                        sink,
                        "select run_uuid, key, step, timestamp, value, is_nan"
                        " from metrics order by 1, 2, 3, 4, 5, 6",
                    ),
                    execute(
                        sink,
                        "select run_uuid, key, value from tags where key not"
                        " like 'mlmigrate.%' order by 1, 2",
                    ),
                ]
            )

        assert found[0] == found[1]


def _files(folder: Path) -> dict[str, int]:
    """The artifacts of runs, without those of logged models."""
    found = (folder / "mlartifacts").glob("*/[!m]*/artifacts/**/*")
    files = [path for path in found if path.is_file()]
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}


def _dump(sink: str) -> list[str]:
    with closing(sqlite3.connect(sink.removeprefix("sqlite:///"))) as base:
        return sorted(base.iterdump())


# -- verify -------------------------------------------------------------------------


class TestVerifyFinds:
    @pytest.fixture
    def copied(self, sink: str) -> str:
        """A sink that holds a copy of a store, in which nothing differs."""
        source = location("cluster-2.9/mlruns")
        mlmigrate.copy([source], sink)
        assert 0 == api.verify([source], sink).exit_code
        return sink

    def verify(self, sink: str) -> VerifyReport:
        return api.verify([location("cluster-2.9/mlruns")], sink)

    @pytest.mark.parametrize(
        ("statement", "field"),
        [
            (
                "update metrics set value = value + 1e-9 where rowid ="
                " (select min(rowid) from metrics where not is_nan"
                " and abs(value) < 1e3)",
                "metric ",
            ),
            (
                "update metrics set step = step + 1000 where rowid ="
                " (select max(rowid) from metrics)",
                "metric ",
            ),
            (
                "delete from metrics where rowid = (select max(rowid) from metrics)",
                "metric ",
            ),
            (
                "update params set value = value || ' ' where rowid ="
                " (select min(rowid) from params)",
                "param ",
            ),
            (
                "delete from params where rowid = (select min(rowid) from params)",
                "param ",
            ),
            (
                "update tags set value = value || '!' where rowid = (select min(rowid)"
                " from tags where key = 'mlflow.source.name')",
                "tag ",
            ),
            (
                "update runs set status = 'KILLED' where rowid = (select min(rowid)"
                " from runs where status = 'FINISHED')",
                "status",
            ),
            (
                "update runs set start_time = start_time + 1 where rowid ="
                " (select min(rowid) from runs)",
                "start_time",
            ),
            (
                "update runs set name = 'other' where rowid ="
                " (select min(rowid) from runs)",
                "name",
            ),
            (
                "update model_versions set description = 'other' where rowid ="
                " (select min(rowid) from model_versions where"
                " description is not null)",
                "version ",
            ),
            (
                "delete from registered_model_aliases where rowid ="
                " (select min(rowid) from registered_model_aliases)",
                "alias ",
            ),
            ("delete from inputs", "dataset "),
        ],
    )
    def test_a_changed_value(self, copied: str, statement: str, field: str) -> None:
        """One changed value is named with its field."""
        before = _dump(copied)
        execute(copied, statement)
        assert before != _dump(copied), "the statement changed nothing"
        found = self.verify(copied)

        assert 3 == found.exit_code
        assert found.different
        assert all(each.field.startswith(field) for each in found.different)

    def test_a_missing_run(self, copied: str) -> None:
        """A run that is gone is named."""
        (run,) = execute(copied, "select min(run_uuid) from runs")[0]
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            execute(copied, f"delete from {table} where run_uuid = ?", run)
        found = self.verify(copied)

        assert [f"run/{run}"] == [str(ref) for ref in found.missing]
        assert 3 == found.exit_code

    def test_a_flipped_bit(self, copied: str) -> None:
        """One bit of one artifact."""
        folder = Path(copied.removeprefix("sqlite:///")).parent / "mlartifacts"
        path = max(
            (path for path in folder.rglob("*") if path.is_file()),
            key=lambda path: (path.stat().st_size, path),
        )
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        (found,) = self.verify(copied).different

        assert f"artifact {path.relative_to(_artifacts(path)).as_posix()}" == (
            found.field
        )

    def test_a_missing_artifact(self, copied: str) -> None:
        """A file that is gone."""
        folder = Path(copied.removeprefix("sqlite:///")).parent / "mlartifacts"
        next(path for path in sorted(folder.rglob("*")) if path.is_file()).unlink()

        assert ["artifact"] == [
            each.field.split()[0] for each in self.verify(copied).different
        ]

    def test_extra_is_no_difference(self, copied: str) -> None:
        """What only the sink holds is told, and is no difference."""
        execute(
            copied,
            "insert into params (run_uuid, key, value)"
            " select min(run_uuid), 'added there', '1' from runs",
        )
        found = self.verify(copied)

        assert (0, {"param": 1}) == (found.exit_code, dict(found.extra))


def _artifacts(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.name == "artifacts")


# -- the corpus ---------------------------------------------------------------------


def test_corpus(corpus_store: CorpusStore, sink: str) -> None:
    """Every real store arrives whole, and a second copy changes nothing."""
    if corpus_store.kind == "artifacts":
        pytest.skip("artifacts alone, which come with the store beside them")
    source = corpus_store.location
    report = mlmigrate.copy([source], sink)
    checked = api.verify([source], sink)

    assert ([], []) == (checked.different, checked.missing)
    assert ([], []) == (report.failed, report.conflicts)
    again = mlmigrate.copy([source], sink)
    assert ({}, {}) == (dict(again.copied), dict(again.updated))


# -- the command line ---------------------------------------------------------------

COPY_FIELDS = {
    "copied",
    "updated",
    "skipped",
    "failed",
    "losses",
    "problems",
    "notes",
    "conflicts",
    "artifacts",
    "ids",
    "seconds",
}


class TestCommandLine:
    def test_json_of_copy(self, cli: Cli, sink: str) -> None:
        """One object with the fields of the design, and those of --verify."""
        source = location("laptop-1.0/mlruns")
        code, data = cli("copy", source, sink, "--verify", "--json")

        assert COPY_FIELDS | {"verify"} == set(data)
        assert {"same", "different", "missing", "extra", "problems"} == set(
            data["verify"]
        )
        assert 11 == data["copied"]["run"] == data["verify"]["same"]["run"]
        assert {"files": 3, "bytes": 121} == data["artifacts"]
        assert {"kind", "old", "new"} == set(
            Path(data["ids"]).read_text().splitlines()[0].split(",")
        )
        assert code in (0, 3)
        assert (code == 3) == bool(data["problems"] or data["losses"])

    def test_exit_codes(self, cli: Cli, sink: str, tmp_path: Path) -> None:
        """0 all well, 1 stopped, 2 wrong usage, 3 something was lost or differs."""
        source = location("laptop-0.9/mlruns")
        assert 0 == cli("copy", location("server-1.0/mlflow.db"), sink)[0]
        assert 0 == cli("verify", location("server-1.0/mlflow.db"), sink)[0]
        assert 3 == cli("verify", source, sink)[0]
        assert 3 == cli("copy", location("damaged/mlruns"), sink)[0]
        assert 3 == cli("copy", location("damaged/mlruns"), sink)[0], "repeated"
        assert 2 == cli("copy", source, source)[0]
        assert 2 == cli("copy", sink, sink)[0]
        assert 2 == cli("copy", str(tmp_path / "absent"), sink)[0]
        assert 2 == cli("copy", source, sink, "-o", "nonsense=1")[0]
        assert 2 == cli("copy", source, sink, "--on-conflict", "maybe")[0]
        assert 2 == cli("copy", source)[0]
        other = tmp_path / "other.db"
        with closing(sqlite3.connect(other)) as base:
            base.execute("create table mine (x)")
        assert 1 == cli("copy", source, f"sqlite:///{other}")[0]

    def test_plan_writes_nothing(self, cli: Cli, sink: str, tmp_path: Path) -> None:
        """The sink and what is beside it stay byte for byte; the counts are copy's."""
        sources = [location("cluster-2.9/mlruns"), location("server-2.9/mlflow.db")]
        folder = tmp_path / "beside"
        folder.mkdir()
        path = folder / "sink.db"
        shutil.copy(sink.removeprefix("sqlite:///"), path)
        before = path.read_bytes()
        _, planned = cli("plan", *sources, f"sqlite:///{path}", "--json")

        assert before == path.read_bytes()
        assert ["sink.db"] == [each.name for each in folder.iterdir()]
        assert COPY_FIELDS == set(planned)
        _, copied = cli("copy", *sources, f"sqlite:///{path}", "--json")
        for field in ("copied", "updated", "skipped", "artifacts"):
            assert planned[field] == copied[field], field

    def test_plan_makes_no_database(self, cli: Cli, tmp_path: Path) -> None:
        """A sink that does not exist yet does not exist afterwards."""
        folder = tmp_path / "beside"
        folder.mkdir()
        code, _ = cli(
            "plan", location("laptop-0.4/mlruns"), f"sqlite:///{folder / 'new.db'}"
        )

        assert code in (0, 3)
        assert [] == list(folder.iterdir())

    def test_help_loads_next_to_nothing(self) -> None:
        """It answers at once: none of the libraries that take long is imported."""
        code = (
            "import sys; sys.argv = ['mlmigrate', '--help']\n"
            "from mlmigrate.cli import main\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "heavy = {'numpy', 'sqlalchemy', 'mlflow', 'pyarrow', 'requests', 'yaml'}\n"
            "sys.exit(sorted(heavy & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.stderr.strip() == "[]"

    def test_help_names_exit_codes(self) -> None:
        """Every command's help ends with exit codes and an example."""
        from importlib import import_module

        for name in ("copy", "plan", "verify"):
            command = import_module(f"mlmigrate.cli.{name}").command
            said = " ".join(CliRunner().invoke(command, ["--help"]).output.split())

            assert "Exit codes: 0" in said
            assert f"Example: mlmigrate {name}" in said


# -- hostile stores -----------------------------------------------------------------


RUN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A file store with one innocent run."""
    root = tmp_path / "hostile" / "mlruns"
    folder = root / "1" / RUN
    for name in ("params", "tags", "metrics", "artifacts"):
        (folder / name).mkdir(parents=True)
    (root / "1" / "meta.yaml").write_text(
        "artifact_location: ./mlruns/1\nexperiment_id: '1'\nlifecycle_stage: active\n"
        "name: churn\n"
    )
    (folder / "meta.yaml").write_text(_meta("./artifacts"))
    (folder / "artifacts" / "innocent").write_text("ok")
    return root


def _meta(uri: str) -> str:
    return (
        f"artifact_uri: {uri}\nend_time: 1700000060000\nexperiment_id: '1'\n"
        f"lifecycle_stage: active\nrun_id: {RUN}\nrun_name: r\nstart_time:"
        " 1700000000000\nstatus: 3\nuser_id: x\n"
    )


class TestHostileStores:
    def test_a_source_that_cannot_be_opened_costs_only_itself(
        self, tmp_path: Path, sink: str, cli: Cli
    ) -> None:
        """The others go on, and copy and verify tell of it; alone it is an error."""
        broken = tmp_path / "broken.db"
        broken.write_bytes(b"SQLite format 3\0" + bytes(2000))
        sound = location("laptop-1.0/mlruns")
        for command in ("plan", "copy", "verify"):
            code, said = cli(command, str(broken), sound, sink, "--json")
            assert code == 3
            (problem,) = [
                each for each in said["problems"] if each["where"] == str(broken)
            ]
            assert "nothing of it was read" in problem["what"]
        assert one(sink, "select count(*) from runs") > 0
        assert cli("copy", str(broken), sink)[0] == 1
        code, said = cli("copy", str(tmp_path / "misspelt.db"), sound, sink)
        assert code == 1
        assert "misspelt.db" in said

    def copy(self, root: Path, sink: str) -> Report:
        report = mlmigrate.copy([str(root)], sink)
        assert 1 == one(sink, "select count(*) from runs")
        assert [] == report.failed
        return report

    def arrived(self, sink: str) -> dict[str, str]:
        folder = Path(sink.removeprefix("sqlite:///")).parent / "mlartifacts"
        return {
            path.relative_to(_artifacts(path)).as_posix(): path.read_text("latin-1")
            for path in folder.rglob("*")
            if path.is_file()
        }

    def test_links_that_lead_out(
        self, hostile: Path, sink: str, tmp_path: Path
    ) -> None:
        """Neither a linked file nor a linked folder is followed; it is a problem."""
        (tmp_path / "secret").write_text("secret")
        artifacts = hostile / "1" / RUN / "artifacts"
        (artifacts / "link").symlink_to(tmp_path / "secret")
        (artifacts / "folder").symlink_to(tmp_path)
        (artifacts / "loop").symlink_to(artifacts)
        report = self.copy(hostile, sink)

        assert {"innocent": "ok"} == self.arrived(sink)
        assert 3 == len(report.problems)

    def test_linked_records(self, hostile: Path, sink: str, tmp_path: Path) -> None:
        """A param that is a link out of the store does not carry a secret off."""
        (tmp_path / "secret").write_text("secret")
        (hostile / "1" / RUN / "params" / "p").symlink_to(tmp_path / "secret")
        report = self.copy(hostile, sink)

        assert [] == execute(sink, "select value from params where value = 'secret'")
        assert report.problems

    @pytest.mark.parametrize(
        "uri",
        [
            "/etc",
            "file:///etc",
            "file:///etc/%2e%2e/etc",
            "../../../../../../etc",
            f"/etc/{RUN}/..",
            "file:///",
        ],
    )
    def test_artifacts_elsewhere(self, hostile: Path, sink: str, uri: str) -> None:
        """A URI that names a folder of this disk brings none of it."""
        shutil.rmtree(hostile / "1" / RUN / "artifacts")
        (hostile / "1" / RUN / "meta.yaml").write_text(_meta(f"'{uri}'"))
        self.copy(hostile, sink)

        assert {} == self.arrived(sink)

    def test_yaml_bomb(self, hostile: Path, sink: str) -> None:
        """A billion laughs cost neither time nor memory; the run arrives damaged."""
        bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
        )
        (hostile / "1" / RUN / "meta.yaml").write_text(
            bomb + _meta("x").replace("run_name: r", "run_name: *a9")
        )
        self.copy(hostile, sink)

        assert one(sink, "select length(coalesce(name, '')) from runs") < 10_000

    @pytest.mark.parametrize("text", ["[" * 100_000, "a: " * 5000, "{" * 50_000])
    def test_deep_nesting(self, hostile: Path, sink: str, text: str) -> None:
        """Deep nesting is a problem of its file alone."""
        (hostile / "1" / RUN / "meta.yaml").write_text(text)

        assert self.copy(hostile, sink).problems

    def test_python_objects(self, hostile: Path, sink: str, tmp_path: Path) -> None:
        """YAML tags call nothing."""
        (hostile / "1" / RUN / "meta.yaml").write_text(
            f"run_name: !!python/object/apply:os.system ['touch {tmp_path}/owned']\n"
        )
        self.copy(hostile, sink)

        assert not (tmp_path / "owned").exists()

    @pytest.mark.parametrize("id", ["../..", "..", "/etc", "a/../../b", ""])
    def test_dataset_ids(self, hostile: Path, sink: str, id: str) -> None:
        """An input that names a folder elsewhere is not read."""
        (hostile.parent / "meta.yaml").write_text("name: secret\ndigest: x\n")
        folder = hostile / "1" / RUN / "inputs" / "i"
        folder.mkdir(parents=True)
        (folder / "meta.yaml").write_text(
            f"source_id: '{id}'\nsource_type: DATASET\ndestination_id: {RUN}\n"
        )
        self.copy(hostile, sink)

        assert [] == execute(sink, "select name from datasets")

    @pytest.mark.parametrize("id", ["../x", "../../../../tmp/x", "/tmp/x", ".."])
    def test_run_ids(self, hostile: Path, sink: str, tmp_path: Path, id: str) -> None:
        """A run that calls itself a path writes nothing outside."""
        meta = _meta("x").replace(RUN, f"'{id}'")
        (hostile / "1" / RUN / "meta.yaml").write_text(meta)
        (hostile / "1" / RUN).rename(hostile / "1" / "renamed")
        outside = snapshot(tmp_path / "hostile")
        self.copy(hostile, sink)
        places = {path.name for path in Path(sink[10:]).parent.iterdir()}

        assert outside == snapshot(tmp_path / "hostile")
        assert {"sink.db", "mlartifacts", "hostile", "tmp"} >= places
        assert {"innocent": "ok"} == self.arrived(sink)
        (run,) = execute(sink, "select run_uuid from runs")[0]
        assert os.sep not in run

    def test_experiment_ids(self, hostile: Path, sink: str) -> None:
        """An experiment that calls itself a path gets a number."""
        meta = hostile / "1" / "meta.yaml"
        meta.write_text(meta.read_text().replace("'1'", "'../../x'"))
        self.copy(hostile, sink)

        assert {"innocent": "ok"} == self.arrived(sink)


def test_names_arrive(tmp_path: Path, sink: str) -> None:
    """Experiments of odd names keep them."""
    for number, name in enumerate(["../x", "a/b", "'", "größer 🚀"], 1):
        (tmp_path / "mlruns" / str(number)).mkdir(parents=True)
        (tmp_path / "mlruns" / str(number) / "meta.yaml").write_text(
            f"experiment_id: '{number}'\nlifecycle_stage: active\n"
            f"name: {json.dumps(name, ensure_ascii=False)}\n"
        )
    mlmigrate.copy([str(tmp_path / "mlruns")], sink)
    store = mlmigrate.open_store(sink)
    items = list(store.read(list(store.refs(Selection("experiment")))))
    store.close()
    names = {
        item.header.name
        for item in items
        if isinstance(item, Item) and isinstance(item.header, Experiment)
    }

    assert names >= {"../x", "a/b", "'", "größer 🚀"}
    assert not any(isinstance(getattr(i, "header", None), Run) for i in items)
